"""Vertices as adapters on the Hub: one shared file, small vertices, parts, pipelines, and code without the package."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from loopback_hub import LoopbackHub
from tiny import PICTURE, SIZE, backbone, images
from transformers import ViTImageProcessor, pipeline
from typer.testing import CliRunner
from without_the_package import HIDE_THE_PACKAGE

from hf_simplex import SimplexForImageClassification
from hf_simplex.cli import app

ID = "alice/adapters"
LORA = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj", "fc1"]}
INDEX = "model.safetensors.index.json"

WITHOUT_THE_PACKAGE = """
import json, os, sys

sys.modules[os.environ["ALSO_MISSING"]] = None
import torch
from transformers import AutoModelForImageClassification
try:
    model = AutoModelForImageClassification.from_pretrained("alice/adapters", trust_remote_code=True)
except ImportError as error:
    print(json.dumps(str(error)))
else:
    pixel_values = torch.load(os.environ["PIXEL_VALUES"], weights_only=True)
    print(json.dumps(model(pixel_values).logits.tolist()))
"""


def grown(vertices: int, choice: Any = LORA) -> SimplexForImageClassification:
    model = SimplexForImageClassification.from_backbone(backbone("vit"), vertex_parameters=choice)
    model.image_processor = ViTImageProcessor(size={"height": SIZE, "width": SIZE})
    for _ in range(vertices - 1):
        model.add_vertex()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for vertex in model.vertices:
            for parameter in vertex.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    model.draw_members("vertices")
    return model


def requested(hub: LoopbackHub, mark: int) -> set[str]:
    return {str(download.path) for download in hub.downloads(mark)}


def test_thirty_two_members_are_published_and_loaded_in_parts(hub: LoopbackHub) -> None:
    model = SimplexForImageClassification.disjoint_union([grown(8) for _ in range(4)])
    model.draw_members("vertices")
    assert len(model.config.members) == 32
    model.image_processor = ViTImageProcessor(size={"height": SIZE, "width": SIZE})
    model.push_to_hub(ID)
    files = hub.files(ID)
    vertices = {name for name in files if name.startswith("vertex-")}
    assert len(vertices) == 32 and "shared.safetensors" in files
    whole = SimplexForImageClassification.from_pretrained(ID)
    assert torch.equal(whole(images()).logits, model(images()).logits)
    mark = hub.mark()
    part = SimplexForImageClassification.from_pretrained(ID, simplex=2, force_download=True)
    assert {name for name in requested(hub, mark) if name.endswith(".safetensors")} == {
        "shared.safetensors",
        *(f"vertex-{index:05d}.safetensors" for index in range(16, 24)),
    }
    members = model(images(), output_member_probabilities=True).member_probabilities
    found = part(images(), output_member_probabilities=True).member_probabilities
    assert torch.equal(found, members[:, 16:24])


def test_a_new_vertex_sends_its_own_file_and_no_other_weights(hub: LoopbackHub) -> None:
    model = grown(3)
    model.push_to_hub(ID)
    mark = hub.mark()
    model.add_vertex()
    model.draw_members("vertices")
    model.push_to_hub(ID)
    sent = {str(upload.path) for upload in hub.uploads(mark)}
    assert {name for name in sent if name.endswith(".safetensors")} == {"vertex-00003.safetensors"}
    assert sent <= {"vertex-00003.safetensors", "config.json", INDEX, "README.md"}


@pytest.mark.parametrize("choice", [LORA, "head"])
def test_both_pipelines_answer_as_the_model_does(choice: Any, hub: LoopbackHub) -> None:
    model = grown(3, choice)
    model.push_to_hub(ID)
    inputs = model.image_processor(PICTURE, return_tensors="pt")
    expected = model(**inputs).logits.softmax(-1)[0]
    for task in ("image-classification", "simplex-image-classification"):
        answer = pipeline(task, model=ID)(PICTURE)
        scores = answer["labels"] if isinstance(answer, dict) else answer
        best = scores[0]
        assert best["score"] == pytest.approx(expected.max().item(), abs=1e-6)


@pytest.mark.parametrize(("choice", "missing"), [(LORA, "nothing"), (LORA, "peft"), ("head", "peft")])
def test_code_of_the_repository_needs_peft_for_adapters_only(
    choice: Any, missing: str, hub: LoopbackHub, tmp_path: Path
) -> None:
    model = grown(3, choice)
    model.push_to_hub(ID)
    torch.save(images(), tmp_path / "pixel_values.pt")
    environment = {"PIXEL_VALUES": str(tmp_path / "pixel_values.pt"), "ALSO_MISSING": missing}
    printed = hub.run_python(HIDE_THE_PACKAGE + WITHOUT_THE_PACKAGE, env=environment, cwd=tmp_path, timeout=600)
    found = json.loads(printed.splitlines()[-1])
    if choice is LORA and missing == "peft":
        assert "need peft" in found and "pip install peft" in found
    else:
        assert torch.equal(torch.tensor(found), model(images()).logits)


def test_card_and_inspect_say_what_differs(hub: LoopbackHub) -> None:
    model = grown(2)
    model.push_to_hub(ID)
    shared = sum(parameter.numel() for parameter in model.shared.parameters())
    card = hub.files(ID)["README.md"].decode()
    said = "The vertices differ in LoRA of rank 2 and classifier. They share the other "
    assert f"{said}{shared:,} parameters, which are stored once." in card
    told = json.loads(CliRunner().invoke(app, ["inspect", ID, "--json"]).stdout)
    assert told["shared_parameters"] == shared
    assert told["parameters_per_vertex"] == sum(parameter.numel() for parameter in model.vertices[0].parameters())

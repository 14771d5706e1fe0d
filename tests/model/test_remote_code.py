"""A published ensemble loads where hf_simplex is not installed, and gives the same numbers bit for bit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi
from loopback_hub import LoopbackHub
from PIL import Image
from tiny import SIZE, ensemble, images
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, ViTImageProcessor, pipeline
from transformers.dynamic_module_utils import get_imports
from without_the_package import HIDE_THE_PACKAGE

from hf_simplex import SimplexForImageClassification, SimplexImageClassificationPipeline
from hf_simplex.model.decisions import Abstention, Decisions, PredictionSets
from hf_simplex.model.pipeline_simplex import TASK
from hf_simplex.model.remote_code import inference_files, write_inference_code

REPO = "alice/ensemble"

WITHOUT_THE_PACKAGE = """
import json, os, sys

for name in ["sklearn", "matplotlib", "pandas", "datasets", "evaluate", "timm", "accelerate", "scipy", "typer"]:
    sys.modules[name] = None
import torch
from transformers import AutoModelForImageClassification, pipeline

trusting = {"trust_remote_code": True}
folder, image = os.environ["FOLDER"], os.environ["IMAGE"]
pixel_values = torch.load(os.environ["PIXEL_VALUES"], weights_only=True)
found = {}
for place, name in (("folder", folder), ("hub", "alice/ensemble")):
    try:
        AutoModelForImageClassification.from_pretrained(name, trust_remote_code=False)
    except ValueError as error:
        assert "trust_remote_code=True" in str(error), error
    else:
        raise AssertionError("loaded without trust")
    model = AutoModelForImageClassification.from_pretrained(name, **trusting)
    assert type(model).__module__.startswith("transformers_modules.")
    found[place] = {
        "logits": model(pixel_values).logits.tolist(),
        "image-classification": pipeline("image-classification", model=name, **trusting)(image),
        "simplex-image-classification": pipeline("simplex-image-classification", model=name, **trusting)(image),
        "no task": pipeline(model=name, **trusting)(image),
    }
    again = os.path.join(os.environ["AGAIN"], place)
    model.save_pretrained(again)
    found[place]["saved again"] = AutoModelForImageClassification.from_pretrained(again, **trusting)(
        pixel_values
    ).logits.tolist()
    vertex = model.add_vertex()
    model.set_members([[0.0] * vertex + [1.0]])
    model.save_pretrained(os.path.join(os.environ["AGAIN"], place + "-grown"))
assert "hf_simplex" not in sys.modules
print(json.dumps(found))
"""


@pytest.fixture
def published(tmp_path: Path) -> Path:
    model = ensemble("vit")
    model.image_processor = ViTImageProcessor(size={"height": SIZE, "width": SIZE})
    model.decisions = Decisions(
        temperature=2.0,
        abstention=Abstention(0.05, 0.95, threshold=0.9),
        prediction_sets=PredictionSets("aps", 0.9, quantile=0.8),
        uncertainty_quantiles={"mutual_information": [index / 1e4 for index in range(101)]},
    )
    model.save_pretrained(tmp_path / "ensemble")
    write_inference_code(tmp_path / "ensemble")
    return tmp_path / "ensemble"


def picture(path: Path) -> Path:
    values = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path


def outputs(name: str, image: Path, pixel_values: torch.Tensor) -> dict[str, Any]:
    """What the installed package gives, without trust in any remote code."""
    uncertain = pipeline(TASK, model=name)
    assert type(uncertain) is SimplexImageClassificationPipeline
    assert type(uncertain.model) is SimplexForImageClassification
    logits = SimplexForImageClassification.from_pretrained(name)(pixel_values).logits.tolist()
    return {
        "logits": logits,
        "image-classification": pipeline("image-classification", model=name)(str(image)),
        TASK: uncertain(str(image)),
        "no task": uncertain(str(image)),
        "saved again": logits,
    }


def test_the_same_numbers_with_and_without_the_package_from_a_folder_and_from_the_hub(
    hub: LoopbackHub, published: Path, tmp_path: Path
) -> None:
    HfApi().create_repo(REPO)
    HfApi().upload_folder(repo_id=REPO, folder_path=published)
    image = picture(tmp_path / "image.png")
    torch.save(images(4), tmp_path / "pixel_values.pt")
    environment = {
        "FOLDER": str(published),
        "IMAGE": str(image),
        "PIXEL_VALUES": str(tmp_path / "pixel_values.pt"),
        "AGAIN": str(tmp_path / "again"),
    }
    printed = hub.run_python(HIDE_THE_PACKAGE + WITHOUT_THE_PACKAGE, env=environment, cwd=tmp_path, timeout=600)
    without = json.loads(printed.splitlines()[-1])
    assert without["folder"] == outputs(str(published), image, images(4))
    assert without["hub"] == outputs(REPO, image, images(4))
    assert without["folder"] == without["hub"]

    for place in ("folder", "hub"):
        # What is saved where the package is missing is as good as what was loaded, its code included.
        for name in [file.name for file in published.iterdir()]:
            original, copy = published / name, tmp_path / "again" / place / name
            assert copy.read_bytes() == original.read_bytes() or name == "config.json", name
        assert json.loads((tmp_path / "again" / place / "config.json").read_text("utf-8")) == json.loads(
            (published / "config.json").read_text("utf-8")
        )
        grown = SimplexForImageClassification.from_pretrained(tmp_path / "again" / f"{place}-grown")
        assert grown.config.num_vertices == 4


def test_the_three_loading_paths_agree(published: Path, tmp_path: Path) -> None:
    """hf_simplex, pipeline and Auto class; the test above adds the remote code of each."""
    image = Image.open(picture(tmp_path / "image.png"))
    inputs = AutoImageProcessor.from_pretrained(published)(images=image, return_tensors="pt")
    direct = SimplexForImageClassification.from_pretrained(published)(**inputs).logits
    auto = AutoModelForImageClassification.from_pretrained(published)(**inputs).logits
    assert torch.equal(direct, auto)
    scores = {
        entry["label"]: entry["score"] for entry in pipeline("image-classification", model=str(published))(image)
    }
    expected = direct[0].softmax(dim=-1)
    assert torch.allclose(torch.tensor([scores[f"LABEL_{i}"] for i in range(3)]), expected, rtol=1e-6, atol=0)


def test_the_installed_package_asks_for_no_trust_and_saves_no_trace_of_it(published: Path, tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(published)
    assert not hasattr(config, "auto_map")
    assert not hasattr(config, "custom_pipelines")
    for trust in (None, False, True):
        model = AutoModelForImageClassification.from_pretrained(published, trust_remote_code=trust)
        assert type(model) is SimplexForImageClassification
    model.save_pretrained(tmp_path / "again")
    assert not list((tmp_path / "again").glob("*.py"))


def test_the_files_follow_from_the_imports_and_need_torch_and_transformers_alone() -> None:
    files = inference_files()
    names = {file.stem for file in files}
    assert {"configuration_simplex", "modeling_simplex", "pipeline_simplex", "checkpoint", "uncertainty"} <= names
    assert not {"training", "metrics", "image_data", "plotting", "__init__"} & names
    needed = {package for file in files for package in get_imports(file)}
    assert {"torch", "transformers", "safetensors"} <= needed
    assert not needed & {
        "timm",
        "datasets",
        "evaluate",
        "accelerate",
        "matplotlib",
        "PIL",
        "torchvision",
        "hf_simplex",
    }


def test_writing_twice_changes_nothing_more_and_leaves_the_weights_alone(published: Path) -> None:
    before = {file.name: file.read_bytes() for file in published.iterdir()}
    write_inference_code(published)
    assert {file.name: file.read_bytes() for file in published.iterdir()} == before


def test_a_failed_write_leaves_the_old_configuration(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {file.name: file.read_bytes() for file in published.iterdir()}

    def full(*args: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        write_inference_code(published)
    assert {file.name: file.read_bytes() for file in published.iterdir()} == before


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (None, FileNotFoundError, "holds no config.json: save the ensemble"),
        ("{", ValueError, "is not the configuration of a model"),
        ("[]", ValueError, "is not the configuration of a model"),
        ('{"model_type": "vit"}', ValueError, "has model_type 'vit'.*of type 'simplex' only"),
    ],
)
def test_code_goes_beside_an_ensemble_only(
    config: str | None, error: type[Exception], message: str, tmp_path: Path
) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config, "utf-8")
    with pytest.raises(error, match=message):
        write_inference_code(tmp_path)
    assert len(list(tmp_path.iterdir())) == (config is not None)

"""The command on ensembles whose vertices share weights."""

from pathlib import Path

import peft
import pytest
import torch
from command import mistake, run, save
from tiny import PICTURE, backbone, images
from transformers import AutoModelForImageClassification

from hf_simplex import SimplexForImageClassification

LORA = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]}


def grown(seed: int = 1, base: int = 0) -> SimplexForImageClassification:
    model = SimplexForImageClassification.from_backbone(backbone("vit", base), vertex_parameters=LORA)
    model.add_vertex()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for vertex in model.vertices:
            for parameter in vertex.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    model.draw_members("vertices")
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(grown(), tmp_path_factory.mktemp("command") / "ensemble")


def test_predict_and_inspect(folder: Path, tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "picture.png")
    assert "LABEL_" in run("predict", str(folder), str(tmp_path / "picture.png"))
    shared = sum(parameter.numel() for parameter in grown().shared.parameters())
    assert f"{shared:,}" in run("inspect", str(folder))


def test_a_vertex_is_exported_merged_or_as_an_adapter(folder: Path, tmp_path: Path) -> None:
    expected = grown().backbone_at([0.0, 1.0])(images()).logits
    run("export", str(folder), "--vertex", "1", str(tmp_path / "plain"))
    run("export", str(folder), "--vertex", "1", "--as-adapter", str(tmp_path / "adapter"))
    with torch.no_grad():
        plain = AutoModelForImageClassification.from_pretrained(tmp_path / "plain")(images()).logits
        adapted = peft.PeftModel.from_pretrained(backbone("vit"), tmp_path / "adapter").eval()(pixel_values=images())
    assert torch.allclose(plain, expected, atol=1e-5) and torch.allclose(adapted.logits, expected, atol=1e-5)


def test_components_of_one_backbone_are_merged_and_others_are_not(folder: Path, tmp_path: Path) -> None:
    other, foreign = save(grown(2), tmp_path / "other"), save(grown(3, base=5), tmp_path / "foreign")
    run("merge", str(folder), str(other), str(tmp_path / "merged"))
    merged = SimplexForImageClassification.from_pretrained(tmp_path / "merged")
    assert merged.config.num_vertices == 4 and len(list((tmp_path / "merged").glob("shared*"))) == 1
    assert "trained from the same backbone weights" in mistake(
        "merge", str(folder), str(foreign), str(tmp_path / "no")
    )

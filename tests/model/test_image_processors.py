"""The image processor that goes with a backbone is saved with the ensemble."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import PICTURE, backbone, ensemble, folder
from transformers import (
    AutoImageProcessor,
    TimmWrapperImageProcessor,
    ViTImageProcessor,
)

from hf_simplex import SimplexForImageClassification


def test_a_given_image_processor_is_saved(tmp_path: Path) -> None:
    given = ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.1] * 3)
    model = SimplexForImageClassification.from_backbone(folder("vit", tmp_path / "vit"), image_processor=given)
    model.save_pretrained(tmp_path / "ensemble")
    loaded = AutoImageProcessor.from_pretrained(tmp_path / "ensemble")
    assert dict(loaded.size) == {"height": 8, "width": 8} and list(loaded.image_mean) == [0.1] * 3

    settings = {"input_size": [3, 24, 24], "mean": [0.1] * 3, "std": [0.2] * 3, "crop_pct": 0.9}
    timms = TimmWrapperImageProcessor(pretrained_cfg=settings, architecture="test_resnet")
    model = SimplexForImageClassification.from_backbone(folder("timm", tmp_path / "timm"), image_processor=timms)
    model.save_pretrained(tmp_path / "timm-ensemble")
    model.export_vertex(0, tmp_path / "timm-vertex")
    for path in ("timm-ensemble", "timm-vertex"):
        pixels = AutoImageProcessor.from_pretrained(tmp_path / path)(PICTURE, return_tensors="pt")["pixel_values"]
        assert torch.equal(pixels, timms(PICTURE, return_tensors="pt")["pixel_values"]), path

    for kind, other in (("timm", given), ("vit", timms)):
        with pytest.raises(ValueError, match=f"{type(other).__name__} does not go with this backbone"):
            SimplexForImageClassification.from_backbone(backbone(kind), image_processor=other)
    assert SimplexForImageClassification.from_backbone(backbone("vit")).image_processor is None


def test_timms_image_processor_is_read_without_a_false_alarm(tmp_path: Path) -> None:
    # transformers warns once in a process: another test may have had the warning.
    folder("timm", tmp_path / "timm")
    code = (
        "import sys; from hf_simplex import SimplexForImageClassification as Model; "
        "model = Model.from_backbone(sys.argv[1]); model.save_pretrained(sys.argv[2]); "
        "print(type(Model.from_pretrained(sys.argv[2]).image_processor).__name__)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "timm"), str(tmp_path / "ensemble")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert found.stdout.split() == ["TimmWrapperImageProcessor"]
    assert "torchvision" not in found.stderr


def test_the_files_record_that_transparent_pixels_are_white(tmp_path: Path) -> None:
    given = ViTImageProcessor(size={"height": 8, "width": 8})
    before = given.to_dict()
    model = SimplexForImageClassification.from_backbone(backbone("vit"), image_processor=given)
    for name in ("first", "second"):
        model.save_pretrained(tmp_path / name)
        content = json.loads((tmp_path / name / "preprocessor_config.json").read_text("utf-8"))
        assert content == {**json.loads(given.to_json_string()), "transparency": "white"}
        model = SimplexForImageClassification.from_pretrained(tmp_path / name)
    assert given.to_dict() == before
    model.export_vertex(0, tmp_path / "vertex")
    assert json.loads((tmp_path / "vertex" / "preprocessor_config.json").read_text("utf-8"))["transparency"] == "white"
    for name in ("first", "vertex"):
        pixels = AutoImageProcessor.from_pretrained(tmp_path / name)(PICTURE, return_tensors="pt")["pixel_values"]
        assert torch.equal(pixels, given(PICTURE, return_tensors="pt")["pixel_values"])


def test_timms_settings_record_it_in_the_configuration(tmp_path: Path) -> None:
    model = ensemble("timm")
    model.save_pretrained(tmp_path / "first")
    loaded = SimplexForImageClassification.from_pretrained(tmp_path / "first")
    assert not hasattr(loaded.config, "transparency")
    loaded.save_pretrained(tmp_path / "second")
    for name in ("first", "second"):
        assert json.loads((tmp_path / name / "config.json").read_text("utf-8"))["transparency"] == "white"
        assert isinstance(AutoImageProcessor.from_pretrained(tmp_path / name), TimmWrapperImageProcessor)
    assert "transparency" not in ensemble("vit").config.to_dict(), "preprocessor_config.json has it"


def seeing(**settings: Any) -> SimplexForImageClassification:
    model = SimplexForImageClassification.from_backbone(backbone("vit"))
    model.image_processor = ViTImageProcessor(size={"height": 8, "width": 8}, **settings)
    return model


@pytest.mark.parametrize("unite", ["disjoint_union", "simplex_of_modes"])
def test_models_that_see_images_differently_are_not_combined(unite: str, tmp_path: Path) -> None:
    combine = getattr(SimplexForImageClassification, unite)
    same = seeing(image_mean=[0.5] * 3)
    same.save_pretrained(tmp_path)
    # Only the file records transparency.
    loaded = SimplexForImageClassification.from_pretrained(tmp_path)
    assert combine([same, loaded]).image_processor is same.image_processor
    with pytest.raises(ValueError, match=r"component 1 and component 2 have different .*processors.*image_mean is"):
        combine([same, seeing(image_mean=[0.1] * 3)])
    with pytest.raises(ValueError, match=f"{tmp_path} and component 2 have different image processors.*image_std is"):
        combine([loaded, seeing(image_std=[0.1] * 3)])
    with pytest.raises(ValueError, match="component 2 has no image processor"):
        combine([same, SimplexForImageClassification.from_backbone(backbone("vit"))])


@pytest.mark.parametrize("unite", ["disjoint_union", "simplex_of_modes"])
def test_models_of_other_images_keep_no_record_of_them(
    unite: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("transformers", "hf_simplex"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    combine = getattr(SimplexForImageClassification, unite)
    models = [SimplexForImageClassification.from_backbone(backbone("vit")) for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        model.config.provenance["images"] = {"test": {"source": "train", "seed": seed}}
    assert combine(models[:2]).config.provenance["images"] == {"test": {"source": "train", "seed": 0}}
    assert "do not record the same" not in caplog.text
    assert "images" not in combine(models).config.provenance
    assert "do not record the same training, validation and test images" in caplog.text
    del models[0].config.provenance["images"]
    assert "images" not in combine(models[:2]).config.provenance
    assert models[1].config.provenance["images"]["test"]["seed"] == 0, "the models stay as they are"


def test_a_file_that_two_savers_replace_while_it_is_read_is_that_of_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ensemble" / "preprocessor_config.json"
    seeing(image_mean=[0.25] * 3).save_pretrained(file.parent)
    own = file.read_bytes()
    loaded = SimplexForImageClassification.from_pretrained(file.parent)
    file.write_bytes(own.replace(b"0.25", b"0.75"))
    read = AutoImageProcessor.from_pretrained

    def replaced_again(*arguments: Any, **kwargs: Any) -> Any:
        found = read(*arguments, **kwargs)
        file.write_bytes(own)
        return found

    monkeypatch.setattr(AutoImageProcessor, "from_pretrained", replaced_again)
    assert loaded.image_processor is not None and list(loaded.image_processor.image_mean) == [0.25] * 3

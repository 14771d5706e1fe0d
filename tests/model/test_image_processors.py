"""The image processor that goes with a backbone is saved with the ensemble."""

from pathlib import Path

import pytest
import torch
from tiny import PICTURE, backbone, folder
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

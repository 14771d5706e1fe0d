"""The folder of clip art: categories, splits, doubles."""

from pathlib import Path

import clip_art_folder
import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Twelve pictures in each category, and one of them again with other hidden colors."""
    draws = np.random.default_rng(0)
    for category in clip_art_folder.CATEGORIES:
        folder = tmp_path / "png" / category / "deep"
        folder.mkdir(parents=True)
        for number in range(12):
            pixels = draws.integers(0, 256, (8, 8, 4), np.uint8)
            pixels[..., 3] = 255
            Image.fromarray(pixels).resize((160, 160), Image.Resampling.NEAREST).save(folder / f"{number}.png")
    hidden = np.zeros((90, 90, 4), np.uint8)
    for number in (1, 2):
        hidden[:40, :, :3] = number
        hidden[40:, :, 3] = 255
        Image.fromarray(hidden).save(folder / f"hidden-{number}.png")
    return tmp_path / "png"


def test_images_with_the_same_visible_pixels_are_kept_once(source: Path, tmp_path: Path) -> None:
    counts = clip_art_folder.main([str(tmp_path / "out"), "--source", str(source)])
    files = sorted((tmp_path / "out").rglob("*.png"))
    assert counts["train"] + counts["test"] == len(files) == 121 and counts["left out"] == 1
    assert 0.3 < counts["test"] / 121 < 0.6
    assert {file.parent.name for file in files} == set(clip_art_folder.CATEGORIES)
    assert len({file.name for file in files}) == 121
    with Image.open(files[0]) as image:
        assert image.mode == "RGBA" and image.size == (128, 128)


def test_the_folder_is_the_same_each_time_and_not_written_twice(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = []
    for name in ("a", "b"):
        clip_art_folder.main([str(tmp_path / name), "--source", str(source)])
        names.append(sorted(str(file.relative_to(tmp_path / name)) for file in (tmp_path / name).rglob("*.png")))
    assert names[0] == names[1]
    with pytest.raises(SystemExit):
        clip_art_folder.main([str(tmp_path / "a"), "--source", str(source)])
    assert "holds train/ or test/" in capsys.readouterr().err


def test_a_missing_package_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        clip_art_folder.main([str(tmp_path / "out"), "--source", str(tmp_path)])
    assert "install the Debian package openclipart-png" in capsys.readouterr().err

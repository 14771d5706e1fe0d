"""Hashes of training images beside an ensemble."""

from pathlib import Path

import numpy as np
import pytest

from hf_simplex.data import trained_images
from hf_simplex.data.image_data import load_image_data
from hf_simplex.data.trained_images import TRAINED_IMAGES_FILE, count_trained, write_trained_images


def test_training_images_are_counted_among_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_image_data("digits")
    assert count_trained(tmp_path, data.test) is None
    write_trained_images(tmp_path, data.train)
    assert [file.name for file in tmp_path.iterdir()] == [TRAINED_IMAGES_FILE]
    assert count_trained(tmp_path, data.test) == 0
    assert count_trained(tmp_path, data.train.select(range(10, 30))) == 20
    monkeypatch.setattr(trained_images, "MAX_IMAGES", 100)
    write_trained_images(tmp_path, data.train)
    assert len(np.load(tmp_path / TRAINED_IMAGES_FILE)) == 100
    assert count_trained(tmp_path, data.train) >= 100


@pytest.mark.parametrize("content", [b"", b"rubbish", b"\x93NUMPY\x01\x00v\x00"])
def test_a_broken_file_of_hashes_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / TRAINED_IMAGES_FILE).write_bytes(content)
    with pytest.raises(ValueError, match=f"{TRAINED_IMAGES_FILE} holds no hashes of images"):
        count_trained(tmp_path, load_image_data("digits").test)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    np.save(tmp_path / TRAINED_IMAGES_FILE, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="holds no hashes"):
        count_trained(tmp_path, load_image_data("digits").test)

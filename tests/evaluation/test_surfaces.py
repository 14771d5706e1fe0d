"""A saved surface comes back bit for bit; a failed save or a bad file is harmless and named."""

from pathlib import Path

import pytest
import torch
from networks import BATCHES, NAMES, VOLUME, measure, network, weights
from safetensors.torch import save_file

from hf_simplex.evaluation.surface_evaluation import evaluate_points
from hf_simplex.evaluation.surface_points import plane_points
from hf_simplex.evaluation.surfaces import Surface


def surface() -> Surface:
    points = plane_points(VOLUME, weights(4), NAMES, vertices=(0, 1, 3), resolution=3)
    return Surface(points, *evaluate_points(network(), weights(4), points.coordinates, BATCHES, measure))


def test_a_saved_surface_comes_back_bit_for_bit_and_leaves_nothing_else(tmp_path: Path) -> None:
    saved = surface()
    saved.save(tmp_path / "plane.safetensors")
    saved.save(tmp_path / "plane.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["plane.safetensors"]
    loaded = Surface.load(tmp_path / "plane.safetensors")
    assert torch.equal(loaded.loss, saved.loss) and torch.equal(loaded.accuracy, saved.accuracy)
    assert loaded.points.kind == "plane" and loaded.points.structure == VOLUME
    for name in ("vertices", "vertex_positions", "coordinates", "positions", "axis_shares"):
        assert torch.equal(getattr(loaded.points, name), getattr(saved.points, name))


def test_a_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "plane.safetensors"
    surface().save(file)
    before = file.read_bytes()

    def full_disk(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("hf_simplex.evaluation.surfaces.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        surface().save(file)
    assert file.read_bytes() == before and [found.name for found in tmp_path.iterdir()] == [file.name]


def test_bad_files_are_named(tmp_path: Path) -> None:
    file = tmp_path / "plane.safetensors"
    with pytest.raises(FileNotFoundError, match=r"plane\.safetensors"):
        Surface.load(file)
    surface().save(file)
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"plane\.safetensors.*not a complete file"):
        Surface.load(file)
    save_file({"loss": torch.zeros(2)}, file)
    with pytest.raises(ValueError, match=r"plane\.safetensors.*holds \['loss'\]"):
        Surface.load(file)
    with pytest.raises(ValueError, match=r"named \*\.safetensors"):
        surface().save(tmp_path / "plane.pt")

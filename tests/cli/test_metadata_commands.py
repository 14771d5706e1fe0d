"""The commands on folders of images with metadata files."""

import json
from pathlib import Path

import pytest
from command import invoke, save
from several_labels import NAMES, several_ensemble, write_folder

from hf_simplex.data.image_data import load_image_data
from hf_simplex.data.trained_images import write_trained_images


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


def test_calibrate_and_evaluate_take_images_in_no_split_whole_and_know_trained_ones(tmp_path: Path) -> None:
    model = several_ensemble()
    model.config.id2label, model.config.label2id = dict(enumerate(NAMES)), {n: i for i, n in enumerate(NAMES)}
    saved = save(model, tmp_path / "ensemble")
    write_folder(tmp_path / "new", 60, seed=3)
    result = invoke("calibrate", saved, tmp_path / "new", "--output", tmp_path / "calibrated", "--cpu")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "calibrated" / "config.json").is_file()
    write_folder(tmp_path / "old", 20)
    data = load_image_data(tmp_path / "old")
    write_trained_images(saved, data.train)
    result = invoke("evaluate", saved, tmp_path / "old", "--json", "--cpu")
    told = json.loads(result.stdout)
    assert (told["split"], told["images"], told["trained_images"]) == (None, 20, len(data.train))
    assert "warning: 16 of 20 images were trained on" in result.stderr
    result = invoke("calibrate", saved, tmp_path / "old", "--output", tmp_path / "again", "--cpu")
    assert result.exit_code == 2 and "16 of 20 images were trained on" in result.stderr
    write_folder(tmp_path / "divided" / "train", 20)
    result = invoke("calibrate", saved, tmp_path / "divided", "--output", tmp_path / "again", "--cpu")
    assert result.exit_code == 2 and "Choose one with split='train' (--split train on the" in result.stderr

"""`hf-simplex evaluate` and `calibrate` take the images that they are told to."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from command import invoke, mistake, run, save
from datasets import Dataset, DatasetDict, Features, Image, Value
from tiny import backbone

from hf_simplex import SimplexForImageClassification
from hf_simplex.data import trained_images
from hf_simplex.data.image_data import load_image_data
from hf_simplex.data.trained_images import write_trained_images


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


def random_picture(seed: int) -> PIL.Image.Image:
    return PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8))


def ensemble(directory: Path, *names: str, **provenance: Any) -> Path:
    plain = backbone("vit", labels=len(names))
    plain.classifier.weight.data.mul_(20)
    model = SimplexForImageClassification.from_backbone(plain)
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: label for label, name in enumerate(names)}
    model.config.provenance.update(provenance)
    return save(model, directory)


@pytest.fixture
def three(tmp_path: Path) -> Path:
    return ensemble(tmp_path / "ensemble", "ant", "bee", "cat")


def tree(root: Path, **counts: int) -> Path:
    """Images in class folders; `train__cat=3` is three in train/cat."""
    seed = 0
    for name, count in counts.items():
        directory = root / name.replace("__", "/")
        directory.mkdir(parents=True)
        for index in range(count):
            random_picture(seed).save(directory / f"{index}.png")
            seed += 1
    return root


def evaluated(*arguments: object) -> dict[str, Any]:
    return json.loads(run("evaluate", *arguments, "--json", "--cpu"))


def test_a_folder_of_classes_is_evaluated_whole(three: Path, tmp_path: Path) -> None:
    told = evaluated(three, tree(tmp_path / "pets", ant=5, bee=4, cat=6))
    assert (told["split"], told["images"]) == (None, 15)


def test_the_split_that_is_named_is_evaluated(three: Path, tmp_path: Path) -> None:
    sizes = {"train": 6, "val": 4, "test": 3}
    root = tree(
        tmp_path / "pets", **{f"{split}__{name}": size for split, size in sizes.items() for name in ("ant", "bee")}
    )
    for split, size in sizes.items():
        told = evaluated(three, root, "--split", split)
        assert (told["split"], told["images"]) == (split, 2 * size)
    assert evaluated(three, root)["split"] == "test"
    assert "has no split 'tset'" in mistake("evaluate", three, root, "--split", "tset")


def test_fewer_images_than_the_cap_are_no_error(three: Path, tmp_path: Path) -> None:
    root = tree(tmp_path / "pets", ant=2, bee=2, cat=2)
    assert evaluated(three, root, "--max-examples", 100)["images"] == 6
    assert evaluated(three, root, "--max-examples", 3)["images"] == 3


def test_columns_are_chosen_by_name(three: Path, tmp_path: Path) -> None:
    pictures, species = [random_picture(seed) for seed in range(6)], ["cat", "ant", "bee"] * 2
    features = {"left": Image(), "right": Image(), "species": Value("string"), "farm": Value("string")}
    columns = {"left": pictures[::-1], "right": pictures, "species": species, "farm": ["a"] * 6}
    saved = tmp_path / "farms"
    DatasetDict({"train": Dataset.from_dict(columns, features=Features(features))}).save_to_disk(saved)
    assert "2 candidates for image_column" in mistake("evaluate", three, saved)
    left, right = (
        evaluated(three, saved, "--image-column", column, "--label-column", "species") for column in ("left", "right")
    )
    assert left["nll"] != pytest.approx(right["nll"], rel=1e-6)
    same = tmp_path / "folders"
    for row, (picture, name) in enumerate(zip(pictures, species, strict=True)):
        (same / name).mkdir(parents=True, exist_ok=True)
        picture.save(same / name / f"{row}.png")
    assert evaluated(three, same)["nll"] == pytest.approx(right["nll"], rel=1e-5)


def test_configuration_and_revision_of_the_data_reach_the_hub(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def load(name: str, config: str | None, **options: Any) -> None:
        asked.update(options, name=name, config=config)
        raise ValueError("asked")

    monkeypatch.setattr("hf_simplex.data.sources.load_dataset_builder", load)
    for command in ("evaluate", "calibrate"):
        asked.clear()
        said = mistake(command, three, "me/pets", "--data-config", "small", "--data-revision", "v2")
        assert said == "error: asked"
        assert (asked["name"], asked["config"], asked["revision"]) == ("me/pets", "small", "v2")


def test_some_of_the_labels_are_matched_by_name(three: Path, tmp_path: Path) -> None:
    two = evaluated(three, tree(tmp_path / "two", cat=3, bee=3))
    flipped = ensemble(tmp_path / "flipped", "ant", "cat", "bee")
    assert evaluated(flipped, tmp_path / "two")["nll"] != pytest.approx(two["nll"], rel=1e-3)
    result = invoke("evaluate", three, tmp_path / "two", "--cpu")
    assert "note: the data set has 2 of the ensemble's 3 labels." in result.stderr


def test_other_names_are_matched_by_position_only_where_asked(three: Path, tmp_path: Path) -> None:
    german = tree(tmp_path / "german", ameise=2, biene=2, katze=2)
    said = mistake("evaluate", three, german)
    assert "The ensemble has no 'ameise'" in said and "--labels-by-position" in said
    english = tree(tmp_path / "english", ant=2, bee=2, cat=2)
    by_position = evaluated(three, german, "--labels-by-position")
    assert by_position["nll"] == pytest.approx(evaluated(three, english)["nll"], rel=1e-6)
    fewer = tree(tmp_path / "fewer", ameise=2, biene=2)
    assert "Only equal numbers of labels" in mistake("evaluate", three, fewer, "--labels-by-position")


def test_labels_without_names_are_matched_by_position_with_a_warning(three: Path, tmp_path: Path) -> None:
    root = tree(tmp_path / "pets", ant=2, bee=2, cat=2)
    nameless = ensemble(tmp_path / "nameless", "LABEL_0", "LABEL_1", "LABEL_2")
    result = invoke("evaluate", nameless, root, "--json", "--cpu")
    assert "the labels have no names (LABEL_0, ...): they are matched by position." in result.stderr
    assert json.loads(result.stdout)["nll"] == pytest.approx(evaluated(three, root)["nll"], rel=1e-6)
    assert "no names" not in invoke("evaluate", three, root, "--cpu").stderr


def test_images_that_were_trained_on_are_named(three: Path, tmp_path: Path) -> None:
    root = tree(tmp_path / "pets", ant=4, bee=4, cat=4)
    assert evaluated(three, root)["trained_images"] is None
    data = load_image_data(root)
    write_trained_images(three, data.train.select(range(2)))
    result = invoke("evaluate", three, root, "--json", "--cpu")
    assert json.loads(result.stdout)["trained_images"] == 2
    files = [str(root / "ant" / f"{index}.png") for index in range(4)]
    (warning,) = (line for line in result.stderr.splitlines() if line.startswith("warning"))
    assert warning.startswith("warning: 2 of 12 images were trained on (") and sum(map(warning.count, files)) == 2


def test_what_the_run_split_off_is_said(tmp_path: Path) -> None:
    root = tree(tmp_path / "pets", ant=5, bee=5, cat=5)
    record = load_image_data(root).record.to_dict()
    run_on_pets = ensemble(tmp_path / "run", "ant", "bee", "cat", data_set="pets", images=record)
    warning, note = invoke("evaluate", run_on_pets, root, "--cpu").stderr.splitlines()
    assert note.startswith("note: the run split off 3 of 15 images of 'train' for testing (share 0.2, seed 0)")
    assert "and these results are of all 15 images. --held-out takes the images for testing alone" in note
    (note,) = (
        line
        for line in invoke("evaluate", run_on_pets, root, "--cpu", "--max-examples", 6).stderr.splitlines()
        if line.startswith("note")
    )
    assert "these results are of 6 of its 15 images." in note
    # No hashes are needed: the record tells which images the run took.
    assert warning.startswith("warning: 12 of 15 images were trained on (")
    others = tree(tmp_path / "others", ant=2, bee=2, cat=2)
    assert invoke("evaluate", run_on_pets, others, "--cpu").stderr == ""
    (tmp_path / "elsewhere").mkdir()
    namesake = tree(tmp_path / "elsewhere" / "pets", ant=2, bee=2, cat=2)
    result = invoke("evaluate", run_on_pets, namesake, "--cpu", "--json")
    assert "trained on" not in result.stderr and json.loads(result.stdout)["trained_images"] is None


def test_the_images_that_the_run_held_out_are_evaluated(tmp_path: Path) -> None:
    root = tree(tmp_path / "pets", ant=9, bee=9, cat=9)
    data = load_image_data(root, seed=4, validation_fraction=0.2)
    run_on_pets = ensemble(tmp_path / "run", "ant", "bee", "cat", data_set="pets", images=data.record.to_dict())
    told = evaluated(run_on_pets, root, "--held-out")
    assert (told["split"], told["held_out"], told["trained_images"]) == ("train", True, 0)
    data.test.save_to_disk(tmp_path / "test")
    expected = evaluated(run_on_pets, tmp_path / "test")
    assert [told[name] for name in ("images", "nll", "accuracy")] == [
        expected["images"],
        pytest.approx(expected["nll"], rel=1e-6),
        expected["accuracy"],
    ]
    assert evaluated(run_on_pets, root)["nll"] != pytest.approx(told["nll"], rel=1e-6)
    assert evaluated(run_on_pets, root, "--held-out", "--max-examples", 3)["images"] == 3


def test_the_validation_images_of_the_run_are_calibrated_on(tmp_path: Path) -> None:
    root = tree(tmp_path / "pets", ant=30, bee=30, cat=30)
    record = load_image_data(root, validation_fraction=0.75, test_fraction=0.1).record
    run_on_pets = ensemble(tmp_path / "run", "ant", "bee", "cat", data_set="pets", images=record.to_dict())
    told = json.loads(run("calibrate", run_on_pets, root, "--held-out", "--json", "--cpu"))
    assert told["fitted_on"]["images"] == record.validation.images == 61
    # Without --held-out that is the whole folder, most of which was trained on or is for testing.
    assert "20 of 90 images were trained on" in mistake("calibrate", run_on_pets, root, "--cpu")


def test_of_many_training_images_a_part_is_enough_to_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path / "pets", ant=300, bee=300)
    data = load_image_data(root, test_fraction=0.01)
    run_on_pets = ensemble(tmp_path / "run", "ant", "bee", data_set="pets", images=data.record.to_dict())
    # 4 of 594 images are hashed: fewer than one in a hundred.
    monkeypatch.setattr(trained_images, "MAX_IMAGES", 4)
    write_trained_images(run_on_pets, data.train)
    said = mistake("calibrate", run_on_pets, root, "--cpu")
    assert "At least 4 of 600 images were trained on" in said and "too sure of itself" in said


def test_held_out_images_need_a_record_and_the_same_images(three: Path, tmp_path: Path) -> None:
    root = tree(tmp_path / "pets", ant=5, bee=5, cat=5)
    assert "no record of a run on" in mistake("evaluate", three, root, "--held-out")
    record = load_image_data(root).record.to_dict()
    run_on_pets = ensemble(tmp_path / "run", "ant", "bee", "cat", data_set="pets", images=record)
    said = mistake("evaluate", run_on_pets, root, "--held-out", "--split", "train")
    assert "--held-out and --split train contradict each other" in said
    assert "The run had no validation images" in mistake("calibrate", run_on_pets, root, "--held-out")
    random_picture(99).save(root / "ant" / "0.png")
    assert "images of the run cannot be found in" in mistake("evaluate", run_on_pets, root, "--held-out")


def test_calibrate_takes_the_split_that_is_named(three: Path, tmp_path: Path) -> None:
    root = tree(
        tmp_path / "pets",
        **{f"{split}__{name}": size for split, size in (("train", 2), ("val", 17)) for name in ("ant", "bee", "cat")},
    )
    told = json.loads(run("calibrate", three, root, "--json", "--cpu"))
    assert told["fitted_on"]["images"] == 51
    plain = tree(tmp_path / "plain", ant=20, bee=20, cat=20)
    told = json.loads(run("calibrate", three, plain, "--json", "--cpu"))
    assert told["fitted_on"]["images"] == 60
    assert "There are 6 validation images, too few" in mistake("calibrate", three, root, "--split", "train", "--cpu")

"""Data sets with lists of labels: read, checked, split and made multi-hot, without anything merged or dropped."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from PIL import Image as Pictures
from several_labels import NAMES, write_folder
from transformers import ViTImageProcessor

from hf_simplex.data.image_columns import labels_of
from hf_simplex.data.image_data import load_image_data, with_validation
from hf_simplex.data.image_transforms import build_transforms, collate, with_pixel_values
from hf_simplex.data.recorded_splits import load_recorded
from hf_simplex.data.stratification import split_off, stratified_indices
from hf_simplex.data.trained_images import count_trained, write_trained_images
from hf_simplex.data.whole_split import load_split


def stored(directory: Path, **splits: tuple[list[Any], Any]) -> Path:
    """A folder of `save_to_disk` with these label columns."""
    found = {}
    for name, (labels, feature) in splits.items():
        pictures = [Pictures.new("RGB", (8, 8), (index, len(name), 0)) for index in range(len(labels))]
        features = Features({"image": Image(), "labels": feature})
        found[name] = Dataset.from_dict({"image": pictures, "labels": labels}, features=features)
    DatasetDict(found).save_to_disk(directory)
    return directory


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[str]]]:
    directory = tmp_path_factory.mktemp("pictures")
    return directory, write_folder(directory)


def test_a_folder_with_lists_of_names_is_a_multi_label_data_set(pictures: tuple[Path, list[list[str]]]) -> None:
    directory, lists = pictures
    data = load_image_data(directory)
    assert data.several_labels and data.label_names == NAMES and (len(data.train), len(data.test)) == (48, 12)
    by_file = dict(enumerate(lists))
    for split in (data.train, data.test):
        stored = split.cast_column("image", Image(decode=False))
        for row in stored:
            number = int(Path(row["image"]["path"]).stem)
            assert [NAMES[label] for label in row["label"]] == by_file[number]
    empty = sum(not own for own in data.train["label"])
    assert any(
        f"{sum(not own for own in lists)} of 60 training images have none" in note for note in data.record.notes
    )
    assert empty > 0, "images without labels are kept"
    assert any("at random and not stratified" in note for note in data.record.notes)
    validated = with_validation(data, 0.5, min_images=5)
    assert validated.record.validation is not None and "not stratified" in validated.record.notes[-1]
    assert load_recorded(directory, validated.record).record.validation == validated.record.validation


def test_examples_are_multi_hot_floats(pictures: tuple[Path, list[list[str]]], tmp_path: Path) -> None:
    directory, _ = pictures
    data = load_image_data(directory)
    _, transform = build_transforms(ViTImageProcessor(size={"height": 8, "width": 8}))
    for materialize in (False, True):
        images = with_pixel_values(data.test, transform, materialize=materialize)
        batch = collate([images[index] for index in range(4)])
        assert batch["labels"].dtype == torch.float32 and batch["labels"].shape == (4, 3)
        assert batch["labels"].long().tolist() == labels_of(data.test)[:4].tolist()
        assert batch["pixel_values"].shape == (4, 3, 8, 8)
    write_trained_images(tmp_path, data.train)
    assert count_trained(tmp_path, data.train) == 48 and count_trained(tmp_path, data.test) == 0


NAMED = List(ClassLabel(names=["a", "b", "c"]))


@pytest.mark.parametrize(
    ("labels", "feature", "names", "expected"),
    [
        ([[0, 2], [1], []], NAMED, ("a", "b", "c"), [[1, 0, 1], [0, 1, 0], [0, 0, 0]]),
        ([["z", "y"], ["z"], []], List(Value("string")), ("y", "z"), [[1, 1], [0, 1], [0, 0]]),
        ([[1, 0], [0, 1], [0, 0]], List(Value("int64")), ("0", "1"), [[1, 0], [0, 1], [0, 0]]),
        ([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]], List(Value("float32")), ("0", "1"), [[1, 0], [1, 1], [0, 0]]),
        ([[True, False]] * 3, List(Value("bool"), length=2), ("0", "1"), [[1, 0]] * 3),
    ],
)
def test_every_form_of_lists(labels: Any, feature: Any, names: Any, expected: Any, tmp_path: Path) -> None:
    stored(tmp_path / "data", train=(labels, feature), test=(labels, feature))
    data = load_image_data(tmp_path / "data")
    assert data.label_names == names and labels_of(data.train).tolist() == expected
    assert ("named by its place" in data.record.notes[0]) == (names == ("0", "1"))
    split = load_split(tmp_path / "data", "test")
    assert split.label_names == names and labels_of(split.images).tolist() == expected


def test_splits_are_numbered_by_name(tmp_path: Path) -> None:
    other = List(ClassLabel(names=["c", "a", "b"]))
    stored(tmp_path / "data", train=([[0], [1, 2]], NAMED), test=([[0, 1], []], other))
    data = load_image_data(tmp_path / "data")
    assert labels_of(data.test).tolist() == [[1, 0, 1], [0, 0, 0]]


def test_a_split_that_does_not_name_a_label_says_nothing_of_it(tmp_path: Path) -> None:
    fewer = List(ClassLabel(names=["c", "a"]))
    stored(tmp_path / "data", train=([[0], [1, 2]], NAMED), test=([[0, 1], []], fewer))
    with pytest.raises(ValueError, match=r"The test split of .* does not name the label 'b' of the train split"):
        load_image_data(tmp_path / "data")


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (([[0, 0], [1]], NAMED), ([[0]], NAMED), "Image 0 of the train split .* has the label 0 twice"),
        (([["x", "x"]], List(Value("string"))), ([["x"]], List(Value("string"))), "the label 'x' twice"),
        (
            ([[0], None], NAMED),
            ([[0]], NAMED),
            "Image 1 .* has no list of labels. An image without",
        ),
        (([["x", None]], List(Value("string"))), ([["x"]], List(Value("string"))), "has a missing label in its list"),
        (([["x"]], List(Value("string"))), ([["y"]], List(Value("string"))), "has the label 'y', which the train"),
        (([[0], [1]], NAMED), ([[2]], NAMED), "The test split .* has the label 'c', which the train split lacks"),
        (
            ([[0, 5], [1]], List(Value("int64"))),
            ([[0, 1]], List(Value("int64"))),
            "must be multi-hot.*ClassLabel",
        ),
        (([[1, 0], [1]], List(Value("int64"))), ([[0, 1]], List(Value("int64"))), r"has \[1\] in 'labels'"),
        (
            ([[{"k": 1}]], List({"k": Value("int64")})),
            ([[{"k": 1}]], List({"k": Value("int64")})),
            "no lists",
        ),
        (([[], []], List(Value("null"))), ([[]], List(Value("null"))), "All lists of 'labels' of .* are empty"),
        (([[], []], List(Value("string"))), ([[]], List(Value("string"))), "All lists of 'labels' of .* are empty"),
        (([[0]], NAMED), ([0], ClassLabel(names=["a"])), "different columns"),
    ],
)
def test_bad_lists_are_refused_by_name(train: Any, test: Any, message: str, tmp_path: Path) -> None:
    stored(tmp_path / "data", train=train, test=test)
    with pytest.raises(ValueError, match=message):
        load_image_data(tmp_path / "data")


def test_no_label_loses_its_last_training_image() -> None:
    generator = np.random.default_rng(0)
    labels = (generator.random((200, 20)) < 0.02).astype(np.int64)
    dataset = Dataset.from_dict({"row": list(range(200))})
    for seed in range(5):
        kept, held = split_off(dataset, labels, 0.6, seed, "test_fraction")
        assert sorted([*kept["row"], *held["row"]]) == list(range(200)) and len(held) == 120
        assert (labels[kept["row"]].any(axis=0) == labels.any(axis=0)).all()
    assert np.isin(stratified_indices(labels, 30, 0), stratified_indices(labels, 60, 0)).all()
    with pytest.raises(ValueError, match="lists of 20 labels"):
        split_off(dataset, labels, 0.99, 0, "test_fraction")


def test_the_column_of_lists_is_found(tmp_path: Path) -> None:
    picture = [Pictures.new("RGB", (8, 8))] * 2
    rows = {"image": picture, "objects": [[0], [1]], "caption": ["x", "y"]}
    features = Features({"image": Image(), "objects": NAMED, "caption": Value("string")})
    DatasetDict(train=Dataset.from_dict(rows, features), test=Dataset.from_dict(rows, features)).save_to_disk(
        tmp_path / "one"
    )
    assert load_image_data(tmp_path / "one").label_names == ("a", "b", "c")
    # A column of the usual name comes first, as it did before lists were read.
    rows["label"] = ["x", "y"]
    features = Features({**features, "label": Value("string")})
    DatasetDict(train=Dataset.from_dict(rows, features), test=Dataset.from_dict(rows, features)).save_to_disk(
        tmp_path / "two"
    )
    assert not load_image_data(tmp_path / "two").several_labels
    assert load_image_data(tmp_path / "two", label_column="objects").several_labels


def test_lists_of_a_data_set_of_ones_own_are_checked_before_they_become_multi_hot() -> None:
    _, transform = build_transforms(ViTImageProcessor(size={"height": 8, "width": 8}))

    def rows(labels: Any, feature: Any) -> Any:
        pictures = [Pictures.new("RGB", (8, 8))] * len(labels)
        features = Features({"image": Image(), "label": feature})
        return Dataset.from_dict({"image": pictures, "label": labels}, features=features)

    # ClassLabel allows -1, which would be the last label.
    for labels, message in (
        ([[0], [-1]], "Image 1 has the label -1; expected 0 to 2"),
        ([[0], None], "Image 1 has no list"),
        ([[0], [1, 1]], "Image 1 has the label 1 twice"),
    ):
        with pytest.raises(ValueError, match=message):
            with_pixel_values(rows(labels, NAMED), transform)
        with pytest.raises(ValueError, match=message):
            labels_of(rows(labels, NAMED))
    # Lists of numbers stay as they are, for a compute_loss_func or as multi-hot labels.
    soft = with_pixel_values(rows([[0.25, 1.0]] * 2, List(Value("float32"))), transform)
    torch.testing.assert_close(collate([soft[0], soft[1]])["labels"], torch.tensor([[0.25, 1.0]] * 2))


@pytest.mark.parametrize(
    ("texts", "joined"),
    [
        (["cat,dog", "cat", "dog"], "cat,dog"),
        (["cat; dog", "dog; tree", "cat; tree"], "cat; dog"),
        (["['cat', 'dog']", "['tree']"], r"\['cat', 'dog'\]"),
        (["[1 0 1]", "[0 0 1]"], r"\[0 0 1\]"),
        (["tench, Tinca tinca", "goldfish, Carassius auratus", "[unknown]"], None),
    ],
)
def test_text_that_joins_labels_is_no_class(texts: list[str], joined: str | None, tmp_path: Path) -> None:
    lines = ["file_name,labels"]
    for index in range(4 * len(texts)):
        Pictures.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / f"{index}.png")
        lines.append(f'{index}.png,"{texts[index % len(texts)]}"')
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    if joined is None:
        assert load_image_data(tmp_path).label_names == tuple(sorted(texts))
        return
    for load in (load_image_data, load_split):
        with pytest.raises(ValueError, match=f"'labels' of .* has the text .{joined}., which joins several labels.*"):
            load(tmp_path, **({} if load is load_image_data else {"split": "train"}))


def test_a_class_label_of_another_name_does_not_win_over_lists_without_a_word(tmp_path: Path) -> None:
    rows = {"image": [Pictures.new("RGB", (8, 8))] * 2, "labels": [[0], [1]], "source": [0, 1]}
    for name, usual in (("lists", "labels"), ("class", "tags")):
        features = Features({"image": Image(), usual: NAMED, "source": ClassLabel(names=["web", "lab"])})
        named = Dataset.from_dict({usual if key == "labels" else key: rows[key] for key in rows}, features)
        DatasetDict(train=named, test=named).save_to_disk(tmp_path / name)
    with pytest.raises(ValueError, match="2 candidates for label_column"):
        load_image_data(tmp_path / "lists")
    assert load_image_data(tmp_path / "lists", label_column="labels").several_labels
    assert load_image_data(tmp_path / "lists", label_column="source").label_names == ("web", "lab")
    assert load_image_data(tmp_path / "class").label_names == ("web", "lab"), "as before"


def test_metadata_lines_of_text_stay_one_label(tmp_path: Path) -> None:
    for index in range(6):
        Pictures.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / f"{index}.png")
    lines = [json.dumps({"file_name": f"{index}.png", "label": "ab"[index % 2]}) for index in range(6)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    assert not load_image_data(tmp_path).several_labels

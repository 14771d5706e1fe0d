"""Folders of images with metadata files: nothing is read twice, left out or misread without a word."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as Pictures

from hf_simplex.data.image_columns import labels_of
from hf_simplex.data.image_data import ImageData, load_image_data
from hf_simplex.data.whole_split import load_split


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


def pictures(folder: Path, number: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(number):
        Pictures.new("RGB", (4, 4), (index, len(folder.name), 0)).save(folder / f"{index}.png")
    return folder


def described(folder: Path, labels: list[Any], key: str = "labels") -> Path:
    """A folder of images with a line of metadata.jsonl for each."""
    pictures(folder, len(labels))
    lines = [json.dumps({"file_name": f"{index}.png", key: own}) for index, own in enumerate(labels)]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return folder


def table(folder: Path, header: str, rows: list[str]) -> Path:
    """A folder of images with a metadata.csv."""
    pictures(folder, len(rows))
    lines = [f"{index}.png,{row}" for index, row in enumerate(rows)]
    (folder / "metadata.csv").write_text("\n".join([f"file_name,{header}", *lines]) + "\n", "utf-8")
    return folder


def notes(data: ImageData, words: str) -> list[str]:
    return [note for note in data.record.notes if words in note]


def append(file: Path, line: str) -> None:
    file.write_text(file.read_text("utf-8") + line + "\n", "utf-8")


# ---- lines and images -----------------------------------------------------------------------------------------------


def test_an_image_with_two_lines_is_refused(tmp_path: Path) -> None:
    lists = described(tmp_path / "lists", [["cat"], ["dog"], []] * 4)
    append(lists / "metadata.jsonl", '\n{"file_name": "./1.png", "labels": []}')
    names = table(tmp_path / "names", "label", ["cat", "dog"] * 4)
    for row in ("0.png,dog", "3.png,cat", "3.png,cat"):
        append(names / "metadata.csv", row)
    for load in (load_image_data, load_split):
        with pytest.raises(ValueError, match=r"'1.png' in .*lists has .* line 2 of metadata.jsonl and line 14 of met"):
            load(lists)
        with pytest.raises(ValueError, match=r"'0.png' .*: line 2 of metadata.csv and line 10 .*1 other image\. Keep"):
            load(names)


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    """Other ends of lines in a string, Windows' separators, cells of several lines, and many lines of one image."""
    described(tmp_path / "json", ["cat", "dog"] * 3, "label")
    append(tmp_path / "json" / "metadata.jsonl", '{"file_name": "2.png", "label": "dog\u2028"}')
    with pytest.raises(ValueError, match=r"'2.png' in .*: line 3 of metadata.jsonl and line 7 of metadata.jsonl"):
        load_image_data(tmp_path / "json")
    pictures(tmp_path / "csv" / "more", 3)
    (tmp_path / "csv" / "metadata.csv").write_text(
        'file_name,label,text\nmore/0.png,cat,"two\nlines"\nmore\\1.png,dog,one\nmore/2.png,cat,a\n'
        + "more/1.png,dog,one\n" * 5
    )
    with pytest.raises(
        ValueError, match=r"lines of metadata: line 4 of metadata.csv, line 6 of .*, line 7 of .* and 3 more\. Keep"
    ):
        load_image_data(tmp_path / "csv")


def test_two_metadata_files_that_name_an_image_are_refused(tmp_path: Path) -> None:
    described(tmp_path / "pets" / "more", ["cat", "dog"] * 2, "label")
    described(tmp_path / "pets", ["cat", "dog"] * 2, "label")
    append(tmp_path / "pets" / "metadata.jsonl", '{"file_name": "more/2.png", "label": "dog"}')
    with pytest.raises(ValueError, match=r"more/2.png' .* line 5 of metadata.jsonl and line 3 of more/metadata.jsonl"):
        load_image_data(tmp_path / "pets")


def test_images_without_a_line_are_counted_and_the_log_names_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("hf_simplex"), "propagate", True)
    whole = pictures(described(tmp_path / "whole", [["cat"], ["dog"], []] * 4), 19)
    data = load_image_data(whole)
    assert len(data.train) + len(data.test) == 12
    # The notes are published with an ensemble.
    assert notes(data, "no line") == ["left out 7 images that no line of metadata.jsonl names"]
    assert "'12.png', '13.png', '14.png', '15.png', '16.png' and 2 more" in caplog.text
    for split in ("train", "test"):
        table(tmp_path / "split" / split, "label", ["cat", "dog"] * 3)
    pictures(tmp_path / "split" / "test", 7)
    pictures(tmp_path / "split", 1)
    data = load_image_data(tmp_path / "split")
    assert notes(data, "left out") == [
        "left out 1 image that no line of test/metadata.csv names",
        "left out 1 image beside the folders of the splits",
    ]
    assert "names: 'test/6.png'" in caplog.text and "splits: '0.png'" in caplog.text
    assert not notes(load_image_data(described(tmp_path / "all", ["cat", "dog"] * 4)), "left out")


# ---- names of labels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blank", ["", "  "])
def test_a_blank_label_is_refused(blank: str, tmp_path: Path) -> None:
    message = rf"A label of .* has the blank name '{blank}', of .*2\.png"
    lists = described(tmp_path / "lists", [["cat"], ["dog"], ["cat", blank], *[["cat", "dog", blank]] * 9])
    names = described(tmp_path / "names", ["cat", "dog", blank, *["cat", "dog"] * 3], "label")
    with pytest.raises(ValueError, match=message):
        load_split(lists)
    with pytest.raises(ValueError, match=message):
        load_split(names)
    with pytest.raises(ValueError, match="has the blank name"):
        load_image_data(lists)


def test_labels_that_differ_in_case_or_spaces_are_named_in_one_line(tmp_path: Path) -> None:
    names = ["circle", "Circle", "circle ", "line", "LINE", "dot"]
    expected = "are different labels: 'Circle', 'circle', 'circle '; 'LINE', 'line'"
    lists = load_image_data(described(tmp_path / "lists", [[name] for name in names] * 3))
    column = load_image_data(described(tmp_path / "column", names * 3, "label"))
    for name in names:
        pictures(tmp_path / "folders" / name, 3)
    folders = load_image_data(tmp_path / "folders")
    for data in (lists, column, folders):
        assert sorted(data.label_names) == sorted(names), "as they are given"
        (note,) = notes(data, "differ only in case")
        assert note.endswith(expected)
    assert not notes(load_image_data(described(tmp_path / "plain", ["cat", "dog"] * 3, "label")), "differ")


def test_lists_are_told_with_the_images_of_each_label(tmp_path: Path) -> None:
    few = load_image_data(described(tmp_path / "few", [["cat "], ["cat ", "dog"], []] * 2))
    assert notes(few, "images with each: 'cat ' 4, 'dog' 2")
    names = [f"label {number:02d}" for number in range(23)]
    many = load_image_data(described(tmp_path / "many", [names] * 4))
    (note,) = notes(many, "images with each")
    assert note.endswith("'label 19' 4 and 3 more")


def test_names_whose_parts_are_labels_are_told_of(tmp_path: Path) -> None:
    joined = ["circle line", "circle/line", "circle + line", "circle-line", "line_circle", "dot&line&circle"]
    names = ["circle", "line", "dot", "hot dot", "T-shirt/top", *joined]
    data = load_image_data(table(tmp_path / "pets", "label", names * 2))
    (note,) = notes(data, "several labels in one name")
    assert "'circle + line', 'circle line', 'circle-line'" in note and "and 1 more" in note
    assert "hot" not in note and "shirt" not in note and '"labels": ["cat", "dog"]' in note
    assert len(data.label_names) == len(names)
    lists = load_image_data(described(tmp_path / "lists", [[name] for name in names] * 2))
    assert not notes(lists, "in one name"), "a list has said what is a label"


# ---- missing labels -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("cat", "dog"), ("0", "1")], ids=["text", "numbers"])
def test_empty_cells_are_named(words: tuple[str, str], tmp_path: Path) -> None:
    whole = table(tmp_path / "whole", "label", [*words, "", *words * 3, "NA", "", ""])
    message = r"4 example.* of the train split of .* no label \(an empty cell.*2\.png, .*9\.png, .*10\.png, \.\.\."
    for load in (load_image_data, load_split):
        with pytest.raises(ValueError, match=message) as caught:
            load(whole)
        assert "test_split" not in str(caught.value) and "Hub" not in str(caught.value)


def test_missing_labels_of_a_test_split_get_the_advice_to_choose_another(tmp_path: Path) -> None:
    features = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})

    def images(labels: list[int | None]) -> Dataset:
        return Dataset.from_dict({"image": [Pictures.new("L", (2, 2))] * len(labels), "label": labels}, features)

    splits = {"train": images([0, 1, 0]), "validation": images([0, 1]), "test": images([0, 1])}
    for split, labels in (("test", [0, None]), ("test", [-1, -1]), ("validation", [0, -1]), ("train", [0, 1, -1])):
        folder, advised = tmp_path / f"{split}{labels[-1]}", split == "test"
        DatasetDict({**splits, split: images(labels)}).save_to_disk(folder)
        what = "no label .*: image 1" if labels[-1] is None else "no valid label.* the first is -1"
        with pytest.raises(ValueError, match=f"of the {split} split of .* {what}") as caught:
            load_image_data(folder)
        assert ("choose another split with test_split" in str(caught.value)) == advised
        with pytest.raises(ValueError, match=f"of the {split} split") as caught:
            load_split(folder, split)
        assert ("choose another split with split (--split)" in str(caught.value)) == advised


# ---- whole splits ---------------------------------------------------------------------------------------------------


def test_images_in_no_split_are_loaded_whole(tmp_path: Path) -> None:
    root = described(tmp_path / "pets", [["cat"], ["dog"], []] * 4)
    for given in (None, "train"):
        loaded = load_split(root, given, roles=("validation",), only_split=False)
        assert (loaded.split, loaded.of, len(loaded.images)) == (None, 12, 12)
    with pytest.raises(ValueError, match=r"no split 'val': its images are in no split. Give no split \(no --split\)"):
        load_split(root, "val")
    for split in ("train", "extra"):
        described(tmp_path / "divided" / split, [["cat"], ["dog"], []] * 2)
    message = r"no validation split.*split='train' \(--split train on the command line\)"
    with pytest.raises(ValueError, match=message):
        load_split(tmp_path / "divided", roles=("validation",), only_split=False)
    assert load_split(tmp_path / "divided", "train", roles=("validation",), only_split=False).split == "train"


# ---- columns --------------------------------------------------------------------------------------------------------

ROWS = ["1,0,web", "0,1,web", "1,1,lab", "0,0,web"] * 3
LISTS = [[1, 0], [0, 1], [1, 1], [0, 0]] * 3


def python_line(message: str) -> str:
    return message.split("makes lists of them: `")[1].split("`")[0]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet", "folder"])
def test_columns_of_0_and_1_are_told_how_to_become_lists(form: str, tmp_path: Path) -> None:
    root = table(tmp_path / "pets", "cat,dog,source", ROWS)
    if form == "folder":
        # One folder beside the file, as Kaggle has it, is no class.
        (root / "images").mkdir()
        for image in root.glob("*.png"):
            image.rename(root / "images" / image.name)
        file = root / "metadata.csv"
        file.write_text(file.read_text().replace("\n", "\nimages/").removesuffix("images/"))
    elif form != "csv":
        import pandas

        frame = pandas.read_csv(root / "metadata.csv")
        if form == "jsonl":
            frame.to_json(root / "metadata.jsonl", orient="records", lines=True)
        else:
            frame.to_parquet(root / "metadata.parquet")
        (root / "metadata.csv").unlink()
    for load in (load_split, load_image_data):
        with pytest.raises(ValueError, match="the columns 'cat', 'dog', 'source' beside the file names") as caught:
            load(root)
    message = str(caught.value)
    assert "label_column (--label_column of a recipe, --label-column of hf-simplex)" in message
    assert "The 2 columns 'cat', 'dog' hold 0 and 1" in message
    assert ("If 'images' is a class, move the metadata file out" in message) == (form == "folder")
    exec(python_line(message), {})
    if form != "jsonl":
        assert "Then remove metadata." in message
        next(file for file in root.glob("metadata.*") if file.suffix != ".jsonl").unlink()
    loaded = load_split(root)
    assert loaded.label_names == ("cat", "dog") and sorted(labels_of(loaded.images).tolist()) == sorted(LISTS)


def test_a_column_of_another_name_is_named(tmp_path: Path) -> None:
    root = described(tmp_path / "pets", [["cat"], ["dog"], []] * 4, "tags")
    for load in (load_image_data, load_split):
        with pytest.raises(ValueError, match=r"columns 'tags' beside .* none is 'label' or 'labels'.*-label_column"):
            load(root)
        with pytest.raises(ValueError, match=r"the columns 'tags' beside the file names, and none is 'tag'\."):
            load(root, label_column="tag")
    assert load_image_data(root, label_column="tags").several_labels


def test_columns_of_0_and_1_of_other_data_sets_too(tmp_path: Path) -> None:
    features = Features({"image": Image(), "cat": Value("bool"), "dog": Value("int8"), "age": Value("int64")})
    rows = {"image": [Pictures.new("L", (2, 2))] * 3, "cat": [True, False, True], "dog": [0, 1, 1], "age": [3, 1, 0]}
    data = DatasetDict({split: Dataset.from_dict(rows, features) for split in ("train", "test")})
    data.save_to_disk(tmp_path / "pets")
    with pytest.raises(ValueError, match=r"0 candidates for label_column.* image .*age \(int64\)") as caught:
        load_image_data(tmp_path / "pets")
    scope = {"dataset": data}
    exec(python_line(str(caught.value)), scope)
    scope["dataset"].save_to_disk(tmp_path / "lists")
    assert labels_of(load_image_data(tmp_path / "lists").train).tolist() == [[1, 0], [0, 1], [1, 1]]

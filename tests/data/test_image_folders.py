"""Claims about folders of images: no image that is called a test image is trained on, whatever the arrangement."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value, load_dataset

from hf_simplex.data.image_data import ImageData, load_image_data
from hf_simplex.data.split_names import ROLES, choose_splits, role_of
from hf_simplex.data.whole_split import load_split


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


def tree(root: Path, *files: str) -> Path:
    """Images of different colors at the given paths. `cat/*4` is short for four images in `cat/`."""
    number = sum(1 for _ in root.rglob("*.png"))
    for file in files:
        directory, _, count = file.partition("*")
        names = [f"{directory}{index}.png" for index in range(int(count))] if count else [file]
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.new("RGB", (3, 2), (number % 256, number // 256, 0)).save(root / name, "PNG")
            number += 1
    return root


def relative(dataset: Dataset | None, root: Path) -> set[str]:
    assert dataset is not None
    stored: Iterable[Any] = dataset.cast_column("image", Image(decode=False))["image"]
    return {str(Path(image["path"]).relative_to(root.resolve())) for image in stored}


def folders(dataset: Dataset | None, root: Path) -> set[str]:
    return {str(Path(path).parent) for path in relative(dataset, root)}


def labels(data: ImageData, dataset: Dataset) -> list[str]:
    return [data.label_names[label] for label in dataset["label"]]


# ---- names of splits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", ["Train", "TRAIN", "training", "Training", "train_set", "training-images"])
@pytest.mark.parametrize("test", ["Test", "TEST", "testing", "evaluation", "eval", "test_set"])
def test_folders_with_names_of_splits_are_splits(tmp_path: Path, train: str, test: str) -> None:
    root = tree(tmp_path / "pets", f"{train}/cat/*3", f"{train}/dog/*3", f"{test}/cat/*2", f"{test}/dog/*2")
    data = load_image_data(root)
    assert folders(data.train, root) == {f"{train}/cat", f"{train}/dog"}
    assert folders(data.test, root) == {f"{test}/cat", f"{test}/dog"}
    assert (data.record.train.source, data.record.test.source, data.record.notes) == (train, test, ())


@pytest.mark.parametrize("validation", ["val", "VALID", "dev", "Validation"])
def test_a_validation_folder_is_the_validation_split(tmp_path: Path, validation: str) -> None:
    root = tree(tmp_path, *(f"{split}/{name}/*2" for split in ("Train", "Test", validation) for name in ("a", "b")))
    data = load_image_data(root)
    assert folders(data.validation, root) == {f"{validation}/a", f"{validation}/b"}
    assert folders(data.test, root) == {"Test/a", "Test/b"}


def test_every_usual_name_has_one_role_whatever_its_case() -> None:
    for role, names in ROLES.items():
        assert {role_of(name) for name in names} == {role_of(name.upper()) for name in names} == {role}
    assert {role_of(name) for name in ("test tube", "contest", "trainer", "cat", "set", "")} == {None}


@pytest.mark.parametrize(
    ("files", "pair"),
    [
        (["test/cat/*2", "testing/cat/*2"], "'test', 'testing'"),
        (["test/cat/*2", "Test/cat/*2"], "'Test', 'test'"),
        (["val/cat/*2", "dev/cat/*2", "test/cat/*2"], "'dev', 'val'"),
    ],
)
def test_two_folders_for_the_same_split_are_an_error(tmp_path: Path, files: list[str], pair: str) -> None:
    root = tree(tmp_path, "train/cat/*2", "train/dog/*2", *files)
    with pytest.raises(ValueError, match=rf"2 splits that may be the .* split: {pair}\. Choose one with"):
        load_image_data(root)


def test_one_of_two_test_folders_can_be_chosen(tmp_path: Path) -> None:
    root = tree(tmp_path, "train/cat/*2", "train/dog/*2", "test/cat/*2", "testing/cat/*3")
    data = load_image_data(root, test_split="testing")
    assert folders(data.test, root) == {"testing/cat"}
    assert data.record.notes == ("left out 2 images in 'test': another split is used",)


@pytest.mark.parametrize("letters", ["AB", ("Cats", "Dogs"), ("-images-1", "_images_2")])
def test_names_of_splits_before_a_capital_letter_are_seen(tmp_path: Path, letters: str | tuple[str, str]) -> None:
    root = tree(tmp_path, *(f"{split}{letter}/*2" for split in ("train", "test") for letter in letters))
    with pytest.raises(ValueError, match="look like splits"):
        load_image_data(root)


def test_folders_with_names_of_their_own_can_be_chosen(tmp_path: Path) -> None:
    root = tree(tmp_path, *(f"seg_{split}/seg_{split}/{name}/*2" for split in ("train", "test") for name in "ab"))
    with pytest.raises(ValueError, match=r"The folders 'seg_test', 'seg_train' in .* look like splits"):
        load_image_data(root)
    data = load_image_data(root, train_split="seg_train", test_split="seg_test")
    assert folders(data.train, root) == {"seg_train/seg_train/a", "seg_train/seg_train/b"}
    assert folders(data.test, root) == {"seg_test/seg_test/a", "seg_test/seg_test/b"}


def test_flat_folders_that_look_like_splits_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'train2017', 'val2017' in .* look like splits"):
        load_image_data(tree(tmp_path, "train2017/*3", "val2017/*3"))


@pytest.mark.parametrize("names", [("Train", "Test"), ("TRAIN", "evaluation")])
def test_the_splits_of_a_saved_data_set_are_found_by_the_same_names(tmp_path: Path, names: tuple[str, str]) -> None:
    features = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})
    image = PIL.Image.new("RGB", (2, 2))
    sizes = {names[0]: 6, names[1]: 4, "unsupervised": 2}
    DatasetDict(
        {
            name: Dataset.from_dict({"image": [image] * size, "label": [0, 1] * (size // 2)}, features=features)
            for name, size in sizes.items()
        }
    ).save_to_disk(tmp_path / "pets")
    data = load_image_data(tmp_path / "pets")
    assert (len(data.train), len(data.test)) == (6, 4)
    assert data.record.notes == ("left out the splits 'unsupervised'",)


def test_names_that_datasets_writes_go_before_others_in_its_data_sets() -> None:
    assert choose_splits(["train", "test", "testing"], "pets") == {"train": "train", "test": "test"}
    with pytest.raises(ValueError, match="2 splits that may be the test split"):
        choose_splits(["train", "eval", "testing"], "pets")


# ---- what lies beside splits ----------------------------------------------------------------------------------------


def test_a_flat_test_folder_is_set_aside_and_said_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tree(tmp_path, "train/cat/*5", "train/dog/*5", "test/*7")
    with caplog.at_level(logging.WARNING):
        data = load_image_data(root)
    assert folders(data.train, root) | folders(data.test, root) == {"train/cat", "train/dog"}
    assert data.label_names == ("cat", "dog") and (len(data.train), len(data.test)) == (8, 2)
    assert data.record.notes == (
        "set aside 7 images in 'test', which has no class folders",
        "split off 2 of 10 images of 'train' (0.2, seed 0) as the test split",
    )
    assert [record.getMessage() for record in caplog.records] == [f"{root}: {note}." for note in data.record.notes]
    assert (data.record.test.source, data.record.test.of, data.record.test.fraction) == ("train", 10, 0.2)


def test_a_flat_folder_that_is_asked_for_is_an_error(tmp_path: Path) -> None:
    root = tree(tmp_path, "train/cat/*5", "train/dog/*5", "test/*7")
    with pytest.raises(ValueError, match=r"'test' in .* holds images, but no class folders"):
        load_image_data(root, test_split="test")


def test_a_validation_folder_takes_the_place_of_a_flat_test_folder(tmp_path: Path) -> None:
    root = tree(tmp_path, "train/cat/*5", "train/dog/*5", "test/*7", "val/cat/*2", "val/dog/*2")
    data = load_image_data(root)
    assert folders(data.test, root) == {"val/cat", "val/dog"} and data.validation is None
    assert data.record.notes[-1] == "testing on 'val', for want of a test split"


def test_a_test_split_may_have_a_single_class(tmp_path: Path) -> None:
    root = tree(tmp_path, "train/cat/*2", "train/dog/*2", "test/dog/*3")
    data = load_image_data(root)
    assert labels(data, data.test) == ["dog"] * 3
    assert data.label_names == ("cat", "dog")


def test_other_folders_and_files_are_left_out_and_counted(tmp_path: Path) -> None:
    root = tree(tmp_path, "train/cat/*2", "train/dog/*2", "test/cat/*2", "figures/*3", "extra/test/*1", "logo.png")
    tree(root, "train/loose.png", "__MACOSX/train/cat/*2", ".hidden/*2")
    (root / "notes.txt").write_text("hello")
    data = load_image_data(root)
    assert relative(data.train, root) == {f"train/{name}/{index}.png" for name in ("cat", "dog") for index in (0, 1)}
    assert relative(data.test, root) == {"test/cat/0.png", "test/cat/1.png"}
    assert data.record.notes == (
        "left out 1 file without the extension of an image",
        "left out 1 image beside the class folders of 'train'",
        "left out 5 images in '.', 'extra', 'figures': no split",
    )


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["airplane/*3", "bus/*3", "train/*3"], "'train' in .* no class folders, beside 'airplane', 'bus'"),
        (["cat/*3", "dog/*3", "test/*3"], "'test' in .* no class folders, beside 'cat', 'dog'"),
        (["cat/*3", "dog/*3", "test/cat/*3"], "'cat', 'dog' beside 'test' in .* may be a class"),
        (["cat/*3", "train/cat/*3", "train/dog/*3"], "'cat' beside 'train' in .* may be a class"),
        (["train/*3", "test/*3"], "'train' in .* holds images, but no class folders"),
        (["cat/train/*3", "cat/test/*3", "dog/*3"], "hold splits .*'cat'.* and others do not .*'dog'"),
        (["cat/*3", "cat/test/*3", "dog/*3"], "hold splits .*'cat'.* and others do not"),
        (["animals/other/*2", "plants/other/*2"], "Two class folders .* name 'other': animals/other and plants/other"),
        (["train/a/cat/*2", "train/b/dog/*2", "train/b/cat/*1"], "Two class folders .* 'cat': a/cat and b/cat"),
    ],
)
def test_folders_that_cannot_be_told_apart_are_an_error(tmp_path: Path, files: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_image_data(tree(tmp_path, *files))


@pytest.mark.parametrize("name", ["holdout", "tests", "validate", "query"])
def test_a_folder_with_the_same_classes_may_be_the_test_split(tmp_path: Path, name: str) -> None:
    root = tree(tmp_path, "train/cat/*5", "train/dog/*5", f"{name}/Cat/*2", "figures/*3")
    for load, argument in ((load_image_data, "test_split"), (load_split, "split")):
        with pytest.raises(ValueError, match=rf"'{name}' in .* may be a split\. Choose it with {argument}=.*, or put"):
            load(root)
    assert folders(load_split(root, name).images, root) == {f"{name}/Cat"}
    assert folders(load_split(root, "train").images, root) == {"train/cat", "train/dog"}
    tree(root, "test/cat/*2")
    assert folders(load_image_data(root).test, root) == folders(load_split(root).images, root) == {"test/cat"}


def test_a_class_may_be_called_train_in_a_training_folder(tmp_path: Path) -> None:
    root = tree(tmp_path, *(f"{split}/{name}/*2" for split in ("train", "test") for name in ("bus", "train", "test")))
    data = load_image_data(root)
    assert data.label_names == ("bus", "test", "train")
    assert folders(data.test, root) == {"test/bus", "test/train", "test/test"}


# ---- arrangements ---------------------------------------------------------------------------------------------------


def test_splits_may_lie_in_class_folders(tmp_path: Path) -> None:
    root = tree(tmp_path, *(f"{name}/{split}/*2" for name in ("cat", "dog") for split in ("Train", "Test")))
    data = load_image_data(root)
    assert folders(data.train, root) == {"cat/Train", "dog/Train"}
    assert labels(data, data.test) == ["cat", "cat", "dog", "dog"]


@pytest.mark.parametrize("above", ["pets/", "downloads/pets/"])
def test_everything_may_lie_in_a_folder(tmp_path: Path, above: str) -> None:
    root = tree(tmp_path, *(f"{above}{split}/{name}/*2" for split in ("train", "test") for name in ("cat", "dog")))
    tree(root, "downloads/readme.png")
    data = load_image_data(root)
    assert folders(data.test, root) == {f"{above}test/cat", f"{above}test/dog"}
    assert labels(data, data.train) == ["cat", "cat", "dog", "dog"]


def test_images_in_folders_of_a_class_folder_belong_to_the_class(tmp_path: Path) -> None:
    root = tree(tmp_path, "train/cat/*2", "train/cat/more/*2", "train/dog/*2", "test/cat/*2")
    data = load_image_data(root)
    assert labels(data, data.train) == ["cat"] * 4 + ["dog"] * 2


def test_files_and_labels_have_the_order_in_which_datasets_reads_them(tmp_path: Path) -> None:
    names = ("cat", "cat 2", "cat-1", "Dog", "été", "zebra")
    root = tree(tmp_path / "pets", *(f"{split}/{name}/*3" for split in ("train", "test") for name in names))
    tree(root, "train/cat/A.JPG", "train/cat/a b.png", "train/cat/10.png", "train/cat/é.png")
    patterns = {split: f"{split}/**" for split in ("test", "train")}
    expected = load_dataset("imagefolder", data_dir=str(root), data_files=patterns)
    data = load_image_data(root)
    for split, dataset in (("train", data.train), ("test", data.test)):
        assert data.label_names == tuple(expected[split].features["label"].names)
        assert dataset["label"][:] == expected[split]["label"][:]
        ours, theirs = (
            [image["path"] for image in found.cast_column("image", Image(decode=False))["image"]]
            for found in (dataset, expected[split])
        )
        assert ours == theirs


def test_a_folder_that_links_to_itself_is_read_once(tmp_path: Path) -> None:
    root = tree(tmp_path / "pets", "train/cat/*2", "train/dog/*2", "test/cat/*1")
    (root / "train" / "cat" / "again").symlink_to(root)
    data = load_image_data(root)
    assert (len(data.train), len(data.test)) == (4, 1)


def test_links_to_the_same_folder_are_read_as_often_as_they_are_there(tmp_path: Path) -> None:
    pool = tree(tmp_path / "pool", "cat/*2", "dog/*3")
    for split, names in (("train", ("cat", "dog")), ("test", ("cat",))):
        (tmp_path / "pets" / split).mkdir(parents=True)
        for name in names:
            (tmp_path / "pets" / split / name).symlink_to(pool / name)
    data = load_image_data(tmp_path / "pets")
    assert (len(data.train), len(data.test)) == (5, 2)


def test_labels_in_a_metadata_file_are_read_where_there_is_one(tmp_path: Path) -> None:
    root = tree(tmp_path / "pets", "Train/*4", "Test/*2", "other/*2")
    for split, count in (("Train", 4), ("Test", 2)):
        rows = "".join(f"{index}.png,{('cat', 'dog')[index % 2]}\n" for index in range(count))
        (root / split / "metadata.csv").write_text("file_name,label\n" + rows)
    data = load_image_data(root)
    assert data.label_names == ("cat", "dog") and (len(data.train), len(data.test)) == (4, 2)
    assert data.record.notes == ("left out the folders 'other', which have no metadata file",)


def test_a_metadata_file_above_the_splits_does_not_make_them_one_heap(tmp_path: Path) -> None:
    root = tree(tmp_path / "pets", "train/*2", "test/*2")
    rows = "".join(f"{split}/{index}.png,{index}\n" for split in ("train", "test") for index in (0, 1))
    (root / "metadata.csv").write_text("file_name,label\n" + rows)
    with pytest.raises(ValueError, match=r"no class folders.*metadata\.csv in the folder of the split"):
        load_image_data(root)


def test_tables_in_folders_that_datasets_takes_for_one_split_are_an_error(tmp_path: Path) -> None:
    features = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})
    image = PIL.Image.new("RGB", (2, 2))
    for train, test in (("Train", "Test"), ("train", "test")):
        for name in (train, test):
            dataset = Dataset.from_dict({"image": [image] * 4, "label": [0, 1] * 2}, features=features)
            (tmp_path / train / "data").mkdir(parents=True, exist_ok=True)
            dataset.to_parquet(tmp_path / train / "data" / f"{name}.parquet")
    with pytest.raises(ValueError, match=r"have names of splits \(test, train\), but `datasets` reads them as one"):
        load_image_data(tmp_path / "Train")
    assert len(load_image_data(tmp_path / "train").train) == 4


def test_a_metadata_file_without_labels_leaves_the_labels_to_the_folders(tmp_path: Path) -> None:
    root = tree(tmp_path / "pets", "train/cat/*2", "train/dog/*2", "test/cat/*1")
    rows = "".join(f"{name}/{index}.png,nice\n" for name in ("cat", "dog") for index in (0, 1))
    (root / "train" / "metadata.csv").write_text("file_name,caption\n" + rows)
    data = load_image_data(root)
    assert data.label_names == ("cat", "dog") and (len(data.train), len(data.test)) == (4, 1)


# ---- labels ---------------------------------------------------------------------------------------------------------


def test_a_class_folder_that_only_the_test_split_has_stops_the_run(tmp_path: Path) -> None:
    root = tree(tmp_path, "train/cat/*2", "train/dog/*2", "test/Cat/*2", "test/dog/*2")
    with pytest.raises(ValueError, match=r"The test split of .* has the label 'Cat', which the train split lacks"):
        load_image_data(root)


def saved(folder: Path, **splits: tuple[list[Any], Any]) -> Path:
    DatasetDict(
        {
            name: Dataset.from_dict(
                {"image": [PIL.Image.new("L", (1, 1), index) for index in range(len(values))], "label": values},
                features=Features({"image": Image(), "label": feature}),
            )
            for name, (values, feature) in splits.items()
        }
    ).save_to_disk(folder)
    return folder


@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_class_or_number_that_only_another_split_has_stops_the_run(tmp_path: Path, split: str) -> None:
    number, animal = Value("int64"), ClassLabel(names=["ape", "cat", "dog"])
    root = saved(tmp_path / "numbers", **{"train": ([1, 2], number), "test": ([1], number), split: ([2, 9], number)})
    with pytest.raises(ValueError, match=rf"The {split} split of .* has the label 9, which the train split lacks"):
        load_image_data(root)
    root = saved(tmp_path / "names", **{"train": ([1, 2], animal), "test": ([1], animal), split: ([2, 0], animal)})
    with pytest.raises(ValueError, match=rf"The {split} split of .* has the label 'ape', which the train split lacks"):
        load_image_data(root)


def test_classes_in_another_order_are_matched_by_name(tmp_path: Path) -> None:
    train, test = ClassLabel(names=["cat", "dog", "eel"]), ClassLabel(names=["eel", "dog"])
    data = load_image_data(saved(tmp_path / "pets", train=([0, 1, 2], train), test=([0, 0, 1], test)))
    assert data.label_names == ("cat", "dog", "eel")
    assert labels(data, data.test) == ["eel", "eel", "dog"]
    assert [image.getpixel((0, 0)) for image in data.test["image"]] == [0, 1, 2]


def test_a_class_that_is_only_named_in_the_test_split_does_no_harm_until_an_image_has_it(tmp_path: Path) -> None:
    train, test = ClassLabel(names=["cat", "dog"]), ClassLabel(names=["dog", "cat", "bird"])
    data = load_image_data(saved(tmp_path / "one", train=([0, 1], train), test=([1, 0], test)))
    assert labels(data, data.test) == ["cat", "dog"]
    with pytest.raises(ValueError, match="has the label 'bird', which the train split lacks"):
        load_image_data(saved(tmp_path / "two", train=([0, 1], train), test=([2], test)))


def test_missing_labels_stay_missing_when_classes_are_matched_by_name(tmp_path: Path) -> None:
    train, test = ClassLabel(names=["cat", "dog"]), ClassLabel(names=["dog", "cat"])
    with pytest.raises(ValueError, match=r"1 example.* the first is -1 \(-1: missing\), of image 1"):
        load_image_data(saved(tmp_path / "pets", train=([0, 1], train), test=([0, -1], test)))


def test_a_label_out_of_range_names_image_and_label(tmp_path: Path) -> None:
    root = tree(tmp_path, "0.png", "1.png", "2.png")
    names = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})
    plain = Features({"image": Image(), "label": Value("int64")})
    files = [str(root / f"{index}.png") for index in range(3)]
    # `datasets` does not check numbers that are stored already.
    wrong = Dataset.from_dict({"image": files, "label": [0, 1, 7]}, features=plain)
    wrong = Dataset(wrong.data, info=wrong.info.copy())
    wrong.info.features = names
    train = Dataset.from_dict({"image": files, "label": [0, 1, 1]}, features=names)
    DatasetDict({"train": train, "test": wrong}).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"the first is 7 .*, of image 2 \(.*2\.png\)"):
        load_image_data(tmp_path / "saved")


# ---- names of data sets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["./pets", "../pets", "~/no/pets", "/no/pets", "a/b/c", "pets/", "me/pets.zip", "pets.tar.gz", "cat.png"]
)
def test_a_mistyped_path_is_no_such_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_simplex.data.sources.load_dataset_builder", lambda *_, **__: pytest.fail("asked the Hub"))
    with pytest.raises(FileNotFoundError, match=f"There is no file or folder {name} "):
        load_image_data(name)


def test_a_name_in_a_local_folder_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "data/pets/cat/*2")
    monkeypatch.chdir(tmp_path)
    asked = []

    def not_found(name: str, *_: Any, **__: Any) -> DatasetDict:
        from datasets.exceptions import DatasetNotFoundError

        asked.append(name)
        raise DatasetNotFoundError("not on the Hub")

    monkeypatch.setattr("hf_simplex.data.sources.load_dataset_builder", not_found)
    with pytest.raises(FileNotFoundError, match=r"no file or folder data/petz .*write hf://datasets/data/petz"):
        load_image_data("data/petz")
    assert asked == []
    with pytest.raises(ValueError, match="'data/petz' is no folder, and no data set on the Hub"):
        load_image_data("hf://datasets/data/petz")
    assert asked == ["data/petz"]


def test_a_file_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "pets.zip").write_bytes(b"PK")
    with pytest.raises(NotADirectoryError, match=r"pets\.zip is a file; expected .* Unpack an archive first"):
        load_image_data(tmp_path / "pets.zip")

"""Claims about `load_image_data`: every source gives the same kind of data set, and splits neither lose nor share."""

import gzip
import struct
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from hf_simplex.data.decoding import decode_rgb
from hf_simplex.data.image_data import FASHION_MNIST_LABELS, load_image_data, stratified_indices
from hf_simplex.data.whole_split import load_split


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


def plain_image(number: int) -> PIL.Image.Image:
    """An image that tells its number by its color."""
    return PIL.Image.new("RGB", (6, 4), (number % 256, number // 256, 7))


def numbers(dataset: Dataset | None) -> list[int]:
    assert dataset is not None
    colors = [image.getpixel((0, 0)) for image in dataset["image"]]
    return [red + 256 * green for red, green, _ in colors]


def numbered(labels: list[Any], feature: Any, start: int = 0, **columns: list[Any]) -> Dataset:
    features = Features({"image": Image(), "label": feature})
    images = [plain_image(start + number) for number in range(len(labels))]
    dataset = Dataset.from_dict({"image": images, "label": labels}, features=features)
    for name, column in columns.items():
        dataset = dataset.add_column(name, column)
    return dataset


CAT_DOG = ClassLabel(names=["cat", "dog"])


def write_idx(file: Path, values: np.ndarray, compress: bool = True) -> None:
    content = struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()
    file.write_bytes(gzip.compress(content) if compress else content)


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    """Fashion-MNIST in small: 40 and 20 images of noise, four and two of each class."""
    random = np.random.default_rng(0)
    folder = tmp_path / "idx"
    folder.mkdir()
    for prefix, size, compress in (("train", 40, True), ("t10k", 20, False)):
        ending = ".gz" if compress else ""
        images = random.integers(0, 256, (size, 28, 28), dtype=np.uint8)
        write_idx(folder / f"{prefix}-images-idx3-ubyte{ending}", images, compress)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{ending}", np.arange(size, dtype=np.uint8) % 10, compress)
    return folder


def write_image_folder(folder: Path, counts: dict[str, int], start: int = 0) -> Path:
    number = start
    for class_name, count in counts.items():
        (folder / class_name).mkdir(parents=True)
        for _ in range(count):
            plain_image(number).save(folder / class_name / f"{number:04d}.png")
            number += 1
    return folder


# ---- stratified choices ---------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(0, 5), st.data())
def test_every_class_keeps_at_least_one_example_and_no_more_than_its_share(
    counts: list[int], seed: int, data: st.DataObject
) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    size = data.draw(st.integers(len(counts), len(labels)))
    chosen = stratified_indices(labels, size, seed)
    assert len(chosen) == size and list(chosen) == sorted(set(chosen.tolist()))
    taken = np.bincount(labels[chosen], minlength=len(counts))
    assert (taken >= 1).all()
    # What Adams's method means: without its last example, no class would be ahead of any other.
    assert ((taken - 1) / counts).max() <= (taken / counts).min() + 1e-12


def test_a_smaller_choice_is_part_of_a_larger_one() -> None:
    labels = np.arange(100) % 3
    small, large = (set(stratified_indices(labels, size, seed=4).tolist()) for size in (20, 60))
    assert small < large


def test_another_seed_chooses_other_examples() -> None:
    labels = np.arange(100) % 3
    assert stratified_indices(labels, 30, seed=0).tolist() == stratified_indices(labels, 30, seed=0).tolist()
    assert stratified_indices(labels, 30, seed=0).tolist() != stratified_indices(labels, 30, seed=1).tolist()


def test_more_examples_than_there_are_cannot_be_chosen() -> None:
    with pytest.raises(ValueError, match="Cannot sample 4 of 3"):
        stratified_indices(np.zeros(3, dtype=np.int64), 4, seed=0)


# ---- digits ---------------------------------------------------------------------------------------------------------


def test_digits_are_all_of_scikit_learns_digits_split_1000_to_797() -> None:
    data = load_image_data("digits")
    assert (len(data.train), len(data.test), data.validation) == (1000, 797, None)
    assert data.label_names == tuple("0123456789")
    ours = [
        (np.rint(np.asarray(image) * (16 / 255)).astype(int).tobytes(), label)
        for split in (data.train, data.test)
        for image, label in zip(split["image"], split["label"], strict=True)
    ]
    digits = load_digits()
    theirs = [
        (image.astype(int).tobytes(), int(label)) for image, label in zip(digits.images, digits.target, strict=True)
    ]
    assert Counter(ours) == Counter(theirs)


def test_digits_are_grey_images_over_the_whole_range_of_a_byte() -> None:
    image = load_image_data("digits").train[0]["image"]
    assert (image.mode, image.size, image.getextrema()) == ("L", (8, 8), (0, 255))


def test_the_split_of_digits_gives_every_class_its_share() -> None:
    data = load_image_data("digits")
    total = np.bincount(load_digits().target)
    assert np.abs(np.bincount(data.train["label"]) - total * (1000 / 1797)).max() <= 1


def test_the_same_seed_gives_the_same_digits() -> None:
    def fingerprint(seed: int) -> list[bytes]:
        return [
            image.tobytes() for image in load_image_data("digits", seed=seed, max_train_examples=50).train["image"]
        ]

    assert fingerprint(3) == fingerprint(3)
    assert fingerprint(3) != fingerprint(4)


def test_digits_without_scikit_learn_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"hf-simplex\[recipes\]"):
        load_image_data("digits")


# ---- Fashion-MNIST --------------------------------------------------------------------------------------------------


def test_idx_files_are_read_pixel_for_pixel(idx_folder: Path) -> None:
    data = load_image_data("fashion_mnist", fashion_mnist_dir=idx_folder)
    assert data.label_names == FASHION_MNIST_LABELS
    for split, prefix, size in ((data.train, "train", 40), (data.test, "t10k", 20)):
        file = next(idx_folder.glob(f"{prefix}-images*"))
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        assert b"".join(image.tobytes() for image in split["image"]) == content[16:]
        assert split["label"][:] == [number % 10 for number in range(size)]
    assert data.train[0]["image"].mode == "L"


def test_a_missing_folder_says_where_fashion_mnist_is_to_be_had(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"dataset-fashion-mnist.*zalando-datasets/fashion_mnist"):
        load_image_data("fashion_mnist", fashion_mnist_dir=tmp_path / "none")


def test_a_missing_idx_file_is_named(idx_folder: Path) -> None:
    (idx_folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="t10k-labels-idx1-ubyte"):
        load_image_data("fashion_mnist", fashion_mnist_dir=idx_folder)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda content: gzip.compress(content)[:-200], "not a complete gzip file"),
        (lambda content: content, "not a complete gzip file"),
        (lambda content: gzip.compress(content[:-1]), "declares 40 x 28 x 28 bytes, but holds 31359"),
        (lambda content: gzip.compress(content + b"x"), "declares 40 x 28 x 28 bytes, but holds 31361"),
        (lambda content: gzip.compress(b"\0\0\x0d\x03" + content[4:]), "starts with '00000d03'; expected '00000803'"),
        (lambda content: gzip.compress(content[:10]), "not an idx file"),
    ],
    ids=["cut off", "not gzip", "too short", "too long", "floats", "no header"],
)
def test_a_damaged_idx_file_is_named(idx_folder: Path, damage: Any, complaint: str) -> None:
    file = idx_folder / "train-images-idx3-ubyte.gz"
    file.write_bytes(damage(gzip.decompress(file.read_bytes())))
    with pytest.raises(ValueError, match=complaint) as error:
        load_image_data("fashion_mnist", fashion_mnist_dir=idx_folder)
    assert str(file) in str(error.value)


def test_images_and_labels_have_to_be_as_many(idx_folder: Path) -> None:
    write_idx(idx_folder / "train-labels-idx1-ubyte.gz", np.zeros(39, dtype=np.uint8))
    with pytest.raises(ValueError, match=r"40 images, but .* 39 labels"):
        load_image_data("fashion_mnist", fashion_mnist_dir=idx_folder)


def test_a_label_beyond_the_classes_is_an_error(idx_folder: Path) -> None:
    write_idx(idx_folder / "train-labels-idx1-ubyte.gz", np.full(40, 10, dtype=np.uint8))
    with pytest.raises(ValueError, match="10"):
        load_image_data("fashion_mnist", fashion_mnist_dir=idx_folder)


# ---- folders --------------------------------------------------------------------------------------------------------


def test_a_folder_of_class_folders_is_split_into_train_and_test(tmp_path: Path) -> None:
    folder = write_image_folder(tmp_path / "pets", {"cat": 10, "dog": 20})
    data = load_image_data(folder, test_fraction=0.2)
    assert data.label_names == ("cat", "dog")
    assert sorted(numbers(data.train) + numbers(data.test)) == list(range(30))
    assert Counter(data.test["label"]) == {0: 2, 1: 4}
    assert all(label == (number >= 10) for number, label in zip(numbers(data.train), data.train["label"], strict=True))


def test_a_folder_with_train_and_test_folders_keeps_its_splits(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "pets" / "train", {"cat": 3, "dog": 3})
    write_image_folder(tmp_path / "pets" / "test", {"cat": 2, "dog": 2}, start=100)
    data = load_image_data(tmp_path / "pets")
    assert sorted(numbers(data.train)) == list(range(6))
    assert sorted(numbers(data.test)) == list(range(100, 104))


def test_a_file_or_class_called_test_is_not_taken_for_a_test_split(tmp_path: Path) -> None:
    folder = write_image_folder(tmp_path / "objects", {"cat": 5, "test tube": 5})
    plain_image(10).save(folder / "cat" / "test_1.png")
    data = load_image_data(folder)
    assert data.label_names == ("cat", "test tube")
    assert sorted(numbers(data.train) + numbers(data.test)) == list(range(11))


def test_a_saved_data_set_is_loaded_with_or_without_splits(tmp_path: Path) -> None:
    train, test = numbered([0, 1] * 5, CAT_DOG), numbered([0, 1], CAT_DOG, start=50)
    DatasetDict({"train": train, "test": test}).save_to_disk(tmp_path / "splits")
    data = load_image_data(tmp_path / "splits")
    assert (numbers(data.train), numbers(data.test)) == (list(range(10)), [50, 51])
    train.save_to_disk(tmp_path / "one")
    data = load_image_data(tmp_path / "one")
    assert sorted(numbers(data.train) + numbers(data.test)) == list(range(10))
    assert Counter(data.test["label"]) == {0: 1, 1: 1}


def test_a_folder_without_data_is_an_error_that_lists_what_is_accepted(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no data set.*save_to_disk.*digits"):
        load_image_data(tmp_path)


# ---- names and columns ----------------------------------------------------------------------------------------------


def hub_like(folder: Path, splits: dict[str, Dataset]) -> Path:
    """A folder as a Hub repository of Parquet files has it."""
    (folder / "data").mkdir(parents=True)
    for split, dataset in splits.items():
        dataset.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def test_an_unknown_name_is_an_error_that_lists_what_is_accepted() -> None:
    with pytest.raises(ValueError, match=r"Unknown data set 'mnst'.*fashion_mnist.*digits"):
        load_image_data("mnst")


def test_a_path_that_is_not_there_is_not_looked_for_on_the_hub() -> None:
    with pytest.raises(FileNotFoundError, match=r"\./pets"):
        load_image_data("./pets")


def test_columns_are_found_by_kind_and_ambiguous_ones_are_listed(tmp_path: Path) -> None:
    cifar = numbered([0, 1] * 5, CAT_DOG, coarse_label=[0] * 10).cast_column("coarse_label", ClassLabel(names=["pet"]))
    folder = hub_like(tmp_path / "cifar", {"train": cifar.rename_columns({"image": "img", "label": "fine_label"})})
    with pytest.raises(ValueError, match=r"2 candidates for label_column; .*img.*fine_label.*coarse_label"):
        load_image_data(folder)
    data = load_image_data(folder, label_column="fine_label")
    assert data.train.column_names == ["image", "label"]
    assert data.label_names == ("cat", "dog")


@pytest.mark.parametrize("arguments", [{"image_column": "species"}, {"label_column": "species"}])
def test_a_column_that_is_not_there_is_an_error_that_lists_the_columns(tmp_path: Path, arguments: Any) -> None:
    numbered([0, 1] * 3, CAT_DOG).save_to_disk(tmp_path / "pets")
    with pytest.raises(ValueError, match=r"no column 'species'; its columns are image .*label"):
        load_image_data(tmp_path / "pets", **arguments)


def test_a_column_of_another_kind_is_an_error(tmp_path: Path) -> None:
    numbered([0, 1] * 3, CAT_DOG, weight=[0.5] * 6).save_to_disk(tmp_path / "pets")
    with pytest.raises(ValueError, match=r"'label' of .* holds no images"):
        load_image_data(tmp_path / "pets", image_column="label")
    with pytest.raises(ValueError, match=r"'weight' of .* holds no class labels"):
        load_image_data(tmp_path / "pets", label_column="weight")


# ---- labels ---------------------------------------------------------------------------------------------------------


def test_text_labels_become_classes_by_alphabet_the_same_in_every_split(tmp_path: Path) -> None:
    text = Value("string")
    splits = {"train": numbered(["dog", "cat", "ape"] * 2, text), "test": numbered(["dog"], text)}
    DatasetDict(splits).save_to_disk(tmp_path / "pets")
    data = load_image_data(tmp_path / "pets")
    assert data.label_names == ("ape", "cat", "dog")
    assert (data.train["label"][:], data.test["label"][:]) == ([2, 1, 0] * 2, [2])
    assert numbers(data.train) == list(range(6))


def test_integers_without_names_become_classes_in_numerical_order(tmp_path: Path) -> None:
    numbered([10, 9, 2] * 4, Value("int32")).save_to_disk(tmp_path / "years")
    assert load_image_data(tmp_path / "years").label_names == ("2", "9", "10")


def test_a_class_that_is_only_tested_on_is_an_error(tmp_path: Path) -> None:
    text = Value("string")
    DatasetDict({"train": numbered(["cat", "dog"], text), "test": numbered(["ape"], text)}).save_to_disk(
        tmp_path / "a"
    )
    with pytest.raises(ValueError, match=r"test split of .* 'ape', which the train split lacks"):
        load_image_data(tmp_path / "a")


@pytest.mark.parametrize("missing", [-1, None])
def test_a_test_split_without_labels_is_an_error_that_says_to_choose_another(tmp_path: Path, missing: Any) -> None:
    splits = {
        "train": numbered([0, 1], CAT_DOG),
        "test": numbered([missing, missing], CAT_DOG),
        "validation": numbered([1, 0], CAT_DOG, start=50),
    }
    DatasetDict(splits).save_to_disk(tmp_path / "pets")
    with pytest.raises(ValueError, match=r"2 example.*test split.*choose another split with test_split"):
        load_image_data(tmp_path / "pets")
    assert numbers(load_image_data(tmp_path / "pets", test_split="validation").test) == [50, 51]


def test_a_missing_image_is_named_before_training(tmp_path: Path) -> None:
    features = Features({"image": Image(), "label": CAT_DOG})
    images = [plain_image(0), plain_image(1), None, plain_image(3)]
    train = Dataset.from_dict({"image": images, "label": [0, 1] * 2}, features=features)
    train.save_to_disk(tmp_path / "pets")
    with pytest.raises(ValueError, match=r"1 example\(s\) of the train split of .* have no image; the first is .* 2"):
        load_image_data(tmp_path / "pets")
    train.select([0, 1, 3]).save_to_disk(tmp_path / "others")
    assert len(load_split(tmp_path / "others").images) == 3
    with pytest.raises(ValueError, match=r"Cannot read the image \(no file name, 0 bytes\)"):
        decode_rgb({"path": None, "bytes": None}, Image())


def test_splits_with_other_columns_are_an_error(tmp_path: Path) -> None:
    text = Value("string")
    DatasetDict({"train": numbered([0, 1], CAT_DOG), "test": numbered(["cat"], text)}).save_to_disk(tmp_path / "pets")
    with pytest.raises(ValueError, match="have different columns"):
        load_image_data(tmp_path / "pets")


# ---- splits and subsets ---------------------------------------------------------------------------------------------


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """80 images to train on, half cats and half dogs, 20 others to test on and 10 others for validation."""
    splits = {
        "train": numbered([0, 1] * 40, CAT_DOG),
        "test": numbered([0, 1] * 10, CAT_DOG, start=100),
        "validation": numbered([0, 1] * 5, CAT_DOG, start=200),
    }
    DatasetDict(splits).save_to_disk(tmp_path / "pets")
    return tmp_path / "pets"


def test_without_a_fraction_the_data_sets_own_validation_split_is_used(pets: Path) -> None:
    data = load_image_data(pets)
    assert numbers(data.validation) == list(range(200, 210))
    assert numbers(data.test) == list(range(100, 120))


def test_a_validation_split_is_the_test_split_where_there_is_no_other(pets: Path, tmp_path: Path) -> None:
    splits = DatasetDict.load_from_disk(pets)
    splits.pop("test")
    splits.save_to_disk(tmp_path / "two")
    data = load_image_data(tmp_path / "two")
    assert (numbers(data.test), data.validation) == (list(range(200, 210)), None)


def test_the_validation_examples_come_out_of_the_training_examples_that_are_used(pets: Path) -> None:
    data = load_image_data(pets, max_train_examples=40, validation_fraction=0.25)
    train, validation = numbers(data.train), numbers(data.validation)
    assert (len(train), len(validation), len(set(train + validation))) == (30, 10, 40)
    assert max(train + validation) < 80
    assert data.validation is not None and Counter(data.validation["label"]) == {0: 5, 1: 5}


def test_subsets_are_stratified(pets: Path) -> None:
    data = load_image_data(pets, max_train_examples=10, max_test_examples=4)
    assert (Counter(data.train["label"]), Counter(data.test["label"])) == ({0: 5, 1: 5}, {0: 2, 1: 2})
    assert set(numbers(data.test)) < set(range(100, 120))


def test_any_split_can_be_trained_on(pets: Path) -> None:
    data = load_image_data(pets, train_split="validation", test_split="train")
    assert (len(data.train), len(data.test)) == (10, 80)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"max_train_examples": 81}, "max_train_examples is 81; expected 2 to 80, for 80 examples of 2 classes"),
        ({"max_train_examples": 1}, "max_train_examples is 1; expected 2 to 80, for 80 examples of 2 classes"),
        ({"max_test_examples": 21}, "max_test_examples is 21; expected 2 to 20, for 20 examples"),
        ({"validation_fraction": 1.0}, "validation_fraction is 1.0"),
        ({"validation_fraction": -0.1}, "validation_fraction is -0.1"),
        ({"validation_fraction": 0.001}, "0 of 80 examples are held out, which leaves 80 for training on 2"),
        ({"validation_fraction": 0.99}, "79 of 80 examples are held out, which leaves 1 for training on 2"),
        ({"train_split": "training"}, r"no split 'training'; its splits are \['test', 'train', 'validation'\]"),
        ({"test_split": "testing"}, "no split 'testing'"),
        ({"test_split": "train"}, "both 'train'; expected different splits"),
    ],
)
def test_what_cannot_be_split_is_an_error_with_the_numbers(pets: Path, arguments: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        load_image_data(pets, **arguments)


def test_several_splits_of_which_none_is_called_train_have_to_be_chosen_from(tmp_path: Path) -> None:
    splits = {"fold0": numbered([0, 1], CAT_DOG), "fold1": numbered([0, 1], CAT_DOG)}
    DatasetDict(splits).save_to_disk(tmp_path / "folds")
    with pytest.raises(ValueError, match=r"\['fold0', 'fold1'\]. Choose one with train_split"):
        load_image_data(tmp_path / "folds")


def test_an_empty_split_is_an_error(tmp_path: Path) -> None:
    numbered([], CAT_DOG).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="is empty"):
        load_image_data(tmp_path / "saved")
    splits = {"train": numbered([0, 1], CAT_DOG), "test": numbered([], CAT_DOG)}
    with pytest.raises(ValueError, match=r"hub cannot be read: .*\"test\" corresponds to no data"):
        load_image_data(hub_like(tmp_path / "hub", splits))

"""Claims about `load_split`: the split that is named is loaded whole, and nothing is split off it."""

from pathlib import Path

import PIL.Image
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

from hf_simplex.data.image_data import load_image_data
from hf_simplex.data.split_records import describe_split_off
from hf_simplex.data.whole_split import ImageSplit, load_split


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


def tree(root: Path, *folders: str) -> Path:
    """Four images of different colors in each folder."""
    for number, folder in enumerate(folders):
        (root / folder).mkdir(parents=True)
        for index in range(4):
            PIL.Image.new("RGB", (3, 2), (number, index, 0)).save(root / folder / f"{index}.png")
    return root


def folders(loaded: ImageSplit, root: Path) -> set[str]:
    files = loaded.files(range(len(loaded.images)))
    return {str(Path(file).parent.relative_to(root.resolve())) for file in files}


def saved(folder: Path, **sizes: int) -> Path:
    features = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})
    DatasetDict(
        {
            split: Dataset.from_dict(
                {"image": [PIL.Image.new("L", (2, 2), row) for row in range(size)], "label": [0, 1] * (size // 2)},
                features=features,
            )
            for split, size in sizes.items()
        }
    ).save_to_disk(folder)
    return folder


def test_class_folders_in_no_split_are_loaded_whole(tmp_path: Path) -> None:
    root = tree(tmp_path / "pets", "cat", "dog")
    loaded = load_split(root)
    assert (loaded.split, loaded.of, len(loaded.images), loaded.label_names) == (None, 8, 8, ("cat", "dog"))
    assert folders(loaded, root) == {"cat", "dog"}
    assert len(load_image_data(root).test) < 8
    assert len(load_split(root, "train").images) == 8
    with pytest.raises(ValueError, match="has no split 'test': its class folders are in no split"):
        load_split(root, "test")


@pytest.mark.parametrize(
    ("split", "expected"),
    [(None, "Testing"), ("train", "train"), ("val", "val"), ("Testing", "Testing"), ("extra", "extra")],
)
def test_the_folder_that_is_named_is_loaded(split: str | None, expected: str, tmp_path: Path) -> None:
    names = ("train", "val", "Testing", "extra")
    root = tree(tmp_path / "pets", *(f"{name}/{label}" for name in names for label in ("cat", "dog")))
    loaded = load_split(root, split)
    assert loaded.split == expected
    assert folders(loaded, root) == {f"{expected}/cat", f"{expected}/dog"}


def test_the_test_split_goes_before_validation_and_both_before_nothing(tmp_path: Path) -> None:
    both = tree(tmp_path / "both", "train/cat", "val/cat")
    assert load_split(both).split == "val"
    unlabelled = tree(tmp_path / "unlabelled", "train/cat", "val/cat", "test")
    assert load_split(unlabelled).split == "val"
    with pytest.raises(ValueError, match=r"'test' in .* holds images, but no class folders"):
        load_split(unlabelled, "test")
    # The test images are no images to calibrate on.
    with pytest.raises(ValueError, match=r"no validation split; its splits are \['test', 'train'\].* split='NAME' "):
        load_split("digits", roles=("validation",))


def test_the_only_split_is_loaded_whatever_its_name(tmp_path: Path) -> None:
    for split in ("train", "images"):
        loaded = load_split(saved(tmp_path / split, **{split: 10}))
        assert (loaded.split, len(loaded.images)) == (split, 10)
    with pytest.raises(ValueError, match=r"no validation split; its splits are \['train'\]. Choose one with split"):
        load_split(tmp_path / "train", roles=("validation",), only_split=False)
    with pytest.raises(ValueError, match=r"no test or validation split; its splits are \['a', 'b'\]"):
        load_split(saved(tmp_path / "folds", a=2, b=2))


def test_every_split_of_a_saved_data_set_is_loaded_whole(tmp_path: Path) -> None:
    folder = saved(tmp_path / "pets", train=20, test=6)
    assert {split: len(load_split(folder, split).images) for split in ("train", "test", None)} == {
        "train": 20,
        "test": 6,
        None: 6,
    }
    with pytest.raises(ValueError, match=r"no split 'testing'; its splits are \['test', 'train'\]"):
        load_split(folder, "testing")


def test_columns_are_chosen_by_name(tmp_path: Path) -> None:
    pictures = [PIL.Image.new("L", (2, 2), row) for row in range(4)]
    Dataset.from_dict(
        {"left": pictures, "right": pictures, "species": ["dog", "cat"] * 2, "breed": ["a"] * 4},
        features=Features({"left": Image(), "right": Image(), "species": Value("string"), "breed": Value("string")}),
    ).save_to_disk(tmp_path / "pets")
    with pytest.raises(ValueError, match="2 candidates for image_column"):
        load_split(tmp_path / "pets")
    loaded = load_split(tmp_path / "pets", image_column="right", label_column="species")
    assert (loaded.label_names, loaded.images["label"][:]) == (("cat", "dog"), [1, 0, 1, 0])


def test_max_examples_is_a_cap(tmp_path: Path) -> None:
    folder = saved(tmp_path / "pets", test=6)
    assert len(load_split(folder, max_examples=100).images) == 6
    some = load_split(folder, max_examples=4)
    assert (sorted(some.images["label"]), some.of) == ([0, 0, 1, 1], 6)
    assert len(load_split(folder, max_examples=1).images) == 1
    with pytest.raises(ValueError, match="max_examples is 0"):
        load_split(folder, max_examples=0)


def test_a_split_without_labels_is_an_error_that_says_to_choose_another(tmp_path: Path) -> None:
    features = Features({"image": Image(), "label": ClassLabel(names=["cat"])})
    pictures = [PIL.Image.new("L", (2, 2))]
    splits = {"test": -1, "validation": 0}
    DatasetDict(
        {
            split: Dataset.from_dict({"image": pictures, "label": [label]}, features=features)
            for split, label in splits.items()
        }
    ).save_to_disk(tmp_path / "pets")
    with pytest.raises(ValueError, match=r"no valid label.*choose another split with split \(--split\)"):
        load_split(tmp_path / "pets")
    assert len(load_split(tmp_path / "pets", "validation").images) == 1


def test_what_a_run_split_off_is_told_of_its_own_data_set_only(tmp_path: Path) -> None:
    root = tree(tmp_path / "pets", "cat", "dog")
    provenance = {"data_set": "pets", "images": load_image_data(root).record.to_dict()}
    said = describe_split_off(provenance, str(root), None)
    assert said is not None and "2 of 8 images of 'train' for testing (share 0.2, seed 0)" in said
    assert describe_split_off(provenance, str(tmp_path / "others"), None) is None
    assert describe_split_off(provenance, str(root), "test") is None
    own_test = {"data_set": "digits", "images": load_image_data("digits").record.to_dict()}
    assert describe_split_off(own_test, "digits", "train") is None
    for malformed in ({}, {"data_set": "pets"}, {"data_set": "pets", "images": {"train": 3}}):
        assert describe_split_off(malformed, str(root), None) is None

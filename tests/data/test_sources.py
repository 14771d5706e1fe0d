"""Claims about `read_source`: only the splits that are chosen are downloaded and read, so that others do no harm."""

import io
from pathlib import Path
from typing import Any

import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from huggingface_hub import HfApi
from loopback_hub import LoopbackHub

from hf_simplex.data.image_data import load_image_data
from hf_simplex.data.recorded_splits import load_recorded
from hf_simplex.data.sources import read_source
from hf_simplex.data.split_records import DataRecord
from hf_simplex.data.whole_split import load_split

CAT_DOG = ClassLabel(names=["cat", "dog"])
ANIMALS = Features({"image": Image(), "label": CAT_DOG})
SIZES = {"train": 6, "test": 4, "extra": 2}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def data_hub(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> LoopbackHub:
    """A loopback Hub that `datasets` asks, with an empty repository `alice/pets`."""
    monkeypatch.setattr("datasets.config.HF_ENDPOINT", hub.endpoint)
    HfApi().create_repo("alice/pets", repo_type="dataset")
    return hub


def animals(size: int, features: Features = ANIMALS) -> Dataset:
    columns: dict[str, list[Any]] = {"image": [PIL.Image.new("L", (2, 2), row) for row in range(size)]}
    columns |= {name: [0, 1] * (size // 2) for name in features if name != "image"}
    return Dataset.from_dict(columns, features=features)


def parquet(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.to_parquet(buffer)
    return buffer.getvalue()


def upload(**files: bytes) -> None:
    """Commits files to `alice/pets`; `data__train` is data/train-00000-of-00001.parquet."""
    for name, content in files.items():
        path = "README.md" if name == "README" else f"{name.replace('__', '/')}-00000-of-00001.parquet"
        HfApi().upload_file(path_or_fileobj=content, path_in_repo=path, repo_id="alice/pets", repo_type="dataset")


def downloaded(hub: LoopbackHub, mark: int) -> set[str]:
    """Splits of which a file was downloaded since a mark."""
    paths = {Path(download.path) for download in hub.downloads(mark)}
    return {path.name.split("-")[0] for path in paths if path.suffix in (".parquet", ".png")}


# ---- the Hub --------------------------------------------------------------------------------------------------------


def test_only_the_splits_that_are_chosen_are_downloaded(data_hub: LoopbackHub) -> None:
    upload(**{f"data__{split}": parquet(animals(size)) for split, size in SIZES.items()})
    mark = data_hub.mark()
    loaded = load_split("alice/pets")
    assert (loaded.split, loaded.of, loaded.label_names) == ("test", 4, ("cat", "dog"))
    assert loaded.images["label"][:] == [0, 1, 0, 1]
    assert downloaded(data_hub, mark) == {"test"}
    with pytest.raises(ValueError, match=r"no split 'tset'; its splits are \['extra', 'test', 'train'\]"):
        load_split("alice/pets", "tset")
    data = load_image_data("alice/pets")
    assert (len(data.train), len(data.test)) == (6, 4)
    assert data.record.notes == ("left out the splits 'extra'",)
    assert downloaded(data_hub, mark) == {"test", "train"}
    # Each choice has a place of its own in the cache.
    assert {split: len(load_split("alice/pets", split).images) for split in SIZES} == SIZES


def test_an_unused_split_of_other_columns_does_no_harm(data_hub: LoopbackHub) -> None:
    texts = Dataset.from_dict({"text": ["a", "b"]}, features=Features({"text": Value("string")}))
    upload(data__train=parquet(animals(6)), data__test=parquet(animals(4)), data__captions=parquet(texts))
    assert (len(load_image_data("alice/pets").train), len(load_split("alice/pets").images)) == (6, 4)


def test_configuration_revision_token_and_cache_are_heeded(
    data_hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"small": 2, "large": 6}
    card = "---\nconfigs:\n" + "".join(
        f"- config_name: {name}\n  data_files:\n"
        + "".join(f"  - split: {split}\n    path: {name}/{split}-*\n" for split in ("train", "test", "extra"))
        for name in names
    )
    upload(README=f"{card}---\n".encode())
    upload(
        **{f"{name}__{split}": parquet(animals(size)) for name, size in names.items() for split in ("train", "test")},
        **{f"{name}__extra": parquet(animals(8)) for name in names},
    )
    HfApi().create_tag("alice/pets", tag="v1", repo_type="dataset")
    upload(small__test=parquet(animals(4)))
    with pytest.raises(ValueError, match=r"Config name is missing[\s\S]*'small', 'large'"):
        load_split("alice/pets")
    for revision, size in (("v1", 2), (None, 4)):
        cache = tmp_path / f"elsewhere-{revision}"
        loaded = load_split("alice/pets", config_name="small", revision=revision, cache_dir=cache)
        assert (loaded.split, len(loaded.images)) == ("test", size)
        assert any(cache.rglob("*.arrow")) and not (tmp_path / "cache" / "alice___pets").exists()
    assert len(load_split("alice/pets", "extra", config_name="large").images) == 8
    with pytest.raises(ValueError, match=r"'alice/pets' is no folder, and no data set on the Hub that you may read"):
        load_split("alice/pets", config_name="small", revision="v7")
    data_hub.repository("alice/pets").private = True
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match="no data set on the Hub that you may read"):
        load_split("alice/pets", config_name="small", cache_dir=tmp_path / "other")
    loaded = load_split("alice/pets", config_name="small", token=data_hub.token, cache_dir=tmp_path / "other")
    assert len(loaded.images) == 4


def test_names_of_classes_in_the_card_are_kept(data_hub: LoopbackHub) -> None:
    """`datasets` forgets the card's features where it is given files."""
    images = [{"bytes": png(row), "path": None} for row in range(4)]
    table = pa.table({"image": images, "label": [1, 0, 1, 0]})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    card = """---
dataset_info:
  features:
  - name: image
    dtype: image
  - name: label
    dtype:
      class_label:
        names:
          '0': cat
          '1': dog
  splits:
  - name: train
    num_examples: 4
  - name: test
    num_examples: 4
---
"""
    upload(README=card.encode(), data__train=buffer.getvalue(), data__test=buffer.getvalue())
    loaded = load_split("alice/pets")
    assert (loaded.label_names, loaded.images["label"][:]) == (("cat", "dog"), [1, 0, 1, 0])


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("L", (2, 2), shade).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_commit_is_recorded_and_its_images_are_found_again(data_hub: LoopbackHub) -> None:
    upload(data__train=parquet(animals(6)), data__test=parquet(animals(4)))
    record = load_image_data("alice/pets", validation_fraction=0.34).record
    assert record.revision == data_hub.commits("alice/pets")[0].id
    upload(data__train=parquet(animals(8)))
    assert load_image_data("alice/pets").record.revision != record.revision
    again = load_recorded("alice/pets", DataRecord.from_dict(record.to_dict()))
    assert again.record == record and len(again.train) == 4
    with pytest.raises(ValueError, match="train images of the run cannot be found in alice/pets"):
        load_recorded("alice/pets", record, revision="main")
    older = {name: value for name, value in record.to_dict().items() if name != "revision"}
    assert DataRecord.from_dict(older).revision is None


def test_class_folders_on_the_hub_give_the_labels_of_all_splits(data_hub: LoopbackHub) -> None:
    for path in ("train/cat/0.png", "train/dog/1.png", "test/dog/2.png"):
        HfApi().upload_file(path_or_fileobj=png(7), path_in_repo=path, repo_id="alice/pets", repo_type="dataset")
    loaded = load_split("alice/pets")
    assert (loaded.label_names, loaded.images["label"][:]) == (("cat", "dog"), [1])


def test_offline_a_data_set_comes_from_the_cache_or_is_said_to_be_missing(
    data_hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(**{f"data__{split}": parquet(animals(size)) for split, size in SIZES.items()})
    load_split("alice/pets")

    def offline(value: bool) -> None:
        for module in ("datasets.config", "huggingface_hub.constants"):
            monkeypatch.setattr(f"{module}.HF_HUB_OFFLINE", value)

    offline(True)
    with pytest.raises(ValueError, match="not in the cache of `datasets` with all its splits"):
        load_split("alice/pets")
    offline(False)
    read_source("alice/pets").splits.load(tuple(SIZES))
    offline(True)
    assert (load_split("alice/pets").of, len(load_image_data("alice/pets").train)) == (4, 6)


# ---- folders --------------------------------------------------------------------------------------------------------


def test_only_the_splits_of_a_folder_of_tables_that_are_chosen_are_read(tmp_path: Path) -> None:
    root = tmp_path / "pets" / "data"
    root.mkdir(parents=True)
    for split, size in SIZES.items():
        (root / f"{split}-00000-of-00001.parquet").write_bytes(parquet(animals(size)))
    (root / "extra-00000-of-00001.parquet").write_bytes(b"PAR1 broken")
    assert (load_split(tmp_path / "pets").of, len(load_image_data(tmp_path / "pets").train)) == (4, 6)
    with pytest.raises(ValueError, match=r"pets cannot be read: Parquet magic bytes not found"):
        load_split(tmp_path / "pets", "extra")


def test_an_unused_split_of_a_saved_data_set_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "pets"
    DatasetDict({split: animals(size) for split, size in SIZES.items()}).save_to_disk(folder)
    for file in (folder / "extra").iterdir():
        file.write_bytes(b"")
    assert (load_split(folder).of, len(load_image_data(folder).train)) == (4, 6)
    with pytest.raises(ValueError):
        load_split(folder, "extra")


@pytest.mark.parametrize("content", ["", "[]", '{"splits": 3}', "{}"])
def test_a_broken_list_of_splits_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text(content)
    with pytest.raises(ValueError, match=r"dataset_dict\.json lists no splits"):
        load_split(tmp_path)


@pytest.mark.parametrize("content", ["{}", "[]", '{"_data_files": 3}', "rubbish"])
def test_a_broken_state_of_a_saved_data_set_is_an_error(content: str, tmp_path: Path) -> None:
    animals(4).save_to_disk(tmp_path / "pets")
    (tmp_path / "pets" / "state.json").write_text(content)
    with pytest.raises(ValueError):
        load_split(tmp_path / "pets")


def test_broken_tables_are_named(tmp_path: Path) -> None:
    content, said = parquet(animals(4)), []
    for start in range(0, len(content) - 60, len(content) // 12):
        root = tmp_path / str(start) / "pets"
        root.mkdir(parents=True)
        for split in ("train", "test"):
            (root / f"{split}.parquet").write_bytes(content[:start] + b"\0" * 60 + content[start + 60 :])
        try:
            load_image_data(root)
        except (ValueError, OSError) as error:
            said.append(str(error))
    assert len(said) > 6
    assert all("pets cannot be read: " in line or line.startswith("Cannot read the image") for line in said), said


def test_an_empty_name_is_not_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        PIL.Image.new("L", (2, 2)).save(tmp_path / name / "0.png")
    monkeypatch.chdir(tmp_path)
    assert load_split(".").label_names == ("ant", "bee")
    for load in (load_split, load_image_data):
        with pytest.raises(ValueError, match="The name of the data set is empty"):
            load("")


def test_a_configuration_or_revision_is_not_dropped_without_a_word(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        PIL.Image.new("L", (2, 2)).save(tmp_path / "pictures" / name / "0.png")
    animals(4).save_to_disk(tmp_path / "saved")
    for data_set in ("digits", tmp_path / "pictures", tmp_path / "saved"):
        for option in ("config_name", "revision"):
            with pytest.raises(ValueError, match=f"{option} is 'v1', but .* has no {option}: leave it out"):
                load_split(data_set, **{option: "v1"})


def test_the_configuration_of_a_cloned_data_set_is_heeded(tmp_path: Path) -> None:
    for name, size in (("small", 4), ("large", 8)):
        (tmp_path / name).mkdir()
        animals(size).to_parquet(tmp_path / name / "test.parquet")
    listed = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: test\n    path: {name}/*\n" for name in ("small", "large")
    )
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{listed}---\n")
    for name, size in (("small", 4), ("large", 8)):
        assert len(load_split(tmp_path, config_name=name).images) == size
    with pytest.raises(ValueError, match="small"):
        load_split(tmp_path)

"""Where the images of a split came from, as JSON values for a run's record, a card and a later evaluation."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from .image_columns import labels_of
from .pixel_hashes import pixel_hashes

__all__ = ["DataRecord", "SplitRecord", "describe_split_off", "log_notes", "record_of_run", "record_split"]

logger = logging.getLogger(__name__)

# Images that a fingerprint decodes.
_FINGERPRINT_IMAGES = 16


@dataclass(frozen=True)
class SplitRecord:
    """Origin of a split.

    Args:
        source: split of the data set that the images are from, by its own name.
        images: number of images.
        of: number of images that they were chosen from.
        fraction: share that was split off for this split; None for a split of the data set's own.
        seed: of the random choice; None where all images were taken.
        fingerprint: 16 hexadecimal digits for the labels in their order and 16 evenly spaced images. Equal splits
            have equal fingerprints, in whatever format they are stored. `pixel_hashes` compares all images.

    Example:
        >>> from hf_simplex.data.image_data import load_image_data
        >>> record = load_image_data("digits", validation_fraction=0.1).record.validation
        >>> record.source, record.images, record.of, record.fraction
        ('train', 100, 1000, 0.1)
    """

    source: str
    images: int
    of: int
    fraction: float | None
    seed: int | None
    fingerprint: str


@dataclass(frozen=True)
class DataRecord:
    """Origin of every split of a data set.

    Args:
        train: of the training split.
        validation: of the validation split, or None.
        test: of the test split.
        notes: what was left out, set aside or split off, a sentence each.
        revision: commit of a data set on the Hub; None for any other.

    Example:
        >>> from hf_simplex.data.image_data import load_image_data
        >>> record = load_image_data("digits").record
        >>> record.test.source, record.notes
        ('test', ())
        >>> DataRecord.from_dict(record.to_dict()) == record
        True
    """

    train: SplitRecord
    validation: SplitRecord | None
    test: SplitRecord
    notes: tuple[str, ...] = ()
    revision: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values.

        Example:
            >>> from hf_simplex.data.image_data import load_image_data
            >>> load_image_data("digits").record.to_dict()["test"]["images"]
            797
        """
        return {**asdict(self), "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DataRecord":
        """Reads what `to_dict` returned.

        Raises:
            ValueError: a value is missing or unknown.

        Example::

            DataRecord.from_dict(json.loads(text))
        """
        try:
            splits = {
                role: None if values[role] is None else SplitRecord(**values[role])
                for role in ("train", "validation", "test")
            }
            # Version 0.1.0 recorded no revision.
            return cls(notes=tuple(values["notes"]), revision=values.get("revision"), **splits)  # type: ignore[arg-type]
        except (KeyError, TypeError) as error:
            raise ValueError(f"{values!r} is no record of a data set ({error!r}).") from error


def log_notes(name: str, notes: Iterable[str]) -> None:
    """Logs what was left out, set aside or split off, a warning each.

    Args:
        name: of the data set.
        notes: of `DataRecord`.

    Example:
        >>> from hf_simplex.data.split_records import log_notes
        >>> log_notes("pets", ["left out 2 images in 'figures': no split"])
    """
    for note in notes:
        logger.warning("%s: %s.", name, note)


def record_split(dataset: Dataset, source: str, of: int, fraction: float | None, seed: int | None) -> SplitRecord:
    """Records the origin of a split.

    Args:
        dataset: the split, with the columns `image` and `label`.
        source: name of the split of the data set that it is from.
        of: number of images that it was chosen from.
        fraction: share that was split off; None for a split of the data set's own.
        seed: of the random choice; ignored if all images were taken.

    Returns:
        The record, with the fingerprint.

    Example:
        >>> from hf_simplex.data.image_data import load_image_data
        >>> from hf_simplex.data.split_records import record_split
        >>> record_split(load_image_data("digits").test, "test", 797, None, None).images
        797
    """
    labels = labels_of(dataset)
    some = np.unique(np.linspace(0, len(dataset) - 1, min(_FINGERPRINT_IMAGES, len(dataset)), dtype=np.int64))
    digest = blake2b(labels.astype("<i8").tobytes(), digest_size=8)
    digest.update(pixel_hashes(dataset.select(some)).astype("<u8").tobytes())
    return SplitRecord(source, len(dataset), of, fraction, None if len(dataset) == of else seed, digest.hexdigest())


def record_of_run(provenance: Mapping[str, Any], data_set: str) -> DataRecord | None:
    """Returns the record of the images that an ensemble's run used, if they are of a data set.

    Args:
        provenance: of an ensemble. `data_set` is the run's data set, and `images` is `DataRecord.to_dict`.
        data_set: name of a data set. Of paths, the last part is compared.

    Returns:
        The record; None where the data set is another one, or nothing is recorded.

    Example:
        >>> from hf_simplex.data.image_data import load_image_data
        >>> from hf_simplex.data.split_records import record_of_run
        >>> provenance = {"data_set": "digits", "images": load_image_data("digits").record.to_dict()}
        >>> record_of_run(provenance, "digits").train.images, record_of_run(provenance, "pets")
        (1000, None)
    """
    if Path(str(provenance.get("data_set"))).name != Path(data_set).expanduser().resolve().name:
        return None
    try:
        return DataRecord.from_dict(provenance["images"])
    except (KeyError, ValueError):  # another version's
        return None


def describe_split_off(provenance: Mapping[str, Any], data_set: str, split: str | None) -> str | None:
    """Says which images a run split off a split of its data set.

    Args:
        provenance: of an ensemble. `data_set` is the run's data set, and `images` is `DataRecord.to_dict`.
        data_set: name of a data set. Of paths, the last part is compared.
        split: its split; None for class folders in no split.

    Returns:
        One line; None where the data set is another one, nothing was split off, or nothing is recorded.

    Example:
        >>> from hf_simplex.data.image_data import load_image_data
        >>> from hf_simplex.data.split_records import describe_split_off
        >>> images = load_image_data("digits", validation_fraction=0.1).record.to_dict()
        >>> describe_split_off({"data_set": "digits", "images": images}, "digits", "train")
        "the run split off 100 of 1000 images of 'train' for validation (share 0.1, seed 0)"
        >>> describe_split_off({"data_set": "digits", "images": images}, "digits", "test")
    """
    record = record_of_run(provenance, data_set)
    if record is None:
        return None
    parts = [
        f"{own.images} of {own.of} images of {own.source!r} for {purpose} (share {own.fraction:g}, seed {own.seed})"
        for own, purpose in ((record.test, "testing"), (record.validation, "validation"))
        if own is not None and own.fraction is not None and own.source == (split or "train")
    ]
    return f"the run split off {' and '.join(parts)}" if parts else None

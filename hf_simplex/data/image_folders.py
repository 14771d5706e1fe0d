"""Folders of image files: finds splits and classes by the names of folders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Image

from .image_walk import ImageFile, Parts, walk_images
from .message_words import counted, quoted
from .metadata_folders import METADATA
from .split_names import as_option, choose_split, choose_splits, role_of, roles_in

__all__ = ["FolderSplit", "ImageFolder", "read_folder_split", "read_image_folder"]

_NO_SPLIT = "train"


@dataclass(frozen=True)
class ImageFolder:
    """The splits of a folder of images.

    Args:
        splits: data set of each role that there is, `train`, `validation` and `test`, with the columns `image` and
            `label`.
        sources: name of the folder of each role.
        notes: what was left out, a sentence each.

    Example::

        read_image_folder(Path("pets"), {}).splits["train"]
    """

    splits: dict[str, Dataset]
    sources: dict[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class FolderSplit:
    """One split of a folder of images.

    Args:
        images: with the columns `image` and `label`. The labels are the class folders of this split.
        source: name of the folder; None where the class folders are in no split.
        notes: what was left out, a sentence each.

    Example::

        read_folder_split(Path("pets"), "test").images
    """

    images: Dataset
    source: str | None
    notes: tuple[str, ...]


def read_image_folder(folder: Path, asked: Mapping[str, str | None], unlabelled: str | None = None) -> ImageFolder:
    """Reads a folder of image files.

    Splits are folders with a usual name, whatever its case (`split_names.ROLES`), or a given one. They hold class
    folders, or are themselves in class folders. A class folder is the topmost folder in a split that holds images. Its
    name is the name of the class. Without splits, class folders are anywhere in `folder`.

    Hidden files and files without the extension of an image are ignored. Images in other folders and beside class
    folders are left out, with a note. So is a test or validation split without class folders. Only the splits that
    are used are read.

    Args:
        folder: of the images.
        asked: name of the folder of a split, by the arguments `train_split`, `validation_split` and `test_split`.
        unlabelled: what metadata files without labels hold, for a message: without class folders, nothing is labelled.

    Returns:
        Data sets that refer to the files.

    Raises:
        ValueError: there are no images or no class folders, or one class folder beside metadata files without labels;
            folders cannot be told apart, such as two test splits, a split beside class folders, or a folder with the
            classes of the training split where a test split is missing; or two class folders of a split have the same
            name.

    Example::

        read_image_folder(Path("pets"), {"test_split": "Testing"}).sources["test"]    # "Testing"
    """
    files, notes = _files_and_notes(folder)
    found, others = _by_split(folder, files, {name for name in asked.values() if name is not None})
    sources = choose_splits(
        list(found),
        str(folder),
        asked.get("train_split"),
        asked.get("validation_split"),
        asked.get("test_split"),
        exact=False,
    )
    if unused := sorted(set(found) - set(sources.values())):
        left_out = sum(len(found[name]) for name in unused)
        notes.append(f"left out {counted(left_out, 'image')} in {quoted(unused)}: another split is used")
    labelled: dict[str, dict[ImageFile, Parts]] = {}
    for role, source in sources.items():
        in_classes = _class_folders(found[source])
        loose = counted(len(found[source]) - len(in_classes), "image")
        if in_classes:
            labelled[role] = in_classes
            if len(in_classes) < len(found[source]):
                notes.append(f"left out {loose} beside the class folders of {source!r}")
        elif role == "train" or asked.get(f"{role}_split") is not None:
            raise ValueError(_no_class_folders(source, folder, others, unlabelled))
        else:
            notes.append(f"set aside {loose} in {source!r}, which has no class folders")
    if "test" not in labelled and "validation" in labelled and asked.get("validation_split") is None:
        labelled["test"], sources["test"] = labelled.pop("validation"), sources.pop("validation")
    names = _class_names(folder, labelled)
    _check_not_one_class(names, folder, unlabelled)
    if others:
        known = {names[parts].casefold() for parts in labelled["train"].values()}
        known_train = asked.get("train_split") is not None or role_of(sources["train"]) == "train"
        if beside_splits := sorted(
            other for other in others if not known_train or other.split("/")[-1].casefold() in known
        ):
            raise ValueError(
                f"{quoted(beside_splits)} beside {quoted(sorted(sources.values()))} in {folder} may be a class. Put "
                "all class folders in folders 'train' and 'test'."
            )
        if "test" not in labelled:
            _check_no_split(folder, others, known, "test_split")
        left_out = sum(map(len, others.values()))
        notes.append(f"left out {counted(left_out, 'image')} in {quoted(sorted(others))}: no split")
    splits = {role: _to_dataset(in_classes, names) for role, in_classes in labelled.items()}
    return ImageFolder(splits, {role: sources[role] for role in labelled}, tuple(notes))


def read_folder_split(
    folder: Path,
    split: str | None = None,
    roles: Sequence[str] = ("test", "validation"),
    *,
    only_split: bool = True,
    unlabelled: str | None = None,
) -> FolderSplit:
    """Reads all images of one split of a folder.

    Splits and class folders are found as in `read_image_folder`. Class folders that are in no split are one split.

    Args:
        folder: of the images.
        split: name of its folder; default: by `roles`. `"train"` is also the name of class folders in no split.
        roles: roles of the split, in the order in which they are looked for.
        only_split: whether the only split is read, whatever its name.
        unlabelled: as in `read_image_folder`.

    Returns:
        The split.

    Raises:
        ValueError: there are no images, no class folders or no such split; or folders cannot be told apart.

    Example::

        read_folder_split(Path("pets"), "Testing").source    # "Testing"
    """
    files, notes = _files_and_notes(folder)
    found, others = _by_split(folder, files, set() if split is None else {split})
    source: str | None = None
    if found == {_NO_SPLIT: files}:
        if split not in (None, _NO_SPLIT):
            raise ValueError(
                f"{folder} has no split {split!r}: its class folders are in no split. Give no split (no --split)."
            )
        name = _NO_SPLIT
    else:
        usable = [name for name in found if name == split or _class_folders(found[name])]
        if unusable := sorted(set(found) - set(usable)):
            notes.append(f"set aside {quoted(unusable)}, which have no class folders")
        name = source = choose_split(
            usable or list(found), str(folder), split, roles, only_split=only_split, exact=False
        )
    in_classes = _class_folders(found[name])
    if not in_classes:
        raise ValueError(_no_class_folders(name, folder, others, unlabelled))
    if len(in_classes) < len(found[name]):
        loose = counted(len(found[name]) - len(in_classes), "image")
        notes.append(f"left out {loose} beside the class folders of {name!r}")
    if split is None and role_of(name) not in roles:
        _check_no_split(folder, others, {parts[-1].casefold() for parts in in_classes.values()}, "split")
    names = _class_names(folder, {name: in_classes})
    if source is None:
        _check_not_one_class(names, folder, unlabelled)
    return FolderSplit(_to_dataset(in_classes, names), source, tuple(notes))


def _files_and_notes(folder: Path) -> tuple[list[ImageFile], list[str]]:
    files, ignored = walk_images(folder)
    if not files:
        raise ValueError(
            f"The folder {folder} holds no images. Expected image files in one subfolder per class. Unpack archives."
        )
    return files, [f"left out {counted(ignored, 'file')} without the extension of an image"] if ignored else []


def _check_no_split(folder: Path, others: Mapping[str, Sequence[ImageFile]], classes: set[str], argument: str) -> None:
    """Raises ValueError if one of the folders that are in no split has class folders of the same names."""
    for other, files in sorted(others.items()):
        if any(part.casefold() in classes for file in files for part in file.parts):
            raise ValueError(
                f"{other!r} in {folder} has class folders with the names of the classes, so it may be a split. Choose "
                f"it with {as_option(argument, other)}, or put it elsewhere."
            )


def _check_not_one_class(names: Mapping[Parts, str], folder: Path, unlabelled: str | None) -> None:
    """Raises ValueError where the images of metadata files without labels are in one folder, which is no class."""
    if unlabelled is not None and len(names) == 1:
        name = next(iter(names.values()))
        raise ValueError(
            f"{folder} has one class folder, {name!r}. {unlabelled} If {name!r} is a class, move the metadata file "
            "out of the folder."
        )


def _no_class_folders(
    split: str, folder: Path, others: Mapping[str, Sequence[ImageFile]], unlabelled: str | None
) -> str:
    beside = f", beside {quoted(sorted(others))}" if others else ""
    holds = f"{split!r} in {folder} holds images, but no class folders{beside}."
    if unlabelled is not None:
        return f"{holds} {unlabelled}"
    return (
        f"{holds} Put the images of each class in "
        "a folder of its name, and all class folders in a folder 'train'; or name the label of each file in a "
        f"file {METADATA[0]} in the folder of the split, with the columns file_name and label."
    )


def _to_dataset(in_classes: Mapping[ImageFile, Parts], names: Mapping[Parts, str]) -> Dataset:
    """The images of class folders, labelled by all `names` in alphabetical order."""
    ids = {name: label for label, name in enumerate(sorted(names.values()))}
    return Dataset.from_dict(
        {
            "image": [file.path for file in in_classes],
            "label": [ids[names[parts]] for parts in in_classes.values()],
        },
        features=Features({"image": Image(), "label": ClassLabel(names=list(ids))}),
    )


def _by_split(
    folder: Path, files: Sequence[ImageFile], named: set[str]
) -> tuple[dict[str, list[ImageFile]], dict[str, list[ImageFile]]]:
    """Divides files by split, and those in no split by folder. Their parts are then those that may be classes."""
    depths = [
        next((depth for depth, part in enumerate(file.parts) if part in named or role_of(part)), None)
        for file in files
    ]
    depth = min((depth for depth in depths if depth is not None), default=None)
    if depth is None:
        _check_split_words(folder, files)
        return {_NO_SPLIT: list(files)}, {}
    others: dict[str, list[ImageFile]] = {}
    for file, own in zip(files, depths, strict=True):
        if own != depth:
            rest = file.parts[depth + 1 :]
            others.setdefault("/".join(file.parts[: depth + 1]) or ".", []).append(ImageFile(file.path, rest))
    in_split = [file for file, own in zip(files, depths, strict=True) if own == depth]
    above = {file.parts[:depth] for file in in_split}
    # Splits in class folders (cat/train/1.png), not class folders in splits (train/cat/1.png).
    inside = depth > 0 and (len(above) > 1 or not any(len(file.parts) > depth + 1 for file in in_split))
    if inside and others:
        raise ValueError(
            f"Some folders in {folder} hold splits ({quoted(sorted('/'.join(parts) for parts in above))}) and others "
            f"do not ({quoted(sorted(others))}). Put all class folders in folders 'train' and 'test'."
        )
    found: dict[str, list[ImageFile]] = {}
    for file in in_split:
        rest = (file.parts[:depth] if inside else ()) + file.parts[depth + 1 :]
        found.setdefault(file.parts[depth], []).append(ImageFile(file.path, rest))
    return found, others


def _check_split_words(folder: Path, files: Sequence[ImageFile]) -> None:
    """Raises ValueError if folders look like splits by other names, such as seg_train and seg_test."""
    prefix = _shared_prefix([file.parts for file in files])
    tops = {file.parts[len(prefix)] for file in files if len(file.parts) > len(prefix)}
    nested = {top for top in tops if not any(file.parts[len(prefix) :] == (top,) for file in files)}
    for names in (tops, nested):
        roles = [roles_in(name) for name in names]
        everywhere = names is nested or all(roles)
        if everywhere and len(set().union(*roles)) > 1:
            raise ValueError(
                f"The folders {quoted(sorted(names))} in {folder} look like splits. Name them 'train', 'validation' "
                "and 'test', or choose by name: train_split and test_split, or split. If they are classes, put them "
                "in a folder 'train'."
            )


def _shared_prefix(all_parts: Sequence[Parts]) -> Parts:
    """The folders that all files are in. The last one is left where it holds all images itself: it is a class."""
    prefix: Parts = ()
    for level in zip(*all_parts, strict=False):
        if len(set(level)) > 1:
            break
        prefix += level[:1]
    return prefix if any(len(parts) > len(prefix) for parts in all_parts) else prefix[:-1]


def _class_folders(files: Sequence[ImageFile]) -> dict[ImageFile, Parts]:
    """The class folder of each file: the topmost folder that holds images, below what all files share."""
    skip = len(_shared_prefix([file.parts for file in files]))
    holds_images = {file.parts for file in files}
    found = {}
    for file in files:
        for depth in range(skip + 1, len(file.parts) + 1):
            if file.parts[:depth] in holds_images:
                found[file] = file.parts[skip:depth]
                break
    return found


def _class_names(folder: Path, labelled: Mapping[str, Mapping[ImageFile, Parts]]) -> dict[Parts, str]:
    names = {parts: parts[-1] for files in labelled.values() for parts in files.values()}
    of_name: dict[str, Parts] = {}
    for parts, name in sorted(names.items()):
        if (first := of_name.setdefault(name, parts)) != parts:
            raise ValueError(
                f"Two class folders in {folder} have the name {name!r}: {'/'.join(first)} and {'/'.join(parts)}. "
                "Rename one, or put their images into one folder."
            )
    return names

"""Which split of a data set is for training, validation and test, by the usual names."""

import re
import shlex
from collections.abc import Collection, Iterable, Sequence

__all__ = ["ROLES", "as_option", "choose_split", "choose_splits", "role_of", "roles_in"]

ROLES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Usual names of the splits, as `datasets` reads the names of files and folders."""

_SUFFIXES = r"[ _-]?(set|split|data|images)$"


def role_of(name: str) -> str | None:
    """Returns the role that a split's name says, without regard to case.

    Args:
        name: of a split or folder, such as `"Testing"` or `"train_set"`.

    Returns:
        `"train"`, `"validation"` or `"test"`; None for any other name.

    Example:
        >>> from hf_simplex.data.split_names import role_of
        >>> role_of("Testing"), role_of("valid"), role_of("training_set"), role_of("test tube")
        ('test', 'validation', 'train', None)
    """
    plain = name.strip().casefold()
    for candidate in (plain, re.sub(_SUFFIXES, "", plain)):
        for role, names in ROLES.items():
            if candidate in names:
                return role
    return None


def roles_in(name: str) -> set[str]:
    """Returns the roles whose names are words of a name, such as `seg_train`, `val2017` or `trainA`.

    Example:
        >>> from hf_simplex.data.split_names import roles_in
        >>> roles_in("seg_train"), roles_in("contest")
        ({'train'}, set())
    """
    # A capital letter begins a word, as in catTrain.
    words = [word.casefold() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]
    return {role for role, names in ROLES.items() if any(word in names for word in words)}


def as_option(argument: str, split: str) -> str:
    """Says how to choose a split, in Python and on the command line.

    Args:
        argument: that takes a split.
        split: such as there is.

    Example:
        >>> from hf_simplex.data.split_names import as_option
        >>> as_option("split", "train")
        "split='train' (--split train on the command line)"
    """
    return f"{argument}={split!r} (--{argument} {shlex.quote(split)} on the command line)"


def choose_splits(
    names: Collection[str],
    data_set: str,
    train_split: str | None = None,
    validation_split: str | None = None,
    test_split: str | None = None,
    *,
    exact: bool = True,
) -> dict[str, str]:
    """Chooses the splits for training, validation and test among those of a data set.

    The only split is for training, whatever its name. The validation split serves as the test split if there is no
    other.

    Args:
        names: of the splits.
        data_set: name of the data set, for messages.
        train_split: split for training; default: by name.
        validation_split: split for validation; default: by name.
        test_split: split for testing; default: by name.
        exact: whether the names `train`, `validation` and `test` go before other names of the same role, as in data
            sets that `datasets` wrote.

    Returns:
        The name of the split for `train`, and for `validation` and `test` if there are any.

    Raises:
        ValueError: a given split does not exist, two roles have the same split, several splits have the same role, or
            none is for training.

    Example:
        >>> from hf_simplex.data.split_names import choose_splits
        >>> choose_splits(["Training", "Testing"], "pets")
        {'train': 'Training', 'test': 'Testing'}
    """
    given = {"train": train_split, "validation": validation_split, "test": test_split}
    for split in given.values():
        if split is not None and split not in names:
            raise ValueError(f"{data_set} has no split {split!r}; its splits are {sorted(names)}.")
    chosen = {role: split for role, split in given.items() if split is not None}
    if train_split is None:
        found = _split_for("train", names, data_set, exact)
        if found is None and len(names) > 1:
            raise ValueError(
                f"{data_set} has no split 'train'; its splits are {sorted(names)}. Choose one with "
                f"{as_option('train_split', _advised(names))}."
            )
        chosen["train"] = found if found is not None else next(iter(names))
    for first, second in (("train", "test"), ("train", "validation"), ("validation", "test")):
        if first in chosen and chosen.get(second) == chosen[first]:
            raise ValueError(
                f"{first}_split and {second}_split are both {chosen[first]!r}; expected different splits."
            )
    free = [name for name in names if name not in chosen.values()]
    for role in ("validation", "test"):
        if role not in chosen and (found := _split_for(role, free, data_set, exact)) is not None:
            chosen[role] = found
    if "test" not in chosen and "validation" in chosen and validation_split is None:
        chosen["test"] = chosen.pop("validation")
    return {role: chosen[role] for role in ROLES if role in chosen}


def choose_split(
    names: Collection[str],
    data_set: str,
    split: str | None = None,
    roles: Sequence[str] = ("test", "validation"),
    *,
    only_split: bool = True,
    exact: bool = True,
) -> str:
    """Chooses one split among those of a data set.

    Args:
        names: of the splits.
        data_set: name of the data set, for messages.
        split: the split; default: by name.
        roles: roles of the split, in the order in which they are looked for.
        only_split: whether the only split of a data set is chosen, whatever its name.
        exact: as in `choose_splits`.

    Returns:
        The name of the split.

    Raises:
        ValueError: the given split does not exist, none has a role, or several have the same.

    Example:
        >>> from hf_simplex.data.split_names import choose_split
        >>> choose_split(["Training", "Testing"], "pets"), choose_split(["images"], "pets")
        ('Testing', 'images')
    """
    if split is not None:
        if split not in names:
            raise ValueError(f"{data_set} has no split {split!r}; its splits are {sorted(names)}.")
        return split
    for role in roles:
        if (found := _split_for(role, names, data_set, exact, "split")) is not None:
            return found
    if only_split and len(names) == 1:
        return next(iter(names))
    raise ValueError(
        f"{data_set} has no {' or '.join(roles)} split; its splits are {sorted(names)}. Choose one with "
        f"{as_option('split', _advised(names))}."
    )


def _advised(names: Collection[str]) -> str:
    """The split that a message proposes. One of another role is no advice, unless there is nothing else."""
    free = [name for name in names if role_of(name) is None]
    return min(free or (names if len(names) == 1 else ["NAME"]))


def _split_for(role: str, names: Iterable[str], data_set: str, exact: bool, argument: str | None = None) -> str | None:
    """The split that has a role by name."""
    found = [name for name in names if role_of(name) == role]
    if exact and role in found:
        return role
    if len(found) > 1:
        raise ValueError(
            f"{data_set} has {len(found)} splits that may be the {role} split: {', '.join(map(repr, sorted(found)))}. "
            f"Choose one with {as_option(argument or f'{role}_split', min(found))}, or rename the others."
        )
    return found[0] if found else None

"""Stratified subsets and splits of a data set."""

import numpy as np
import numpy.typing as npt
from datasets import Dataset

__all__ = ["at_most", "split_off", "stratified_indices"]


def stratified_indices(labels: npt.NDArray[np.int64], size: int, seed: int) -> npt.NDArray[np.int64]:
    """Samples a stratified subset without replacement.

    Lists of labels cannot be stratified: the subset is drawn at random, except that images come first which together
    have every label.

    Adams's method apportions the subset: every class gets one example before any class gets two. With the same seed, a
    smaller subset is part of a larger one.

    Args:
        labels: class of every example, [N] int64; or [N, labels] of 0 and 1.
        size: size of the subset, 0 to N.
        seed: of the sample.

    Returns:
        Indices of the subset, [size] int64, ascending.

    Raises:
        ValueError: `size` is not between 0 and N.

    Example:
        >>> import numpy as np
        >>> from hf_simplex.data.stratification import stratified_indices
        >>> labels = np.array([0, 0, 0, 0, 1, 1])
        >>> np.bincount(labels[stratified_indices(labels, 3, seed=0)]).tolist()
        [2, 1]
    """
    if not 0 <= size <= len(labels):
        raise ValueError(f"Cannot sample {size} of {len(labels)} examples.")
    order = np.random.default_rng(seed).permutation(len(labels))
    if labels.ndim == 2:
        covering = _covering(labels, order)
        drawn: npt.NDArray[np.int64] = np.sort(np.append(covering, order[~np.isin(order, covering)])[:size])
        return drawn
    _, classes, counts = np.unique(labels[order], return_inverse=True, return_counts=True)
    rank_in_class = np.empty(len(labels), dtype=np.int64)
    first_of_class = np.repeat(np.cumsum(counts) - counts, counts)
    rank_in_class[np.argsort(classes, kind="stable")] = np.arange(len(labels)) - first_of_class
    by_share_taken = np.argsort(rank_in_class / counts[classes], kind="stable")
    chosen: npt.NDArray[np.int64] = np.sort(order[by_share_taken[:size]])
    return chosen


def at_most(
    dataset: Dataset, labels: npt.NDArray[np.int64], size: int | None, seed: int, argument: str
) -> tuple[Dataset, npt.NDArray[np.int64]]:
    """Selects a stratified subset.

    Args:
        dataset: of N examples.
        labels: class of every example, [N] int64; or [N, labels] of 0 and 1.
        size: size of the subset; None for all examples.
        seed: of the sample.
        argument: name of `size` in the error message.

    Returns:
        The subset, and its labels.

    Raises:
        ValueError: `size` is larger than N or smaller than the number of classes.

    Example::

        subset, labels = at_most(dataset, labels, 100, seed=0, argument="max_train_examples")
    """
    if size is None:
        return dataset, labels
    classes = _fewest(labels, seed)
    if not classes <= size <= len(labels):
        raise ValueError(
            f"{argument} is {size}; expected {classes} to {len(labels)}, for {len(labels)} examples of "
            f"{_described(labels)}."
        )
    rows = stratified_indices(labels, size, seed)
    return dataset.select(rows), labels[rows]


def split_off(
    dataset: Dataset, labels: npt.NDArray[np.int64], fraction: float, seed: int, argument: str
) -> tuple[Dataset, Dataset]:
    """Splits a data set into two, stratified.

    Lists of labels are split at random, except that the first part keeps an example of every label.

    Args:
        dataset: of N examples.
        labels: class of every example, [N] int64; or [N, labels] of 0 and 1.
        fraction: share of the second part, between 0 and 1.
        seed: of the split.
        argument: name of `fraction` in the error message.

    Returns:
        The part that is kept, and the part that is split off.

    Raises:
        ValueError: one part is empty, or the first part lacks a class.

    Example::

        train, test = split_off(dataset, labels, 0.2, seed=0, argument="test_fraction")
    """
    if not 0 < fraction < 1:
        raise ValueError(f"{argument} is {fraction}; expected a number between 0 and 1.")
    size, classes = round(len(labels) * fraction), _fewest(labels, seed)
    if size < 1 or len(labels) - size < classes:
        raise ValueError(
            f"{argument} is {fraction}: {size} of {len(labels)} examples are held out, which leaves "
            f"{len(labels) - size} for training on {_described(labels)}. Expected at least one example held out, and "
            "at least one a class for training."
        )
    kept = stratified_indices(labels, len(labels) - size, seed)
    return dataset.select(kept), dataset.select(np.setdiff1d(np.arange(len(labels)), kept))


def _covering(labels: npt.NDArray[np.int64], order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The first examples in an order that together have every label that any has."""
    missing, chosen = labels.any(axis=0), []
    for example in order.tolist():
        if not missing.any():
            break
        if (missing & (labels[example] == 1)).any():
            chosen.append(example)
            missing &= labels[example] == 0
    return np.array(chosen, dtype=np.int64)


def _fewest(labels: npt.NDArray[np.int64], seed: int) -> int:
    """The size of the smallest subset that keeps every class."""
    if labels.ndim == 1:
        return len(np.unique(labels))
    return max(1, len(_covering(labels, np.random.default_rng(seed).permutation(len(labels)))))


def _described(labels: npt.NDArray[np.int64]) -> str:
    return f"{len(np.unique(labels))} classes" if labels.ndim == 1 else f"lists of {labels.shape[1]} labels"

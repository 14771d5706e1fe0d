"""Labels are matched by name, and by position only where there is nothing else."""

import pytest

from hf_simplex.evaluation.label_names import match_labels

CRANES = ["crane", "heron", "crane"]


def test_labels_are_matched_by_name() -> None:
    assert match_labels(["ant", "bee", "cat"], ("cat", "ant", "bee")) == [2, 0, 1]
    assert match_labels(["ant", "bee", "cat"], ("cat",)) == [2]
    assert match_labels(["ant", "bee", "cat"], ("cat", "ant", "bee"), by_position=True) == [0, 1, 2]


def test_labels_of_one_name_are_told_apart_by_their_places_or_not_at_all() -> None:
    assert match_labels(CRANES, tuple(CRANES)) == [0, 1, 2]
    assert match_labels(CRANES, ("heron",)) == [1]
    for others in (("heron", "crane", "crane"), ("crane",)):
        with pytest.raises(ValueError, match="Several labels are named 'crane'"):
            match_labels(CRANES, others)
    with pytest.raises(ValueError, match="Several labels are named 'ant'"):
        match_labels(["ant", "bee"], ("ant", "ant"))


def test_placeholders_are_matched_by_position() -> None:
    placeholders = ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert match_labels(placeholders, tuple(CRANES)) == [0, 1, 2]
    with pytest.raises(ValueError, match=r"has 3 labels .* has 2 labels .*Only equal numbers"):
        match_labels(placeholders, ("ant", "bee"))


def test_a_data_set_without_names_shares_no_label() -> None:
    with pytest.raises(ValueError, match=r"names no label, and the ensemble has 2 labels \(ant, bee\)"):
        match_labels(["ant", "bee"], ())


def test_unknown_names_are_told() -> None:
    with pytest.raises(ValueError, match=r"The ensemble has no 'dog'.*--labels-by-position"):
        match_labels(["ant", "bee"], ("ant", "dog"))

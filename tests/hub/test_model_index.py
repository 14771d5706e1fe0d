"""The model-index holds what the published ensemble returns, measured on images that it names."""

from typing import Any

import pytest
from tiny import complete

from hf_simplex.data.image_data import load_image_data
from hf_simplex.data.split_records import DataRecord, SplitRecord
from hf_simplex.hub.evidence import Evidence
from hf_simplex.hub.model_card import new_card
from hf_simplex.hub.model_index import evaluated_split, is_generated
from hf_simplex.model.decisions import Decisions

RAW: Any = {"accuracy": 0.9, "nll": 0.3, "ece": 0.1, "brier": 0.2, "training_epochs": 4.0, "forward_passes": 8}
CALIBRATED = {"nll": 0.25, "ece": 0.05, "brier": 0.19, "temperature": 1.5}


def entries(decided: bool, calibrated: bool, **changes: Any) -> Any:
    model = complete()
    model.decisions = Decisions(temperature=1.5) if decided else None
    result = {**RAW, "calibrated": CALIBRATED} if calibrated else RAW
    found = new_card(model, Evidence(**{"results": {"backbone": RAW, "espro": result}, "test_images": 50, **changes}))
    results = found.data.eval_results or []
    assert all(map(is_generated, results)), "the next card replaces them"
    return results


@pytest.mark.parametrize(
    ("decided", "calibrated", "expected"),
    [
        (True, True, {"Accuracy (ESPRO)": 0.9, "NLL (ESPRO, calibrated)": 0.25, "ECE (ESPRO, calibrated)": 0.05}),
        (False, False, {"Accuracy (ESPRO)": 0.9, "NLL (ESPRO)": 0.3, "ECE (ESPRO)": 0.1}),
        # The model has no temperature, whatever was measured with one.
        (False, True, {"Accuracy (ESPRO)": 0.9, "NLL (ESPRO)": 0.3, "ECE (ESPRO)": 0.1}),
        (
            True,
            False,
            {
                "Accuracy (ESPRO)": 0.9,
                "NLL (ESPRO, without its temperature)": 0.3,
                "ECE (ESPRO, without its temperature)": 0.1,
            },
        ),
    ],
)
def test_entries_are_of_what_the_ensemble_returns(decided: bool, calibrated: bool, expected: dict[str, float]) -> None:
    assert {entry.metric_name: entry.metric_value for entry in entries(decided, calibrated)} == expected


def test_results_of_the_parts_alone_make_no_entries() -> None:
    assert entries(True, True, results={"backbone": RAW}) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "test"),
        ({"max_test_examples": 50}, "test, 50 of 797 images"),
        ({"test_split": "train", "train_split": "test"}, "train"),
    ],
)
def test_the_split_is_the_one_that_was_evaluated(changes: dict[str, Any], expected: str) -> None:
    data = load_image_data("digits", **changes)
    model = complete()
    model.config.provenance |= {"data_set": "/home/me/digits", "images": data.record.to_dict()}
    found = Evidence(data_set="digits", test_images=len(data.test), results={"espro": RAW})
    card = new_card(model, found)
    assert {entry.dataset_split for entry in card.data.eval_results} == {expected}
    assert f"On {len(data.test)} test images of `digits` (split {expected}):" in card.text


def test_images_split_off_the_training_images_are_called_so_and_notes_are_on_the_card() -> None:
    train = SplitRecord("train", 800, 1000, None, 0, "0" * 16)
    test = SplitRecord("train", 200, 1000, 0.2, 0, "0" * 16)
    record = DataRecord(train, None, test, ("left out the folder 'extra'", "split off 200 images"))
    model = complete()
    model.config.provenance |= {"data_set": "pets", "images": record.to_dict()}
    card = new_card(model, Evidence(data_set="pets", test_images=200, results={"espro": RAW}))
    expected = "train, 200 of 1000 images held out of training"
    assert {entry.dataset_split for entry in card.data.eval_results} == {expected}
    assert f"(split {expected}):" in card.text
    assert "Of the data set:\n\n- left out the folder 'extra'\n- split off 200 images\n\n" in card.text


@pytest.mark.parametrize(
    ("provenance", "changes"),
    [
        ({}, {}),
        ({"data_set": "pets"}, {}),
        ({"data_set": "pets", "images": {"train": None}}, {}),
        ({"data_set": "beans", "images": "record"}, {}),
        ({"data_set": "pets", "images": "record"}, {"test_images": 7}),
        ({"data_set": "pets", "images": "record"}, {"data_set": None}),
    ],
)
def test_no_split_is_named_that_is_not_known(provenance: dict[str, Any], changes: dict[str, Any]) -> None:
    test = SplitRecord("test", 50, 50, None, None, "0" * 16)
    record = DataRecord(test, None, test)
    assert evaluated_split(record, 50) == "test"
    if provenance.get("images") == "record":
        provenance = {**provenance, "images": record.to_dict()}
    model = complete()
    model.config.provenance |= provenance
    card = new_card(model, Evidence(**{"data_set": "pets", "test_images": 50, "results": {"espro": RAW}, **changes}))
    assert {entry.dataset_split for entry in card.data.eval_results} == {None}
    assert "split:" not in str(card) and "(split" not in card.text


def test_rows_without_a_temperature_have_empty_cells() -> None:
    model = complete()
    model.decisions = Decisions(temperature=1.5)
    results = {"backbone": RAW, "espro": {**RAW, "calibrated": CALIBRATED}}
    text = new_card(model, Evidence(results=results, test_images=50)).text
    assert "| backbone | 0.9000 | 0.3000 |  | 0.1000 |  | 0.2000 | 4 | 8 |" in text
    assert "| ESPRO | 0.9000 | 0.3000 | 0.2500 | 0.1000 | 0.0500 | 0.2000 | 4 | 8 |" in text
    assert "No temperature was fitted for rows without them." in text

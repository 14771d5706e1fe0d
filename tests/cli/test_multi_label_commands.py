"""The commands with a multi-label ensemble: predict, evaluate, calibrate, inspect, export, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from command import invoke, run, save
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List
from several_labels import NAMES, several_backbone, several_ensemble, write_folder
from tiny import PICTURE, ensemble

from hf_simplex import SimplexForImageClassification
from hf_simplex.data.image_data import load_image_data
from hf_simplex.evaluation.multi_label import multi_label_metrics
from hf_simplex.explorer.answers import Answers
from hf_simplex.explorer.precompute import explore_data_set
from hf_simplex.explorer.space import write_space
from hf_simplex.training.recipe.arguments import DataArguments, EsproArguments, ModeArguments
from hf_simplex.training.recipe.components import start_modes
from hf_simplex.training.recipe.images import load_data


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


def refused(*arguments: object) -> str:
    """The last line of a command that ends with a mistake, after what it says of the data."""
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error: ")
    return line


def named(model: SimplexForImageClassification) -> SimplexForImageClassification:
    model.config.id2label, model.config.label2id = dict(enumerate(NAMES)), {n: i for i, n in enumerate(NAMES)}
    return model


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = named(several_ensemble())
    for weights in model.weights:
        weights["classifier.weight"].mul_(10)
    return save(model, tmp_path / "ensemble")


def test_predict_gives_each_label_its_own_probability(saved: Path, tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "picture.png")
    model = SimplexForImageClassification.from_pretrained(saved)
    inputs = model.image_processor(PICTURE, return_tensors="pt")
    expected = dict(zip(NAMES, model(**inputs).logits.sigmoid()[0].tolist(), strict=True))
    told = json.loads(run("predict", saved, tmp_path / "picture.png", "--json", "--top-k", "2"))
    assert [row["score"] for row in told["labels"]] == pytest.approx(sorted(expected.values(), reverse=True)[:2])
    text = run("predict", saved, tmp_path / "picture.png", "--top-k", "1")
    given = [name for name, score in expected.items() if score >= 0.5]
    line = text.splitlines()[0]
    assert all((name in line) == (name in given) for name in NAMES) or not given
    assert text.count("█") > 0 and len(text.splitlines()) == 2, "one bar, and the answer of all labels"


def test_evaluate_measures_several_labels(saved: Path, tmp_path: Path) -> None:
    lists = write_folder(tmp_path / "pictures", 20)
    told = json.loads(run("evaluate", saved, tmp_path / "pictures", "--json", "--cpu"))
    model = SimplexForImageClassification.from_pretrained(saved)
    files = sorted((tmp_path / "pictures").glob("*.png"))
    pixels = torch.cat([model.image_processor(PIL.Image.open(f), return_tensors="pt")["pixel_values"] for f in files])
    references = np.array([[name in own for name in NAMES] for own in lists])
    expected = multi_label_metrics(model(pixels).logits.sigmoid().double().numpy(), references)
    assert {name: told[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    table = run("evaluate", saved, tmp_path / "pictures", "--cpu")
    assert "hamming_error" in table and "accuracy" not in table


def test_evaluate_without_any_label_is_json(saved: Path, tmp_path: Path) -> None:
    """F1 and average precision are not defined where no image has a label, and JSON has no NaN."""
    features = Features({"image": Image(), "labels": List(ClassLabel(names=["tree", "cat"]))})
    rows = Dataset.from_dict({"image": [PICTURE] * 4, "labels": [[]] * 4}, features)
    DatasetDict(test=rows).save_to_disk(tmp_path / "pictures")
    told = invoke("evaluate", saved, tmp_path / "pictures", "--json", "--cpu")
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert found["macro_f1"] is found["mean_average_precision"] is None
    assert found["labels_without_positives"] == 3 and found["nll"] > 0
    assert "2 of the ensemble's 3 labels. No image counts as having the others." in told.stderr


def test_labels_are_matched_by_name(saved: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "pictures", 20)
    straight = json.loads(run("evaluate", saved, tmp_path / "pictures", "--json", "--cpu"))
    model = SimplexForImageClassification.from_pretrained(saved)
    with torch.no_grad():
        for weights in model.weights:
            for name in ("classifier.weight", "classifier.bias"):
                weights[name].copy_(weights[name].flip(0))
    model.config.id2label = dict(enumerate(reversed(NAMES)))
    model.config.label2id = {name: label for label, name in model.config.id2label.items()}
    save(model, tmp_path / "reversed")
    turned = json.loads(run("evaluate", tmp_path / "reversed", tmp_path / "pictures", "--json", "--cpu"))
    numbers = [name for name, value in straight.items() if isinstance(value, float)]
    assert {name: turned[name] for name in numbers} == pytest.approx({name: straight[name] for name in numbers})


def test_calibrate_fits_members_and_temperature(saved: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "pictures", 60)
    line = refused("calibrate", saved, tmp_path / "pictures", "--split", "train", "--target-error", "0.01", "--cpu")
    assert "target_error is 0.01" in line and "multi_label_classification" in line
    told = invoke("calibrate", saved, tmp_path / "pictures", "--split", "train", "--cpu")
    assert told.exit_code == 0 and "The temperature is" in told.output and "answer where" not in told.output
    decisions = json.loads((saved / "config.json").read_text())["decisions"]
    assert decisions["abstention"] is None and decisions["prediction_sets"] is None and decisions["temperature"] != 1


def test_one_label_and_several_do_not_go_together(saved: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "pictures", 20)
    plain = save(named(ensemble("vit")), tmp_path / "plain")
    assert "The images have lists of labels, but the problem_type" in refused("evaluate", plain, tmp_path / "pictures")
    assert "The images have one label each, but the problem_type" in refused("evaluate", saved, "digits")


def test_the_explorer_is_refused_by_name(saved: Path, tmp_path: Path) -> None:
    model: Any = SimplexForImageClassification.from_pretrained(saved)
    message = "explorer shows one label an image, but the problem_type .*multi_label.*Use pipeline"
    calls: list[Any] = [
        lambda: Answers(model),
        lambda: explore_data_set(model, "digits"),
        lambda: write_space(saved, tmp_path / "space"),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call()
    assert "multi_label_classification" in refused("demo", saved, "--export", tmp_path / "space")
    assert not (tmp_path / "space").exists()


def test_inspect_and_export_know_the_problem_type(saved: Path, tmp_path: Path) -> None:
    assert "multi_label_classification" in run("inspect", saved)
    run("export", saved, tmp_path / "centroid", "--centroid")
    assert json.loads((tmp_path / "centroid" / "config.json").read_text())["problem_type"] == (
        "multi_label_classification"
    )


def test_recipes_that_compare_one_label_refuse_lists(tmp_path: Path) -> None:
    write_folder(tmp_path / "pictures", 20)
    with pytest.raises(ValueError, match=r"has lists of labels .*recipes/train_espro.py"):
        load_data(DataArguments(str(tmp_path / "pictures")))
    assert load_data(DataArguments(str(tmp_path / "pictures")), several_labels=True).several_labels
    assert load_image_data(tmp_path / "pictures").several_labels
    several_backbone("vit").save_pretrained(tmp_path / "mode")
    data, args = DataArguments("digits"), EsproArguments("output", use_cpu=True, report_to="none")
    with pytest.raises(ValueError, match=r"is for a recipe of one label an image, but .*multi_label"):
        start_modes(ModeArguments(modes=[str(tmp_path / "mode")]), data, dict(enumerate(NAMES)), args)

"""The commands with a multi-label ensemble: predict, evaluate, calibrate, inspect, export, and what is refused."""

import json
import logging
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
from hf_simplex.data.whole_split import load_split
from hf_simplex.evaluation.data_sets import LabelledInputs, evaluated_labels
from hf_simplex.evaluation.label_kinds import SEVERAL_LABELS
from hf_simplex.evaluation.multi_label import multi_label_metrics
from hf_simplex.explorer.answers import Answers
from hf_simplex.explorer.precompute import explore_data_set
from hf_simplex.explorer.space import write_space
from hf_simplex.model.uncertainty import mutual_information
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
    assert found["labels_without_positives"] == 2 and found["nll"] > 0
    assert found["labels_left_out"] == ["dog"]


@pytest.fixture
def without_dogs(tmp_path: Path) -> tuple[Path, list[list[str]]]:
    """Images whose lists do not name a label of the ensemble that they show, and the lists."""
    lists = write_folder(tmp_path / "unnamed", 60)
    lists = [[name for name in own if name != "dog"] for own in lists]
    rows = [json.dumps({"file_name": f"{row:03d}.png", "labels": own}) for row, own in enumerate(lists)]
    (tmp_path / "unnamed" / "metadata.jsonl").write_text("\n".join(rows) + "\n", "utf-8")
    return tmp_path / "unnamed", lists


def known_labels(saved: Path, folder: Path) -> np.ndarray:
    """Probabilities of the labels but "dog", without a temperature."""
    model = SimplexForImageClassification.from_pretrained(saved)
    model.decisions = None
    files = sorted(folder.glob("*.png"))
    pixels = torch.cat([model.image_processor(PIL.Image.open(f), return_tensors="pt")["pixel_values"] for f in files])
    return model(pixels).logits.sigmoid().double().numpy()[:, [0, 2]]


def test_labels_that_the_data_does_not_name_are_left_out(
    saved: Path, without_dogs: tuple[Path, list[list[str]]], caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("transformers").propagate = True
    folder, lists = without_dogs
    references = np.array([[name in own for name in ("cat", "tree")] for own in lists])
    told = json.loads(run("evaluate", saved, folder, "--json", "--cpu"))
    expected = multi_label_metrics(known_labels(saved, folder), references)
    assert {name: told[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert told["labels_left_out"] == ["dog"]
    line = (
        "The data set does not name 1 of the ensemble's 3 labels (dog), and so does not say whether its images have "
        "them: they are left out."
    )
    assert caplog.text.count(line) == 1
    shown = run("calibrate", saved, folder, "--split", "train", "--keep-members", "--cpu")
    assert caplog.text.count(line) == 2 and "labels has no validation image" not in caplog.text
    assert "The validation data does not name all labels: fitted without dog." in shown
    decisions = json.loads((saved / "config.json").read_text())["decisions"]
    fitted = SEVERAL_LABELS.fit_temperature(known_labels(saved, folder), references)
    assert decisions["temperature"] == pytest.approx(fitted, rel=1e-3)
    assert decisions["fitted_on"]["labels_left_out"] == ["dog"]
    # What the members disagree on does not depend on what the data names.
    model = SimplexForImageClassification.from_pretrained(saved)
    picture = model.image_processor(PIL.Image.open(folder / "000.png"), return_tensors="pt")
    members = model(**picture, output_member_probabilities=True).member_probabilities
    quantiles = decisions["uncertainty_quantiles"]
    assert list(quantiles) == ["mutual_information"], "the energy ranks images by the number of their labels"
    found = mutual_information(members, independent=True).item()
    assert quantiles["mutual_information"][0] <= found + 1e-6 and found - 1e-6 <= quantiles["mutual_information"][-1]


def test_a_part_of_the_images_leaves_the_same_labels_out(saved: Path, without_dogs: tuple[Path, list[Any]]) -> None:
    loaded = load_split(without_dogs[0])
    model = SimplexForImageClassification.from_pretrained(saved)
    inputs = LabelledInputs(model, loaded.images, loaded.label_names)
    assert evaluated_labels(inputs) == evaluated_labels(torch.utils.data.Subset(inputs, range(50))) == [0, 2]


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


def test_rates_of_one_label_an_image_are_refused_before_anything_is_read(saved: Path, tmp_path: Path) -> None:
    alone = tmp_path / "without weights"
    alone.mkdir()
    (alone / "config.json").write_bytes((saved / "config.json").read_bytes())
    for option, value in (("--coverage", "0.9"), ("--target-error", "0.05"), ("--target-error", "0.02")):
        line = refused("calibrate", alone, tmp_path / "nowhere", option, value)
        assert f"{option[2:].replace('-', '_')} is {value}, for abstention and prediction sets" in line
    assert "There is no file or folder" in refused("calibrate", saved, tmp_path / "nowhere"), "what is read next"


def test_predict_says_what_calibration_would_fit(saved: Path, tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "picture.png")
    line = "Not calibrated: hf-simplex calibrate ID DATASET fits members and temperature."
    assert line in invoke("predict", saved, tmp_path / "picture.png").stderr


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
    computed = invoke("demo", saved, "--data-set", tmp_path / "nowhere", "--compute")
    assert "explorer shows one label an image" in computed.stderr and "Computing" not in computed.output
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

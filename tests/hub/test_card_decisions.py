"""The card of a run with decisions is Markdown whose tables, lists and pictures render."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from markdown_it.token import Token
from tiny import complete, folder
from tiny_recipes import DIGITS, run

from hf_simplex import SimplexForImageClassification
from hf_simplex.evaluation.calibrate import describe_decisions
from hf_simplex.evaluation.metrics import classification_metrics
from hf_simplex.evaluation.paired import describe_differences, paired_differences
from hf_simplex.hub.card_content import decision_lines
from hf_simplex.hub.evidence import Evidence
from hf_simplex.hub.model_card import PICTURES, new_card, write_card
from hf_simplex.model.decisions import Abstention, Decisions, PredictionSets

PARTS = ("backbone", "deep_ensemble", "centroid", "simplex", "espro")
PLAIN = ["", "accuracy", "NLL (nats)", "ECE (15 bins)", "Brier", "training epochs", "forward passes"]
CALIBRATED = [*PLAIN[:3], "calibrated NLL", PLAIN[3], "calibrated ECE", *PLAIN[4:]]


class Rendered:
    """A card as CommonMark with tables."""

    def __init__(self, text: str) -> None:
        self.tokens = MarkdownIt("commonmark").enable("table").parse(text)

    def inside(self, opening: str) -> Iterator[list[Token]]:
        """The tokens of each block of a kind."""
        closing = opening.replace("_open", "_close")
        start = 0
        for index, token in enumerate(self.tokens):
            if token.type == opening:
                start = index
            if token.type == closing:
                yield self.tokens[start : index + 1]

    def texts(self, opening: str) -> list[str]:
        return [next(t.content for t in block if t.type == "inline") for block in self.inside(opening)]

    def tables(self) -> list[list[list[str]]]:
        found = []
        for block in self.inside("table_open"):
            rows: list[list[str]] = []
            for token in block:
                if token.type == "tr_open":
                    rows.append([])
                if token.type == "inline":
                    rows[-1].append(token.content)
            found.append(rows)
        return found

    def lists(self) -> list[list[str]]:
        return [[t.content for t in block if t.type == "inline"] for block in self.inside("bullet_list_open")]

    def pictures(self) -> list[str]:
        children = [child for token in self.tokens for child in token.children or []]
        return [str(child.attrs["src"]) for child in children if child.type == "image"]


def check_rendered(text: str) -> Rendered:
    """Check that every table and list of the text is one."""
    rendered = Rendered(text)
    prose = [part for paragraph in rendered.texts("paragraph_open") for part in paragraph.splitlines()]
    assert not [line for line in prose if line.startswith(("|", "- ", "#", "!")) and not line.startswith("![")]
    # A cell too many is cut from the tokens.
    widths = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    cells = [len(row) + 1 for table in rendered.tables() for row in table]
    separators = [line for line in text.splitlines() if re.fullmatch(r"\|(---\|)+", line)]
    assert len(separators) == len(rendered.tables())
    assert sorted(widths) == sorted([*cells, *(line.count("|") for line in separators)])
    for table in rendered.tables():
        assert len(table) > 1 and {len(row) for row in table} == {len(table[0])}
    for line in (line for line in text.splitlines() if line.startswith("- ")):
        assert any(line.removeprefix("- ") in found for found in rendered.lists()), line
    assert "\n\n\n" not in text.strip() and "{{" not in text and "{%" not in text
    assert not [token.content for token in rendered.tokens if token.type == "inline" and "None" in token.content]
    return rendered


def evidence(calibrated: bool, **changes: Any) -> Evidence:
    """Results of random predictions of three labels on fifty images."""
    generator = np.random.default_rng(0)
    references = generator.integers(0, 3, size=50)
    tables = {part: generator.dirichlet([1.0] * 3, size=50) for part in PARTS}
    results: dict[str, Any] = {
        part: {**classification_metrics(table, references), "training_epochs": 4.0, "forward_passes": 8}
        for part, table in tables.items()
    }
    for part, result in results.items():
        if calibrated:
            result["calibrated"] = {"nll": 0.5 + len(part) / 100, "ece": 0.125, "brier": 0.25, "temperature": 1.5}
        result["differences"] = {
            rival: paired_differences(tables[part], tables[rival], references)
            for rival in ("backbone", "deep_ensemble")
            if rival != part
        }
    settings = {
        "data_set": "digits",
        "test_images": 50,
        "results": results,
        "predictions": {part: (tables[part], references) for part in ("backbone", "espro")},
        "calibrated": calibrated,
    }
    return Evidence(**{**settings, **changes})


def decided() -> SimplexForImageClassification:
    model = complete()
    model.decisions = Decisions(
        temperature=1.5,
        abstention=Abstention(0.05, 0.95, 0.8, coverage=0.75, error=0.02),
        prediction_sets=PredictionSets("lac", 0.9, 0.6),
        fitted_on={"data_set": "digits", "images": 70},
    )
    return model


def worth(found: Evidence) -> Evidence:
    found.results["espro"]["decisions"] = {
        "area_under_risk_coverage": 0.1234,
        "answered": 0.7,
        "error_of_answers": 0.031,
        "set_coverage": 0.885,
        "mean_set_size": 1.25,
        "ood_auroc_mutual_information": 0.75,
        "ood_auroc_energy": 0.875,
    }
    found.results["espro"]["deep_ensemble_equivalent"] = 2.25
    return found


def test_a_card_with_decisions_renders() -> None:
    found, model = worth(evidence(calibrated=True)), decided()
    rendered = check_rendered(new_card(model, found).text)
    assert "Decisions" in rendered.texts("heading_open")
    results = rendered.tables()[0]
    assert results[0] == CALIBRATED
    for row, result in zip(results[1:], found.results.values(), strict=True):
        figures: Any = [result["accuracy"], result["nll"], result["calibrated"]["nll"], result["ece"]]
        figures += [result["calibrated"]["ece"], result["brier"], 4.0, 8]
        assert [float(cell) for cell in row[1:]] == pytest.approx(figures, abs=5.1e-5)
    rows, differences, decisions, on_test = rendered.lists()[:4]
    assert [row.split(":")[0] for row in rows] == ["backbone", "deep ensemble", "centroid", "one simplex", "ESPRO"]
    assert differences == [
        f"{name} against {rival}: {describe_differences(found.results[part]['differences'][key])}"
        for part, name in (("espro", "ESPRO"), ("centroid", "centroid"))
        for key, rival in (("backbone", "backbone"), ("deep_ensemble", "deep ensemble"))
    ]
    assert model.decisions is not None and decisions == describe_decisions(model.decisions)
    assert on_test == [
        "It answers 70.0 % of the test images, with an error of 3.10 %.",
        "Prediction sets hold the true label of 88.5 % of the test images, with 1.25 labels on average.",
        "The area under the risk-coverage curve is 0.1234.",
        "Images out of the distribution: AUROC 0.750 by mutual information.",
        "Images out of the distribution: AUROC 0.875 by energy.",
        "Its calibrated NLL is that of a deep ensemble of 2.2 models.",
    ]
    paragraphs = "\n".join(rendered.texts("paragraph_open"))
    assert "Differences of the calibrated predictions on the same images" in paragraphs
    assert "Calibrated figures and the pictures of predictions are at the temperature" in paragraphs
    assert "Fitted on 70 validation images, and kept in `config.json`:" in paragraphs
    assert "at a temperature that was fitted on validation images" in paragraphs
    assert rendered.pictures() == ["reliability.png", "risk_coverage.png"]


@pytest.mark.parametrize(("standard_error", "said"), [(0.004, True), (0.006, False)])
def test_a_card_claims_more_models_than_the_modes_beyond_noise_only(standard_error: float, said: bool) -> None:
    found = worth(evidence(calibrated=True))
    found.results["espro"]["deep_ensemble_equivalent"] = None
    found.results["espro"]["differences"]["deep_ensemble"]["nll"] = {"mean": -0.01, "standard_error": standard_error}
    claim = "Its calibrated NLL is that of a deep ensemble of more models than its modes."
    assert (claim in decision_lines(found)) == said


@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize("with_decisions", [True, False])
@pytest.mark.parametrize("bare", [True, False])
def test_every_card_renders(calibrated: bool, with_decisions: bool, bare: bool) -> None:
    model = decided() if with_decisions else complete()
    changes: dict[str, Any] = {"predictions": {}, "data_set": None, "test_images": 50} if bare else {}
    found = evidence(calibrated, **changes)
    text = new_card(model, found).text
    rendered = check_rendered(text)
    assert ("Decisions" in rendered.texts("heading_open")) == with_decisions
    assert rendered.tables()[0][0] == (CALIBRATED if calibrated else PLAIN)
    assert ("alibrated" in text.split("## Limits")[0].split("## Results")[1]) == calibrated
    assert rendered.pictures() == ([] if bare else ["reliability.png", "risk_coverage.png"][: 1 + with_decisions])
    check_rendered(new_card(model, Evidence()).text)


def test_the_card_of_an_ensemble_without_decisions_is_as_before() -> None:
    found = evidence(calibrated=False)
    for result in found.results.values():
        del result["differences"]
    rendered = check_rendered(new_card(complete(), found).text)
    assert rendered.texts("heading_open")[1:] == ["Use", "Results", "Structure", "Limits", "Citation"]
    assert rendered.tables()[0][0] == PLAIN and len(rendered.lists()) == 2, "the rows and the limits"
    paragraphs = rendered.texts("paragraph_open")
    assert not any("alibrated" in text or "Differences" in text or "strategy" in text for text in paragraphs)


def test_decisions_of_an_unknown_number_of_images_name_none() -> None:
    model = complete()
    model.decisions = Decisions(temperature=2.0)
    rendered = check_rendered(new_card(model, evidence(calibrated=True)).text)
    assert "Fitted on validation images, and kept in `config.json`:" in rendered.texts("paragraph_open")


def test_the_same_model_under_two_names_has_no_difference_to_tell() -> None:
    found = evidence(calibrated=False)
    zero = {"mean": 0.0, "standard_error": 0.0}
    found.results["espro"]["differences"]["deep_ensemble"] = {"error": zero, "nll": zero, "brier": zero}  # type: ignore[typeddict-item]
    lines = check_rendered(new_card(complete(), found).text).lists()[1]
    assert [line.split(":")[0] for line in lines] == [
        "ESPRO against backbone",
        "centroid against backbone",
        "centroid against deep ensemble",
    ]


def test_a_measured_strategy_is_told_and_one_that_was_asked_for_is_not() -> None:
    model = complete()
    reason = "There is no barrier between the modes (at most 0.001 ± 0.002 nats), so one simplex joins them."
    model.config.provenance["strategy"] = {"asked": "auto", "chosen": "join", "reason": reason, "barriers": []}
    assert reason in check_rendered(new_card(model, Evidence()).text).texts("paragraph_open")
    model.config.provenance["strategy"] = {
        "asked": "join",
        "chosen": "join",
        "reason": "It was asked for.",
        "barriers": [],
    }
    assert "It was asked for." not in new_card(model, Evidence()).text


def test_pictures_are_beside_the_card(tmp_path: Path) -> None:
    file = write_card(decided(), tmp_path / "with", evidence(calibrated=True))
    assert set(check_rendered(ModelCard.load(file).text).pictures()) == {"reliability.png", "risk_coverage.png"}
    assert {path.name for path in file.parent.iterdir()} == {"README.md", "reliability.png", "risk_coverage.png"}
    assert all(
        (file.parent / name).read_bytes().startswith(b"\x89PNG") for name in ("reliability.png", "risk_coverage.png")
    )
    file = write_card(complete(), tmp_path / "without", evidence(calibrated=False))
    assert {path.name for path in file.parent.iterdir()} == {"README.md", "reliability.png"}


@pytest.mark.parametrize("strategy", ["auto", "one_simplex"])
def test_the_card_of_a_run_renders(strategy: str, tmp_path: Path) -> None:
    settings = {
        **DIGITS,
        "backbone": str(folder("resnet", tmp_path / "backbone", labels=7)),
        "strategy": strategy,
        "num_components": None,
        "num_modes": 2,
        "num_members": None,
        "num_train_epochs": 1,
        "max_train_examples": 200,
        "max_test_examples": 30,
        "validation_fraction": 0.3,
        "surface_resolution": 2,
        "surface_images": 10,
    }
    run(tmp_path, **settings)
    ensemble = tmp_path / "output/ensemble"
    card = ModelCard.load(ensemble / "README.md")
    rendered = check_rendered(card.text)
    assert rendered.tables()[0][0] == CALIBRATED
    names = [row[0] for row in rendered.tables()[0][1:]]
    assert names[0] == "backbone" and names[-1] == "ESPRO" and ("deep ensemble" in names) == (strategy == "auto")
    assert set(rendered.pictures()) == set(PICTURES) == {file.name for file in ensemble.glob("*.png")}
    assert "Fitted on 60 validation images" in card.text and str(tmp_path) not in card.text
    assert ("barrier" in card.text) == (strategy == "auto")
    html = MarkdownIt("commonmark").enable("table").render(card.text)
    assert html.count("<table>") == html.count("</table>") == 3
    sections = ["Use", "Results", "Decisions", "Loss surface", "Structure", "Training", "Limits", "Citation"]
    assert re.findall("<h2>(.*)</h2>", html) == sections

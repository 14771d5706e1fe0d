"""Multi-label ensembles predict the mean of sigmoids, from a model, its files, its pipelines and its exports."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from several_labels import MULTI, several_backbone, several_ensemble
from tiny import KINDS, PICTURE, backbone, ensemble, folder, images
from torch.nn.functional import binary_cross_entropy, binary_cross_entropy_with_logits
from transformers import AutoModelForImageClassification, ViTConfig, pipeline

from hf_simplex import SimplexConfig, SimplexForImageClassification
from hf_simplex.model.decisions import Decisions
from hf_simplex.model.label_activation import SIGMOID, SOFTMAX
from hf_simplex.model.uncertainty import bernoulli_entropy, mutual_information, predictive_entropy, vote_share


@pytest.mark.parametrize("kind", KINDS)
def test_the_prediction_is_the_mean_of_the_members_sigmoids(kind: str, tmp_path: Path) -> None:
    model, pixels = several_ensemble(kind), images(5)
    labels = (torch.rand(5, 3, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    alone = torch.stack(
        [model.member_backbone(member)(pixel_values=pixels).logits.detach().sigmoid() for member in range(3)], dim=1
    )
    output = model(pixels, labels=labels, output_member_probabilities=True)
    torch.testing.assert_close(output.member_probabilities, alone)
    torch.testing.assert_close(output.logits.sigmoid(), alone.mean(dim=1))
    torch.testing.assert_close(output.loss, binary_cross_entropy(alone.mean(dim=1), labels))
    assert not torch.allclose(output.logits.sigmoid().sum(dim=-1), torch.ones(5), atol=1e-2), "no softmax"
    model.save_pretrained(tmp_path)
    loaded = SimplexForImageClassification.from_pretrained(tmp_path)
    assert loaded.config.problem_type == loaded.backbone.config.problem_type == MULTI
    assert torch.equal(loaded(pixels).logits, output.logits)
    assert json.loads((tmp_path / "config.json").read_text())["problem_type"] == MULTI


@pytest.mark.parametrize("kind", KINDS)
def test_a_backbone_is_multi_label_if_it_or_the_argument_says_so(kind: str, tmp_path: Path) -> None:
    folder(kind, tmp_path)
    asked = SimplexForImageClassification.from_backbone(tmp_path, problem_type=MULTI)
    several_backbone(kind).save_pretrained(tmp_path / "own")
    own = SimplexForImageClassification.from_backbone(tmp_path / "own")
    assert asked.config.problem_type == own.config.problem_type == MULTI
    asked.add_vertex()
    assert SimplexForImageClassification.disjoint_union([asked, asked]).config.problem_type == MULTI
    plain = SimplexForImageClassification.from_backbone(tmp_path)
    assert plain.config.problem_type is None and plain.backbone.config.problem_type is None


def test_one_label_and_several_are_not_mixed(tmp_path: Path) -> None:
    several, plain = several_ensemble(), ensemble("vit")
    with pytest.raises(ValueError, match="problem_type of component 2 is None, that of component 1 is 'multi_label"):
        SimplexForImageClassification.disjoint_union([several, plain])
    for model, other in ((several, "single_label_classification"), (plain, MULTI)):
        model.save_pretrained(tmp_path / other)
        with pytest.raises(ValueError, match=f"problem_type is '{other}', but the ensemble was trained for"):
            SimplexForImageClassification.from_pretrained(tmp_path / other, problem_type=other)
    vit = ViTConfig(problem_type=MULTI)
    with pytest.raises(ValueError, match="'single_label_classification', but that of the backbone is 'multi_label"):
        SimplexConfig(vit, problem_type="single_label_classification")
    with pytest.raises(ValueError, match="problem_type of the ensemble is 'regression'"):
        SimplexConfig(ViTConfig(), problem_type="regression")


def test_a_config_without_a_problem_type_keeps_its_bytes(tmp_path: Path) -> None:
    ensemble("vit").save_pretrained(tmp_path)
    assert "problem_type" not in json.loads((tmp_path / "config.json").read_text())


def test_large_logits_stay_finite_and_exact() -> None:
    raw = torch.tensor([[[60.0, -60.0, 3e4], [-60.0, -60.0, 3e4]]])
    logits = SIGMOID.ensemble_logits(raw)
    # The mean of sigmoid(60) and sigmoid(-60) is a half, that of two exp(-60) is exp(-60).
    torch.testing.assert_close(logits, torch.tensor([[0.0, -60.0, 3e4]]))
    mean = raw.double().sigmoid().mean(dim=1)
    torch.testing.assert_close(SIGMOID.ensemble_logits(raw.double()).sigmoid(), mean)
    torch.testing.assert_close(SIGMOID.ensemble_logits(raw, 2.0), logits / 2)
    assert math.isfinite(SIGMOID.loss(logits, torch.tensor([[1, 1, 0]])))
    half = several_ensemble().to(torch.bfloat16)
    output = half(images(2).bfloat16(), output_member_probabilities=True)
    assert output.logits.isfinite().all()
    torch.testing.assert_close(output.logits.sigmoid(), output.member_probabilities.mean(dim=1))


def test_the_loss_is_that_of_the_backbone_for_one_member() -> None:
    module, pixels = several_backbone("vit"), images(4)
    model = SimplexForImageClassification.from_backbone(module)
    labels = torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])
    theirs = module(pixel_values=pixels, labels=labels)
    torch.testing.assert_close(model(pixels, labels=labels).loss, theirs.loss)
    torch.testing.assert_close(theirs.loss, binary_cross_entropy_with_logits(theirs.logits, labels))
    with pytest.raises(ValueError, match=r"\[4\]"):
        model(pixels, labels=torch.tensor([0, 1, 2, 0]))


@pytest.mark.parametrize("bad", [-100.0, 2.0, math.nan])
def test_a_label_beyond_0_and_1_has_no_loss(bad: float) -> None:
    """Binary cross-entropy has no label that it leaves out: of -100 it is negative."""
    model, labels = several_ensemble(), torch.tensor([[1.0, 0, bad], [0, 0.25, 1]])
    with pytest.raises(ValueError, match=f"The labels hold {bad:g}.*expected 0 to 1"):
        model(images(2), labels=labels)
    with pytest.raises(ValueError, match=f"The labels hold {bad:g}"):
        SIGMOID.losses(torch.zeros(2, 3), labels)
    assert SIGMOID.loss(torch.zeros(1, 3), labels[1:]).item() == pytest.approx(math.log(2)), "soft labels stay"


def test_a_temperature_divides_the_logits_of_the_mean() -> None:
    model, pixels = several_ensemble(), images(3)
    before = model(pixels).logits
    model.decisions = Decisions(temperature=2.5, centroid_temperatures=[2.0])
    torch.testing.assert_close(model(pixels).logits, before / 2.5)


def test_decisions_of_one_label_are_refused_in_config_json(tmp_path: Path) -> None:
    model = several_ensemble()
    model.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    for name, found in (
        ("abstention", {"target_error": 0.05, "confidence_level": 0.95}),
        ("prediction_sets", {"method": "lac", "coverage": 0.9}),
    ):
        values["decisions"] = {"temperature": 1.0, name: found}
        (tmp_path / "config.json").write_text(json.dumps(values))
        with pytest.raises(ValueError, match="rest on one label an image"):
            SimplexForImageClassification.from_pretrained(tmp_path)


def test_uncertainty_is_a_sum_over_independent_labels() -> None:
    members = torch.tensor([[0.9, 0.5], [0.1, 0.5]], dtype=torch.float64)
    one = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    total, disagreement = predictive_entropy(members, independent=True), mutual_information(members, independent=True)
    assert total.item() == pytest.approx(2 * math.log(2))
    assert disagreement.item() == pytest.approx(math.log(2) - one), "the second label is uncertain, and agreed on"
    # Aleatoric plus epistemic is the total.
    assert bernoulli_entropy(members).mean().item() + disagreement.item() == pytest.approx(total.item())
    # The ensemble gives both labels (0.5 each), the first member too, the second the last alone.
    assert vote_share(members, independent=True).item() == 0.5
    assert predictive_entropy(torch.ones(2, 3), independent=True) == 0
    torch.testing.assert_close(SIGMOID.energies(torch.tensor([0.0, 100.0])), torch.tensor(-(math.log(2) + 100)))


def test_multi_hot_labels_never_meet_a_softmax() -> None:
    with pytest.raises(ValueError, match=r"shape \[2, 3\]; expected one label an image, \[2\]"):
        SOFTMAX.losses(torch.zeros(2, 3), torch.ones(2, 3))
    with pytest.raises(ValueError, match="size"):
        SIGMOID.losses(torch.zeros(2, 3), torch.ones(2))


def test_both_pipelines_give_each_label_its_own_probability(tmp_path: Path) -> None:
    model = several_ensemble()
    model.config.id2label, model.config.label2id = {0: "a", 1: "b", 2: "c"}, {"a": 0, "b": 1, "c": 2}
    # As earlier files hold them: the joint energy ranks images by the number of their labels.
    quantiles = {name: [i / 100 - 3 for i in range(101)] for name in ("mutual_information", "energy")}
    model.decisions = Decisions(temperature=0.5, uncertainty_quantiles=quantiles)
    model.save_pretrained(tmp_path)
    inputs = model.image_processor(PICTURE, return_tensors="pt")
    output = model(**inputs, output_member_probabilities=True)
    expected = {"abc"[label]: output.logits[0, label].sigmoid().item() for label in range(3)}
    plain = pipeline("image-classification", model=str(tmp_path))(PICTURE)
    explain = pipeline("simplex-image-classification", model=str(tmp_path))
    full = explain(PICTURE)
    for found in (plain, full["labels"]):
        assert {row["label"]: row["score"] for row in found} == pytest.approx(expected, abs=1e-6)
        assert [row["score"] for row in found] == sorted((row["score"] for row in found), reverse=True)
    assert abs(sum(expected.values()) - 1) > 0.05
    members = output.member_probabilities[0]
    assert full["predictive_entropy_nats"] == pytest.approx(predictive_entropy(members, independent=True).item())
    assert full["mutual_information_nats"] == pytest.approx(
        mutual_information(members, independent=True).item(), abs=1e-6
    )
    assert (full["abstain"], full["prediction_set"], full["calibrated"]) == (None, None, True)
    assert set(full["more_uncertain_than"]) == {"mutual_information"}
    assert len(explain(PICTURE, top_k=2)["labels"]) == 2
    with pytest.raises(ValueError, match="from sigmoid"):
        explain(PICTURE, function_to_apply="softmax")
    assert explain(PICTURE, function_to_apply="sigmoid")["labels"] == full["labels"]


def test_the_published_code_alone_predicts_sigmoids(tmp_path: Path) -> None:
    model = several_ensemble()
    model.save_pretrained(tmp_path, include_code=True)
    torch.save({"pixels": images(2), "logits": model(images(2)).logits}, tmp_path / "expected.pt")
    code = f"""
import sys, torch
sys.modules["hf_simplex"] = None
from transformers import AutoModelForImageClassification, pipeline
model = AutoModelForImageClassification.from_pretrained({str(tmp_path)!r}, trust_remote_code=True)
expected = torch.load({str(tmp_path / "expected.pt")!r})
assert torch.allclose(model(expected["pixels"]).logits, expected["logits"], atol=1e-6)
found = pipeline("simplex-image-classification", model={str(tmp_path)!r}, trust_remote_code=True)
print(type(model).__module__, found.model.config.problem_type)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert "transformers_modules" in done.stdout and MULTI in done.stdout


@pytest.mark.parametrize("kind", ["vit", "timm"])
def test_exports_are_calibrated_multi_label_models(kind: str, tmp_path: Path) -> None:
    model, pixels = several_ensemble(kind), images(3)
    model.decisions = Decisions(temperature=2.0, centroid_temperatures=[4.0])
    centroid = model.write_centroid(0)(pixel_values=pixels).logits.detach()
    model.export_centroid(tmp_path / "centroid")
    model.export_vertex(1, tmp_path / "vertex")
    for name, expected in (("centroid", centroid / 4), ("vertex", backbone(kind, 1)(pixel_values=pixels).logits)):
        loaded: Any = AutoModelForImageClassification.from_pretrained(tmp_path / name)
        assert loaded.config.problem_type == MULTI
        torch.testing.assert_close(loaded.eval()(pixel_values=pixels).logits, expected, rtol=1e-4, atol=1e-5)
    if kind == "vit":
        scores = pipeline("image-classification", model=str(tmp_path / "centroid"))(PICTURE)
        assert abs(sum(row["score"] for row in scores) - 1) > 0.05, "its own configuration asks for sigmoids"


def test_a_part_of_an_ensemble_stays_multi_label(tmp_path: Path) -> None:
    model = several_ensemble()
    model.save_pretrained(tmp_path)
    part = SimplexForImageClassification.from_pretrained(tmp_path, num_members=1)
    assert part.config.problem_type == MULTI
    torch.testing.assert_close(part(images(2)).logits, model.member_backbone(0)(pixel_values=images(2)).logits)

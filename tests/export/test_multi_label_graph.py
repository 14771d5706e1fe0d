"""Graphs of a multi-label ensemble hold the sigmoids."""

from pathlib import Path

import pytest
import torch
from several_labels import several_ensemble
from test_export_graph import ran
from tiny import images
from transformers import AutoConfig

from hf_simplex.export.export_graph import Point, export_graph
from hf_simplex.model.decisions import Decisions
from hf_simplex.model.label_activation import SIGMOID
from hf_simplex.model.uncertainty import mutual_information, predictive_entropy


@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_the_graph_returns_what_the_ensemble_does(format: str, tmp_path: Path) -> None:
    model = several_ensemble()
    for weights in model.weights:
        weights["classifier.weight"].mul_(30)
    model.decisions = Decisions(temperature=1.7, centroid_temperatures=[0.6])
    exported = export_graph(model, tmp_path / "ensemble", format=format)
    pixels = images(5)
    found, expected = ran(exported.file, pixels), model(pixels, output_member_probabilities=True)
    members = expected.member_probabilities
    for name, values in {
        "logits": expected.logits,
        "member_probabilities": members,
        "predictive_entropy_nats": predictive_entropy(members, independent=True).float(),
        "mutual_information_nats": mutual_information(members, independent=True).float(),
        "standard_deviation": members.std(dim=1, correction=0),
        "energy": expected.member_energies.mean(dim=1),
    }.items():
        torch.testing.assert_close(found[name], values, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close((found["logits"] * 1.7).sigmoid(), members.mean(dim=1), rtol=1e-3, atol=1e-4)
    assert AutoConfig.from_pretrained(tmp_path / "ensemble").problem_type == "multi_label_classification"
    point = export_graph(model, tmp_path / "centroid", format=format, point=Point("centroid"))
    raw = model.write_centroid(0)(pixel_values=pixels).logits.detach()
    torch.testing.assert_close(ran(point.file, pixels)["logits"], raw / 0.6, rtol=1e-3, atol=1e-4)


def test_certain_members_have_finite_entropies(tmp_path: Path) -> None:
    model = several_ensemble()
    for weights in model.weights:
        weights["classifier.weight"].mul_(1e4)
    exported = export_graph(model, tmp_path / "ensemble", format="torch")
    found = ran(exported.file, images(3))
    assert all(values.isfinite().all() for values in found.values())
    assert SIGMOID.energies(torch.tensor([1e4])) == -1e4

"""Device maps, narrow dtypes and torch.compile: they work, or are refused by name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import Images, batches, ensemble, images, same_tensors
from transformers import TrainingArguments

from hf_simplex import SimplexForImageClassification
from hf_simplex.evaluation.comparison import predict_members
from hf_simplex.evaluation.surface_evaluation import model_surface
from hf_simplex.evaluation.surface_points import face_points

PLACES: dict[str, dict[str, Any]] = {
    "whole": {"device_map": {"": "disk"}},
    "one vertex": {"device_map": {"shared": "cpu", "vertices.0": "cpu", "vertices.1": "disk", "vertices.2": "cpu"}},
    "too little memory": {"device_map": "auto", "max_memory": {"cpu": 40_000}},
    "too little memory, a folder": {
        "device_map": "auto",
        "max_memory": {"cpu": 40_000},
        "offload_folder": "aside",
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("ensemble")
    ensemble("vit").save_pretrained(directory)
    return directory


@pytest.mark.parametrize("place", PLACES)
def test_offloading_is_refused_by_name(
    place: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"The device map offloads .* must be in memory\. Leave device_map out"):
        SimplexForImageClassification.from_pretrained(folder, **PLACES[place])


@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}, {"": torch.device("cpu")}])
def test_a_device_map_of_one_device_loads_the_same_model(device_map: Any, folder: Path) -> None:
    loaded = SimplexForImageClassification.from_pretrained(folder, device_map=device_map)
    assert same_tensors(loaded, ensemble("vit"))
    assert torch.equal(loaded(images()).logits, ensemble("vit")(images()).logits)


@pytest.mark.parametrize("materialized", [False, True])
@pytest.mark.parametrize("kind", ["resnet", "vit", "timm"])
def test_bfloat16_members_predict_in_float32_probabilities(kind: str, materialized: bool, tmp_path: Path) -> None:
    wide = ensemble(kind)
    wide.save_pretrained(tmp_path)
    narrow = SimplexForImageClassification.from_pretrained(tmp_path, dtype="bfloat16")
    if materialized:
        assert narrow.materialize() == 3
    floating = {name: tensor for name, tensor in narrow.state_dict().items() if tensor.is_floating_point()}
    assert {tensor.dtype for tensor in floating.values()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in narrow.member_backbone(0).parameters()} == {torch.bfloat16}
    output = narrow(images().bfloat16(), labels=torch.zeros(6, dtype=torch.long), output_member_probabilities=True)
    assert {tensor.dtype for tensor in output.values()} == {torch.float32}
    # bfloat16 has 8 significant bits.
    expected = wide(images(), output_member_probabilities=True)
    assert torch.allclose(output.member_probabilities, expected.member_probabilities, atol=0.03)
    assert torch.allclose(output.member_probabilities.sum(-1), torch.ones(6, 3), atol=1e-6)
    assert torch.allclose(output.logits.exp().sum(-1), torch.ones(6), atol=1e-6)


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_a_bfloat16_ensemble_draws_members_and_is_evaluated(kind: str, tmp_path: Path) -> None:
    """Images are float32, as image processors give them."""
    narrow = ensemble(kind).bfloat16()
    narrow.draw_members(2, batches=batches())
    predicted = predict_members(narrow, Images(6), TrainingArguments(tmp_path, use_cpu=True, report_to=[]))
    output = narrow(Images(6).pixel_values.bfloat16(), output_member_probabilities=True)
    assert np.allclose(predicted.probabilities, output.member_probabilities, atol=1e-6)
    names = narrow.vertex_parameter_names
    points = face_points(narrow.config.complex, narrow.weights, names, vertices=(0, 1, 2), resolution=2)
    loss = model_surface(narrow, points, [Images(6)[:]], batch_norm_batches=batches()).loss
    assert bool(loss.isfinite().all()) and len(loss.unique()) > 1


@pytest.mark.parametrize(("materialized", "numbers"), [(True, (2, 3)), (False, (2,))])
def test_a_compiled_ensemble_gives_equal_outputs(materialized: bool, numbers: tuple[int, ...]) -> None:
    model = ensemble("vit", members=2)
    if materialized:
        model.materialize()
    expected = {number: model(images(number), output_member_probabilities=True) for number in numbers}
    # A compiler for C++ is not needed: this one captures the same graphs and runs them by torch's own operations.
    compiled: Any = torch.compile(model, backend="aot_eager")
    for number, output in expected.items():
        found = compiled(images(number), output_member_probabilities=True)
        for name, tensor in output.items():
            assert torch.allclose(found[name], tensor, atol=1e-6, rtol=1e-5), name
    assert same_tensors(model, ensemble("vit", members=2))

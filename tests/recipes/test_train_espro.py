"""The recipe, run as a user would on a tiny backbone and real digits."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import train_espro
from huggingface_hub import ModelCard
from tiny import SIZE, folder, same
from tiny_recipes import DIGITS, KEYS, RECIPE, config, run, weights
from transformers import AutoModelForImageClassification, pipeline

from hf_simplex import SimplexForImageClassification, SimplexTrainer
from hf_simplex.data.image_data import load_image_data
from hf_simplex.data.image_transforms import build_transforms, collate, with_pixel_values
from hf_simplex.evaluation.metrics import classification_metrics

METRICS = ["accuracy", "nll", "ece", "brier", "training_epochs", "forward_passes"]


def probabilities_of(directory: Path, pixels: torch.Tensor) -> np.ndarray[Any, Any]:
    return AutoModelForImageClassification.from_pretrained(directory)(pixels).logits.softmax(-1).detach().numpy()


def by_hand(ensemble: Path, pixels: torch.Tensor, labels: list[int]) -> dict[str, dict[str, float]]:
    """The metrics of two components of two vertices, from the checkpoint and from plain models exported from it."""
    model = AutoModelForImageClassification.from_pretrained(ensemble)
    plain = ensemble.parent / "plain"
    for vertex in (0, 2):
        model.export_vertex(vertex, plain / str(vertex))
    model.export_centroid(plain / "centroid")
    modes = [probabilities_of(plain / str(vertex), pixels) for vertex in (0, 2)]
    members = model(pixels, output_member_probabilities=True).member_probabilities.numpy()
    of_first = [index for index, member in enumerate(model.config.members) if member[2] == member[3] == 0]
    predicted = {
        "backbone": modes[0],
        "deep_ensemble": np.mean(modes, axis=0),
        "centroid": probabilities_of(plain / "centroid", pixels),
        "simplex": members[:, of_first].mean(axis=1),
        "espro": probabilities_of(ensemble, pixels),
    }
    return {
        name: classification_metrics(found.astype(np.float64), np.array(labels)) for name, found in predicted.items()
    }


def launch_in_this_process(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    train_espro.main(arguments)
    return capsys.readouterr().out


def launch_in_two_processes(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Launch as the header of the configuration says, but on a free port."""
    settings = ["--config_file", str(RECIPE.parent / "accelerate/cpu_two_processes.yaml"), "--main_process_port", "0"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *settings, str(RECIPE), *arguments]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "launch", [launch_in_this_process, launch_in_two_processes], ids=["one process", "two processes"]
)
def test_the_whole_recipe_writes_what_its_checkpoint_gives(
    launch: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = folder("timm", tmp_path / "backbone", labels=7)
    file = config(tmp_path, backbone=str(backbone), num_vertices=5, **DIGITS)
    printed = launch([str(file), "--num_vertices", "2", "--token", "hf_secret", "--hub_token", "hf_secret"], capsys)
    output = tmp_path / "output"
    results = json.loads((output / "results.json").read_text())
    assert list(results) == KEYS
    assert all(list(result) == [*METRICS, "differences"] for result in results.values())
    written = {"components", "ensemble", "least_sure.png", "results.json", "run.json"}
    assert {file.name for file in output.iterdir()} == written
    header, *lines = printed.splitlines()
    assert header.split() == METRICS and [line.split()[0] for line in lines[: len(KEYS)]] == KEYS
    for line, result in zip(lines, results.values(), strict=False):
        figures = [result[metric] for metric in METRICS]
        assert [float(figure) for figure in line.split()[1:]] == pytest.approx(figures, abs=5.1e-5)
    assert "Nothing was calibrated: there were no validation images, or fewer than 50." in lines
    assert f"Next: hf-simplex predict {output / 'ensemble'} IMAGE" in lines

    model = SimplexForImageClassification.from_pretrained(output / "ensemble")
    assert model.config.simplexes == [[0, 1], [2, 3]]
    data = load_image_data("digits", max_train_examples=40, max_test_examples=60)
    _, transform = build_transforms(model.image_processor)
    pixels = torch.stack([example["pixel_values"] for example in with_pixel_values(data.test, transform)])
    assert pixels.shape == (60, 3, SIZE, SIZE)
    for name, metrics in by_hand(output / "ensemble", pixels, data.test["label"]).items():
        assert {metric: results[name][metric] for metric in metrics} == pytest.approx(metrics, abs=1e-4), name
    probabilities = probabilities_of(output / "ensemble", pixels)
    picture = data.test[0]["image"]
    (best,) = pipeline("image-classification", model=str(output / "ensemble"))(picture, top_k=1)
    assert best["score"] == pytest.approx(probabilities[0].max(), abs=1e-5)
    assert best["label"] == str(probabilities[0].argmax())

    told = json.loads((output / "run.json").read_text())
    assert [stage["vertex"] for stage in told["stages"]] == [0, 1, 2, 3]
    assert all(stage["wall_time"] > 0 for stage in told["stages"]) and told["wall_time"] > 0
    assert told["versions"]["torch"] == torch.__version__.split("+")[0]
    assert [told["images"][split]["images"] for split in ("train", "test")] == [40, 60]
    assert told["strategy"] is None and told["decisions"] is None
    written = [output / "run.json", output / "results.json", *(output / "ensemble").iterdir()]
    assert not any(b"hf_secret" in file.read_bytes() for file in written)


def test_epochs_and_forward_passes_are_counted_and_components_are_independent(tmp_path: Path) -> None:
    backbone = str(folder("resnet", tmp_path / "backbone", labels=7))
    two = run(tmp_path / "two", backbone=backbone, **DIGITS)
    assert {name: result["training_epochs"] for name, result in two.items()} == dict(
        zip(KEYS, [2.0, 4.0, 4.0, 4.0, 8.0], strict=True)
    )
    assert {name: result["forward_passes"] for name, result in two.items()} == dict(
        zip(KEYS, [1, 2, 1, 3, 5], strict=True)
    )
    # Its members are as many as the first component's share of the five.
    one = run(tmp_path / "one", backbone=backbone, num_components=1, num_members=3, **DIGITS)
    assert all(
        one[name][metric] == two[name][metric] for name in ("backbone", "centroid", "simplex") for metric in METRICS
    )
    first, both = tmp_path / "one/output/ensemble", tmp_path / "two/output/ensemble"
    assert all(same(weights(first, vertex), weights(both, vertex)) for vertex in range(3))
    assert not same(weights(both, 0), weights(both, 3))


def test_each_component_has_a_head_and_a_data_order_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads: list[torch.Tensor] = []
    bodies: list[torch.Tensor] = []
    orders: list[list[int]] = []
    grow = SimplexTrainer.grow

    def watched(trainer: SimplexTrainer, *arguments: Any) -> Any:
        weights = trainer.simplex.weights[0]
        heads.append(weights["classifier.weight"].clone())
        bodies.append(torch.cat([tensor.flatten() for name, tensor in weights.items() if "classifier" not in name]))
        seen: list[int] = []
        orders.append(seen)

        def noting(examples: Any) -> Any:
            seen.extend(example["labels"] for example in examples)
            return collate(examples)

        trainer.data_collator = noting
        return grow(trainer, *arguments)

    monkeypatch.setattr(SimplexTrainer, "grow", watched)
    backbone = str(folder("vit", tmp_path / "backbone", labels=7))
    run(tmp_path, backbone=backbone, num_vertices=1, num_train_epochs=1, **DIGITS)
    assert torch.equal(bodies[0], bodies[1]) and not torch.equal(heads[0], heads[1])
    # The dry step reads a batch before the epoch.
    first, second = (order[-40:] for order in orders)
    assert sorted(first) == sorted(second) and first != second


def test_given_modes_stay_as_they_are(tmp_path: Path) -> None:
    backbone = str(folder("resnet", tmp_path / "backbone", labels=7))
    run(tmp_path / "first", backbone=backbone, num_vertices=1, num_members=2, **DIGITS)
    ensemble = SimplexForImageClassification.from_pretrained(tmp_path / "first/output/ensemble")
    modes = []
    for vertex in (0, 1):
        modes.append(str(tmp_path / f"mode-{vertex}"))
        ensemble.export_vertex(vertex, modes[-1])
    results = run(tmp_path / "second", modes=modes, num_vertices=2, given_mode_epochs=2, **DIGITS)
    assert [results[name]["training_epochs"] for name in KEYS] == [2.0, 4.0, 3.0, 3.0, 6.0]
    grown = tmp_path / "second/output/ensemble"
    assert same(weights(grown, 0), ensemble.weights[0]) and same(weights(grown, 2), ensemble.weights[1])


def test_given_modes_are_joined_into_simplexes(tmp_path: Path) -> None:
    modes = [str(folder("resnet", tmp_path / f"mode-{seed}", labels=10, seed=seed)) for seed in range(4)]
    settings = {"num_modes": 2, "num_vertices": 3, "num_members": None, "given_mode_epochs": 4}
    results = run(tmp_path, modes=modes, **settings, **DIGITS)
    grown = SimplexForImageClassification.from_pretrained(tmp_path / "output/ensemble")
    assert grown.config.simplexes == [[0, 1, 2], [3, 4, 5]]
    assert grown.config.roles == ["mode", "mode", "connector"] * 2
    assert [results[name]["training_epochs"] for name in KEYS] == [4.0, 16.0, 9.0, 9.0, 18.0]
    assert [results[name]["forward_passes"] for name in KEYS] == [1, 4, 1, 4, 8]


def test_the_modes_of_a_simplex_start_from_the_same_weights_with_heads_of_their_own(tmp_path: Path) -> None:
    settings = {
        "backbone": str(folder("resnet", tmp_path / "backbone", labels=7)),
        "num_components": 1,
        "num_modes": 2,
        "num_vertices": 2,
        "num_members": None,
    }
    # Nothing is learned at this rate: the vertices are what they started from.
    results = run(tmp_path, **settings, learning_rate="1e-12", weight_decay=0.0, **DIGITS)
    grown = SimplexForImageClassification.from_pretrained(tmp_path / "output/ensemble")
    assert grown.config.simplexes == [[0, 1]] and grown.config.roles == ["mode", "mode"]
    names = [name for name, _ in grown.backbone.named_parameters()]
    different = [name for name in names if (grown.weights[0][name] - grown.weights[1][name]).abs().max() > 1e-6]
    assert different == names[-2:] == ["classifier.1.weight", "classifier.1.bias"]
    assert [results[name]["training_epochs"] for name in KEYS] == [2.0, 4.0, 4.0, 4.0, 4.0]
    assert [results[name]["forward_passes"] for name in KEYS] == [1, 2, 1, 3, 3]


def test_an_ensemble_is_pushed_to_the_hub(hub: Any, tmp_path: Path) -> None:
    backbone = str(folder("resnet", tmp_path / "backbone"))
    settings = {"num_components": 1, "num_members": 2, "num_train_epochs": 1, **DIGITS}
    settings |= {"surface_resolution": 2, "surface_images": 10}
    results = run(tmp_path, "--push_to_hub", "--hub_model_id", "alice/digits", backbone=backbone, **settings)
    pushed = SimplexForImageClassification.from_pretrained("alice/digits")
    kept = SimplexForImageClassification.from_pretrained(tmp_path / "output/ensemble")
    pixels = torch.randn(2, 3, SIZE, SIZE)
    assert torch.equal(pushed(pixels).logits, kept(pixels).logits)
    files = hub.files("alice/digits")
    assert {"vertex-00000.safetensors", "members.safetensors", "config.json", "modeling_simplex.py"} <= set(files)
    assert len(hub.commits("alice/digits")) == 2, "the Hub's own first, and one of ours"
    # What was published is what is on disk, but for the code and its entry in config.json.
    for name in ("README.md", "reliability.png", "loss_surface.png"):
        assert (tmp_path / "output/ensemble" / name).read_bytes() == files[name], name
    card = ModelCard(files["README.md"].decode())
    values = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert values["NLL (ESPRO)"] == pytest.approx(results["espro"]["nll"], abs=1e-6)
    assert "connector_epochs: 1" in card.text and "The loss of 10 test images" in card.text

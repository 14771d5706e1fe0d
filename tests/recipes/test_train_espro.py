"""The recipe, run as a user would on a tiny backbone and real digits."""

import gc
import gzip
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import train_espro
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from huggingface_hub import ModelCard
from PIL import Image as PILImage
from tiny import LABELS, SIZE, folder
from tiny_recipes import DIGITS, RECIPE, config, contents
from transformers import AutoModelForImageClassification, pipeline

from hf_simplex import SimplexForImageClassification, SimplexTrainer
from hf_simplex.data.image_data import load_image_data
from hf_simplex.data.image_transforms import build_transforms, collate, with_pixel_values
from hf_simplex.evaluation.comparison import Result
from hf_simplex.evaluation.metrics import classification_metrics

KEYS = ["backbone", "deep_ensemble", "centroid", "simplex", "espro"]
METRICS = ["accuracy", "nll", "ece", "brier", "training_epochs", "forward_passes"]


@pytest.fixture(autouse=True, scope="module")
def _collect_garbage_of_runs_only() -> Iterator[None]:
    """accelerate collects garbage twice a stage, and takes most of a short run to look through what was imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def run(path: Path, *flags: str, **settings: Any) -> dict[str, Any]:
    return train_espro.main([str(config(path, **settings)), *flags])


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


def weights(path: Path, vertex: int) -> dict[str, torch.Tensor]:
    return SimplexForImageClassification.from_pretrained(path).weights[vertex]


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    "launch",
    [["accelerate.commands.launch", "--cpu"], ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]],
    ids=["one process", "two processes"],
)
def test_the_whole_recipe_from_the_command_line(launch: list[str], tmp_path: Path) -> None:
    backbone = folder("timm", tmp_path / "backbone", labels=7)
    file = config(tmp_path, backbone=str(backbone), num_vertices=5, **DIGITS)
    flags = ["--num_vertices", "2", "--token", "hf_secret", "--hub_token", "hf_secret"]
    command = [sys.executable, "-m", *launch, str(RECIPE), str(file), *flags]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    output = tmp_path / "output"
    results = json.loads((output / "results.json").read_text())
    assert list(results) == KEYS and all(list(result) == METRICS for result in results.values())
    assert {file.name for file in output.iterdir()} == {"components", "ensemble", "results.json", "run.json"}
    header, *lines = done.stdout.splitlines()
    assert header.split() == METRICS and [line.split()[0] for line in lines] == KEYS
    for line, result in zip(lines, results.values(), strict=True):
        assert [float(figure) for figure in line.split()[1:]] == pytest.approx([*result.values()], abs=5.1e-5)

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
    assert told["images"] == {"train": 40, "test": 60}
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
    assert all(one[name] == two[name] for name in ("backbone", "centroid", "simplex"))
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
    assert len(orders[0]) == 40 and sorted(orders[0]) == sorted(orders[1]) and orders[0] != orders[1]


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


def test_given_modes_are_joined_into_simplexes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    modes = [str(folder("resnet", tmp_path / f"mode-{seed}", labels=10, seed=seed)) for seed in range(4)]
    settings = {"num_modes": 2, "num_vertices": 3, "num_members": None, "given_mode_epochs": 4}
    results = run(tmp_path, modes=modes, **settings, **DIGITS)
    grown = SimplexForImageClassification.from_pretrained(tmp_path / "output/ensemble")
    assert grown.config.simplexes == [[0, 1, 2], [3, 4, 5]]
    assert grown.config.roles == ["mode", "mode", "connector"] * 2
    assert [results[name]["training_epochs"] for name in KEYS] == [4.0, 16.0, 9.0, 9.0, 18.0]
    assert [results[name]["forward_passes"] for name in KEYS] == [1, 4, 1, 3, 6]
    barrier = results["centroid"]["nll"] > results["backbone"]["nll"]
    assert ("warning: the centroid of the first simplex has an NLL" in capsys.readouterr().err) == barrier


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
    assert [results[name]["forward_passes"] for name in KEYS] == [1, 2, 1, 2, 2]


def test_a_barrier_between_modes_is_told() -> None:
    row: Result = {
        "accuracy": 0.9, "nll": 0.3, "ece": 0.1, "brier": 0.2, "training_epochs": 4.0, "forward_passes": 1,
    }  # fmt: skip
    assert train_espro.barrier_warning({"backbone": row, "centroid": {**row, "nll": 0.25}}) is None
    told = train_espro.barrier_warning({"backbone": row, "centroid": {**row, "nll": 0.75}})
    assert told is not None and "NLL of 0.7500, its first mode alone 0.3000" in told and "num_modes 1" in told


def test_an_interrupted_run_leaves_no_ensemble_and_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = str(folder("resnet", tmp_path / "backbone", labels=7))
    settings = {"backbone": backbone, "num_vertices": 2, "num_members": 2, "num_train_epochs": 1, **DIGITS}
    results = run(tmp_path / "whole", **settings)
    grow_connector, output = SimplexTrainer.grow_connector, tmp_path / "cut/output"

    def interrupted(trainer: SimplexTrainer, *arguments: Any) -> int:
        if trainer.args.output_dir.endswith("01"):
            raise KeyboardInterrupt
        return grow_connector(trainer, *arguments)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(SimplexTrainer, "grow_connector", interrupted)
        run(tmp_path / "cut", **settings)
    assert {path.name for path in output.iterdir()} == {"components"}
    done = [json.loads((output / f"components/0{i}/config.json").read_text())["provenance"]["stages"] for i in (0, 1)]
    assert [len(stages) for stages in done] == [2, 1]

    assert run(tmp_path / "cut", "--resume", **settings) == results
    told = json.loads((output / "run.json").read_text())["stages"]
    assert [stage["wall_time"] for stage in told[:3]] == [stage["wall_time"] for stages in done for stage in stages]
    for file in (tmp_path / "whole/output/ensemble").glob("*.safetensors"):
        assert file.read_bytes() == (output / "ensemble" / file.name).read_bytes()


def test_the_memory_format_is_chosen_recorded_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"num_components": 1, "num_vertices": 2, "num_members": 2, "num_train_epochs": 1, **DIGITS}
    settings |= {"backbone": str(folder("resnet", tmp_path / "backbone", labels=10)), "memory_format": "auto"}
    taken = {"contiguous": 2.0, "channels_last": 1.0}
    timed = "hf_simplex.training.recipe.memory_format.step_seconds"
    monkeypatch.setattr(timed, lambda *_: taken)
    run(tmp_path, **settings)
    chosen = [{"memory_format": "channels_last", "seconds": taken}]
    assert json.loads((tmp_path / "output/run.json").read_text())["memory_formats"] == chosen
    shutil.rmtree(tmp_path / "output/ensemble")
    monkeypatch.setattr(
        "hf_simplex.training.recipe.memory_format.step_seconds", lambda *_: {"contiguous": 1.0, "channels_last": 2.0}
    )
    run(tmp_path, "--resume", **settings)
    assert json.loads((tmp_path / "output/run.json").read_text())["memory_formats"] == chosen


def test_components_are_independent_jobs_and_a_resumed_run_unites_them(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "backbone": str(folder("vit", tmp_path / "backbone")),
        "num_vertices": 2,
        "num_train_epochs": 1,
        **DIGITS,
    }
    together = run(tmp_path / "together", **settings)
    for component in ("1", "0"):
        assert run(tmp_path / "apart", "--component", component, **settings) is None
    output = tmp_path / "apart/output"
    assert {path.name for path in output.iterdir()} == {"components"}
    with pytest.raises(SystemExit):
        run(tmp_path / "apart", **settings)
    assert run(tmp_path / "apart", "--resume", **settings) == together
    for file in (tmp_path / "together/output/ensemble").glob("*.safetensors"):
        assert file.read_bytes() == (output / "ensemble" / file.name).read_bytes()


def write_fashion_mnist(directory: Path) -> dict[str, Any]:
    random = np.random.default_rng(0)
    directory.mkdir()
    for part, number in (("train", 40), ("t10k", 20)):
        pixels = random.integers(0, 256, (number, 28, 28), np.uint8)
        header = struct.pack(">IIII", 2051, number, 28, 28)
        (directory / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + pixels.tobytes()))
        labels = (np.arange(number) % 10).astype(np.uint8)
        header = struct.pack(">II", 2049, number)
        (directory / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header + labels.tobytes()))
    return {"data_set": "fashion_mnist", "fashion_mnist_dir": str(directory)}


def write_folder(directory: Path) -> dict[str, Any]:
    for split in ("train", "test"):
        for label, shade in (("dark", 40), ("light", 220)):
            (directory / split / label).mkdir(parents=True)
            for index in range(6):
                picture = PILImage.new("RGB", (20, 18), (shade, index, shade))
                picture.save(directory / split / label / f"{index}.png")
    return {"data_set": str(directory)}


def write_data_set(directory: Path) -> dict[str, Any]:
    features = Features({"img": Image(), "kind": ClassLabel(names=["dark", "light"])})
    pictures = [PILImage.new("L", (20, 18), 40 + 180 * (index % 2)) for index in range(12)]
    dataset = Dataset.from_dict({"img": pictures, "kind": [index % 2 for index in range(12)]}, features=features)
    DatasetDict(train=dataset, test=dataset).save_to_disk(directory)
    return {"data_set": str(directory)}


@pytest.mark.parametrize("write", [write_fashion_mnist, write_folder, write_data_set])
def test_data_come_from_idx_files_folders_and_saved_data_sets(write: Any, tmp_path: Path) -> None:
    backbone = str(folder("vit", tmp_path / "backbone"))
    settings = {"num_components": 1, "num_vertices": 2, "num_members": 1, "num_train_epochs": 1, "augment": "none"}
    results = run(tmp_path, backbone=backbone, **settings, **write(tmp_path / "data"))
    assert all(0 <= results[name]["accuracy"] <= 1 for name in KEYS)
    labels = SimplexForImageClassification.from_pretrained(tmp_path / "output/ensemble").config.id2label
    assert len(labels) in (2, 10) and not any(label.startswith("LABEL") for label in labels.values())


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


# ---- mistakes --------------------------------------------------------------------------------------------------


def refuse_twice(path: Path) -> tuple[dict[str, Any], str]:
    (path / "output/ensemble").mkdir(parents=True)
    (path / "output/ensemble/config.json").write_text("{}")
    return {}, "holds an ensemble already"


def unfinished_run(path: Path) -> tuple[dict[str, Any], str]:
    (path / "output/components/00").mkdir(parents=True)
    return {}, "an unfinished run left (components)"


def other_labels(path: Path) -> tuple[dict[str, Any], str]:
    return {
        "backbone": None,
        "modes": [str(folder("resnet", path / "mode"))],
    }, f"has {LABELS} labels and digits has 10"


def corrupt_mode(path: Path) -> tuple[dict[str, Any], str]:
    mode = folder("resnet", path / "mode", labels=10)
    (mode / "model.safetensors").write_bytes(b"")
    return {"backbone": None, "modes": [str(mode)]}, "mode"


def no_image_processor(path: Path) -> tuple[dict[str, Any], str]:
    bare = folder("resnet", path / "bare")
    (bare / "preprocessor_config.json").unlink()
    return {"backbone": str(bare)}, "no image processor"


def modes_of_two_kinds(path: Path) -> tuple[dict[str, Any], str]:
    modes = [str(folder(kind, path / kind, labels=10)) for kind in ("resnet", "vit")]
    return {"backbone": None, "modes": modes}, "another backbone architecture"


def headless_mode(path: Path) -> tuple[dict[str, Any], str]:
    mode = folder("vit", path / "mode", labels=10)
    AutoModelForImageClassification.from_pretrained(mode).vit.save_pretrained(mode)
    settings = json.loads((mode / "config.json").read_text())
    settings["id2label"] = {str(index): str(index) for index in range(10)}
    (mode / "config.json").write_text(json.dumps(settings))
    return {"backbone": None, "modes": [str(mode)]}, "lacks weights"


def mixed_up_labels(path: Path) -> tuple[dict[str, Any], str]:
    mode = folder("resnet", path / "mode", labels=10)
    settings = json.loads((mode / "config.json").read_text())
    settings["id2label"] = {str(index): str((index + 1) % 10) for index in range(10)}
    (mode / "config.json").write_text(json.dumps(settings))
    return {"backbone": None, "modes": [str(mode)]}, "in another order"


def an_ensemble_as_backbone(path: Path) -> tuple[dict[str, Any], str]:
    backbone = SimplexForImageClassification.from_backbone(folder("resnet", path / "plain", labels=10))
    backbone.save_pretrained(path / "grown")
    return {"backbone": str(path / "grown")}, "is an ensemble already"


def output_is_an_ensemble(path: Path) -> tuple[dict[str, Any], str]:
    SimplexForImageClassification.from_backbone(folder("resnet", path / "plain")).save_pretrained(path / "output")
    return {}, "holds an ensemble already"


def output_is_a_file(path: Path) -> tuple[dict[str, Any], str]:
    (path / "output").write_text("mine")
    return {}, "is a file"


def output_is_in_a_file(path: Path) -> tuple[dict[str, Any], str]:
    (path / "file").write_text("mine")
    return {"output_dir": str(path / "file" / "output")}, "file/output"


def output_is_another_model(path: Path) -> tuple[dict[str, Any], str]:
    folder("resnet", path / "output/ensemble")
    return {"overwrite": True}, "model_type 'resnet'"


MISTAKES: list[tuple[str, Any]] = [
    ("unknown backbone", lambda path: ({"backbone": "no/such-backbone"}, "no/such-backbone")),
    ("unknown data", lambda path: ({"data_set": "no_such_data"}, "no_such_data")),
    ("other labels", other_labels),
    ("corrupt mode", corrupt_mode),
    ("modes of two kinds", modes_of_two_kinds),
    ("mode without a head", headless_mode),
    ("labels in another order", mixed_up_labels),
    ("ensemble as backbone", an_ensemble_as_backbone),
    ("occupied output", refuse_twice),
    ("output is an ensemble", output_is_an_ensemble),
    ("output is a file", output_is_a_file),
    ("output in a file", output_is_in_a_file),
    ("output is another model", output_is_another_model),
    ("no image processor", no_image_processor),
    ("unfinished run", unfinished_run),
    ("no such component", lambda path: ({"component": 2}, "component is 2: expected 0 to 1")),
    ("checkpoint of Trainer's", lambda path: ({"resume_from_checkpoint": "x"}, "give --resume")),
    (
        "modes that make no simplexes",
        lambda path: (
            {"backbone": None, "modes": ["a", "b", "c"], "num_modes": 2},
            "3 modes, which cannot be divided",
        ),
    ),
    (
        "equal modes in one simplex",
        lambda path: (
            {
                "backbone": None,
                "modes": [str(folder("resnet", path / n, labels=10, seed=n == "a")) for n in "abc"],
                "num_components": 1,
                "num_modes": 3,
            },
            "/b and ",
        ),
    ),
    ("both sources", lambda path: ({"modes": ["a"]}, "either backbone")),
    (
        "a simplex of modes from scratch",
        lambda path: ({"from_scratch": True, "num_modes": 2}, "barriers between them"),
    ),
    ("modes from scratch", lambda path: ({"backbone": None, "modes": ["a"], "from_scratch": True}, "from_scratch")),
    ("unknown architecture", lambda path: ({"backbone": "vgg17", "from_scratch": True}, "'vgg17' is no architecture")),
    ("neither source", lambda path: ({"backbone": None}, "either backbone")),
    ("few members", lambda path: ({"num_members": 1}, "num_members is 1")),
    ("unknown argument", lambda path: ({"no_such_argument": 1}, "'no_such_argument'")),
    ("wrong type", lambda path: ({"num_vertices": "many"}, "many")),
    ("out of range", lambda path: ({"points_per_step": 0}, "points_per_step is 0")),
    ("too many images", lambda path: ({"max_train_examples": 10**6}, "1000000")),
]


@pytest.mark.parametrize("mistake", [m[1] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_one_line_and_exit_code_2_before_anything_is_touched(
    mistake: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SimplexTrainer, "grow", lambda self, resume=False: pytest.fail("training began"))
    settings = {"backbone": str(folder("resnet", tmp_path / "backbone")), **DIGITS}
    change, message = mistake(tmp_path)
    file = config(tmp_path, **{**settings, **change})
    before = contents(tmp_path)
    with pytest.raises(SystemExit) as raised:
        train_espro.main([str(file)])
    assert raised.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0]
    assert contents(tmp_path) == before


def test_an_ensemble_is_replaced_only_when_asked(tmp_path: Path) -> None:
    backbone = str(folder("vit", tmp_path / "backbone"))
    settings = {"num_components": 1, "num_vertices": 1, "num_members": 1, "num_train_epochs": 1, **DIGITS}
    first = run(tmp_path, backbone=backbone, **settings)
    with pytest.raises(SystemExit):
        run(tmp_path, backbone=backbone, **settings)
    assert run(tmp_path, "--overwrite", "--seed", "5", backbone=backbone, **settings) != first


def test_a_save_that_fails_leaves_the_ensemble_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = str(folder("vit", tmp_path / "backbone"))
    settings = {"num_components": 1, "num_vertices": 1, "num_train_epochs": 1, "save_strategy": "no", **DIGITS}
    run(tmp_path, backbone=backbone, **settings)
    before = contents(tmp_path / "output")

    def full(tensors: Any, file: Path, **kwargs: Any) -> None:
        file.write_bytes(b"half of")
        raise OSError("No space left on device")

    monkeypatch.setattr("hf_simplex.model.checkpoint.save_file", full)
    with pytest.raises(OSError, match="No space"):
        run(tmp_path, "--overwrite", "--num_members", "2", "--seed", "5", backbone=backbone, **settings)
    assert contents(tmp_path / "output") == before


@pytest.mark.parametrize(
    ("text", "message"), [("- a\n- b\n", "holds list"), ("a: [", "is not YAML"), (None, "No such file")]
)
def test_a_broken_configuration_is_named(
    text: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(SystemExit) as raised:
        train_espro.main([str(tmp_path / "config.yaml")])
    assert raised.value.code == 2
    assert message in capsys.readouterr().err


def test_an_unknown_flag_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        train_espro.main([str(config(tmp_path)), "--no_such_flag", "1"])
    assert raised.value.code == 2
    assert "no_such_flag" in capsys.readouterr().err

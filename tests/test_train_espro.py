"""The recipe, run as a user would on a tiny backbone and real digits."""

import gzip
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import train_espro
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as PILImage
from tiny import LABELS, SIZE, folder
from transformers import pipeline

from hf_simplex import SimplexForImageClassification
from hf_simplex.image_data import load_image_data
from hf_simplex.image_transforms import build_transforms, with_pixel_values
from hf_simplex.metrics import classification_metrics

KEYS = ["backbone", "deep_ensemble", "centroid", "simplex", "espro"]
METRICS = ["accuracy", "nll", "ece", "brier", "training_epochs", "forward_passes"]
RECIPE = Path(train_espro.__file__)
DIGITS = {"data_set": "digits", "max_train_examples": 40, "max_test_examples": 60, "horizontal_flip": 0.0}


def config(path: Path, **settings: Any) -> Path:
    """A YAML file of the recipe's arguments for a run of seconds."""
    defaults = {
        "image_size": SIZE,
        "num_components": 2,
        "num_vertices": 3,
        "num_members": 5,
        "num_train_epochs": 2,
        "connector_epochs": 1,
        "per_device_train_batch_size": 20,
        "per_device_eval_batch_size": 30,
        "learning_rate": "1e-2",
        "batch_norm_images": 20,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "output_dir": str(path / "output"),
    }
    lines = {**defaults, **settings}
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.yaml").write_text("".join(f"{k}: {json.dumps(v)}\n" for k, v in lines.items() if v is not None))
    return path / "config.yaml"


def run(path: Path, *flags: str, **settings: Any) -> dict[str, Any]:
    return train_espro.main([str(config(path, **settings)), *flags])


def contents(directory: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


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
    command = [sys.executable, "-m", *launch, str(RECIPE), str(file), "--num_vertices", "2"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    output = tmp_path / "output"
    results = json.loads((output / "results.json").read_text())
    assert list(results) == KEYS and all(list(result) == METRICS for result in results.values())
    assert done.stdout.count("espro") == 1 and f"{results['espro']['nll']:.4f}" in done.stdout

    model = SimplexForImageClassification.from_pretrained(output / "ensemble")
    assert model.config.simplexes == [[0, 1], [2, 3]]
    data = load_image_data("digits", max_train_examples=40, max_test_examples=60)
    _, transform = build_transforms(model.image_processor)
    pixels = torch.stack([example["pixel_values"] for example in with_pixel_values(data.test, transform)])
    assert pixels.shape == (60, 3, SIZE, SIZE)
    probabilities = model(pixels).logits.softmax(-1).double().numpy()
    for name, value in classification_metrics(probabilities, np.array(data.test["label"])).items():
        assert results["espro"][name] == pytest.approx(value, abs=1e-4)
    picture = data.test[0]["image"]
    (best,) = pipeline("image-classification", model=str(output / "ensemble"))(picture, top_k=1)
    assert best["score"] == pytest.approx(probabilities[0].max(), abs=1e-5)
    assert best["label"] == str(probabilities[0].argmax())

    told = json.loads((output / "run.json").read_text())
    assert [stage["vertex"] for stage in told["stages"]] == [0, 1, 2, 3]
    assert all(stage["wall_time"] > 0 for stage in told["stages"]) and told["wall_time"] > 0
    assert told["versions"]["torch"] == torch.__version__.split("+")[0]
    assert told["images"] == {"train": 40, "test": 60}


def test_epochs_and_forward_passes_are_counted_and_components_are_independent(tmp_path: Path) -> None:
    backbone = str(folder("resnet", tmp_path / "backbone", labels=7))
    two = run(tmp_path / "two", backbone=backbone, **DIGITS)
    assert {name: result["training_epochs"] for name, result in two.items()} == dict(
        zip(KEYS, [2.0, 4.0, 4.0, 4.0, 8.0], strict=True)
    )
    assert {name: result["forward_passes"] for name, result in two.items()} == dict(
        zip(KEYS, [1, 2, 1, 3, 5], strict=True)
    )
    one = run(tmp_path / "one", backbone=backbone, num_components=1, **DIGITS)
    assert one["backbone"] == two["backbone"]
    first, both = tmp_path / "one/output/ensemble", tmp_path / "two/output/ensemble"
    assert all(same(weights(first, vertex), weights(both, vertex)) for vertex in range(3))
    assert not same(weights(both, 0), weights(both, 3))


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
    settings = {"num_components": 1, "num_vertices": 2, "num_members": 2, "num_train_epochs": 1, **DIGITS}
    run(tmp_path, "--push_to_hub", "--hub_model_id", "alice/digits", backbone=backbone, **settings)
    pushed = SimplexForImageClassification.from_pretrained("alice/digits")
    kept = SimplexForImageClassification.from_pretrained(tmp_path / "output/ensemble")
    pixels = torch.randn(2, 3, SIZE, SIZE)
    assert torch.equal(pushed(pixels).logits, kept(pixels).logits)
    assert {"vertex-00000.safetensors", "members.safetensors", "config.json"} <= set(hub.files("alice/digits"))


# ---- mistakes --------------------------------------------------------------------------------------------------


def refuse_twice(path: Path) -> tuple[dict[str, Any], str]:
    (path / "output/ensemble").mkdir(parents=True)
    (path / "output/ensemble/config.json").write_text("{}")
    return {}, "holds an ensemble already"


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


MISTAKES: list[tuple[str, Any]] = [
    ("unknown backbone", lambda path: ({"backbone": "no/such-backbone"}, "no/such-backbone")),
    ("unknown data", lambda path: ({"data_set": "no_such_data"}, "no_such_data")),
    ("other labels", other_labels),
    ("corrupt mode", corrupt_mode),
    ("occupied output", refuse_twice),
    ("no image processor", no_image_processor),
    ("both sources", lambda path: ({"modes": ["a"]}, "either backbone")),
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
    monkeypatch.setattr("hf_simplex.training.SimplexTrainer.grow", lambda self: pytest.fail("training began"))
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

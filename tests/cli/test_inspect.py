"""`hf-simplex inspect` reads no weights and never tells volumes of other ones."""

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command import invoke, mistake, run, save
from safetensors.torch import load_file, save_file
from test_adapters import grown
from tiny import ensemble, forget_digests

from hf_simplex import SimplexForImageClassification
from hf_simplex.model.recorded_volumes import RECORD

OLD = Path(__file__).parents[1] / "fixtures" / "ensemble-0.1.0"
INDEX = "model.safetensors.index.json"
VERTEX = "vertex-00001.safetensors"
NOT_RECORDED = "not recorded"


def inspected(path: Path, *options: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(run("inspect", path, "--json", *options))
    return told


def volumes(told: dict[str, Any]) -> list[float]:
    return [simplex["log_volume"] for simplex in told["simplexes"]]


def change(path: Path, **fields: Any) -> None:
    content = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**content, **fields}))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(ensemble("resnet"), tmp_path_factory.mktemp("inspected") / "ensemble")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "ensemble"))


# What it costs

CODE = """
import sys
from hf_simplex.cli import app
try:
    app(["inspect", sys.argv[1], "--json"])
finally:
    assert not {"torch", "transformers", "timm", "numpy", "huggingface_hub"} & sys.modules.keys()
"""


def processor_time(*command: str) -> float:
    """User and system time of a command, in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, timeout=300, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


def test_a_folder_is_inspected_without_torch_in_the_time_of_a_few_small_imports(saved: Path) -> None:
    inspection = processor_time(sys.executable, "-c", CODE, str(saved))
    # As slow as this machine is at this moment. Mostly less than that was measured. torch and transformers alone take
    # five to eight times as long to import.
    imports = processor_time(sys.executable, "-c", "import huggingface_hub.hf_api, typer, rich.table, rich.console")
    assert inspection < 3 * imports


# What it tells


@pytest.mark.parametrize(
    "make",
    [
        lambda: ensemble("vit"),
        lambda: ensemble("resnet"),
        lambda: ensemble("timm"),
        grown,
        lambda: SimplexForImageClassification.disjoint_union([ensemble("vit"), ensemble("vit", seed=5)]),
        lambda: SimplexForImageClassification.simplex_of_modes([ensemble("vit"), ensemble("vit", seed=5)]),
    ],
    ids=["vit", "batch norm", "timm", "adapters", "union", "joined modes"],
)
def test_recorded_volumes_are_the_computed_ones(
    make: Callable[[], SimplexForImageClassification], tmp_path: Path
) -> None:
    model = make()
    save(model, tmp_path / "ensemble")
    recorded, computed = inspected(tmp_path / "ensemble"), inspected(tmp_path / "ensemble", "--volumes")
    assert (recorded.pop("volumes"), computed.pop("volumes")) == ("recorded", "computed")
    assert volumes(recorded) == pytest.approx(model.log_volumes().tolist(), abs=1e-9)
    assert volumes(recorded) == pytest.approx(volumes(computed), abs=1e-9)
    for told in (recorded, computed):
        del told["simplexes"]
        assert told.pop("log_volume") == pytest.approx(model.log_volumes().logsumexp(0).item(), abs=1e-9)
    assert recorded == computed
    assert recorded["parameters_per_vertex"] == sum(p.numel() for p in model.vertices[0].parameters())
    assert recorded["shared_parameters"] == sum(p.numel() for p in model.shared.parameters())
    assert recorded["bytes"] == sum(t.numel() * t.element_size() for t in model.state_dict().values())


def test_a_part_records_its_own_volumes(tmp_path: Path) -> None:
    whole = SimplexForImageClassification.disjoint_union([ensemble("vit"), ensemble("vit", seed=5)])
    save(whole, tmp_path / "whole")
    save(SimplexForImageClassification.from_pretrained(tmp_path / "whole", simplex=1), tmp_path / "part")
    assert volumes(inspected(tmp_path / "part")) == volumes(inspected(tmp_path / "whole"))[1:]


def test_an_ensemble_of_version_0_1_0_has_none_and_they_are_computed_on_request() -> None:
    told, computed = inspected(OLD), inspected(OLD, "--volumes")
    assert told["volumes"] == NOT_RECORDED and volumes(told) == [None, None] and told["log_volume"] is None
    model = SimplexForImageClassification.from_pretrained(OLD)
    assert volumes(computed) == pytest.approx(model.log_volumes().tolist(), abs=1e-9)
    assert [told[name] == computed[name] for name in ("vertices", "members", "bytes", "files")] == [True] * 4
    shown = " ".join(run("inspect", OLD).replace("│", " ").split())
    assert "not recorded (hf-simplex inspect --volumes computes them)" in shown
    assert f"{volumes(computed)[0]:.4f}" in run("inspect", OLD, "--volumes")


# Volumes of other weights


def test_a_vertex_that_changes_is_saved_with_its_new_volume(folder: Path) -> None:
    before = volumes(inspected(folder))
    model = SimplexForImageClassification.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.vertices[1].parameters():
            parameter.mul_(3)
    model.save_pretrained(folder)
    assert volumes(inspected(folder)) == pytest.approx(model.log_volumes().tolist(), abs=1e-9)
    assert abs(volumes(inspected(folder))[0] - before[0]) > 0.1
    model.add_vertex()
    model.save_pretrained(folder)
    assert volumes(inspected(folder)) == pytest.approx(model.log_volumes().tolist(), abs=1e-9)
    assert len(inspected(folder)["vertices"]) == 4


def test_the_file_of_another_save_is_refused(folder: Path, tmp_path: Path) -> None:
    other = save(ensemble("resnet", seed=5), tmp_path / "other")
    shutil.copy(other / VERTEX, folder / VERTEX)
    assert f"{VERTEX} of {folder} is of another save than {INDEX}" in mistake("inspect", folder)
    shutil.copy(other / INDEX, folder / INDEX)
    assert "are of different saves" in mistake("inspect", folder)


def rewritten_by_hand(path: Path) -> None:
    """As docs/checkpoint_format.md says it is done."""
    tensors = {name: 2 * tensor for name, tensor in load_file(path / VERTEX).items()}
    save_file(tensors, path / VERTEX, metadata={"format": "pt"})
    forget_digests(path)


def saved_by_a_version_that_keeps_the_field(path: Path) -> None:
    """It writes weights and their digest anew, and leaves fields that it does not know as they are."""
    record = json.loads((path / "config.json").read_text())[RECORD]
    save(ensemble("resnet", seed=5), path)
    change(path, **{RECORD: record})


@pytest.mark.parametrize("record", [None, [], "x", {}, {"weights_sha256": 5}])
def test_a_broken_record_is_none(record: Any, folder: Path) -> None:
    change(folder, **{RECORD: record})
    assert inspected(folder)["volumes"] == NOT_RECORDED


@pytest.mark.parametrize("volume", ["1", True, float("nan"), [1.0]])
def test_a_record_of_no_number_is_none(volume: Any, folder: Path) -> None:
    record = json.loads((folder / "config.json").read_text())[RECORD]
    record["simplexes"][0]["log_volume"] = volume
    change(folder, **{RECORD: record})
    assert inspected(folder)["volumes"] == NOT_RECORDED


@pytest.mark.parametrize("stale", [rewritten_by_hand, saved_by_a_version_that_keeps_the_field])
def test_volumes_of_former_weights_are_not_told(stale: Callable[[Path], None], folder: Path) -> None:
    former = volumes(inspected(folder))
    stale(folder)
    told = inspected(folder)
    assert told["volumes"] == NOT_RECORDED and volumes(told) == [None]
    assert f"{former[0]:.4f}" not in invoke("inspect", folder).output
    assert volumes(inspected(folder, "--volumes")) != pytest.approx(former, abs=1e-3)


def test_volumes_of_former_simplexes_are_not_told(tmp_path: Path) -> None:
    path = save(ensemble("vit"), tmp_path / "ensemble")
    members = json.loads((path / "config.json").read_text())["members"]
    change(path, simplexes=[[0, 2, 1]])
    assert inspected(path)["volumes"] == NOT_RECORDED
    change(path, simplexes=[[0, 1], [1, 2]], members=[[0.5, 0.5, 0.0] for _ in members])
    told = inspected(path)
    assert told["volumes"] == NOT_RECORDED and volumes(told) == [None, None]


def test_a_configuration_in_memory_has_no_record(folder: Path) -> None:
    model = SimplexForImageClassification.from_pretrained(folder)
    assert not hasattr(model.config, RECORD) and not hasattr(type(model.config).from_pretrained(folder), RECORD)

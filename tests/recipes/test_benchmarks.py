"""The benchmarks run and say what they measured: no claim about speed, which a busy machine could break."""

import ctypes
import functools
import json
import os
import runpy
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import adapter_cost
import choose_members
import ensemble_cost
import export_accuracy
import first_answer
import inspection_cost
import loading_cost
import measure
import memory_cost
import paper_step
import pytest
import scaling
import step_cost
import torch
import workloads
from tiny import backbone
from transformers import ViTImageProcessor

from hf_simplex import SimplexForImageClassification
from hf_simplex.data.image_data import load_image_data

SMALL = ["--threads", "1", "--rounds", "1", "--image_size", "32"]
EVERY = "_volume_every_2"


def run(main: Callable[[list[str]], dict[str, Any]], directory: Path, *argv: str) -> list[dict[str, Any]]:
    result = main([*argv, "--output", str(directory / "result.json")])
    written = json.loads((directory / "result.json").read_text("utf-8"))
    assert written == json.loads(json.dumps(result))
    assert written["versions"]["torch"] in torch.__version__ and written["hardware"]["threads"] == 1
    rows: list[dict[str, Any]] = written["rows"]
    assert rows
    return rows


@pytest.fixture
def forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork this process where a benchmark starts an interpreter, whose imports take longer than what is measured."""

    run_interpreter = subprocess.run

    def forked(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            status = 1
            try:
                # Memory that earlier tests freed would serve the benchmark, which could then measure none.
                ctypes.CDLL(None).malloc_trim(0)
                with open(writer, "w") as sys.stdout:
                    if command[1] == "-c":
                        sys.argv = command[2:]
                        exec(command[2], {})
                    else:
                        sys.argv = command[1:]
                        runpy.run_path(command[1], run_name="__main__")
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(writer)
        with open(reader) as stream:
            output = stream.read()
        if os.waitpid(child, 0)[1] == 0:
            return subprocess.CompletedProcess(command, 0, output, "")
        # After some other tests, torch does not differentiate in a forked process.
        return run_interpreter(command, capture_output=True, text=True, check=True)

    monkeypatch.setattr(subprocess, "run", forked)


def test_ratios_are_taken_round_by_round() -> None:
    seconds = {"one": [2.0, 30.0, 4.0], "other": [1.0, 10.0, 1.0]}
    found = measure.ratio(seconds, "one", "other")
    assert (found.median, found.milliseconds) == (3.0, 4000.0)
    assert measure.ratio(seconds, "one", "other", times=2).median == 1.5


def test_every_round_runs_every_task_in_turns() -> None:
    order: list[str] = []
    tasks = {name: (lambda name=name: order.append(name)) for name in "abc"}
    seconds = measure.alternating(tasks, 2, torch.device("cpu"))
    assert order == list("cab") + list("abc") + list("bca")
    assert all(len(taken) == 2 for taken in seconds.values())


def test_tasks_that_time_themselves_alternate_after_a_round_that_is_not_kept() -> None:
    order: list[str] = []

    def timed(name: str) -> float:
        order.append(name)
        return float(len(order))

    tasks = {name: functools.partial(timed, name) for name in "ab"}
    assert measure.alternating_clocked(tasks, 2) == {"a": [3.0, 5.0], "b": [4.0, 6.0]}
    assert order == list("ab") * 3


def test_a_clock_that_would_count_waiting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="--threads 1"):
        step_cost.main(["--clock", "cpu", "--threads", "2", "--output", str(tmp_path / "result.json")])
    with pytest.raises(SystemExit, match="at least 1"):
        step_cost.main(["--rounds", "0", "--output", str(tmp_path / "result.json")])


def test_step_cost(tmp_path: Path) -> None:
    argv = ["--backbones", "test_resnet", "--batch_size", "8", "--volume_interval", "2"]
    (row,) = run(step_cost.main, tmp_path, *SMALL, *argv)
    assert {"plain", "split_1", "split_4", "full_2", "points", "volume", "volume_every_2"} < set(row)
    assert {f"frozen_{where}_to_device{volume}" for where in ("cpu", "bfloat16") for volume in ("", EVERY)} < set(row)
    assert row["plain"]["median"] == 1
    assert row["plain_milliseconds"] == row["plain"]["milliseconds"]


def test_what_cannot_be_measured_costs_nothing_that_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scarce(name: str, *_: Any) -> dict[str, Any]:
        if name == "large":
            raise RuntimeError("out of memory\nand more")
        return {"plain": 1.0}

    monkeypatch.setattr(step_cost, "measured", scarce)
    rows = run(step_cost.main, tmp_path, *SMALL, "--backbones", "large", "small")
    assert rows == [{"backbone": "large", "error": "out of memory"}, {"backbone": "small", "plain": 1.0}]


def test_paper_step(tmp_path: Path) -> None:
    argv = ["--backbones", "test_resnet", "--batch_size", "8", "--points", "2", "--clock", "cpu"]
    (row,) = run(paper_step.main, tmp_path, *SMALL, *argv)
    assert row["speed_up_2"]["median"] > 0


def test_the_baseline_takes_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be no baseline for speed if it computed something else."""
    args = measure.parser("", "none").parse_args([])
    args.image_size, args.batch_size, args.num_vertices, args.volume_weight = 32, 8, 3, 0.5
    args.channels_last = args.compile = False
    torch.manual_seed(0)
    steps = workloads.Steps("test_resnet", args, torch.device("cpu"))
    steps.module.eval()
    points = [[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]]
    monkeypatch.setattr(steps.growing, "draw", lambda *_: points)
    for name, parameter in steps.module.named_parameters():
        parameter.data.copy_(steps.growing.vertices[-1][name])
    baseline = paper_step.LayerAgnosticSteps(steps, 0.5)
    monkeypatch.setattr(steps.optimizer, "step", lambda: None)
    monkeypatch.setattr(baseline.optimizer, "step", lambda: None)
    baseline.step(2)
    steps.simplex(2, split=False)
    for name, parameter in steps.module.named_parameters():
        expected = baseline.vertices[-1][name].grad
        assert parameter.grad is not None and expected is not None
        assert torch.allclose(parameter.grad, expected, rtol=1e-3, atol=1e-5), name
    assert float(baseline.log_volume().detach()) == pytest.approx(steps.growing.volume_term().log_volume, abs=1e-3)


def test_ensemble_cost(tmp_path: Path) -> None:
    argv = ["--backbones", "test_resnet", "--batch_sizes", "1", "2", "--members", "2", "--num_vertices", "2"]
    rows = run(ensemble_cost.main, tmp_path, *SMALL, *argv)
    assert [row["batch"] for row in rows] == [1, 2]
    assert all(row["materialized"]["milliseconds"] > 0 for row in rows)


def test_export_accuracy(tmp_path: Path) -> None:
    data = load_image_data("digits", max_test_examples=20)
    model = SimplexForImageClassification.from_backbone(backbone("vit", labels=10))
    model.config.id2label = dict(enumerate(data.label_names))
    model.config.label2id = {name: label for label, name in enumerate(data.label_names)}
    model.config.provenance |= {"data_set": "digits", "images": data.record.to_dict()}
    model.image_processor = ViTImageProcessor(size={"height": 16, "width": 16})
    model.draw_members("vertices")
    model.save_pretrained(tmp_path / "ensemble")
    argv = ["--threads", "1", "--rounds", "1", "--batch_sizes", "2", "--ensemble", str(tmp_path / "ensemble")]
    rows = run(export_accuracy.main, tmp_path, *argv)
    assert [row["way"] for row in rows] == ["pytorch", "onnx", "int8", "int8_convolutions"] * 2
    for row in rows:
        assert row["images"] == 20 and row["batch_2"]["milliseconds"] > 0
        assert abs(row["nll_minus_pytorch"]) < (1e-5 if row["way"] in ("pytorch", "onnx") else 0.1)


def test_a_way_that_fails_is_named_and_does_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(members: Any) -> Any:
        raise torch.OutOfMemoryError("no memory left")

    monkeypatch.setattr(ensemble_cost, "vmapped", out_of_memory)
    argv = ["--backbones", "test_resnet", "--batch_sizes", "1", "--members", "2", "3", "--num_vertices", "2"]
    rows = run(ensemble_cost.main, tmp_path, *SMALL, *argv)
    assert [row["members"] for row in rows] == [2, 3]
    assert all(row["vmapped"] == "OutOfMemoryError: no memory left" for row in rows)
    assert all(row["streamed"]["median"] > 0 for row in rows)


def test_vmapped_members_predict_what_members_predict() -> None:
    args = ensemble_cost.argparse.Namespace(image_size=32, num_vertices=2, seed=0, channels_last=False)
    model = workloads.ensemble("test_resnet", args, torch.device("cpu"), members=3)
    members = [ensemble_cost.copy.deepcopy(model.member_backbone(index)) for index in range(3)]
    images = torch.randn(2, 3, 32, 32)
    mean = ensemble_cost.vmapped(members)(images).softmax(-1).mean(0)
    assert torch.allclose(mean, model(images).logits.exp(), atol=1e-5)
    member_logits = ensemble_cost.member_logits(members, images)
    assert torch.allclose(member_logits.softmax(-1).mean(1), mean, atol=1e-5)


@pytest.mark.usefixtures("forks")
def test_loading_cost(tmp_path: Path) -> None:
    (row,) = run(loading_cost.main, tmp_path, *SMALL, "--backbone", "test_resnet", "--num_vertices", "2")
    assert row["import"]["median"] > 0 and row["peak_of_from_pretrained"] > 0
    assert row["from_pretrained_to_plain"]["median"] > 0 and row["private_of_safetensors"] > 0


@pytest.mark.usefixtures("forks")
def test_inspection_cost(tmp_path: Path) -> None:
    (row,) = run(inspection_cost.main, tmp_path, *SMALL, "--backbone", "test_resnet", "--num_vertices", "2")
    assert row["inspect_to_with_volumes"]["median"] > 0 and row["inspect_to_empty"]["median"] > 0
    assert 0 < row["log_volumes_to_save"]["median"] < 1


@pytest.mark.usefixtures("forks")
def test_first_answer(tmp_path: Path) -> None:
    checkout = Path(first_answer.__file__).parents[2]
    argv = ["--backbone", "test_resnet", "--num_vertices", "2", "--members", "2", "--before", str(checkout)]
    (row,) = run(first_answer.main, tmp_path, *SMALL, *argv)
    tasks = ("imports", "plain_models", "ensemble", "uncertainty", "predict")
    assert all(row[f"{task}_to_plain"]["median"] > 0.3 for task in tasks)
    assert all(row[f"{task}_to_before"]["median"] > 0 for task in ("inspect", "predict", "ensemble", "uncertainty"))


@pytest.mark.usefixtures("forks")
def test_memory_cost(tmp_path: Path) -> None:
    argv = ["--backbone", "test_resnet", "--num_vertices", "2", "--batch_size", "2", "--frozen", "bfloat16", "cpu"]
    rows = run(memory_cost.main, tmp_path, *SMALL, *argv)
    assert [row["frozen"] for row in rows] == ["bfloat16", "cpu"]
    assert all(row["growing_megabytes"] > 0 for row in rows)


@pytest.mark.usefixtures("forks")
def test_adapter_cost(tmp_path: Path) -> None:
    size = ["--blocks", "4", "--width", "16", "--batch_size", "2", "--num_vertices", "2", "--num_members", "3"]
    steps, sizes, *members, memory = run(adapter_cost.main, tmp_path, *SMALL, *size)
    assert steps["peft_to_peft"]["median"] == 1 and steps["connector_to_peft"]["median"] > 0
    assert sizes["adapters_vertex_bytes"] < sizes["full_vertex_bytes"] and sizes["full_shared_bytes"] == 0
    # A new vertex sends its own file, the index and config.json, and nothing of what is shared.
    assert sizes["adapters_vertex_bytes"] < sizes["adapters_new_vertex_bytes"] < sizes["full_vertex_bytes"]
    assert [row["what"].partition(", ")[2] for row in members][:2] == ["adapters", "adapters_in_last_three_blocks"]
    assert all(row["largest_difference_of_logits"] < 1e-5 for row in members)
    assert memory["mode_trained_bytes"] == memory["peft_trained_bytes"] < memory["full_mode_trained_bytes"]


def test_the_memory_that_is_expected_is_that_of_what_is_kept() -> None:
    cuda = torch.device("cuda")
    assert [memory_cost.backbones(8, where, cuda) for where in ("device", "bfloat16", "cpu")] == [8, 4.5, 2]
    assert memory_cost.backbones(8, "cpu", torch.device("cpu")) == 8


def test_scaling(tmp_path: Path) -> None:
    argv = ["--backbone", "test_resnet", "--backbones", "test_resnet", "no_such_backbone", "test_vit"]
    argv += ["--num_vertices", "2", "3", "--members", "1", "2", "--batch_size", "2"]
    rows = run(scaling.main, tmp_path, *SMALL, *argv)
    found = {(row["against"], row["what"]): row for row in rows}
    assert found["vertices", "volume term"]["x"] == [2, 3] and found["members", "streamed"]["x"] == [1, 2]
    assert all(len(found["million_parameters", what]["x"]) == 2 for what in ("point", "step", "save", "load"))
    assert all(row["r_squared"] == pytest.approx(1) for row in rows), "two points lie on a line"
    assert (tmp_path / "result.png").stat().st_size > 0


def test_a_line_is_fitted_with_its_slope() -> None:
    args = scaling.argparse.Namespace()
    measured = scaling.Measured(args, torch.device("cpu"))
    measured.points["members"]["streamed"] = [(1, 5.0), (2, 7.0), (3, 12.0)]
    (row,) = scaling.fitted(measured)
    assert row["slope_ms"] == pytest.approx(3.5) and row["intercept_ms"] == pytest.approx(1.0)
    assert row["r_squared"] == pytest.approx(1 - 1.5 / 26)


def test_choose_members(tmp_path: Path) -> None:
    model = SimplexForImageClassification.from_backbone(backbone("resnet", labels=10))
    model.add_vertex()
    model.add_vertex()
    model.image_processor = ViTImageProcessor(size={"height": 16, "width": 16})
    model.save_pretrained(tmp_path / "ensemble")
    argv = [str(tmp_path / "ensemble"), "--max_train_examples", "20", "--max_test_examples", "20", "--threads", "1"]
    argv += ["--batch_norm_images", "20", "--pool", "4", "--random_sizes", "1", "2", "--greedy", "2"]
    rows = run(choose_members.main, tmp_path, *argv)
    passes = {row["members"]: row["forward_passes"] for row in rows}
    assert passes["symmetric rule"] == 3 and passes["vertices and centroids"] == 4
    assert all(row["nll"] > 0 for row in rows)


def test_the_greedy_choice_takes_what_lowers_the_loss_most() -> None:
    labels = measure.torch.tensor([0, 0]).numpy()
    # Of itself the second is best; with it the third, which is right where that is wrong.
    found = torch.tensor([[[0.5, 0.5], [0.5, 0.5]], [[0.9, 0.1], [0.4, 0.6]], [[0.2, 0.8], [0.95, 0.05]]]).numpy()
    assert choose_members.greedy(found, labels, 2) == [[1], [1, 2]]

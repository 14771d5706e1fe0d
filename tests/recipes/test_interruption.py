"""A recipe that a signal ends says in one line what to type next, and exits with the shell's code for the signal."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from tiny import folder
from tiny_recipes import DIGITS, KEYS, RECIPE, RECIPES, TINY, config, run, write_config

from hf_simplex.training.recipe.interruption import Interruption, next_command

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
LONG = {"num_components": 1, "num_members": None, "num_vertices": 2, "num_train_epochs": 400, "save_strategy": "no"}


def stopped_in_a_stage(command: Sequence[str], number: int, script: str) -> tuple[int, list[str]]:
    """Send a signal to the recipe's processes at the first line of a stage. Returns code and lines of stderr."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line.rstrip("\n"))
        if "vertex 0, epoch" in line:
            break
    found = psutil.Process(process.pid)
    for one in [found, *found.children(recursive=True)]:
        # A launcher's own handling of signals is not what is tested.
        if script in " ".join(one.cmdline()) and "accelerate" not in " ".join(one.cmdline()):
            one.send_signal(number)
    lines += process.stderr.read().splitlines()
    return process.wait(timeout=100), lines


@pytest.mark.parametrize(
    ("number", "cause", "code"), [(signal.SIGTERM, "SIGTERM", 143), (signal.SIGINT, "Ctrl-C", 130)]
)
def test_a_signal_saves_and_ends_with_the_command_to_go_on(number: int, cause: str, code: int, tmp_path: Path) -> None:
    here = tmp_path / "my run"
    backbone = str(folder("resnet", tmp_path / "backbone", labels=7))
    file = config(here, backbone=backbone, **{**DIGITS, **LONG})
    command = [sys.executable, str(RECIPE), str(file), "--seed", "3", "--hub_token", "hf_secret"]
    found, lines = stopped_in_a_stage(command, number, "train_espro.py")
    assert found == code, lines
    assert not any("Traceback" in line or "hf_secret" in line for line in lines)
    told = [line for line in lines if line.startswith("Stopped by")]
    assert told == lines[-1:]
    said, typed = told[0].split(" Go on with: ")
    assert said == f"Stopped by {cause}."
    program, *arguments = shlex.split(typed)
    assert Path(program).name.startswith("python")
    assert arguments == [str(RECIPE), str(file), "--seed", "3", "--hub_token", "***", "--resume"]
    # Without checkpoints of its own, the stage was saved by the signal.
    (saved,) = (here / "output/components/00/vertex-00000").glob("checkpoint-*")
    assert (saved / "optimizer.pt").is_file() and int(saved.name.removeprefix("checkpoint-")) < 800


def test_ctrl_c_while_torch_is_imported_leaves_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("print('importing', flush=True)\nimport time\ntime.sleep(60)\n")
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    process = subprocess.Popen(
        [sys.executable, str(RECIPE)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None and process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == -signal.SIGINT


def test_two_processes_say_it_once(tmp_path: Path) -> None:
    backbone = str(folder("resnet", tmp_path / "backbone", labels=7))
    file = config(tmp_path, backbone=backbone, **{**DIGITS, **LONG})
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    launcher += [str(RECIPES / "accelerate/cpu_two_processes.yaml"), "--main_process_port", "0"]
    code, lines = stopped_in_a_stage([*launcher, str(RECIPE), str(file)], signal.SIGTERM, "train_espro.py")
    told = [line for line in lines if "Stopped by" in line]
    assert code != 0 and len(told) == 1, lines
    typed = shlex.split(told[0].split(" Go on with: ")[1])
    assert typed[1:] == [*launcher[1:], str(RECIPE), str(file), "--resume"]


def test_a_recipe_that_does_not_resume_says_to_start_it_again(tmp_path: Path) -> None:
    settings = {**TINY, "num_train_epochs": 4000, "output_dir": str(tmp_path / "output")}
    file = write_config(tmp_path, settings)
    command = [sys.executable, str(RECIPES / "connect_modes.py"), str(file)]
    code, lines = stopped_in_a_stage(command, signal.SIGINT, "connect_modes.py")
    assert code == 130 and not any("Traceback" in line for line in lines)
    assert lines[-1].startswith("Stopped by Ctrl-C. Start it again with: ")
    assert shlex.split(lines[-1])[-2:] == command[1:]


def test_the_command_that_is_named_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = str(folder("resnet", tmp_path / "backbone", labels=7))
    settings = {"num_components": 1, "num_members": None, "num_vertices": 2, "num_train_epochs": 1, **DIGITS}
    named = next_command([str(config(tmp_path, backbone=backbone, **settings))], "--resume")
    assert named[-1] == "--resume"
    assert list(run(tmp_path, *named[3:], backbone=backbone, **settings)) == KEYS


def test_before_anything_is_saved_the_same_command_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["recipes/train_espro.py"])
    interruption = Interruption(["my run.yaml", "--output_dir=a b"])
    with pytest.raises(SystemExit) as raised, interruption.told():
        os.kill(os.getpid(), signal.SIGTERM)
    assert raised.value.code == 143
    expected = "python recipes/train_espro.py 'my run.yaml' '--output_dir=a b'"
    assert capsys.readouterr().err == f"Stopped by SIGTERM. Start it again with: {expected}\n"


def test_other_exits_and_the_flag_that_is_there_stay_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised, Interruption([]).told():
        raise SystemExit(2)
    assert raised.value.code == 2 and capsys.readouterr().err == ""
    assert next_command(["--resume", "--token=hf_secret"], "--resume")[2:] == ["--resume", "--token=***"]

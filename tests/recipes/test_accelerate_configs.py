"""accelerate reads the configurations for `accelerate launch`. Each header shows its command."""

import subprocess
import sys
from pathlib import Path

import pytest
import train_espro
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

RECIPES = Path(train_espro.__file__).parent
CONFIGS = sorted((RECIPES / "accelerate").glob("*.yaml"))
KINDS = {
    "cpu": "NO",
    "cpu_two_processes": "MULTI_GPU",
    "ddp": "MULTI_GPU",
    "deepspeed_zero2": "DEEPSPEED",
    "deepspeed_zero3": "DEEPSPEED",
    "fsdp2": "FSDP",
    "multi_node": "MULTI_GPU",
    "one_gpu": "NO",
}


def test_each_way_to_run_has_a_configuration() -> None:
    assert [config.stem for config in CONFIGS] == sorted(KINDS)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_accelerate_reads_each_and_its_header_shows_the_command(config: Path) -> None:
    loaded = load_config_from_file(str(config))
    assert str(getattr(loaded.distributed_type, "value", loaded.distributed_type)) == KINDS[config.stem]
    assert loaded.mixed_precision in ("no", "bf16")
    header = [line for line in config.read_text().splitlines() if line.startswith("#")]
    command = " ".join(line.removeprefix("#").strip().removesuffix("\\") for line in header)
    assert f"--config_file recipes/accelerate/{config.name}" in command and "recipes/train_espro.py" in command


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_the_launcher_accepts_each(config: Path) -> None:
    parser = launch_command_parser()
    args, defaults, _ = _validate_launch_command(parser.parse_args(["--config_file", str(config), "train_espro.py"]))
    assert args.num_processes == defaults.num_processes
    assert args.use_fsdp == (config.stem == "fsdp2") and args.use_deepspeed == config.stem.startswith("deepspeed")
    if args.use_fsdp:
        assert int(args.fsdp_version) == 2
    if args.use_deepspeed:
        assert int(args.zero_stage) == int(config.stem[-1])


@pytest.mark.parametrize("script", ["components.sh", "components.slurm"])
def test_the_shell_scripts_parse(script: str) -> None:
    subprocess.run(["bash", "-n", str(RECIPES / script)], check=True)
    assert sys.platform != "linux" or (RECIPES / "components.sh").stat().st_mode & 0o100

"""Runs the command hf-simplex in this process, and writes ensembles for it."""

from pathlib import Path

from tiny import SIZE
from transformers import ViTImageProcessor
from typer.testing import CliRunner, Result

from hf_simplex import SimplexForImageClassification
from hf_simplex.cli import app


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def run(*arguments: object) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def mistake(*arguments: object) -> str:
    """The one line that a mistake ends with."""
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def image_processor() -> ViTImageProcessor:
    return ViTImageProcessor(size={"height": SIZE, "width": SIZE})


def save(model: SimplexForImageClassification, directory: Path) -> Path:
    if not hasattr(model.config.backbone_config, "pretrained_cfg"):
        model.image_processor = image_processor()
    model.save_pretrained(directory)
    return directory

"""Importing the package is all that loading an ensemble takes, and pulls in nothing that only training needs."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import transformers
from tiny import ensemble
from transformers import AutoConfig

import hf_simplex
import hf_simplex.training.arguments
import hf_simplex.training.trainer

PACKAGE = Path(hf_simplex.__file__).parent
NEEDED_FOR_INFERENCE = {"torch", "transformers", "safetensors"}

CODE = """
import sys, time
without = ["sklearn", "matplotlib", "gradio", "pandas", "datasets", "evaluate", "timm", "accelerate", "scipy", "typer"]
for name in without:
    sys.modules[name] = None
start = time.process_time()
import transformers
import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel
ours = time.process_time()
import hf_simplex
hf_simplex.SimplexForImageClassification
end = time.process_time()
assert end - ours < 0.1 * (ours - start), (end - ours, ours - start)
model = transformers.AutoModelForImageClassification.from_pretrained(sys.argv[1])
assert type(model) is hf_simplex.SimplexForImageClassification
assert model(torch.zeros(1, 3, 16, 16)).logits.isfinite().all()
model.save_pretrained(sys.argv[2])
assert not [name for name in without if sys.modules[name] is not None]
"""


def test_an_ensemble_is_loaded_quickly_and_without_what_training_plots_and_demos_need(tmp_path: Path) -> None:
    ensemble("vit").save_pretrained(tmp_path / "one")
    command = [sys.executable, "-c", CODE, str(tmp_path / "one"), str(tmp_path / "two")]
    subprocess.run(command, check=True, timeout=300)
    for path in (tmp_path / "one").iterdir():
        assert (tmp_path / "two" / path.name).read_bytes() == path.read_bytes(), path.name


def test_inference_depends_on_torch_and_transformers_by_flat_imports() -> None:
    """So that transformers can copy the files beside the weights, for those who have not installed the package."""
    files, seen = ["configuration_simplex", "modeling_simplex", "pipeline_simplex"], set()
    while files:
        file = files.pop()
        seen.add(file)
        for node in ast.walk(ast.parse((PACKAGE / "model" / f"{file}.py").read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found = {str(node.module).split(".")[0]}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 1 and node.module and "." not in node.module, ast.unparse(node)
                files += {node.module} - seen
                continue
            else:
                continue
            assert found <= NEEDED_FOR_INFERENCE | sys.stdlib_module_names, (file, found)
    assert {"checkpoint", "complexes", "geometry", "weight_space"} <= seen
    assert "training" not in seen


def test_importing_registers_the_model_type() -> None:
    assert type(AutoConfig.for_model("simplex")) is hf_simplex.SimplexConfig
    mapping = transformers.AutoModelForImageClassification._model_mapping
    assert mapping[hf_simplex.SimplexConfig] is hf_simplex.SimplexForImageClassification


def test_every_name_is_there_and_others_are_not() -> None:
    assert all(hasattr(hf_simplex, name) for name in hf_simplex.__all__)
    assert hf_simplex.SimplexTrainer is hf_simplex.training.trainer.SimplexTrainer
    assert hf_simplex.SimplexTrainingArguments is hf_simplex.training.arguments.SimplexTrainingArguments
    with pytest.raises(AttributeError, match="no attribute 'Simplexes'"):
        hf_simplex.Simplexes  # noqa: B018


def test_the_version_is_written_in_one_place() -> None:
    assert hf_simplex.__version__ == version("hf-simplex")
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", hf_simplex.__version__)
    project = PACKAGE.parent / "pyproject.toml"
    assert "version" in tomllib.loads(project.read_text("utf-8"))["project"]["dynamic"]
    files = [project, *PACKAGE.glob("*.py")]
    assert [file.name for file in files if f'"{hf_simplex.__version__}"' in file.read_text("utf-8")] == ["version.py"]

"""Imports: one way between rooms, registration in any order, and nothing heavy before it is needed."""

import ast
import json
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
# transformers itself needs numpy and huggingface_hub. Pillow is imported where it is installed.
NEEDED_FOR_INFERENCE = {"torch", "transformers", "safetensors", "numpy", "PIL", "huggingface_hub"}

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
        tree = ast.parse((PACKAGE / "model" / f"{file}.py").read_text("utf-8"))
        for node in ast.walk(tree):
            if ast.unparse(node) == "import peft" and node not in tree.body:
                # Only vertices of adapters need it.
                continue
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
    assert {"backbones", "checkpoint", "complexes", "ready_members", "save_and_load", "weight_space"} <= seen
    assert "training" not in seen


def test_imports_between_rooms_go_one_way() -> None:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    found = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, timeout=100)
    assert found.returncode == 0, found.stdout + found.stderr


def test_no_file_of_the_model_has_more_than_500_lines() -> None:
    lengths = {file.name: len(file.read_text("utf-8").splitlines()) for file in (PACKAGE / "model").glob("*.py")}
    assert {name: length for name, length in lengths.items() if length > 500} == {}


def test_help_and_the_package_import_neither_torch_nor_transformers() -> None:
    code = """
import sys
import hf_simplex
from hf_simplex import cli
try:
    cli.app(["--help"])
finally:
    assert not {"torch", "transformers"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100, stdout=subprocess.DEVNULL)


# Ours or theirs first, and the files of ours that import transformers' auto classes, which in turn import ours.
IMPORT_ORDERS = {
    "package, then transformers": ("config", "import hf_simplex; from transformers import pipeline"),
    "transformers, then package": ("model", "from transformers import Trainer, pipeline; import hf_simplex"),
    "pipeline class": ("pipeline", "import hf_simplex; hf_simplex.SimplexImageClassificationPipeline"),
    "model class": ("config", "import hf_simplex; hf_simplex.SimplexForImageClassification"),
    "backbones": ("model", "import hf_simplex.model.backbones"),
    "image processors": ("pipeline", "import hf_simplex.model.image_processors"),
    "trainer": ("pipeline", "from hf_simplex import SimplexTrainer"),
    "registration twice": (
        "model",
        "import importlib, hf_simplex; hf_simplex.SimplexForImageClassification; "
        "importlib.reload(hf_simplex.registration)",
    ),
}
CHECKS = {
    "config": """
from transformers import AutoConfig
import hf_simplex
assert type(AutoConfig.for_model("simplex")) is hf_simplex.SimplexConfig
""",
    "model": """
from transformers import AutoModelForImageClassification
import hf_simplex
assert AutoModelForImageClassification._model_mapping[hf_simplex.SimplexConfig] is (
    hf_simplex.SimplexForImageClassification
)
assert "registration" in hf_simplex.SimplexForImageClassification.push_to_hub.__code__.co_filename
""",
    "pipeline": """
from transformers.pipelines import PIPELINE_REGISTRY
import hf_simplex
task = PIPELINE_REGISTRY.supported_tasks["simplex-image-classification"]
assert task["impl"] is hf_simplex.SimplexImageClassificationPipeline
assert task["pt"][0].__name__ == "AutoModelForImageClassification"
""",
}

# Imports what every order needs once, then runs each order in a fork. Neither package is imported before a fork.
RUN_ORDERS = """
import json, os, sys, traceback
import torch, torchvision.transforms.v2, torch.distributed.fsdp, torch.distributed.tensor, accelerate, timm, pandas
import PIL.Image, safetensors.torch, huggingface_hub, tokenizers, scipy.optimize
assert not {"transformers", "hf_simplex"} & sys.modules.keys()
failed = []
for order in json.loads(sys.argv[1]):
    child = os.fork()
    if not child:
        try:
            exec(order, {})
        except BaseException:
            print(order)
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(order)
sys.exit(bool(failed))
"""


def test_registration_works_in_any_order_of_imports() -> None:
    """Each order names the check that comes first: an access must not repair what the next one looks at."""
    orders = []
    for first, order in IMPORT_ORDERS.values():
        others = (check for name, check in CHECKS.items() if name != first)
        orders.append("\n".join([order, CHECKS[first], *others]))
    command = [sys.executable, "-c", RUN_ORDERS, json.dumps(orders)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert found.returncode == 0, found.stdout + found.stderr


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

"""Importing the package is all that loading an ensemble takes, and pulls in nothing that only training needs."""

import subprocess
import sys
from importlib.metadata import version

import hf_simplex

CODE = """
import sys
import transformers, torch
before = set(sys.modules)
import hf_simplex
added = {name.split(".")[0] for name in set(sys.modules) - before}
assert not added & {"sklearn", "matplotlib", "gradio", "pandas", "datasets", "evaluate", "timm"}, added
from transformers import AutoConfig
assert type(AutoConfig.for_model("simplex")) is hf_simplex.SimplexConfig
assert issubclass(hf_simplex.SimplexTrainer, transformers.Trainer)
assert issubclass(hf_simplex.SimplexTrainingArguments, transformers.TrainingArguments)
"""


def test_importing_registers_the_model_type_and_little_else() -> None:
    subprocess.run([sys.executable, "-c", CODE], check=True, timeout=300)


def test_the_version_is_the_packages() -> None:
    assert hf_simplex.__version__ == version("hf-simplex")

"""Uses an installed hf-simplex from its own environment: the command, the imports, a tiny ensemble."""

import json
import os
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

# Runs in the empty environment, in an empty folder. The arguments are an ensemble and what it predicts.
LOAD_AND_PREDICT = """
import importlib.util, json, sys
from pathlib import Path

import hf_simplex

assert Path(hf_simplex.__file__).is_relative_to(sys.prefix), hf_simplex.__file__
assert "torch" not in sys.modules
extras = ["gradio", "imagecorruptions_imaug", "matplotlib", "onnx", "onnxruntime", "peft", "pytest", "sklearn"]
assert not [name for name in extras if importlib.util.find_spec(name)]

import torch
from transformers import AutoModelForImageClassification, pipeline

folder, expected = sys.argv[1], json.loads(sys.argv[2])
images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(5))
model = AutoModelForImageClassification.from_pretrained(folder)
torch.testing.assert_close(model(images).logits, torch.tensor(expected["logits"]))

model.save_pretrained("again")
again = hf_simplex.SimplexForImageClassification.from_pretrained("again")
assert torch.equal(again(images).logits, model(images).logits)
[label, *_] = pipeline("image-classification", model="again")("image.png")
answer = pipeline("simplex-image-classification", model="again")("image.png")
assert abs(answer["labels"][0]["score"] - label["score"]) < 1e-6, (answer, label)
hf_simplex.SimplexTrainer, hf_simplex.SimplexTrainingArguments
print("loaded, saved and predicted:", label)
"""


def use_installed(environment: Path, ensemble: Path) -> None:
    """Run the command, import the package, and load and predict with `ensemble`, without this checkout.

    Raises:
        subprocess.CalledProcessError: A command failed.
        AssertionError: The output is not as expected.
    """
    expected = (ensemble / "expected_predictions.json").read_text("utf-8")
    commands = environment / "bin"
    with tempfile.TemporaryDirectory() as directory:
        Image.new("RGB", (20, 20), "orange").save(Path(directory) / "image.png")
        assert "predict" in _output(directory, commands / "hf-simplex", "--help")
        print(_output(directory, commands / "hf-simplex", "--version").strip())
        print(_output(directory, commands / "python", "-c", LOAD_AND_PREDICT, ensemble, expected).strip())
        assert "connector" in _output(directory, commands / "hf-simplex", "inspect", ensemble)
        answer = json.loads(_output(directory, commands / "hf-simplex", "predict", ensemble, "image.png", "--json"))
        print("hf-simplex predict:", answer["labels"][0])


def _output(directory: str, *command: str | Path) -> str:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    variables["HF_HUB_OFFLINE"] = "1"
    found = subprocess.run(command, cwd=directory, env=variables, capture_output=True, text=True)
    if found.returncode:
        print(found.stdout, found.stderr, sep="\n")
    found.check_returncode()
    return found.stdout

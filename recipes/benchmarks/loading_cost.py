"""What loading an ensemble costs beside reading the same bytes with safetensors, and importing the package.

    python recipes/benchmarks/loading_cost.py --backbone vit_small_patch16_224 --num_vertices 4

Times are taken in this process, files in the page cache. `peak` is the largest resident memory of a fresh process,
less what it had before, relative to the size of the files. `import` is the time of a fresh interpreter that imports
hf_simplex, relative to one that imports torch and transformers, bare or with what hf_simplex uses of transformers.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ensemble_cost import ensemble
from measure import alternating, parser, ratio, report, start
from safetensors.torch import load_file

from hf_simplex import SimplexForImageClassification

IMPORTS = {
    "torch_and_transformers": "import torch, transformers",
    "and_what_is_used_of_them": "import torch; from transformers import AutoModelForImageClassification, "
    "AutoImageProcessor, PreTrainedModel; from transformers.modeling_outputs import ModelOutput",
    "hf_simplex": "import hf_simplex",
}
PEAK = """
import resource, sys
from pathlib import Path
import torch
from safetensors.torch import load_file
from hf_simplex import SimplexForImageClassification
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
before = resident()
if sys.argv[1] == "from_pretrained":
    kept = SimplexForImageClassification.from_pretrained(sys.argv[2])
else:
    kept = [load_file(file) for file in sorted(Path(sys.argv[2]).glob("*.safetensors"))]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)
"""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure; returns what the result file holds."""
    args = arguments(argv)
    device = start(args)
    with tempfile.TemporaryDirectory() as directory:
        ensemble(args.backbone, args, torch.device("cpu"), members=1).save_pretrained(directory)
        files = sorted(Path(directory).glob("*.safetensors"))
        size = sum(file.stat().st_size for file in files)

        def read() -> None:
            for tensors in [load_file(file) for file in files]:
                # Mapped files are read when they are touched: what loading must do, and this must too.
                for tensor in tensors.values():
                    tensor.sum()

        def from_pretrained() -> None:
            for tensor in SimplexForImageClassification.from_pretrained(directory).state_dict().values():
                tensor.sum()

        tasks = {"safetensors": read, "from_pretrained": from_pretrained}
        seconds = alternating(tasks, args.rounds, torch.device("cpu"), args.clock)
        row: dict[str, Any] = {"backbone": args.backbone, "vertices": args.num_vertices, "megabytes": size / 1e6}
        row |= {task: ratio(seconds, task, "safetensors") for task in tasks}
        for task in tasks:
            command = [sys.executable, "-c", PEAK, task, directory]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            row[f"peak_of_{task}"] = int(output) / size
    seconds = {name: [] for name in IMPORTS}
    for _ in range(args.rounds):
        for name, code in IMPORTS.items():
            seconds[name].append(interpreter(code, args.clock))
    row["import"] = ratio(seconds, "hf_simplex", "torch_and_transformers")
    row["import_to_what_is_used"] = ratio(seconds, "hf_simplex", "and_what_is_used_of_them")
    return report(args, device, [row])


def interpreter(code: str, clock: str) -> float:
    """Seconds that a fresh interpreter takes for a line of code: its own computing, or until it ends."""
    if clock == "cpu":
        measured = f"import time; {code}; print(time.process_time())"
        return float(
            subprocess.run([sys.executable, "-c", measured], check=True, capture_output=True, text=True).stdout
        )
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - started


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    found = parser(__doc__.splitlines()[0], "loading_cost")
    found.add_argument("--backbone", default="vit_small_patch16_224")
    found.add_argument("--image_size", type=int, default=224)
    found.add_argument("--num_vertices", type=int, default=4)
    found.set_defaults(channels_last=False)
    return found.parse_args(argv)


if __name__ == "__main__":
    main()

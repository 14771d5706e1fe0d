"""Time and memory to load an ensemble, relative to safetensors, and time to import the package.

    python recipes/benchmarks/loading_cost.py --backbone vit_small_patch16_224 --num_vertices 4

Files are in the page cache. `safetensors` copies each file into memory, `mapped` maps it. `plain` loads as many single
backbones with transformers' `from_pretrained`. `peak` is the growth of a fresh process's peak resident memory relative
to the size of the files. It includes mapped pages, which the system can drop. `private` is the peak of anonymous
memory, sampled each millisecond. `import` is the time of a fresh interpreter that imports hf_simplex, relative to one
that imports torch and transformers, or the same classes of them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from measure import alternating, parser, ratio, report, start
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForImageClassification
from workloads import ensemble

from hf_simplex import SimplexForImageClassification

IMPORTS = {
    "torch_and_transformers": "import torch, transformers",
    "and_what_is_used_of_them": "import torch; from transformers import AutoModelForImageClassification, "
    "AutoImageProcessor, PreTrainedModel; from transformers.modeling_outputs import ModelOutput",
    "hf_simplex": "import hf_simplex",
}
PEAK = """
import json, re, sys, threading
from pathlib import Path
import torch
from safetensors.torch import load_file
from hf_simplex import SimplexForImageClassification
def status(name):
    return 1024 * int(re.search(name + r":\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
before = status("VmRSS"), status("RssAnon")
private, ended = [0], threading.Event()
def watch():
    while not ended.wait(0.001):
        private.append(status("RssAnon") - before[1])
watching = threading.Thread(target=watch)
watching.start()
if sys.argv[1] == "from_pretrained":
    kept = SimplexForImageClassification.from_pretrained(sys.argv[2])
    tensors = kept.state_dict().values()
else:
    kept = [load_file(file) for file in sorted(Path(sys.argv[2]).glob("*.safetensors"))]
    if sys.argv[1] == "safetensors":
        kept = [{name: tensor.clone() for name, tensor in tensors.items()} for tensors in kept]
    tensors = [tensor for tensors in kept for tensor in tensors.values()]
for tensor in tensors:
    tensor.sum()
ended.set()
watching.join()
print(json.dumps({"peak": status("VmHWM") - before[0], "private": max(private)}))
"""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure. Returns the content of the result file."""
    args = arguments(argv)
    device = start(args)
    with tempfile.TemporaryDirectory() as directory:
        folder, plain_folder = Path(directory, "ensemble"), Path(directory, "plain")
        model = ensemble(args.backbone, args, torch.device("cpu"), members=1)
        model.save_pretrained(folder)
        model.export_vertex(0, plain_folder)
        files = sorted(folder.glob("*.safetensors"))
        size = sum(file.stat().st_size for file in files)

        def read() -> None:
            kept = [{name: tensor.clone() for name, tensor in load_file(file).items()} for file in files]
            touch(tensor for tensors in kept for tensor in tensors.values())

        def read_mapped() -> None:
            touch(tensor for tensors in [load_file(file) for file in files] for tensor in tensors.values())

        def plain() -> None:
            for backbone in [
                AutoModelForImageClassification.from_pretrained(plain_folder) for _ in range(args.num_vertices)
            ]:
                touch(backbone.state_dict().values())

        def from_pretrained() -> None:
            touch(SimplexForImageClassification.from_pretrained(folder).state_dict().values())

        tasks = {"safetensors": read, "mapped": read_mapped, "plain": plain, "from_pretrained": from_pretrained}
        seconds = alternating(tasks, args.rounds, torch.device("cpu"), args.clock)
        row: dict[str, Any] = {"backbone": args.backbone, "vertices": args.num_vertices, "megabytes": size / 1e6}
        row |= {task: ratio(seconds, task, "safetensors") for task in tasks}
        row["from_pretrained_to_plain"] = ratio(seconds, "from_pretrained", "plain")
        for task in ("safetensors", "mapped", "from_pretrained"):
            command = [sys.executable, "-c", PEAK, task, str(folder)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            row |= {f"{kind}_of_{task}": taken / size for kind, taken in json.loads(output).items()}
    seconds = {name: [] for name in IMPORTS}
    for _ in range(args.rounds):
        for name, code in IMPORTS.items():
            seconds[name].append(interpreter(code, args.clock))
    row["import"] = ratio(seconds, "hf_simplex", "torch_and_transformers")
    row["import_to_what_is_used"] = ratio(seconds, "hf_simplex", "and_what_is_used_of_them")
    return report(args, device, [row])


def touch(tensors: Iterable[Tensor]) -> None:
    """Read all elements. A mapped file is read at first access."""
    for tensor in tensors:
        tensor.sum()


def interpreter(code: str, clock: str) -> float:
    """Seconds of a fresh interpreter for a line of code: CPU time or wall time."""
    if clock == "cpu":
        measured = f"import time; {code}; print(time.process_time())"
        return float(
            subprocess.run([sys.executable, "-c", measured], check=True, capture_output=True, text=True).stdout
        )
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - started


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    found = parser(__doc__.splitlines()[0], "loading_cost")
    found.add_argument("--backbone", default="vit_small_patch16_224")
    found.add_argument("--image_size", type=int, default=224)
    found.add_argument("--num_vertices", type=int, default=4)
    found.set_defaults(channels_last=False)
    return found.parse_args(argv)


if __name__ == "__main__":
    main()

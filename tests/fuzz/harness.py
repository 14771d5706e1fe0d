"""One case: an ensemble with one broken file is described and loaded: right values or a documented error, in time."""

import random
import signal
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import torch
from tiny import KINDS, batches, folder

from fuzz.audit import Audit
from fuzz.mutations import mutate_header, mutate_json, mutate_start
from hf_simplex import SimplexForImageClassification
from hf_simplex.hub.stored_ensemble import read_ensemble

__all__ = ["CONFIG", "INDEX", "PROCESSOR", "Harness", "Outcome", "Report"]

SECONDS = 1.0
ENSEMBLES = {**{kind: (kind, "all") for kind in KINDS}, "shared": ("vit", "head"), "adapters": ("vit", "lora")}
"""Backbone and vertex parameters of each ensemble whose files are broken."""
CONFIG, INDEX, PROCESSOR = "config.json", "model.safetensors.index.json", "preprocessor_config.json"


class TookTooLong(BaseException):
    """A load that would go on."""


@dataclass(frozen=True)
class Outcome:
    """What a case came to.

    Attributes:
        number: of the case, its seed.
        file: the file that was changed.
        result: `loaded`, or the type of a documented error.
        fault: what should not have been; None for a right outcome.
        seconds: processor time of the load.
    """

    number: int
    file: str
    result: str
    fault: str | None
    seconds: float


@dataclass
class Report:
    """Counts of outcomes by file and result, the faults, and processor seconds in all and of the longest case."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0
    longest: float = 0.0

    def add(self, outcome: Outcome) -> None:
        self.counts[outcome.file.split("-")[0], outcome.result] += 1
        if outcome.fault is not None:
            self.faults.append(outcome)
        self.seconds += outcome.seconds
        self.longest = max(self.longest, outcome.seconds)


class Harness:
    """Runs cases by number.

    Args:
        directory: an empty folder.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files: dict[str, dict[str, bytes]] = {}
        self.states: dict[str, dict[str, torch.Tensor]] = {}
        for kind, (backbone, choice) in ENSEMBLES.items():
            model = SimplexForImageClassification.from_backbone(
                folder(backbone, directory / f"{kind}-backbone"), vertex_parameters=choice
            )
            model.add_vertex()
            model.draw_members(2, batches=batches())
            path = directory / kind
            model.save_pretrained(path)
            self.files[kind] = {file.name: file.read_bytes() for file in sorted(path.iterdir())}
            self.states[kind] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            # Imports happen at the first use.
            _ = SimplexForImageClassification.from_pretrained(path).image_processor
        self.audit = Audit(directory)

    def run(self, number: int) -> Outcome:
        """Run one case. The same number gives the same case."""
        rng = random.Random(number)
        kind = rng.choice(list(ENSEMBLES))
        files = self.files[kind]
        weights = [file for file in files if file.endswith(".safetensors")]
        name = rng.choice([CONFIG, CONFIG, CONFIG, INDEX, PROCESSOR, *weights])
        if name not in files:
            name = CONFIG
        if name.endswith(".json"):
            content = mutate_json(files[name], rng)
        else:
            content = mutate_header(files[name], rng) if rng.random() < 0.8 else mutate_start(files[name], rng)
        path = self.directory / kind / name
        path.write_bytes(content)
        try:
            return self._load(number, kind, name)
        finally:
            path.write_bytes(files[name])

    def _load(self, number: int, kind: str, name: str) -> Outcome:
        def stop(signal_number: int, frame: FrameType | None) -> None:
            raise TookTooLong

        former = signal.signal(signal.SIGPROF, stop)
        result, fault, refusal = "loaded", None, ""
        began = time.process_time()
        with warnings.catch_warnings(), self.audit.watching() as offences:
            warnings.simplefilter("ignore")
            try:
                signal.setitimer(signal.ITIMER_PROF, 5 * SECONDS)
                try:
                    read_ensemble(str(self.directory / kind))
                except (ValueError, OSError) as error:
                    refusal = f"{type(error).__name__}: {str(error)[:300]}"
                model = SimplexForImageClassification.from_pretrained(self.directory / kind)
                _ = model.image_processor
                signal.setitimer(signal.ITIMER_PROF, 0)
                fault = self._compare(kind, model)
                if fault is None and refusal:
                    fault = f"loaded, but not described: {refusal}"
            except (ValueError, OSError) as error:
                result = "FileNotFoundError" if isinstance(error, FileNotFoundError) else "OSError"
                result = "ValueError" if isinstance(error, ValueError) else result
            except BaseException as error:
                result, fault = type(error).__name__, f"{type(error).__name__}: {str(error)[:300]}"
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
                signal.signal(signal.SIGPROF, former)
        seconds = time.process_time() - began
        if fault is None and seconds > SECONDS:
            fault = f"{seconds:.2f} s"
        if fault is None and offences:
            fault = f"outside: {offences[:3]}"
        return Outcome(number, name, result, fault, seconds)

    def _compare(self, kind: str, model: SimplexForImageClassification) -> str | None:
        expected, found = self.states[kind], model.state_dict()
        for name in expected.keys() | found.keys():
            one, other = expected.get(name), found.get(name)
            if one is None or other is None or not torch.equal(one.to(other.dtype), other):
                return f"other values of {name}"
        return None

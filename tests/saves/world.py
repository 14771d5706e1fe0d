"""Two ensembles, the saves that replace one by the other, and what a folder holds."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny import SIZE, backbone, batches, contents, ensemble
from transformers import AutoModelForImageClassification, ViTImageProcessor

from hf_simplex import SimplexForImageClassification
from hf_simplex.model.digests import tensor_digest
from hf_simplex.model.remote_code import write_inference_code

__all__ = ["Save", "World", "identity"]

NOTES = "notes.txt"
Model = SimplexForImageClassification


def identity(model: Any, processor: Any) -> str:
    """A digest of all that predictions depend on."""
    members = getattr(model.config, "members", [])
    mean = None if processor is None else list(processor.image_mean)
    return f"{tensor_digest(dict(model.state_dict()))} {members} {mean}"


@dataclass(frozen=True)
class Save:
    """A way to write a folder.

    Attributes:
        name: of it.
        before: writes the former content.
        save: writes the new content over it.
        allowed: what a folder may hold when this was interrupted.
        read: loads the folder and says what it holds.
        expected: all files after a whole save.
    """

    name: str
    before: Callable[[Path], Any]
    save: Callable[[Path], Any]
    allowed: frozenset[str]
    read: Callable[[Path], str]
    expected: dict[str, bytes]

    def prepare(self, folder: Path) -> None:
        """Make `folder` as it is before the save, with a file of the user in it."""
        shutil.rmtree(folder, ignore_errors=True)
        if self.before is not _nothing:
            folder.mkdir()
            (folder / NOTES).write_text("mine")
            self.before(folder)

    def check(self, folder: Path) -> tuple[str, str | None]:
        """What the folder holds, and what is wrong with that."""
        before = contents(folder)
        try:
            found = self.read(folder)
        except Exception as error:
            return "error", f"{type(error).__name__}: {str(error)[:300]}"
        if contents(folder) != before:
            return found, "loading wrote to the folder"
        return found, None if found in self.allowed else f"holds {found}, not one of {sorted(self.allowed)}"

    def recover(self, folder: Path) -> str | None:
        """What is wrong with the next save; None if it writes all files and leaves nothing else."""
        try:
            self.save(folder)
        except Exception as error:
            return f"the next save: {type(error).__name__}: {str(error)[:300]}"
        found = contents(folder)
        wrong = sorted(
            name for name in found.keys() | self.expected.keys() if found.get(name) != self.expected.get(name)
        )
        return f"after the next save, missing, left or other: {wrong[:5]}" if wrong else None


def _nothing(folder: Path) -> None:
    pass


class World:
    """Models in memory, and saves by name.

    Args:
        directory: an empty folder.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        first = ensemble("resnet")
        # Fewer vertices: a file has to go. Other weights, members, labels and image processor.
        second = Model.from_backbone(backbone("resnet", seed=5))
        vertex = second.add_vertex()
        second.backbone.load_state_dict(backbone("resnet", seed=6).state_dict())
        second.store_vertex(vertex)
        second.draw_members(2, seed=5, batches=batches())
        self.models = {"A": first, "B": second}
        for model, mean in ((first, 0.25), (second, 0.75)):
            model.image_processor = ViTImageProcessor(size={"height": SIZE, "width": SIZE}, image_mean=[mean] * 3)
        self.identities: dict[str, str] = {}
        self.parts: dict[str, str] = {}
        self.exports: dict[str, str] = {}
        for name, model in self.models.items():
            path = directory / f"reference-{name}"
            # First: it fills in settings of the backbone, which an ensemble saves as well.
            model.export_centroid(directory / f"centroid-{name}")
            model.save_pretrained(path)
            self.identities[self._whole(path)] = name
            self.parts[self._part(path)] = name
            self.exports[self._exported(directory / f"centroid-{name}")] = name
        self.saves = self._saves()

    def _whole(self, path: Path) -> str:
        loaded = Model.from_pretrained(path)
        return identity(loaded, loaded.image_processor)

    def _part(self, path: Path) -> str:
        loaded = Model.from_pretrained(path, num_members=1)
        return identity(loaded, None)

    def _exported(self, path: Path) -> str:
        loaded = AutoModelForImageClassification.from_pretrained(path)
        return identity(loaded, ViTImageProcessor.from_pretrained(path))

    def read(self, path: Path) -> str:
        """A or B, or `nothing`."""
        if not path.exists():
            # transformers takes the path for a Hub id.
            return "nothing"
        try:
            return self.identities.get(self._whole(path), "a mixture")
        except FileNotFoundError:
            return "nothing"

    def read_part(self, path: Path) -> str:
        """The same for the first member alone."""
        return self.parts.get(self._part(path), "a mixture")

    def read_automatically(self, path: Path) -> str:
        """The same through the class of transformers."""
        loaded = AutoModelForImageClassification.from_pretrained(path)
        return self.identities.get(identity(loaded, loaded.image_processor), "a mixture")

    def read_export(self, path: Path) -> str:
        """A, B, or `refused`."""
        try:
            return self.exports.get(self._exported(path), "a mixture")
        except (OSError, ValueError):
            # The errors of transformers. The folder has no config.json until its files are of one export.
            return "a mixture" if (path / "config.json").exists() else "refused"

    def _saves(self) -> list[Save]:
        one, other = self.models["A"], self.models["B"]

        def save_with_code(folder: Path) -> None:
            other.save_pretrained(folder, include_code=True)

        def save_into_new(folder: Path) -> None:
            other.save_pretrained(folder / "deep" / "new")

        def read_new(folder: Path) -> str:
            return self.read(folder / "deep" / "new")

        either = frozenset("AB")
        cases: list[tuple[str, Any, Any, frozenset[str], Any]] = [
            ("ensemble over another", one.save_pretrained, other.save_pretrained, either, self.read),
            ("the same, and back", other.save_pretrained, one.save_pretrained, either, self.read),
            ("ensemble with code", one.save_pretrained, save_with_code, either, self.read),
            ("ensemble, new folder", _nothing, save_into_new, frozenset({"nothing", "B"}), read_new),
            ("code beside an ensemble", one.save_pretrained, write_inference_code, frozenset("A"), self.read),
            (
                "export over another",
                one.export_centroid,
                other.export_centroid,
                either | {"refused"},
                self.read_export,
            ),
        ]
        found = []
        for name, before, save, allowed, read in cases:
            unfinished = Save(name, before, save, allowed, read, {})
            path = self.directory / "reference"
            unfinished.prepare(path)
            save(path)
            found.append(Save(name, before, save, allowed, read, contents(path)))
        return found

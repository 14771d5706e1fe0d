"""Writes one page a room of the package, with every public module that is there, so that nothing is listed by hand."""

import dataclasses
import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType

import hf_simplex


def write(directory: Path) -> None:
    """Write a page for each room, and remove the pages of rooms that are no longer there.

    Args:
        directory: the folder of the pages, beside its index.md.
    """
    pages = {f"{room.__name__.split('.')[-1]}.md": _page(room) for room in _rooms()}
    for former in directory.glob("*.md"):
        if former.name not in {*pages, "index.md"}:
            former.unlink()
    for name, text in pages.items():
        page = directory / name
        # Sphinx reads again what is newer.
        if not page.exists() or page.read_text("utf-8") != text:
            page.write_text(text, "utf-8")


def names() -> list[str]:
    """Everything that a public module of the package has or imports, by its full name."""
    modules = [module for room in _rooms() for module in _modules(room)]
    return [f"{module.__name__}.{name}" for module in modules for name in vars(module)]


def _rooms() -> list[ModuleType]:
    found = pkgutil.iter_modules(hf_simplex.__path__, "hf_simplex.")
    return [importlib.import_module(module.name) for module in found if module.ispkg]


def _modules(room: ModuleType) -> list[ModuleType]:
    found = pkgutil.walk_packages(room.__path__, f"{room.__name__}.")
    modules = [importlib.import_module(module.name) for module in found if not module.ispkg]
    return [module for module in modules if _members(module)]


def _members(module: ModuleType) -> list[str]:
    """The public classes and functions that a module defines itself."""
    names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    own = {name: getattr(module, name) for name in names if hasattr(module, name)}
    return [
        name
        for name, value in own.items()
        if (inspect.isclass(value) or inspect.isroutine(value)) and value.__module__ == module.__name__
    ]


def _page(room: ModuleType) -> str:
    name = room.__name__
    text = f"# {name}\n\n{inspect.getdoc(room) or ''}\n"
    for module in _modules(room):
        members = _members(module)
        text += f"\n## {module.__name__.removeprefix(name + '.')}\n\n"
        text += f"```{{eval-rst}}\n.. automodule:: {module.__name__}\n   :no-members:\n\n"
        for member in members:
            kind = "class" if inspect.isclass(getattr(module, member)) else "function"
            text += f".. auto{kind}:: {module.__name__}.{member}\n"
        text += "```\n"
        for member in members:
            text += _arguments(getattr(module, member))
    return text


def _arguments(kind: object) -> str:
    """A table of the fields that a dataclass of arguments adds, from their help."""
    if not (inspect.isclass(kind) and dataclasses.is_dataclass(kind)):
        return ""
    own = inspect.get_annotations(kind)
    rows = [
        f"| `{field.name}` | {_default(field)} | {' '.join(field.metadata['help'].split())} |\n"
        for field in dataclasses.fields(kind)
        if field.name in own and "help" in field.metadata
    ]
    if not rows:
        return ""
    return f"\nThe arguments of `{kind.__name__}`:\n\n| argument | default | |\n|---|---|---|\n{''.join(rows)}"


def _default(field: dataclasses.Field) -> str:
    return "" if field.default is dataclasses.MISSING else f"`{field.default!r}`"

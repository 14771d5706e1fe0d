"""What the wheel and the source archive hold."""

import subprocess
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path, PurePosixPath

DOCUMENTS = {"CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "SECURITY.md", "pyproject.toml"}
# setuptools writes these.
WRITTEN = {"MANIFEST.in", "PKG-INFO", "setup.cfg"}


def tracked_files(root: Path) -> list[str]:
    """Files of the repository, relative to its root, as they are in the work tree."""
    command = ["git", "-C", str(root), "ls-files", "-z"]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
    return [name for name in names if name and (root / name).is_file()]


def check_contents(source: Path, wheel: Path, sdist: Path) -> None:
    """Check that both archives hold the whole package and nothing else, and say the same version.

    Raises:
        AssertionError: A file is missing or does not belong there, or the metadata differ from pyproject.toml.
    """
    package = {path.relative_to(source).as_posix() for path in (source / "hf_simplex").rglob("*") if path.is_file()}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        [information] = {name.split("/")[0] for name in names if ".dist-info/" in name}
        metadata = message_from_bytes(archive.read(f"{information}/METADATA"))
        entry_points = archive.read(f"{information}/entry_points.txt").decode()
    in_wheel = {name for name in names if not name.startswith(f"{information}/")}
    assert in_wheel == package, f"in one of wheel and package only: {sorted(in_wheel ^ package)}"
    assert f"{information}/licenses/LICENSE" in names, sorted(names - in_wheel)
    assert "hf-simplex = hf_simplex.cli:app" in entry_points, entry_points

    with tarfile.open(sdist) as archive:
        members = [PurePosixPath(member.name) for member in archive.getmembers() if member.isfile()]
    files = {PurePosixPath(*member.parts[1:]).as_posix() for member in members}
    files = {name for name in files if not name.startswith("hf_simplex.egg-info/")}
    expected = package | DOCUMENTS
    assert files - WRITTEN == expected, f"in one of archive and repository only: {sorted(files - WRITTEN ^ expected)}"

    project = tomllib.loads((source / "pyproject.toml").read_text("utf-8"))["project"]
    assert metadata["Name"] == project["name"]
    assert metadata["Requires-Python"] == project["requires-python"]
    assert information == f"hf_simplex-{metadata['Version']}.dist-info", information
    assert sdist.name == f"hf_simplex-{metadata['Version']}.tar.gz", sdist.name
    assert set(metadata.get_all("Provides-Extra", [])) == set(project["optional-dependencies"])
    print(f"version {metadata['Version']}: {len(package)} files of the package in both archives")

"""Builds the wheel and the source archive, checks them, and uses the wheel in an empty environment.

python -m release --output dist
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from release.archives import check_contents, tracked_files
from release.installed import use_installed

ROOT = Path(__file__).parents[2]


def find(command: str) -> str:
    """Path of a command, of this environment if it has one."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    found = shutil.which(command, path=places)
    if found is None:
        raise SystemExit(f"There is no command {command}: install it with pip install {command}.")
    return found


def run(*command: str | Path) -> None:
    print("$", *(Path(word).name if isinstance(word, Path) else word for word in command), flush=True)
    subprocess.run(command, check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="folder that keeps the archives; default: they are deleted")
    args = parser.parse_args()
    uv, twine = Path(find("uv")), Path(find("twine"))
    with tempfile.TemporaryDirectory() as directory:
        source, archives, environment = (Path(directory) / name for name in ("source", "dist", "environment"))
        # What is not in git must not be needed, and nothing that lies around may get in.
        for name in tracked_files(ROOT):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name)
        # The wheel is built from the source archive, as pip does where there is no wheel.
        run(uv, "build", "--quiet", "--out-dir", archives, source)
        wheel, sdist = *archives.glob("*.whl"), *archives.glob("*.tar.gz")
        run(twine, "check", "--strict", wheel, sdist)
        check_contents(source, wheel, sdist)
        run(uv, "venv", "--quiet", "--python", Path(sys.executable), environment)
        run(uv, "pip", "install", "--quiet", "--python", environment / "bin" / "python", wheel)
        use_installed(environment, ROOT / "tests" / "fixtures" / "ensemble-0.1.0")
        if args.output is not None:
            args.output.mkdir(parents=True, exist_ok=True)
            for archive in (wheel, sdist):
                print(shutil.copy2(archive, args.output))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

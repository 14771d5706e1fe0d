"""Make a folder of clip art in 10 categories from Debian's package openclipart-png: about 1,400 and 1,100 images.

    apt-get install openclipart-png
    python recipes/clip_art_folder.py data/clip_art

Writes `train/<category>/` and `test/<category>/` with thumbnails of at most 128 pixels, transparency kept. Of
images with the same pixels one is kept. The hash of a file decides its split, so that every machine has the same one.
"""

import argparse
import hashlib
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from hf_simplex.model.image_pixels import to_rgb

CATEGORIES = (
    "animals",
    "buildings",
    "computer",
    "food",
    "geography",
    "office",
    "people",
    "plants",
    "recreation",
    "transportation",
)
# Of the largest categories, the files of the lowest hashes.
MAX_IMAGES = 360
TEST_FRACTION = 0.45
SIZE = 128
MAX_PIXELS = 16_000_000


def main(argv: Sequence[str] | None = None) -> dict[str, int]:
    """Write the folder; returns the number of images of each split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder to write; it must not hold train/ or test/")
    parser.add_argument("--source", type=Path, default=Path("/usr/share/openclipart/png"), help="of the package")
    arguments = parser.parse_args(argv)
    missing = [name for name in CATEGORIES if not (arguments.source / name).is_dir()]
    if missing:
        parser.error(f"{arguments.source} has no folder {missing[0]}: install the Debian package openclipart-png.")
    if (arguments.folder / "train").exists() or (arguments.folder / "test").exists():
        parser.error(f"{arguments.folder} holds train/ or test/: name another folder.")
    counts = {"train": 0, "test": 0, "left out": 0}
    seen: set[tuple[tuple[int, int], bytes]] = set()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    # Moved at the end, so that a run that stops leaves no folder that looks whole.
    with tempfile.TemporaryDirectory(dir=arguments.folder) as directory:
        aside = Path(directory)
        for category in CATEGORIES:
            kept = 0
            for digest, file in files_by_hash(arguments.source / category):
                if kept == MAX_IMAGES:
                    break
                image = thumbnail(file)
                pixels = None if image is None else (image.size, to_rgb(image).tobytes())
                if image is None or pixels is None or pixels in seen:
                    counts["left out"] += 1
                    continue
                seen.add(pixels)
                kept += 1
                # Other digits than those that chose the files.
                split = "test" if int(digest[-8:], 16) / 16**8 < TEST_FRACTION else "train"
                target = aside / split / category / f"{digest[:16]}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                image.save(target)
                counts[split] += 1
        for split in ("train", "test"):
            (aside / split).rename(arguments.folder / split)
    print(
        f"{arguments.folder}: {counts['train']} training and {counts['test']} test images; {counts['left out']} left "
        f"out, which equal another or have more than {MAX_PIXELS:,} pixels."
    )
    return counts


def files_by_hash(folder: Path) -> list[tuple[str, Path]]:
    """The PNG files of a category and the SHA-256 of each, in the order of the hashes."""
    files = [file for file in folder.rglob("*.png") if file.is_file()]
    return sorted((hashlib.sha256(file.read_bytes()).hexdigest(), file) for file in files)


def thumbnail(file: Path) -> Image.Image | None:
    """The image at most `SIZE` pixels wide and high, with transparency; None where it is too large to decode."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            with Image.open(file) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    return None
                image = opened.convert("RGBA")
        except Image.DecompressionBombError:
            return None
    image.thumbnail((SIZE, SIZE))
    return image


if __name__ == "__main__":
    main()

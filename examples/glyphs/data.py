"""Pictures of letters and digits as a careless camera sees them: 36 classes, grey, 32 × 32 PNG.

`make_data` writes a folder per split with a folder per class. A picture follows from the seed, its
split, font, class and number, and from nothing else. Sizes follow the font's capital H, so that a
zero keeps its proportion to an O; place, turn, light, blur and noise are drawn at random.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from converters.progress import Progress, Terminal
from edge_runtime.errors import InputError
from examples.glyphs.fonts import TEST, TRAIN, Design, check_installed
from examples.workbench import SPLITS

CLASSES = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SIDE = 32
FINE = 4
"""Glyphs are drawn that much larger and then averaged."""
POINTS = 100
FAINTEST = 70
"""Least difference of ink and paper, of 255."""


@dataclass(frozen=True, slots=True)
class Split:
    """Which designs, and how many pictures of each class in each font."""

    designs: tuple[Design, ...]
    each: int


SPLIT_OF = {
    "train": Split(TRAIN, 5),
    "calibration": Split(TRAIN[::6], 1),
    "test": Split(TEST, 3),
}


@lru_cache(maxsize=256)
def _sized(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=256)
def _capital(path: Path) -> float:
    """Height of the font's H for each unit of its size."""
    _, top, _, bottom = _sized(path, POINTS).getbbox("H")
    return float(bottom - top) / POINTS


def glyph(path: Path, character: str, random: np.random.Generator) -> NDArray[np.uint8]:
    """One picture, (32, 32), of `character` in the font at `path`."""
    height = random.uniform(15, 23) * FINE
    font = _sized(path, round(height / _capital(path)))
    _, top, _, bottom = font.getbbox("H")
    left, _, right, _ = font.getbbox(character)
    side = SIDE * FINE
    ink = Image.new("L", (side, side), 0)
    # The middle of the glyph across, the middle of a capital upright.
    at = ((side - left - right) / 2, (side - top - bottom) / 2)
    ImageDraw.Draw(ink).text(at, character, fill=255, font=font)
    shift = random.uniform(-2.5, 2.5, size=2) * FINE
    ink = ink.rotate(
        random.normal(0, 5),
        resample=Image.Resampling.BILINEAR,
        translate=(round(shift[0]), round(shift[1])),
    )
    ink = ink.resize((SIDE, SIDE), Image.Resampling.BOX)
    ink = ink.filter(ImageFilter.GaussianBlur(random.uniform(0, 0.9)))
    return _lit(np.asarray(ink, dtype=np.float64) / 255, random)


def _lit(ink: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.uint8]:
    """Dark ink on lighter paper: levels, light that falls from one side, the sensor's noise."""
    paper, dark = 0.0, 0.0
    while paper - dark < FAINTEST:
        dark, paper = sorted(random.uniform(0, 255, size=2).tolist())
    slope = random.normal(0, 12, size=2)
    across = np.linspace(-1, 1, SIDE)
    light = slope[0] * across[None, :] + slope[1] * across[:, None]
    values = paper + (dark - paper) * ink + light
    values += random.normal(0, random.uniform(0, 14), size=ink.shape)
    found: NDArray[np.uint8] = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return found


def pictures(
    split: str, designs: Sequence[Design], each: int, character: str, seed: int
) -> list[tuple[str, NDArray[np.uint8]]]:
    """Names of files and pictures of one class."""
    made = []
    for design in designs:
        for path in design.paths:
            for number in range(each):
                # A font's place in the table does not count: a new one leaves the others alone.
                key = (seed, SPLITS.index(split), CLASSES.index(character), number)
                random = np.random.default_rng([*key, *path.name.encode()])
                stem = path.stem.replace(" ", "")
                name = f"{design.name}-{stem}-{number}.png"
                made.append((name, glyph(path, character, random)))
    return made


def make_data(out: Path, progress: Progress, *, seed: int = 1) -> None:
    """Write every split under `out`; an old one is replaced.

    Raises:
        InputError: a font is not installed.
    """
    check_installed()
    shutil.rmtree(out, ignore_errors=True)
    for split, one in SPLIT_OF.items():
        with progress.count(f"{split}: pictures of {len(CLASSES)} classes", len(CLASSES)) as more:
            for character in CLASSES:
                folder = out / split / character
                folder.mkdir(parents=True)
                for name, pixels in pictures(split, one.designs, one.each, character, seed):
                    Image.fromarray(pixels).save(folder / name)
                more(1, character)


def main() -> int:
    """Command line: only the data."""
    parser = argparse.ArgumentParser(prog="python -m examples.glyphs.data", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/glyphs/data"))
    parser.add_argument("--seed", type=int, default=1)
    parsed = parser.parse_args()
    progress = Terminal()
    try:
        make_data(parsed.out, progress, seed=parsed.seed)
    except InputError as reason:
        progress.say(f"stopped: {reason}")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

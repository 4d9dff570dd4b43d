"""Grey crops of 64x64 pixels from photographs and textures: which picture is each from?"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

PIXELS: Final = 64
FILES: Final = (
    "brick.png", "chelsea.png", "coffee.png", "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg",
    "ihc.png", "rocket.jpg",
)  # fmt: skip
"""Not those whose parts show different things, as a face and a flag."""
CLASSES: Final = tuple(name.partition(".")[0] for name in FILES)
TILE: Final = 96
"""Pixels; a crop lies in one tile, and a tile is for one part."""
LEAST: Final = 48
"""Pixels of a crop's side in the picture, at least; a tile's at most."""
SEED: Final = 0


@dataclass(frozen=True)
class Part:
    """Some of the crops.

    Attributes:
        images: uint8 (n, 1, 64, 64).
        labels: int64 (n,).
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Parts:
    """Crops of disjoint regions of each picture."""

    train: Part
    fit: Part
    test: Part


def crops(path: Path, train: int, fit: int, test: int) -> Parts:
    """Returns so many crops of each picture of the wheel, the same on every call.

    Each picture is parted into tiles: of five, along rows and along columns, three are for training, one for fitting
    and one for the test.
    """
    from PIL import Image

    generator = np.random.default_rng(SEED)
    found: list[list[NDArray[np.uint8]]] = [[], [], []]
    with zipfile.ZipFile(path) as wheel:
        for name in FILES:
            picture = Image.open(io.BytesIO(wheel.read(f"skimage/data/{name}"))).convert("L")
            tiles = [
                (left, top, (2 * (left // TILE) + top // TILE) % 5)
                for top in range(0, picture.height - TILE + 1, TILE)
                for left in range(0, picture.width - TILE + 1, TILE)
            ]
            for place, (count, kinds) in enumerate(((train, (2, 3, 4)), (fit, (1,)), (test, (0,)))):
                corners = [(left, top) for left, top, kind in tiles if kind in kinds]
                found[place] += [_crop(picture, corners, generator) for _ in range(count)]
    counts = (train, fit, test)
    return Parts(
        *(
            Part(np.stack(images)[:, np.newaxis], np.repeat(np.arange(len(FILES)), count))
            for images, count in zip(found, counts, strict=True)
        )
    )


def _crop(picture: Image, corners: Sequence[tuple[int, int]], generator: np.random.Generator) -> NDArray[np.uint8]:
    """Returns a square of random side and place from one of the tiles, (64, 64), turned or mirrored."""
    from PIL.Image import Resampling

    left, top = corners[generator.integers(len(corners))]
    side = int(generator.integers(LEAST, TILE + 1))
    x, y = left + int(generator.integers(TILE - side + 1)), top + int(generator.integers(TILE - side + 1))
    square = picture.crop((x, y, x + side, y + side)).resize((PIXELS, PIXELS), Resampling.BILINEAR)
    turned = np.rot90(np.asarray(square), int(generator.integers(4)))
    return turned[:, ::-1] if generator.integers(2) else turned

"""The data of networks with one answer: what is tested on lies apart from what is learned from."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.single_exit import pictures, textures
from benchmarks.single_exit.case import Case
from benchmarks.single_exit.train import accuracy

SIZE = 5 * pictures.TILE + 20


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """Pictures in which the grey of a pixel is 10 times the number of its tile's part."""
    tile = np.arange(SIZE) // pictures.TILE
    parts = (2 * tile[np.newaxis] + tile[:, np.newaxis]) % 5
    with zipfile.ZipFile(tmp_path / "pictures.whl", "w") as packed:
        for name in pictures.FILES:
            content = io.BytesIO()
            Image.fromarray((10 * parts).astype(np.uint8)).save(content, "PNG")
            packed.writestr(f"skimage/data/{name}", content.getvalue())
    return tmp_path / "pictures.whl"


def test_crops_of_the_parts_share_no_pixel(wheel: Path) -> None:
    parts = pictures.crops(wheel, 30, 10, 10)
    assert set(np.unique(parts.train.images)) == {20, 30, 40}
    assert set(np.unique(parts.fit.images)) == {10}
    assert set(np.unique(parts.test.images)) == {0}


def test_crops_are_counted_by_class_and_the_same_every_time(wheel: Path) -> None:
    first, again = pictures.crops(wheel, 3, 2, 1), pictures.crops(wheel, 3, 2, 1)
    assert first.train.images.shape == (27, 1, 64, 64)
    assert np.bincount(first.fit.labels).tolist() == [2] * 9
    assert (first.train.images == again.train.images).all()


def test_light_changes_each_image_and_stays_in_range() -> None:
    images = torch.full((50, 1, 64, 64), 200, dtype=torch.uint8)
    found = textures.lit(images, torch.Generator().manual_seed(0))
    assert found.dtype == torch.float32
    assert found.min() >= 0
    assert found.max() <= 1
    assert found.mean((1, 2, 3)).std() > 0.05


@pytest.mark.parametrize("named", [False, True])
def test_accuracy_is_the_share_of_rows_that_are_right(named: bool) -> None:
    rows = np.eye(3, dtype=np.float32)[np.arange(250) % 3]
    labels = np.where(np.arange(250) < 50, 1, np.arange(250) % 3)
    case = Case("three", torch.nn.Identity(), (rows, labels), ({"x": rows} if named else rows, labels), ("a", "b", "c"))
    assert accuracy(case) == (200 + 17) / 250

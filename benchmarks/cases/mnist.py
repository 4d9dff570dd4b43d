"""MNIST: 10,000 handwritten digits of 28x28 pixels, and a residual CNN with four exits trained on 6,500 of them."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.cases.archives import MNIST, fetch
from benchmarks.cases.fit import Batch, Recipe, trained
from benchmarks.cases.splits import Splits, split

PIXELS: Final = 28
CLASSES: Final = 10
VALIDATION, TEST = 1500, 2000

STEM_CHANNELS: Final = 12
STAGES: Final = ((16, 1, 1), (48, 2, 1), (96, 3, 2), (128, 3, 1))
"""Channels, residual blocks and first stride of each stage. The first is thin, so that its exit is cheap."""

# Augmentation, uniform up to these.
MAX_SHIFT_PIXELS: Final = 2.5
MAX_TURN_RADIANS: Final = 0.22
MAX_SCALE: Final = 0.12
MAX_SHEAR: Final = 0.15

RECIPE: Final = Recipe(
    epochs=20,
    batch=64,
    learning_rate=3e-3,
    weight_decay=0.02,
    exit_weights=(1.0, 1.0, 1.0, 1.0),
    distillation=1.0,
    smoothing=0.02,
    average=0.998,
    data=f"{MNIST.sha256} {VALIDATION} {TEST}",
)


def read(path: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Returns images (n, 1, 28, 28) in [0, 1] and labels (n,) of the package's archive, ordered by label.

    Each digit's file is `{"data": [...]}` with the pixels of all its images one after the other, row by row.
    """
    images, labels = [], []
    with tarfile.open(path) as archive:
        for label in range(CLASSES):
            file = archive.extractfile(f"package/src/digits/{label}.json")
            if file is None:
                raise ValueError(f"{path} has no file of the digit {label}")
            pixels = np.array(json.load(file)["data"], np.float32).reshape(-1, 1, PIXELS, PIXELS)
            images.append(pixels)
            labels.append(np.full(len(pixels), label, np.int64))
    return np.concatenate(images), np.concatenate(labels)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al. 2016, "Deep Residual Learning", section 3.3, option B)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        same = channels_in == channels and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels, 1, stride, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Returns features (batch, channels, height / stride, width / stride)."""
        residual = functional.relu(self.norm1(self.conv1(features)))
        return functional.relu(self.norm2(self.conv2(residual)) + self.shortcut(features))


class Head(nn.Module):
    """The mean of each channel over the map, as He et al. have it, then one linear layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        """Returns logits (batch, 10)."""
        logits: Tensor = self.linear(features.mean(dim=(2, 3)))
        return logits


class ResNet(nn.Module):
    """A residual CNN in the style of BranchyNet (Teerapittayanon et al. 2016): an exit after each of its stages."""

    def __init__(self) -> None:
        super().__init__()
        stem = nn.Sequential(
            nn.Conv2d(1, STEM_CHANNELS, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(STEM_CHANNELS), nn.ReLU()
        )
        stages, heads = [], []
        before = STEM_CHANNELS
        for number, (channels, blocks, stride) in enumerate(STAGES):
            parts: list[nn.Module] = [stem] if number == 0 else []
            for block in range(blocks):
                parts.append(ResidualBlock(before, channels, stride if block == 0 else 1))
                before = channels
            heads.append(Head(channels))
            stages.append(nn.Sequential(*parts))
        self.stages = nn.ModuleList(stages)
        self.heads = nn.ModuleList(heads)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Returns the logits of every exit, each (batch, 10), of images (batch, 1, 28, 28) in [0, 1]."""
        exits = []
        features = image
        for stage, head in zip(self.stages, self.heads, strict=True):
            features = stage(features)
            exits.append(head(features))
        return tuple(exits)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Returns the images (n, 1, 28, 28), each a little turned, scaled, sheared and shifted."""

    def drawn(largest: float, *shape: int) -> Tensor:
        return (torch.rand(*shape, generator=generator) * 2 - 1) * largest

    n = len(images)
    turn, scale, shear = drawn(MAX_TURN_RADIANS, n), 1 + drawn(MAX_SCALE, n), drawn(MAX_SHEAR, n)
    shift = drawn(MAX_SHIFT_PIXELS * 2 / PIXELS, n, 2)  # `affine_grid` measures from -1 to 1
    cos, sin = turn.cos() * scale, turn.sin() * scale
    affine = torch.stack([cos, shear * cos - sin, shift[:, 0], sin, shear * sin + cos, shift[:, 1]], dim=1)
    grid = functional.affine_grid(affine.reshape(n, 2, 3), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def load(
    name: str = "mnist", build: Callable[[], nn.Module] = ResNet, recipe: Recipe = RECIPE
) -> tuple[nn.Module, NDArray[np.float32], NDArray[np.int64], Splits]:
    """Returns a network trained on the digits, all images and labels, and which of them are for what."""
    images, labels = read(fetch(MNIST))
    parts = split(labels, VALIDATION, TEST)
    given, wanted = torch.from_numpy(images[parts.train]), torch.from_numpy(labels[parts.train])
    steps = len(given) // recipe.batch

    def batches(generator: torch.Generator) -> Iterator[Batch]:
        order = torch.randperm(len(given), generator=generator)[: steps * recipe.batch]
        for rows in order.reshape(steps, recipe.batch):
            images = augment(given[rows], generator)
            yield (images.contiguous(memory_format=torch.channels_last),), wanted[rows]

    return trained(name, build, recipe, batches, steps), images, labels, parts


if __name__ == "__main__":
    load()

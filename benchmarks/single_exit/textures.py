"""A network of inverted residuals that tells from which of nine pictures a crop is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.cases.archives import PICTURES, fetch
from benchmarks.cases.fit import Batch, Recipe, trained
from benchmarks.cases.mobilenet import InvertedResidual
from benchmarks.single_exit import pictures
from benchmarks.single_exit.alone import Alone
from benchmarks.single_exit.case import Case

STEM_CHANNELS: Final = 16
STAGES: Final = ((16, 1, 1), (32, 3, 2), (80, 4, 2), (112, 3, 1), (192, 3, 2))
"""Channels, blocks and first stride of each stage."""
TRAIN, FIT, TEST = 750, 150, 150
"""Crops of each picture."""

# What light and a camera change, uniform up to these, of pixels in [0, 1].
MAX_GAIN: Final = 0.4
MAX_SHADE: Final = 0.15
MAX_NOISE: Final = 0.05

RECIPE: Final = Recipe(
    epochs=12,
    batch=64,
    learning_rate=4e-3,
    weight_decay=0.02,
    exit_weights=(1.0,),
    distillation=0.0,
    smoothing=0.05,
    average=0.99,
    data=f"{PICTURES.sha256} {TRAIN} {FIT} {TEST} {pictures.TILE} {pictures.LEAST} {' '.join(pictures.FILES)}",
)


class MobileNet(nn.Module):
    """A stem, fourteen inverted residuals and a linear layer on the mean of each channel."""

    def __init__(self) -> None:
        super().__init__()
        before = STEM_CHANNELS
        self.stem = nn.Sequential(
            nn.Conv2d(1, before, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(before), nn.ReLU6()
        )
        blocks = []
        for channels, count, stride in STAGES:
            for block in range(count):
                blocks.append(InvertedResidual(before, channels, stride if block == 0 else 1))
                before = channels
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(before, len(pictures.CLASSES))

    def forward(self, image: Tensor) -> Tensor:
        """Returns logits (batch, 9) of images (batch, 1, 64, 64) in [0, 1]."""
        logits: Tensor = self.head(self.blocks(self.stem(image)).mean((2, 3)))
        return logits


def lit(images: Tensor, generator: torch.Generator) -> Tensor:
    """Returns uint8 images (n, 1, 64, 64) as float32 in [0, 1], each in other light and with other noise."""

    def drawn() -> Tensor:
        return torch.rand(len(images), 1, 1, 1, generator=generator)

    gain, shade = 1 + MAX_GAIN * (2 * drawn() - 1), MAX_SHADE * (2 * drawn() - 1)
    noise = MAX_NOISE * drawn() * torch.randn(images.shape, generator=generator)
    return ((images / 255 - 0.5) * gain + 0.5 + shade + noise).clamp(0, 1)


def load(name: str = "textures", build: Callable[[], nn.Module] = MobileNet, recipe: Recipe = RECIPE) -> Case:
    """Returns the case; the network has learned from other regions of the pictures than those of its rows."""
    parts = pictures.crops(fetch(PICTURES), TRAIN, FIT, TEST)
    given, wanted = torch.from_numpy(parts.train.images), torch.from_numpy(parts.train.labels)
    steps = len(given) // recipe.batch

    def batches(generator: torch.Generator) -> Iterator[Batch]:
        order = torch.randperm(len(given), generator=generator)[: steps * recipe.batch]
        for rows in order.reshape(steps, recipe.batch):
            images = torch.rot90(given[rows], int(torch.randint(4, (), generator=generator)), (2, 3))
            yield (lit(images, generator).contiguous(memory_format=torch.channels_last),), wanted[rows]

    def rows(part: pictures.Part, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        return lit(torch.from_numpy(part.images), torch.Generator().manual_seed(seed)).numpy(), part.labels

    network = trained(f"single_exit_{name}", lambda: Alone(build()), recipe, batches, steps).get_submodule("network")
    return Case(name, network, rows(parts.fit, 1), rows(parts.test, 2), pictures.CLASSES, rows(parts.train, 3))

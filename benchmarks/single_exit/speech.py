"""Keyword spotting: a residual network of 1-D convolutions over time on spoken words in noise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.cases.fit import Batch, Recipe, trained
from benchmarks.single_exit.case import Case
from benchmarks.single_exit.log_mel import BANDS
from benchmarks.single_exit.words import WORDS, Settings, spoken

PARTS: Final = {
    "train": Settings(clips=4, mixes=2),
    "fit": Settings(clips=8, mixes=1),
    "test": Settings(clips=8, mixes=1),
}
STEM_CHANNELS: Final = 32
STAGES: Final = ((48, 2, 2), (64, 3, 2), (96, 3, 2))
"""Channels, residual blocks and first stride of each stage."""

MAX_HIDDEN_FRAMES, MAX_HIDDEN_BANDS = 20, 8  # of each row, while it is learned from

RECIPE: Final = Recipe(
    epochs=7,
    batch=64,
    learning_rate=3e-3,
    weight_decay=0.02,
    exit_weights=(1.0,),
    distillation=0.0,
    smoothing=0.02,
    average=0.99,
    data=repr(PARTS["train"]),
)


class Block(nn.Module):
    """Two convolutions of nine frames around a shortcut (Choi et al. 2019, "TC-ResNet", figure 2)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(channels_in, channels, 9, stride, padding=4, bias=False)
        self.norm1 = nn.BatchNorm1d(channels)
        self.conv2 = nn.Conv1d(channels, channels, 9, padding=4, bias=False)
        self.norm2 = nn.BatchNorm1d(channels)
        same = channels_in == channels and stride == 1
        short = nn.Sequential(nn.Conv1d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm1d(channels))
        self.shortcut = nn.Identity() if same else short

    def forward(self, features: Tensor) -> Tensor:
        """Returns features (batch, channels, frames / stride)."""
        residual = functional.relu(self.norm1(self.conv1(features)))
        return functional.relu(self.norm2(self.conv2(residual)) + self.shortcut(features))


class KeywordNet(nn.Module):
    """TC-ResNet, deeper: a band is a channel, so that all convolutions run over time alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(BANDS, STEM_CHANNELS, 3, padding=1, bias=False)
        blocks, before = [], STEM_CHANNELS
        for channels, depth, stride in STAGES:
            for number in range(depth):
                blocks.append(Block(before, channels, stride if number == 0 else 1))
                before = channels
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(before, len(WORDS))

    def forward(self, features: Tensor) -> Tensor:
        """Returns logits (batch, 20) of log-mel energies (batch, 40, frames)."""
        logits: Tensor = self.head(self.dropout(self.blocks(self.stem(features)).mean(dim=2)))
        return logits


def hide(features: Tensor, generator: torch.Generator) -> Tensor:
    """Returns features in which some successive frames and bands of each row are 0 (Park et al. 2019, SpecAugment)."""
    kept = torch.ones_like(features)
    for axis, most in ((2, MAX_HIDDEN_FRAMES), (1, MAX_HIDDEN_BANDS)):
        size = features.shape[axis]
        width = torch.randint(most + 1, (len(features), 1), generator=generator)
        start = (torch.rand(len(features), 1, generator=generator) * (size - width)).long()
        places = torch.arange(size)
        hidden = (places >= start) & (places < start + width)
        kept *= (~hidden).unsqueeze(3 - axis)
    return features * kept


def load() -> Case:
    """Returns the case; the voices of each part are in no other."""
    rows, labels = (torch.from_numpy(found) for found in spoken("train", PARTS["train"]))
    steps = len(rows) // RECIPE.batch

    def batches(generator: torch.Generator) -> Iterator[Batch]:
        order = torch.randperm(len(rows), generator=generator)[: steps * RECIPE.batch]
        for chosen in order.reshape(steps, RECIPE.batch):
            yield (hide(rows[chosen], generator),), labels[chosen]

    network = trained("single_exit_speech", KeywordNet, RECIPE, batches, steps)
    fit, test = (spoken(part, PARTS[part]) for part in ("fit", "test"))
    return Case("speech", network, fit, test, WORDS, (rows.numpy(), labels.numpy()))

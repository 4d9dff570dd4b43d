"""A network of inverted residuals on MNIST: channels that fill no whole blocks of 16, an exit after each stage."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.cases import mnist
from benchmarks.cases.splits import Splits

STEM_CHANNELS: Final = 16
STAGES: Final = ((24, 2, 1), (40, 3, 2), (112, 3, 1))
"""Channels, blocks and first stride of each stage; the widths of MobileNetV3 (Howard et al. 2019, table 1)."""
EXPANSION: Final = 3  # as MobileNetV3's first stages have it, so that these widths fill no whole blocks either

RECIPE: Final = replace(mnist.RECIPE, epochs=16, exit_weights=(1.0,) * len(STAGES), average=0.99)


class InvertedResidual(nn.Module):
    """Widened by a 1x1 convolution, a 3x3 of each channel alone, narrowed (Sandler et al. 2018, "MobileNetV2")."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        inner = EXPANSION * channels_in
        self.layers = nn.Sequential(
            nn.Conv2d(channels_in, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6(),
            nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner, bias=False), nn.BatchNorm2d(inner), nn.ReLU6(),
            nn.Conv2d(inner, channels, 1, bias=False), nn.BatchNorm2d(channels),
        )  # fmt: skip
        self.same = channels_in == channels and stride == 1

    def forward(self, features: Tensor) -> Tensor:
        """Returns features (batch, channels, height / stride, width / stride)."""
        found: Tensor = self.layers(features)
        return features + found if self.same else found


class MobileNet(nn.Module):
    """A stem, then stages of inverted residuals, each with an exit."""

    def __init__(self) -> None:
        super().__init__()
        before = STEM_CHANNELS
        stem = [nn.Conv2d(1, before, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(before), nn.ReLU6()]
        self.stages, self.heads = nn.ModuleList(), nn.ModuleList()
        for number, (channels, blocks, stride) in enumerate(STAGES):
            parts: list[nn.Module] = stem if number == 0 else []
            for block in range(blocks):
                parts.append(InvertedResidual(before, channels, stride if block == 0 else 1))
                before = channels
            self.stages.append(nn.Sequential(*parts))
            self.heads.append(mnist.Head(channels))

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Returns the logits of every exit, each (batch, 10), of images (batch, 1, 28, 28) in [0, 1]."""
        exits = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            features = stage(features)
            exits.append(head(features))
        return tuple(exits)


def load() -> tuple[nn.Module, NDArray[np.float32], NDArray[np.int64], Splits]:
    """Returns the trained network, all images and labels, and which of them are for what."""
    return mnist.load("mobilenet", MobileNet, RECIPE)


if __name__ == "__main__":
    load()

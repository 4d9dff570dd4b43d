"""ConvNet-AIG: a gate before every residual block scales what it adds to its shortcut by 0 or 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from eetoolkit.zoo.residual import ResidualBlock, head, stem
from eetoolkit.zoo.system import System

CHANNELS: Final = (32, 32, 32, 32, 64, 64, 64, 64)
"""Of every residual block; where they double, the image shrinks from 8x8 to 4x4."""

GATE_HIDDEN: Final = 16
"""Of the gates' only hidden layer, as in the paper."""

TARGET_RATE: Final = 0.5
"""The share of a batch for which each gate should be open."""

RATE_WEIGHT: Final = 1.0
"""Of the target rate loss beside the cross-entropy."""


class GatedBlock(ResidualBlock):
    """A residual block that computes its relevance from the average of its input."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__(channels_in, channels, stride)
        self.relevance = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(channels_in, GATE_HIDDEN),
            nn.BatchNorm1d(GATE_HIDDEN),
            nn.ReLU(),
            nn.Linear(GATE_HIDDEN, 2),
        )

    def gate(self, features: Tensor) -> Tensor:
        """Returns (n,): 1 where the block is relevant, 0 where it is not; drawn with Gumbel noise in training."""
        scores: Tensor = self.relevance(features)
        if self.training:
            return functional.gumbel_softmax(scores, hard=True)[:, 1]
        return (scores.argmax(dim=1) == 1).to(scores.dtype)

    def gated(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Returns features and the gate."""
        gate = self.gate(features)
        out = self.shortcut(features) + self.residual(features) * gate[:, None, None, None]
        return functional.relu(out), gate


class ConvNetAIG(nn.Module):
    """A residual network with adaptive inference graphs (Veit and Belongie 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = stem(CHANNELS[0])
        before = (CHANNELS[0], *CHANNELS)
        self.blocks = nn.ModuleList(
            GatedBlock(wide_in, wide, 1 if wide_in == wide else 2)
            for wide_in, wide in zip(before, CHANNELS, strict=False)
        )
        self.head = head(CHANNELS[-1], 4)

    def walk(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Returns logits (n, 10) and gates (n, blocks), each 0 or 1."""
        features, gates = self.stem(image), []
        for block in self.blocks:
            features, gate = cast("GatedBlock", block).gated(features)
            gates.append(gate)
        return self.head(features), torch.stack(gates, dim=1)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Returns logits (n, 10), in training with the gates (n, blocks) beside them."""
        return self.walk(image) if self.training else self.walk(image)[0]


def loss(outputs: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
    """Returns the cross-entropy plus the target rate loss (Veit and Belongie 2018).

    The latter is the mean over the blocks of (share of the batch for which the gate is open - target rate)^2.
    """
    logits, gates = outputs
    rates = gates.mean(dim=0)
    return functional.cross_entropy(logits, labels) + RATE_WEIGHT * ((rates - TARGET_RATE) ** 2).mean()


def decisions(model: nn.Module, inputs: Sequence[Tensor]) -> list[int]:
    """Returns what every gate does on one row: 1 runs the block, 0 skips it."""
    return [round(value) for value in cast("ConvNetAIG", model).walk(*inputs)[1][0].tolist()]


SYSTEM: Final = System(
    name="convnet_aig",
    title="ConvNet-AIG: a gate scales every residual by 0 or 1",
    source="Veit and Belongie 2018, arXiv:1711.11503",
    build=ConvNetAIG,
    loss=loss,
    epochs=24,
    decisions=decisions,
)

"""A depth-adaptive network: the first features say how many blocks this image needs, before any of them runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from eetoolkit.zoo.residual import ResidualBlock, head, stem
from eetoolkit.zoo.system import System

CHANNELS: Final = 40
DEPTH: Final = 5
"""Residual blocks, each with a classifier of its own."""

PENALTY: Final = 0.005
"""Nats of log-likelihood that one more block has to bring (lambda of the oracle)."""


class DepthAdaptive(nn.Module):
    """Depth chosen by a multinomial predictor, once per input (Elbayad et al. 2020), here over convolution blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = stem(CHANNELS)
        self.blocks = nn.ModuleList(ResidualBlock(CHANNELS, CHANNELS) for _ in range(DEPTH))
        self.heads = nn.ModuleList(head(CHANNELS, 8, cells=1) for _ in range(DEPTH))
        self.predictor = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(CHANNELS * 16, DEPTH))

    def choose(self, image: Tensor) -> Tensor:
        """Returns how many blocks one image takes, less one, int64 ()."""
        scores: Tensor = self.predictor(self.stem(image))
        return scores.argmax(dim=1)[0]

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Returns logits (1, 10) for one image.

        In training: the predictor's scores (n, depths) and the logits of every depth (n, depths, 10).
        """
        features = self.stem(image)
        scores = self.predictor(features)
        if self.training:
            every = []
            for block, head_ in zip(self.blocks, self.heads, strict=True):
                features = block(features)
                every.append(head_(features))
            return scores, torch.stack(every, dim=1)
        return self._answer(0, scores.argmax(dim=1)[0])(features)

    def _answer(self, number: int, last: Tensor) -> Callable[[Tensor], Tensor]:
        """Returns what runs the blocks from `number` up to the last one, and that one's head."""
        block, here = self.blocks[number], self.heads[number]
        if number == DEPTH - 1:
            return lambda features: here(block(features))
        deeper = self._answer(number + 1, last)

        def run(features: Tensor) -> Tensor:
            logits: Tensor = torch.cond(last > number, deeper, here, (block(features),))
            return logits

        return run


def loss(outputs: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
    """Returns the mean cross-entropy of all depths plus that of the predictor against the oracle.

    The oracle is the depth with the best log-likelihood less lambda for every block, Elbayad et al. 2020,
    "likelihood-based".
    """
    scores, logits = outputs
    losses = functional.cross_entropy(logits.transpose(1, 2), labels[:, None].expand(-1, DEPTH), reduction="none")
    oracle = (losses.detach() + PENALTY * torch.arange(DEPTH)).argmin(dim=1)
    return losses.mean() + functional.cross_entropy(scores, oracle)


def decisions(model: nn.Module, inputs: Sequence[Tensor]) -> list[int]:
    """Returns for one row whether it goes deeper after each block that it reaches: 1 or, where it stops, 0."""
    last = int(cast("DepthAdaptive", model).choose(*inputs))
    return [1] * last + [0] * (last < DEPTH - 1)


SYSTEM: Final = System(
    name="depth_adaptive",
    title="Depth-adaptive network: depth chosen up front",
    source="Elbayad et al. 2020, arXiv:1910.10073",
    build=DepthAdaptive,
    loss=loss,
    epochs=20,
    options={"dynamic_batch": False},
    decisions=decisions,
)

"""A slimmable network, its width chosen for every image: of one set of weights the first channels are used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from eetoolkit.zoo.residual import CLASSES
from eetoolkit.zoo.router import choice_losses, every_choice_loss, fit_then_route, routing_loss
from eetoolkit.zoo.system import System

WIDTHS: Final = (8, 16, 24, 32)
"""Channels that are in use: a quarter, a half, three quarters, all."""

LAYERS: Final = 5
SIDE: Final = 8
PREDICTOR_CHANNELS: Final = 16
SHARES: Final = (0.4, 0.3, 0.2, 0.1)
"""Of the images, for each width: the budget."""


class SlimmableConv(nn.Module):
    """A 3x3 convolution that can use its first channels only, with a BatchNorm for every width (switchable)."""

    def __init__(self, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.weight = nn.Parameter(torch.empty(WIDTHS[-1], 1 if first else WIDTHS[-1], 3, 3))
        nn.init.kaiming_normal_(self.weight)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in WIDTHS)

    def forward(self, features: Tensor, width: int) -> Tensor:
        """Returns features (n, channels, 8, 8).

        Args:
            features: (n, channels, 8, 8) of the same width; an image if it is the first.
            width: Its number in `WIDTHS`.
        """
        channels = WIDTHS[width]
        weight = self.weight[:channels] if self.first else self.weight[:channels, :channels]
        return functional.relu(self.norms[width](functional.conv2d(features, weight, padding=1)))


class Slimmable(nn.Module):
    """A slimmable network (Yu et al. 2019) and a predictor of the width that an image needs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(SlimmableConv(first=number == 0) for number in range(LAYERS))
        self.heads = nn.ModuleList(nn.Linear(width * 4, CLASSES) for width in WIDTHS)
        self.predictor = nn.Sequential(
            nn.Conv2d(1, PREDICTOR_CHANNELS, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
            nn.Linear(PREDICTOR_CHANNELS * 16, len(WIDTHS)),
        )  # fmt: skip

    def at(self, width: int, image: Tensor) -> Tensor:
        """Returns logits (n, 10) with the first channels only; `width` is a number in `WIDTHS`."""
        features = image
        for layer in self.layers:
            features = layer(features, width)
        logits: Tensor = self.heads[width](functional.avg_pool2d(features, SIDE // 2).flatten(1))
        return logits

    def choose(self, image: Tensor) -> Tensor:
        """Returns the number of the width for one image, int64 ()."""
        scores: Tensor = self.predictor(image)
        return scores.argmax(dim=1)[0]

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Returns logits (1, 10) for one image; in training the scores and all logits."""
        if self.training:
            every = [self.at(width, image) for width in range(len(WIDTHS))]
            return self.predictor(image), torch.stack(every, dim=1)
        return self._from(0, self.choose(image))(image)

    def _from(self, width: int, chosen: Tensor) -> Callable[[Tensor], Tensor]:
        """Returns what answers at the chosen width, which is at least `width`: an `elif` chain."""
        here: Callable[[Tensor], Tensor] = lambda image: self.at(width, image)  # noqa: E731
        if width == len(WIDTHS) - 1:
            return here
        wider = self._from(width + 1, chosen)
        return lambda image: torch.cond(chosen == width, here, wider, (image,))


def routing(outputs: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
    """Returns `routing_loss` of the widths."""
    return routing_loss(outputs[0], choice_losses(outputs[1], labels), SHARES)


def fit(model: nn.Module) -> nn.Module:
    """Returns the network after all widths (Yu et al. 2019, algorithm 1), then the predictor have learned."""
    return fit_then_route(model, cast("Slimmable", model).predictor, every_choice_loss, routing)


def decisions(model: nn.Module, inputs: Sequence[Tensor]) -> list[int]:
    """Returns the number of the width that one row takes."""
    return [int(cast("Slimmable", model).choose(*inputs))]


SYSTEM: Final = System(
    name="slimmable",
    title="Slimmable network, width chosen per image",
    source="Yu et al. 2019, arXiv:1812.08928",
    build=Slimmable,
    loss=every_choice_loss,
    fit=fit,
    options={"dynamic_batch": False},
    decisions=decisions,
)

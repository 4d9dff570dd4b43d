"""Routing and exits in one network: an exit, a router over three routes of different cost, and two more exits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from eetoolkit.zoo.residual import ResidualBlock, head, stem
from eetoolkit.zoo.router import choice_losses, fit_then_route, routing_loss
from eetoolkit.zoo.system import System

CHANNELS: Final = 32
SHARES: Final = (0.4, 0.3, 0.3)
"""Of the images, for each route: none, one, and two residual blocks."""


class RoutedExits(nn.Module):
    """Three exits with the criterion of BranchyNet, and between the first two a route chosen per image."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(stem(CHANNELS), ResidualBlock(CHANNELS, CHANNELS))
        self.router = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(CHANNELS * 16, len(SHARES)))
        self.short = ResidualBlock(CHANNELS, CHANNELS)
        self.long = nn.Sequential(ResidualBlock(CHANNELS, CHANNELS), ResidualBlock(CHANNELS, CHANNELS))
        self.last = nn.Sequential(ResidualBlock(CHANNELS, 64, 2), ResidualBlock(64, 64))
        self.head0, self.head1, self.head2 = head(CHANNELS, 8), head(CHANNELS, 8), head(64, 4)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Returns the logits (1, 10) of the three exits for one image; in training what `loss` takes."""
        features = self.first(image)
        exit0, scores = self.head0(features), self.router(features)
        if self.training:
            routes = (features, self.short(features), self.long(features))
            exit1 = torch.stack([self.head1(route) for route in routes], dim=1)
            exit2 = torch.stack([self.head2(self.last(route)) for route in routes], dim=1)
            return exit0, scores, exit1, exit2
        chosen = scores.argmax(dim=1)[0]

        def worked(features: Tensor) -> Tensor:
            out: Tensor = torch.cond(chosen == 1, self.short, self.long, (features,))
            return out

        routed = torch.cond(chosen == 0, torch.clone, worked, (features,))
        return exit0, self.head1(routed), self.head2(self.last(routed))


def loss(outputs: tuple[Tensor, ...], labels: Tensor) -> Tensor:
    """Returns the sum of the exits' cross-entropies, those behind the router as the mean over the routes."""
    exit0, _, exit1, exit2 = outputs
    routed = choice_losses(exit1, labels).mean() + choice_losses(exit2, labels).mean()
    return functional.cross_entropy(exit0, labels) + routed


def routing(outputs: tuple[Tensor, ...], labels: Tensor) -> Tensor:
    """Returns `routing_loss` with the losses of the exit right behind the routes."""
    _, scores, exit1, _ = outputs
    return routing_loss(scores, choice_losses(exit1, labels), SHARES)


def fit(model: nn.Module) -> nn.Module:
    """Returns the network after the exits on all routes, then the router have learned."""
    return fit_then_route(model, cast("RoutedExits", model).router, loss, routing)


def decisions(model: nn.Module, inputs: Sequence[Tensor]) -> list[int]:
    """Returns the number of the route that one row takes if it does not leave at the first exit."""
    network = cast("RoutedExits", model)
    return [int(network.router(network.first(*inputs)).argmax(dim=1))]


SYSTEM: Final = System(
    name="routed_exits",
    title="Routing and exits in one network",
    source="Jacobs et al. 1991, Adaptive Mixtures of Local Experts, and Teerapittayanon et al. 2016, arXiv:1709.01686",
    build=RoutedExits,
    loss=loss,
    fit=fit,
    options={"dynamic_batch": False},
    decisions=decisions,
)

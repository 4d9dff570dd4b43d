"""Self-adaptive inference: a router looks at the first features and picks one of several experts of different size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from eetoolkit.zoo import train
from eetoolkit.zoo.residual import ResidualBlock, head, stem
from eetoolkit.zoo.system import System

STEM_CHANNELS: Final = 16
EXPERTS: Final = ((8, 1), (24, 1), (40, 3))
"""Channels and residual blocks of each expert, small to large."""

SHARES: Final = (0.5, 0.3, 0.2)
"""Of the images, for each expert: the budget."""

ROUTER_HIDDEN: Final = 32
ROUTER_LEARNING_RATE: Final = 1e-2
BUDGET_WEIGHT: Final = 1.0
ENTROPY_WEIGHT: Final = 0.03
"""Both in nats, beside the expected loss."""

Loss = Callable[[Any, Tensor], Tensor]


class Router(nn.Module):
    """A stem, a router, and experts that each end in logits (Jacobs et al. 1991, with a hard choice)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = stem(STEM_CHANNELS)
        self.experts = nn.ModuleList(_expert(channels, blocks) for channels, blocks in EXPERTS)
        self.router = nn.Sequential(
            nn.AvgPool2d(2), nn.Flatten(), nn.Linear(STEM_CHANNELS * 16, ROUTER_HIDDEN), nn.ReLU(),
            nn.Linear(ROUTER_HIDDEN, len(EXPERTS)),
        )  # fmt: skip

    def choose(self, image: Tensor) -> Tensor:
        """Returns the number of the expert for one image, int64 ()."""
        scores: Tensor = self.router(self.stem(image))
        return scores.argmax(dim=1)[0]

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Returns the logits (1, 10) of the expert for one image; in training the scores and all logits."""
        features = self.stem(image)
        scores = self.router(features)
        if self.training:
            return scores, torch.stack([expert(features) for expert in self.experts], dim=1)
        chosen = scores.argmax(dim=1)[0]
        small, medium, large = self.experts

        def larger(features: Tensor) -> Tensor:
            logits: Tensor = torch.cond(chosen == 1, medium, large, (features,))
            return logits

        logits: Tensor = torch.cond(chosen == 0, small, larger, (features,))
        return logits


def _expert(channels: int, blocks: int) -> nn.Sequential:
    first = ResidualBlock(STEM_CHANNELS, channels)
    return nn.Sequential(first, *(ResidualBlock(channels, channels) for _ in range(blocks - 1)), head(channels, 8))


def every_choice_loss(outputs: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
    """Returns the mean cross-entropy of all choices, from the scores (n, choices) and the logits (n, choices, 10)."""
    return choice_losses(outputs[1], labels).mean()


def choice_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns cross-entropies (n, choices) of logits (n, choices, 10)."""
    every = labels[:, None].expand(logits.shape[:2])
    return functional.cross_entropy(logits.transpose(1, 2), every, reduction="none")


def routing_loss(scores: Tensor, losses: Tensor, shares: Sequence[float]) -> Tensor:
    """Returns the expected loss of a router's choices, plus what keeps them to a budget and to one choice an image.

    The expected loss is the mean of sum over choices k of p_k L_k (Jacobs et al. 1991, equation 1.2), so that the large
    choices go to the images that gain most. The budget is sum over k of (mean p_k - share_k)^2, as in ConvNet-AIG; the
    entropy of p makes a choice of it.

    Args:
        scores: Of the router (n, choices); p is their softmax.
        losses: L (n, choices), of which only the values count.
        shares: Of the images that each choice should get (choices,).
    """
    p = scores.softmax(dim=1)
    expected = (p * losses.detach()).sum(dim=1).mean()
    budget = ((p.mean(dim=0) - torch.tensor(shares)) ** 2).sum()
    entropy = -(p * scores.log_softmax(dim=1)).sum(dim=1).mean()
    return expected + BUDGET_WEIGHT * budget + ENTROPY_WEIGHT * entropy


def fit_then_route(
    model: nn.Module, router: nn.Module, loss: Loss, routing: Loss, epochs: tuple[int, int] = (14, 10)
) -> nn.Module:
    """Returns the network after all choices have learned alike and then the router alone, which so sees what they can.

    Trained together from the start, the router would settle on what learns fastest, and stay there.
    """
    train.fit(model, loss, epochs=epochs[0])
    # Choices differ by hundredths of a nat: weight decay would outweigh that.
    return train.fit(
        model,
        routing,
        epochs=epochs[1],
        parameters=router.parameters(),
        max_learning_rate=ROUTER_LEARNING_RATE,
        weight_decay=0,
    )


def routing(outputs: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
    """Returns `routing_loss` of the experts."""
    return routing_loss(outputs[0], choice_losses(outputs[1], labels), SHARES)


def fit(model: nn.Module) -> nn.Module:
    """Returns the network after the experts, then the router have learned."""
    return fit_then_route(model, cast("Router", model).router, every_choice_loss, routing)


def decisions(model: nn.Module, inputs: Sequence[Tensor]) -> list[int]:
    """Returns the number of the expert that one row takes."""
    return [int(cast("Router", model).choose(*inputs))]


SYSTEM: Final = System(
    name="router",
    title="Self-adaptive inference: a router picks an expert",
    source="Jacobs et al. 1991, Adaptive Mixtures of Local Experts",
    build=Router,
    loss=every_choice_loss,
    fit=fit,
    options={"dynamic_batch": False},
    decisions=decisions,
)

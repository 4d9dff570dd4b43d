"""SkipNet with feed-forward gates, as its authors wrote it: every block is computed, and a hard gate blends it away.

Nothing is saved in PyTorch. `ee.export` finds that the gates are 0 or 1 and makes real ones of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from eetoolkit.zoo import train
from eetoolkit.zoo.residual import ResidualBlock, head, stem
from eetoolkit.zoo.system import System

CHANNELS: Final = (32, 32, 32, 32, 64, 64, 64, 64)
"""Of every residual block. The first always runs; where the channels double, the image shrinks from 8x8 to 4x4."""

WARM_UP_EPOCHS: Final = 14
POLICY_EPOCHS: Final = 12
POLICY_LEARNING_RATE: Final = 1e-3
ALPHA: Final = 0.15
"""Reward, in nats, for skipping every block: high enough that about half of the blocks stay."""

POLICY_WEIGHT: Final = 0.3
"""Of the policy gradient beside the gradient of the cross-entropy."""


class FeedForwardGates(nn.Module):
    """One gate after every block but the last: FFGate-II (Wang et al. 2018, "Gating Network Design")."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.gates = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(width, 2),
            )
            for width in channels[:-1]
        )

    def forward(self, block: int, features: Tensor, state: None) -> tuple[Tensor, None]:
        """Returns the probability (n,) that the block after `block` runs, and no state."""
        return self.gates[block](features).softmax(dim=1)[:, 1], state


class SkipNet(nn.Module):
    """A residual network in which a gate after block i decides on block i + 1 (Wang et al. 2018, equation 1).

    Args:
        gates: Takes a block's number, its features, and what it returned last (at first None); returns the next
            block's probability to run, (n,), and what it wants to see again.
    """

    def __init__(self, gates: nn.Module) -> None:
        super().__init__()
        self.stem = stem(CHANNELS[0])
        before = (CHANNELS[0], *CHANNELS)
        self.blocks = nn.ModuleList(
            ResidualBlock(wide_in, wide, 1 if wide_in == wide else 2)
            for wide_in, wide in zip(before, CHANNELS, strict=False)
        )
        self.gates = gates
        self.head = head(CHANNELS[-1], 4, cells=1)

    def walk(self, image: Tensor, *, draw: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Returns logits (n, 10), each gate's probability to open (n, gates), and what it did (n, gates), 0 or 1.

        Args:
            image: float32 (n, 1, 8, 8) in [0, 1].
            draw: Whether the gates draw what they do; else they open where the probability is above 0.5, and gradients
                pass them as if they were the probabilities.
        """
        features = self.blocks[0](self.stem(image))
        state, probabilities, opened = None, [], []
        for number, module in enumerate(list(self.blocks)[1:]):
            block = cast("ResidualBlock", module)
            probability, state = self.gates(number, features, state)
            if draw:
                gate = torch.bernoulli(probability.detach())
            else:
                gate = (probability > 0.5).float().detach() - probability.detach() + probability
            mask = gate.view(-1, 1, 1, 1)
            features = mask * block(features) + (1 - mask) * block.shortcut(features)
            probabilities.append(probability)
            opened.append(gate)
        return self.head(features), torch.stack(probabilities, dim=1), torch.stack(opened, dim=1)

    def forward(self, image: Tensor) -> Tensor:
        """Returns logits (n, 10)."""
        return self.walk(image)[0]


class Drawn(nn.Module):
    """The network with gates that draw what they do, as the policy gradient needs it."""

    def __init__(self, model: SkipNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns what `SkipNet.walk` returns."""
        return self.model.walk(image, draw=True)


def hybrid_loss(outputs: tuple[Tensor, Tensor, Tensor], labels: Tensor) -> Tensor:
    """Returns a scalar with the gradient of Wang et al. 2018, "Skipping Policy Learning with Hybrid RL".

    The network follows the cross-entropy L. Gate i follows REINFORCE with the reward for what comes after it,
    r_i = -L + alpha / N * sum over j >= i of (1 - gate_j); the batch's mean reward is its baseline, which changes no
    expectation and which the paper leaves out.
    """
    logits, probabilities, opened = outputs
    losses = functional.cross_entropy(logits, labels, reduction="none")
    skipped = (1 - opened) * ALPHA / opened.shape[1]
    rewards = skipped.flip(1).cumsum(1).flip(1) - losses.detach()[:, None]
    log_likelihood = -functional.binary_cross_entropy(probabilities, opened, reduction="none")
    return losses.mean() - POLICY_WEIGHT * ((rewards - rewards.mean(0)) * log_likelihood).sum(1).mean()


def fit(model: nn.Module, policy_epochs: int = POLICY_EPOCHS) -> nn.Module:
    """Returns the network after supervised warm-up with straight-through gates, then hybrid reinforcement learning."""
    train.fit(model, functional.cross_entropy, epochs=WARM_UP_EPOCHS)
    drawn = Drawn(cast("SkipNet", model))
    train.fit(drawn, hybrid_loss, epochs=policy_epochs, max_learning_rate=POLICY_LEARNING_RATE)
    return model.eval()


def decisions(model: nn.Module, inputs: Sequence[Tensor]) -> list[int]:
    """Returns what every gate does on one row: 1 runs the block, 0 skips it."""
    return [round(value) for value in cast("SkipNet", model).walk(*inputs)[2][0].tolist()]


def build() -> SkipNet:
    """Returns the network with random weights."""
    return SkipNet(FeedForwardGates(CHANNELS))


SYSTEM: Final = System(
    name="skipnet",
    title="SkipNet, feed-forward gates",
    source="Wang et al. 2018, arXiv:1711.09485",
    build=build,
    loss=functional.cross_entropy,
    fit=fit,
    decisions=decisions,
)

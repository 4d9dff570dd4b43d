"""BlockDrop: a small policy network looks at the image once and says which residual blocks of a large one run."""

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
"""Of every residual block; where they double, the image shrinks from 8x8 to 4x4."""

BLOCKS: Final = len(CHANNELS)
POLICY_CHANNELS: Final = 16

KEEP: Final = 0.9
"""Probability of every block to stay in the first stage."""

NETWORK_EPOCHS: Final = 12
CURRICULUM_EPOCHS_PER_BLOCK: Final = 3
CURRICULUM_LEARNING_RATE: Final = 5e-3
JOINT_EPOCHS: Final = 10
JOINT_LEARNING_RATE: Final = 1e-3

PENALTY: Final = 2.0
"""Of a wrong answer (gamma in the reward). The paper tries several and takes the trade-off it likes."""

ENTROPY_WEIGHT: Final = 0.1

BOUND: Final = 0.8
"""Probabilities are drawn towards 1 - p by this much, so that exploration never ends (alpha in the paper)."""


class BlockDrop(nn.Module):
    """A residual network and the policy over its blocks (Wu et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = nn.Sequential(
            stem(POLICY_CHANNELS),
            ResidualBlock(POLICY_CHANNELS, POLICY_CHANNELS, 2),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.BatchNorm1d(POLICY_CHANNELS * 4),  # not in the paper: without, the policy starts the same for all images
            nn.Linear(POLICY_CHANNELS * 4, BLOCKS),
        )
        self.stem = stem(CHANNELS[0])
        before = (CHANNELS[0], *CHANNELS)
        self.blocks = nn.ModuleList(
            ResidualBlock(wide_in, wide, 1 if wide_in == wide else 2)
            for wide_in, wide in zip(before, CHANNELS, strict=False)
        )
        self.head = head(CHANNELS[-1], 4, cells=1)

    def probabilities(self, image: Tensor) -> Tensor:
        """Returns for each block the probability (n, blocks) that it should run."""
        scores: Tensor = self.policy(image)
        return scores.sigmoid()

    def answer(self, image: Tensor, actions: Tensor) -> Tensor:
        """Returns logits (n, 10) with only those blocks in effect whose action (n, blocks) is 1 and not 0."""
        features = self.stem(image)
        for number, module in enumerate(self.blocks):
            block = cast("ResidualBlock", module)
            action, shortcut = actions[:, number].view(-1, 1, 1, 1), block.shortcut(features)
            out = functional.relu(shortcut + block.residual(features))
            features = out * action + shortcut * (1 - action)
        logits: Tensor = self.head(features)
        return logits

    def forward(self, image: Tensor) -> Tensor:
        """Returns logits (n, 10)."""
        return self.answer(image, (self.probabilities(image) >= 0.5).float())


class Sampled(nn.Module):
    """The network as the policy gradient needs it.

    Attributes:
        free: How many blocks, from the last, follow the policy; the others run (the curriculum).
        joint: Whether the residual network learns too; else it is in evaluation mode.
    """

    def __init__(self, model: BlockDrop, *, joint: bool) -> None:
        super().__init__()
        self.model, self.joint, self.free = model, joint, BLOCKS

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Returns what `policy_loss` takes: probabilities and actions (n, blocks), and the actions' logits (n, 10)."""
        if not self.joint:
            for part in (self.model.stem, self.model.blocks, self.model.head):
                part.eval()
        probabilities = self.model.probabilities(image)
        bounded = BOUND * probabilities + (1 - BOUND) * (1 - probabilities)
        follows = torch.arange(BLOCKS) >= BLOCKS - self.free
        drawn = torch.where(follows, torch.bernoulli(bounded.detach()), 1.0)
        preferred = torch.where(follows, (probabilities >= 0.5).float(), 1.0)
        with torch.no_grad():
            expected = self.model.answer(image, preferred)
        return bounded, drawn, preferred, self.model.answer(image, drawn), expected, follows


def reward(actions: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Returns R (n,): 1 - (share of blocks run)^2 where the answer is right, else -gamma."""
    return torch.where(logits.argmax(dim=1) == labels, 1 - actions.mean(dim=1) ** 2, -PENALTY)


def policy_loss(outputs: tuple[Tensor, ...], labels: Tensor) -> Tensor:
    """Returns a scalar with the gradient of the expected reward (Wu et al. 2018).

    REINFORCE with a self-critical baseline: the reward of the preferred actions. The entropy, from the authors' code,
    keeps the probabilities off 0 and 1, where they would stay the same for all images.
    """
    bounded, drawn, preferred, logits, expected, follows = outputs
    advantage = reward(drawn, logits.detach(), labels) - reward(preferred, expected, labels)
    log_likelihood = -functional.binary_cross_entropy(bounded, drawn, reduction="none") * follows
    entropy: Tensor = (torch.special.entr(bounded) + torch.special.entr(1 - bounded)) * follows
    return -(advantage[:, None] * log_likelihood + ENTROPY_WEIGHT * entropy).sum(dim=1).mean()


def joint_loss(outputs: tuple[Tensor, ...], labels: Tensor) -> Tensor:
    """Returns the policy's loss plus the cross-entropy of the blocks drawn (joint finetuning)."""
    return policy_loss(outputs, labels) + functional.cross_entropy(outputs[3], labels)


class StochasticDepth(nn.Module):
    """The residual network with random blocks left out (Huang et al. 2016, arXiv:1603.09382).

    The paper starts from a network of a hundred blocks, of which any few can go. One of eight has to learn that.
    """

    def __init__(self, model: BlockDrop) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """Returns logits (n, 10)."""
        return self.model.answer(image, torch.bernoulli(torch.full((len(image), BLOCKS), KEEP)))


def fit(model: nn.Module) -> nn.Module:
    """Returns the network after its three stages: the network; the policy, block by block from the last; both."""
    blockdrop = cast("BlockDrop", model)
    train.fit(StochasticDepth(blockdrop), functional.cross_entropy, epochs=NETWORK_EPOCHS)
    curriculum = Sampled(blockdrop, joint=False)
    for free in range(1, BLOCKS + 1):
        curriculum.free = free
        train.fit(
            curriculum,
            policy_loss,
            epochs=CURRICULUM_EPOCHS_PER_BLOCK,
            parameters=blockdrop.policy.parameters(),
            max_learning_rate=CURRICULUM_LEARNING_RATE,
            weight_decay=0,
        )
    joint = Sampled(blockdrop, joint=True)
    train.fit(joint, joint_loss, epochs=JOINT_EPOCHS, max_learning_rate=JOINT_LEARNING_RATE)
    return model.eval()


def decisions(model: nn.Module, inputs: Sequence[Tensor]) -> list[int]:
    """Returns what the policy says of every block for one row: 1 runs it, 0 drops it."""
    return [int(value >= 0.5) for value in cast("BlockDrop", model).probabilities(*inputs)[0].tolist()]


SYSTEM: Final = System(
    name="blockdrop",
    title="BlockDrop: one policy network for all gates",
    source="Wu et al. 2018, arXiv:1711.08393",
    build=BlockDrop,
    loss=functional.cross_entropy,
    fit=fit,
    decisions=decisions,
)

"""An anytime neural network: auxiliary predictions at every block, their losses balanced as they fall.

Hu, Dey, Hebert and Bagnell 2019, "Learning Anytime Predictions in Neural Networks via Adaptive Loss Balancing",
arXiv:1708.06832, section 3.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from eetoolkit.zoo.digits import LABELS
from eetoolkit.zoo.system import System
from eetoolkit.zoo.train import fit

CHANNELS: Final = 32
BLOCKS: Final = 6
EPOCHS: Final = 25

MEMORY: Final = 0.95
"""Of the running average of each loss, per batch: the last twenty batches count."""


class Block(nn.Module):
    """Two 3x3 convolutions around an identity (He et al. 2016, "Identity Mappings", pre-activation)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(CHANNELS)
        self.conv1 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(CHANNELS)
        self.conv2 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Returns features of shape (batch, 32, 8, 8)."""
        residual = self.conv1(functional.relu(self.norm1(features)))
        residual = self.conv2(functional.relu(self.norm2(residual)))
        added: Tensor = features + residual
        return added


class Auxiliary(nn.Module):
    """A prediction from the average of each feature over the image."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(CHANNELS)
        self.linear = nn.Linear(CHANNELS, len(LABELS))

    def forward(self, features: Tensor) -> Tensor:
        """Returns logits of shape (batch, 10)."""
        logits: Tensor = self.linear(functional.relu(self.norm(features)).mean(dim=(2, 3)))
        return logits


class AnytimeNetwork(nn.Module):
    """A residual network that can answer after any of its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, CHANNELS, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.auxiliaries = nn.ModuleList(Auxiliary() for _ in range(BLOCKS))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Returns every block's logits, each float32 (batch, 10), for images float32 (batch, 1, 8, 8) in [0, 1]."""
        features = self.stem(image)
        answers = []
        for block, auxiliary in zip(self.blocks, self.auxiliaries, strict=True):
            features = block(features)
            answers.append(auxiliary(features))
        return tuple(answers)


def loss(outputs: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Returns the sum of all predictions' cross-entropies with equal weights, in nats; training balances them."""
    return torch.stack([functional.cross_entropy(logits, labels) for logits in outputs]).sum()


class AdaLoss:
    """The adaptively balanced loss: the sum of B_i l_i, with B_i inversely proportional to the average of l_i so far.

    Its gradient is that of the sum of ln E[l_i], so the geometric mean of the losses falls, whatever their scales
    (section 3.2). The weights are scaled to the mean 1, which keeps the learning rate's meaning.
    """

    def __init__(self) -> None:
        self.averages: Tensor | None = None

    def __call__(self, outputs: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Returns the balanced loss of one batch and takes it into the averages."""
        losses = torch.stack([functional.cross_entropy(logits, labels) for logits in outputs])
        now = losses.detach()
        self.averages = now if self.averages is None else MEMORY * self.averages + (1 - MEMORY) * now
        return (self.weights() * losses).sum()

    def weights(self) -> Tensor:
        """Returns B, one weight per prediction, mean 1.

        Raises:
            RuntimeError: No batch has been seen.
        """
        if self.averages is None:
            raise RuntimeError("AdaLoss has no averages before its first batch")
        inverse = 1 / self.averages.clamp_min(1e-6)
        return inverse / inverse.mean()


def fit_balanced(model: nn.Module) -> nn.Module:
    """Returns the network, in evaluation mode, trained with the balanced loss."""
    return fit(model, AdaLoss(), epochs=EPOCHS)


SYSTEM: Final = System(
    name="anytime_neural_network",
    title="Anytime neural network, losses balanced by AdaLoss",
    source="Hu et al. 2019, arXiv:1708.06832, section 3",
    build=AnytimeNetwork,
    loss=loss,
    fit=fit_balanced,
)

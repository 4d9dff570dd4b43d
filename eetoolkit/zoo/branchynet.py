"""The demo network: a residual CNN for 8x8 digits with an exit after each of its three stages."""

from collections.abc import Sequence
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from eetoolkit.zoo import train
from eetoolkit.zoo.system import System

CLASSES: Final = 10

STAGE_CHANNELS: Final = (12, 40, 40)
STAGE_BLOCKS: Final = (1, 3, 4)
"""Residual blocks of each stage. The thin first stage makes the first exit cheap: about a tenth of the whole."""

STEM_PADDING_PIXELS: Final = 2
"""The margin turns 8x8 into 10x10, which every stage keeps: more to compute for the same number of weights.

At 8x8 the whole network would be so fast that a runtime's fixed costs would hide what an early exit saves.
"""

QUADRANT_PIXELS: Final = 5
"""Half of 10. Where a stroke lies tells digits apart, so the heads do not pool the whole image into one value."""

EXIT_WEIGHTS: Final = (1.0, 0.6, 0.6)
"""Weights of the exits in the loss, first exit first. The paper leaves them free; these were not tuned."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al. 2016, "Deep Residual Learning", section 3.3, option B)."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Identity() if channels_in == channels else nn.Conv2d(channels_in, channels, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return features of shape (batch, channels, 10, 10)."""
        residual = functional.relu(self.norm1(self.conv1(features)))
        residual = self.norm2(self.conv2(residual))
        return functional.relu(residual + self.shortcut(features))


class ExitHead(nn.Module):
    """The average of each feature over each quadrant of the image, then one linear layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(QUADRANT_PIXELS)
        self.dropout = nn.Dropout(0.2)
        self.linear = nn.Linear(channels * 2 * 2, CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits of shape (batch, 10)."""
        logits: Tensor = self.linear(self.dropout(self.pool(features).flatten(1)))
        return logits


class BranchyNet(nn.Module):
    """An early-exit network in the style of BranchyNet (Teerapittayanon et al. 2016, arXiv:1709.01686)."""

    def __init__(self) -> None:
        super().__init__()
        stem = STAGE_CHANNELS[0]
        convolution = nn.Conv2d(1, stem, 3, padding=STEM_PADDING_PIXELS, bias=False)
        self.stem = nn.Sequential(convolution, nn.BatchNorm2d(stem), nn.ReLU())
        self.stage0 = _stage(stem, STAGE_CHANNELS[0], STAGE_BLOCKS[0])
        self.stage1 = _stage(STAGE_CHANNELS[0], STAGE_CHANNELS[1], STAGE_BLOCKS[1])
        self.stage2 = _stage(STAGE_CHANNELS[1], STAGE_CHANNELS[2], STAGE_BLOCKS[2])
        self.head0 = ExitHead(STAGE_CHANNELS[0])
        self.head1 = ExitHead(STAGE_CHANNELS[1])
        self.head2 = ExitHead(STAGE_CHANNELS[2])

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logits of every exit, first exit first.

        Args:
            image: float32 (batch, 1, 8, 8), in [0, 1].

        Returns:
            Three tensors of logits, each float32 (batch, 10).
        """
        features0 = self.stage0(self.stem(image))
        features1 = self.stage1(features0)
        features2 = self.stage2(features1)
        return self.head0(features0), self.head1(features1), self.head2(features2)


def _stage(channels_in: int, channels: int, blocks: int) -> nn.Sequential:
    first = ResidualBlock(channels_in, channels)
    return nn.Sequential(first, *(ResidualBlock(channels, channels) for _ in range(blocks - 1)))


def loss(outputs: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Return BranchyNet's joint loss: the weighted sum of every exit's cross-entropy.

    L = sum over exits n of w_n * CE(logits_n, labels), Teerapittayanon et al. 2016, section III.

    Args:
        outputs: logits of every exit, each (batch, 10).
        labels: int64 (batch,).

    Returns:
        A scalar, in nats, averaged over the batch.
    """
    terms = [w * functional.cross_entropy(logits, labels) for w, logits in zip(EXIT_WEIGHTS, outputs, strict=True)]
    return torch.stack(terms).sum()


def example_inputs() -> tuple[Tensor]:
    """Return inputs of the shape, dtype and range that `BranchyNet` takes: two images of fixed noise."""
    return (torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)),)


def load() -> BranchyNet:
    """Return the network with the shipped weights, in eval mode."""
    return cast("BranchyNet", SYSTEM.load())


def fit(model: nn.Module) -> nn.Module:
    """Return the network after the ordinary loop, with the weights of the epoch whose validation loss was lowest."""
    return train.fit(model, loss, epochs=40, select=True)


SYSTEM: Final = System(
    name="branchynet",
    title="BranchyNet: a residual CNN with three exits",
    source="Teerapittayanon et al. 2016, arXiv:1709.01686",
    build=BranchyNet,
    loss=loss,
    fit=fit,
    storage=torch.float32,
)

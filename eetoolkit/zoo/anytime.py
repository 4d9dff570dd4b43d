"""Anytime prediction: a small MSDNet, whose every layer keeps coarse features for the classifiers.

Huang et al. 2018, "Multi-Scale Dense Networks for Resource Efficient Image Classification", arXiv:1703.09844,
section 4.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from eetoolkit.zoo.digits import LABELS
from eetoolkit.zoo.system import System

GROWTH: Final = (8, 16, 32)
"""Channels that a layer adds at 8x8, 4x4 and 2x2 pixels."""

START: Final = (16, 32, 64)
"""Channels of the first layer at each scale."""

LAYERS: Final = 8
EXIT_EVERY: Final = 2
"""A classifier behind layers 2, 4, 6 and 8."""


class Convolution(nn.Sequential):
    """A 1x1 bottleneck and a 3x3 convolution, each with batch norm and ReLU (section 4, "convolutional layers")."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        bottleneck = min(channels_in, 4 * channels)
        super().__init__(
            nn.Conv2d(channels_in, bottleneck, 1, bias=False),
            nn.BatchNorm2d(bottleneck),
            nn.ReLU(),
            nn.Conv2d(bottleneck, channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )


class DenseLayer(nn.Module):
    """One layer at all scales: each keeps what it has and adds features from itself and from the finer scale."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        same, down = [], []
        for scale, growth in enumerate(GROWTH):
            own = growth if scale == 0 else growth // 2
            same.append(Convolution(channels[scale], own, stride=1))
            if scale:
                down.append(Convolution(channels[scale - 1], growth - own, stride=2))
        self.same = nn.ModuleList(same)
        self.down = nn.ModuleList(down)

    def forward(self, scales: Sequence[Tensor]) -> list[Tensor]:
        """Returns the features of every scale, finest first, with the new channels behind the old ones."""
        wider = [torch.cat([scales[0], self.same[0](scales[0])], dim=1)]
        for scale, down in enumerate(self.down, start=1):
            wider.append(torch.cat([scales[scale], down(scales[scale - 1]), self.same[scale](scales[scale])], dim=1))
        return wider


class Classifier(nn.Sequential):
    """Reads the coarsest scale alone (section 4, "classifiers")."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.Flatten(), nn.Dropout(0.2), nn.Linear(channels * 4, len(LABELS)))


class MSDNet(nn.Module):
    """Dense layers over three scales, with a classifier behind every second layer."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (1, *START)
        self.first = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(sizes[scale], sizes[scale + 1], 3, stride=2 if scale else 1, padding=1, bias=False),
                nn.BatchNorm2d(sizes[scale + 1]),
                nn.ReLU(),
            )
            for scale in range(len(START))
        )
        channels = list(START)
        layers, classifiers = [], []
        for layer in range(1, LAYERS + 1):
            layers.append(DenseLayer(channels))
            channels = [count + growth for count, growth in zip(channels, GROWTH, strict=True)]
            if layer % EXIT_EVERY == 0:
                classifiers.append(Classifier(channels[-1]))
        self.layers = nn.ModuleList(layers)
        self.classifiers = nn.ModuleList(classifiers)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Returns every exit's logits, each float32 (batch, 10), for images float32 (batch, 1, 8, 8) in [0, 1]."""
        scales = [image]
        for convolution in self.first:
            scales.append(convolution(scales[-1]))
        scales = scales[1:]
        answers = []
        for number, layer in enumerate(self.layers, start=1):
            scales = layer(scales)
            if number % EXIT_EVERY == 0:
                answers.append(self.classifiers[number // EXIT_EVERY - 1](scales[-1]))
        return tuple(answers)


def loss(outputs: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Returns the sum of all exits' cross-entropies, all weights one (section 4, "loss functions"), in nats."""
    return torch.stack([functional.cross_entropy(logits, labels) for logits in outputs]).sum()


SYSTEM: Final = System(
    name="anytime",
    title="Anytime prediction: MSDNet",
    source="Huang et al. 2018, arXiv:1703.09844, section 4",
    build=MSDNet,
    loss=loss,
    epochs=25,
)

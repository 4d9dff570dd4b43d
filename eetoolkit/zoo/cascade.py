"""A cascade of separate classifiers: a network with one hidden layer, a small and a larger convolutional network.

Viola and Jones 2001, "Rapid Object Detection using a Boosted Cascade of Simple Features", section 4; for networks,
Wang et al. 2022, "Wisdom of Committees", arXiv:2012.01988, section 3.
"""

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from eetoolkit.zoo.digits import LABELS
from eetoolkit.zoo.system import System

HIDDEN: Final = 64
SMALL_CHANNELS: Final = 32
LARGE_CHANNELS: Final = 64
LARGE_LAYERS: Final = 4


class Cascade(nn.Module):
    """Three networks that share nothing but the input; each answers by itself."""

    def __init__(self) -> None:
        super().__init__()
        shallow = nn.Sequential(nn.Flatten(), nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, len(LABELS)))
        self.stages = nn.ModuleList(
            [shallow, _convolutional(SMALL_CHANNELS, 2), _convolutional(LARGE_CHANNELS, LARGE_LAYERS)]
        )

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Returns every stage's logits, each float32 (batch, 10), for images float32 (batch, 1, 8, 8) in [0, 1]."""
        return tuple(stage(image) for stage in self.stages)


def _convolutional(channels: int, layers: int) -> nn.Sequential:
    """Returns 3x3 convolutions at full resolution, then the average of each quadrant, then a linear layer."""
    stages: list[nn.Module] = []
    for layer in range(layers):
        stages += [nn.Conv2d(1 if layer == 0 else channels, channels, 3, padding=1, bias=False)]
        stages += [nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*stages, nn.AvgPool2d(4), nn.Flatten(), nn.Linear(channels * 4, len(LABELS)))


def loss(outputs: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Returns the sum of the stages' cross-entropies, in nats: no weight is shared, so each trains by itself."""
    return torch.stack([functional.cross_entropy(logits, labels) for logits in outputs]).sum()


def stages(model: Any) -> list[nn.Module]:
    """Returns the networks, small to large, as `ee.export` takes a cascade."""
    return list(model.stages)


SYSTEM: Final = System(
    name="cascade",
    title="Cascade of separate classifiers",
    source="Wang et al. 2022, arXiv:2012.01988, section 3",
    build=Cascade,
    loss=loss,
    epochs=30,
    exported=stages,
)

"""A trained network with one output, and labelled rows that it has not seen."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import nn

Array = np.ndarray[tuple[Any, ...], np.dtype[Any]]

_EPOCHS, _BATCH = 12, 64


class DigitsNetwork(nn.Module):
    """Four convolutions on digits of 8x8 pixels, 0 to 1; the first is cheap and early, the answer is the last's."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()) for _ in range(3)
        )
        self.classifier = nn.Linear(16 * 16, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Returns logits, (batch, 10)."""
        hidden = nn.functional.max_pool2d(self.stem(image), 2)
        for stage in self.stages:
            hidden = hidden + stage(hidden)
        logits: torch.Tensor = self.classifier(hidden.flatten(1))
        return logits


@functools.cache
def digits_network() -> tuple[DigitsNetwork, tuple[Array, Array]]:
    """Returns the network in evaluation mode, trained on 1077 digits in some seconds, and the 720 others.

    Images are float32 (720, 1, 8, 8), 0 to 1; labels int64 (720,). Both are shared: change neither.
    """
    from eetoolkit.zoo.digits import digits

    train, rest = digits("train"), [digits(part) for part in ("validation", "test")]
    x, y = torch.from_numpy(train.images / 16), torch.from_numpy(train.labels)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = DigitsNetwork()
        optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
        for _ in range(_EPOCHS):
            for rows in torch.randperm(len(x)).split(_BATCH):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    images = np.concatenate([part.images / 16 for part in rest]).astype(np.float32)
    return net.eval(), (images, np.concatenate([part.labels for part in rest]))


def answers(images: Array) -> Array:
    """Returns the network's logits."""
    with torch.no_grad():
        found: Array = digits_network()[0](torch.from_numpy(np.asarray(images, np.float32))).numpy()
    return found

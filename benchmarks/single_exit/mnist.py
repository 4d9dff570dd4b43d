"""The residual CNN of the MNIST case, trained on the same rows with its last exit alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from torch import Tensor, nn

from benchmarks.cases import mnist
from benchmarks.single_exit.alone import Alone
from benchmarks.single_exit.case import Case

RECIPE: Final = replace(mnist.RECIPE, epochs=10, exit_weights=(1.0,), distillation=0.0, average=0.99)


class ResNet(nn.Module):
    """`benchmarks.cases.mnist.ResNet` without its earlier heads."""

    def __init__(self) -> None:
        super().__init__()
        network = mnist.ResNet()
        self.stages = nn.Sequential(*network.stages)
        self.head = network.heads[-1]

    def forward(self, image: Tensor) -> Tensor:
        """Returns logits (batch, 10) of images (batch, 1, 28, 28) in [0, 1]."""
        logits: Tensor = self.head(self.stages(image))
        return logits


def load() -> Case:
    """Returns the case; its rows to fit are those on which thresholds of the jointly trained network are chosen."""
    network, images, labels, parts = mnist.load("single_exit_mnist", lambda: Alone(ResNet()), RECIPE)
    fit, test, train = ((images[rows], labels[rows]) for rows in (parts.validation, parts.test, parts.train))
    return Case("mnist", network.get_submodule("network"), fit, test, tuple("0123456789"), train)

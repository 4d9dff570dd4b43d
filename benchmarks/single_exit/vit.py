"""A small vision transformer (Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words") on the digits of MNIST."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import torch
from torch import Tensor, nn

from benchmarks.cases import mnist
from benchmarks.single_exit.alone import Alone
from benchmarks.single_exit.case import Case

PATCH: Final = 4
WIDTH: Final = 64
HEADS: Final = 4
LAYERS: Final = 6

RECIPE: Final = replace(
    mnist.RECIPE, epochs=10, learning_rate=2e-3, weight_decay=0.05, exit_weights=(1.0,), distillation=0.0, average=0.99
)


class VisionTransformer(nn.Module):
    """Patches of 4x4 pixels as tokens, a class token before them, whose last state is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, WIDTH, PATCH, stride=PATCH)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, WIDTH))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + (mnist.PIXELS // PATCH) ** 2, WIDTH))
        self.layers = nn.Sequential(
            *[
                nn.TransformerEncoderLayer(
                    WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
                )
                for _ in range(LAYERS)
            ]
        )
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, mnist.CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """Returns logits (batch, 10) of images (batch, 1, 28, 28) in [0, 1]."""
        tokens = self.patches(image).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(tokens.shape[0], -1, -1), tokens], dim=1) + self.positions
        logits: Tensor = self.head(self.norm(self.layers(tokens))[:, 0])
        return logits


def load() -> Case:
    """Returns the case, on the rows of the other MNIST cases."""
    network, images, labels, parts = mnist.load("single_exit_vit", lambda: Alone(VisionTransformer()), RECIPE)
    fit, test, train = ((images[rows], labels[rows]) for rows in (parts.validation, parts.test, parts.train))
    return Case("vit", network.get_submodule("network"), fit, test, tuple("0123456789"), train)

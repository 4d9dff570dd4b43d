"""The networks of the benchmarks that need no data: weights are random, and every run takes the full path."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


class Mlp(nn.Module):
    """Linear layers of one width, a head after each group of `depth`."""

    def __init__(self, width: int, exits: int, depth: int) -> None:
        super().__init__()
        self.groups = nn.ModuleList(
            nn.Sequential(*[layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())])
            for _ in range(exits)
        )
        self.heads = nn.ModuleList(nn.Linear(width, 10) for _ in range(exits))

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns logits of shape (batch, 10) at every exit."""
        outputs = []
        for group, head in zip(self.groups, self.heads, strict=True):
            features = group(features)
            outputs.append(head(features))
        return tuple(outputs)


class Residual(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the same shape."""
        return torch.relu(x + self.second(torch.relu(self.first(x))))


class ResidualCnn(nn.Module):
    """A stem and residual blocks on images of 32x32, a head after every `blocks` of them."""

    def __init__(self, channels: int, exits: int, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, stride=2, padding=1)
        self.groups = nn.ModuleList(nn.Sequential(*[Residual(channels) for _ in range(blocks)]) for _ in range(exits))
        self.heads = nn.ModuleList(nn.Linear(channels, 10) for _ in range(exits))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns logits of shape (batch, 10) at every exit."""
        x = torch.relu(self.stem(image))
        outputs = []
        for group, head in zip(self.groups, self.heads, strict=True):
            x = group(x)
            outputs.append(head(x.mean((2, 3))))
        return tuple(outputs)


class Encoder(nn.Module):
    """A transformer encoder over token ids, a head on the mean of the tokens after every layer."""

    def __init__(self, tokens: int, width: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, width // 32, 4 * width, dropout=0.0, batch_first=True)
            for _ in range(layers)
        )
        self.heads = nn.ModuleList(nn.Linear(width, 4) for _ in range(layers))

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns logits of shape (batch, 4) at every exit, for ids of shape (batch, length)."""
        x = self.embedding(ids)
        outputs = []
        for layer, head in zip(self.layers, self.heads, strict=True):
            x = layer(x)
            outputs.append(head(x.mean(1)))
        return tuple(outputs)


@dataclass(frozen=True)
class Case:
    """A network and one example input."""

    name: str
    network: nn.Module
    example: torch.Tensor


def cases(name: str | None = None) -> list[Case]:
    """Returns the cases, or the one called `name`."""
    torch.manual_seed(0)
    makers = {
        "mlp 64, 6 exits": lambda: (Mlp(64, 6, 1), torch.randn(1, 64)),
        "mlp 512, 6 exits": lambda: (Mlp(512, 6, 2), torch.randn(1, 512)),
        "residual cnn 32, 3 exits": lambda: (ResidualCnn(32, 3, 3), torch.randn(1, 3, 32, 32)),
        "residual cnn 64, 4 exits": lambda: (ResidualCnn(64, 4, 3), torch.randn(1, 3, 32, 32)),
        "encoder 256, 6 exits": lambda: (Encoder(1000, 256, 6), torch.randint(0, 1000, (1, 32))),
    }
    found = []
    for key, make in makers.items():
        if name in (None, key):
            network, example = make()
            found.append(Case(key, network.eval(), example))
    return found


class ResNet(nn.Module):
    """ResNet-34 (He et al. 2016, table 1) without normalisation layers, a head after each of its four stages."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 7, stride=2, padding=3)
        widths, depths = (64, 128, 256, 512), (3, 4, 6, 3)
        self.stages, inner = nn.ModuleList(), 64
        for width, depth in zip(widths, depths, strict=True):
            down = nn.Conv2d(inner, width, 3, stride=1 if inner == width else 2, padding=1)
            self.stages.append(nn.Sequential(down, nn.ReLU(), *[Residual(width) for _ in range(depth)]))
            inner = width
        self.heads = nn.ModuleList(nn.Linear(width, 100) for width in widths)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns logits of shape (batch, 100) at every exit, for images of shape (batch, 3, height, width)."""
        x = torch.relu(self.stem(image))
        outputs = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = stage(x)
            outputs.append(head(x.mean((2, 3))))
        return tuple(outputs)


def large_cases() -> list[Case]:
    """Returns networks of more than 20 million parameters."""
    torch.manual_seed(0)
    ids = torch.multinomial(1 / torch.arange(1, 20_001), 16, replacement=True)[None]  # as in text: Zipf's law
    return [
        Case("resnet-34, 4 exits", ResNet().eval(), torch.randn(1, 3, 64, 64)),
        Case("encoder 384, 8 exits", Encoder(20_000, 384, 8).eval(), ids),
    ]

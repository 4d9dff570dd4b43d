"""Networks with gates for the benchmarks; weights are random, and which gates are open is set when they are built."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional

CHANNELS = (16, 32, 64)
BLOCKS = 6
"""Residual blocks of each of three stages: 6 * 6 + 2 = 38 layers (He et al. 2016, section 4.2)."""


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut that samples down where the block does."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels, 3, stride, 1)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1)
        same = stride == 1 and channels_in == channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns features of this block's width and size."""
        return torch.relu(self.shortcut(x) + self.second(torch.relu(self.first(x))))


class Gate(nn.Module):
    """A feed-forward gate: pooling over the whole map, then two linear layers (SkipNet, Wang et al. 2018, section 3.1).

    The last bias decides whether it is open, whatever the image.
    """

    def __init__(self, channels: int, size: int, *, opened: bool) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(size)
        self.hidden = nn.Linear(channels, 10)
        self.decide = nn.Linear(10, 2)
        nn.init.zeros_(self.decide.weight)
        with torch.no_grad():
            self.decide.bias.copy_(torch.tensor([-4.0, 4.0] if opened else [4.0, -4.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns 0 or 1 of shape (batch, 1, 1, 1), in the public code's straight-through form."""
        p = functional.softmax(self.decide(torch.relu(self.hidden(self.pool(x).flatten(1)))), dim=1)[:, 1:]
        hard = (p > 0.5).float()
        return ((hard - p.detach()) + p).reshape(-1, 1, 1, 1)


class SkipNet(nn.Module):
    """SkipNet-38 as its public code has it: every block is computed and blended with what skips it."""

    def __init__(self, opened: Sequence[bool]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS[0], 3, padding=1)
        self.blocks, self.gates = nn.ModuleList(), nn.ModuleList()
        width, size = CHANNELS[0], 32
        for channels in CHANNELS:
            for number in range(BLOCKS):
                stride = 2 if number == 0 and channels != CHANNELS[0] else 1
                self.blocks.append(Block(width, channels, stride))
                width, size = channels, size // stride
                self.gates.append(Gate(channels, size, opened=opened[len(self.gates)]))
        self.gates = self.gates[:-1]
        self.head = nn.Linear(width, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Returns logits of shape (batch, 10)."""
        x = self.blocks[0](torch.relu(self.stem(image)))
        for block, gate in zip(self.blocks[1:], self.gates, strict=True):
            mask = gate(x)
            skipped = block.shortcut(x)
            x = mask * block(x) + (1 - mask) * skipped
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


class OpenBlocks(nn.Module):
    """The same network without gates and without the blocks that they skip."""

    def __init__(self, network: SkipNet, opened: Sequence[bool]) -> None:
        super().__init__()
        self.stem, self.head = network.stem, network.head
        kept = [block if open_ else block.shortcut for block, open_ in zip(network.blocks[1:], opened, strict=False)]
        self.blocks = nn.Sequential(network.blocks[0], *kept)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Returns logits of shape (batch, 10)."""
        logits: torch.Tensor = self.head(self.blocks(torch.relu(self.stem(image))).mean((2, 3)))
        return logits


class Branch(nn.Module):
    """One `torch.cond` between a stack of layers and a plain hand-over, decided by the input's first value."""

    def __init__(self, stem: nn.Module, layers: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.stem, self.layers, self.head = stem, layers, head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns logits of shape (1, 10)."""
        h = torch.relu(self.stem(x))
        h = torch.cond(x.flatten()[0] > 0, self.layers, lambda t: t.clone(), (h,))
        logits: torch.Tensor = self.head(h)
        return logits


def linear_branch(width: int) -> Branch:
    """Returns a branch of four linear layers."""
    layers = nn.Sequential(*[part for _ in range(4) for part in (nn.Linear(width, width), nn.ReLU())])
    return Branch(nn.Linear(width, width), layers, nn.Linear(width, 10))


def convolutional_branch(channels: int) -> Branch:
    """Returns a branch of four 3x3 convolutions at 32x32."""
    layers = nn.Sequential(
        *[part for _ in range(4) for part in (nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU())]
    )
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))
    return Branch(nn.Conv2d(3, channels, 3, padding=1), layers, head)


class Repeated(nn.Module):
    """One block applied again and again in `torch.while_loop`, as often as the input's first value says."""

    def __init__(self, body: Callable[[torch.Tensor], torch.Tensor], stem: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body, self.stem, self.head = body, stem, head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns logits of shape (1, 10)."""
        rounds = x.flatten()[0]
        _, h = torch.while_loop(
            lambda i, _: (i < 8) & (i < rounds), lambda i, h: (i + 1, self.body(h)),
            (torch.tensor(0), torch.relu(self.stem(x))),
        )  # fmt: skip
        logits: torch.Tensor = self.head(h)
        return logits


def repeated_block(channels: int) -> Repeated:
    """Returns a residual block at 32x32 that is repeated."""
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))
    return Repeated(Block(channels, channels, 1), nn.Conv2d(3, channels, 3, padding=1), head)

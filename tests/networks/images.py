"""Convolutional networks: branches, several scales, and a U."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from networks.case import Case, images, seeded


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def _head(channels: int, classes: int = 10) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(channels * 4, classes))


class Block(nn.Module):
    """A residual block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels)
        self.second = _convolution(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))


class Branchy(nn.Module):
    """A residual network with two side branches (BranchyNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _convolution(1, 8)
        self.blocks = nn.ModuleList([Block(8), Block(8), Block(8)])
        self.branch = _convolution(8, 4)
        self.heads = nn.ModuleList([_head(4), _head(8), _head(8)])

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = self.blocks[0](self.stem(image))
        first = self.heads[0](self.branch(x))
        x = self.blocks[1](x)
        second = self.heads[1](x)
        return first, second, self.heads[2](self.blocks[2](x))


class MultiScale(nn.Module):
    """Three resolutions, densely connected, the exits on the coarsest (MSDNet, section 4)."""

    def __init__(self, layers: int = 3, growth: int = 4) -> None:
        super().__init__()
        self.stem = nn.ModuleList([_convolution(1, 4), _convolution(4, 4, 2), _convolution(4, 4, 2)])
        self.same, self.down, self.heads = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for layer in range(layers):
            channels = 4 + layer * 2 * growth
            self.same.append(nn.ModuleList([_convolution(channels, growth) for _ in range(3)]))
            self.down.append(nn.ModuleList([_convolution(channels, growth, 2) for _ in range(2)]))
            self.heads.append(_head(4 + (layer + 1) * 2 * growth))

    def forward(self, image: Tensor) -> list[Tensor]:
        scales = [self.stem[0](image)]
        for stem in self.stem[1:]:
            scales.append(stem(scales[-1]))
        exits = []
        for same, down, head in zip(self.same, self.down, self.heads, strict=True):
            kept = [convolve(x) for convolve, x in zip(same, scales, strict=True)]
            finer = [torch.zeros_like(kept[0]), *(halve(x) for halve, x in zip(down, scales, strict=False))]
            scales = [torch.cat(parts, dim=1) for parts in zip(scales, kept, finer, strict=True)]
            exits.append(head(scales[2]))
        return exits


class UShape(nn.Module):
    """A U-Net: a class from the bottom, then a coarse and a fine map that read the features of the way down."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([_convolution(1, 4), _convolution(4, 8, 2), _convolution(8, 8, 2)])
        self.up = nn.ModuleList([_convolution(16, 8), _convolution(12, 8)])
        self.heads = nn.ModuleList([_head(8), nn.Conv2d(8, 5, 1), nn.Conv2d(8, 5, 1)])

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        fine = self.down[0](image)
        middle = self.down[1](fine)
        bottom = self.down[2](middle)
        coarse = self.up[0](torch.cat([functional.interpolate(bottom, scale_factor=2.0), middle], 1))
        last = self.up[1](torch.cat([functional.interpolate(coarse, scale_factor=2.0), fine], 1))
        return {"label": self.heads[0](bottom), "coarse": self.heads[1](coarse), "fine": self.heads[2](last)}


CASES = (
    Case("branchy", seeded(Branchy), *images(8), exits=("exit0", "exit1", "exit2")),
    Case("multi_scale", seeded(MultiScale), *images(16), exits=("exit0", "exit1", "exit2")),
    Case("u_shape", seeded(UShape), *images(16), exits=("label", "coarse", "fine")),
)

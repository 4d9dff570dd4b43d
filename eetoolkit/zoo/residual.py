"""The parts of a small residual network (He et al. 2016) that several systems put gates, routers and exits around."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

CLASSES = 10


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels_in != channels:
            convolution = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(channels))

    def residual(self, features: Tensor) -> Tensor:
        """Returns what the block adds to its shortcut, before the last ReLU."""
        residual: Tensor = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(features)))))
        return residual

    def forward(self, features: Tensor) -> Tensor:
        """Returns features (n, channels, side / stride, side / stride)."""
        return functional.relu(self.residual(features) + self.shortcut(features))


def stem(channels: int) -> nn.Sequential:
    """Returns what makes features (n, channels, 8, 8) of images (n, 1, 8, 8)."""
    return nn.Sequential(nn.Conv2d(1, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())


def head(channels: int, side: int, outputs: int = CLASSES, *, cells: int = 2) -> nn.Sequential:
    """Returns what makes logits (n, outputs) of features (n, channels, side, side).

    It averages over each of cells x cells parts of the image. Four keep where a stroke lies, which tells digits apart;
    with one, the blocks before have to find that out.
    """
    return nn.Sequential(nn.AvgPool2d(side // cells), nn.Flatten(), nn.Linear(channels * cells**2, outputs))

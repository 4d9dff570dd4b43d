"""The trainer of the networks with exits, for a network that has none."""

from __future__ import annotations

from torch import Tensor, nn


class Alone(nn.Module):
    """A network whose one answer is trained as the only exit."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> tuple[Tensor]:
        """Returns the network's logits (batch, classes)."""
        return (self.network(*inputs),)

"""SkipNet with one recurrent gate: an LSTM that all blocks share and that is stepped at every block, run or not."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from eetoolkit.zoo.skipnet import CHANNELS, SkipNet, decisions, fit
from eetoolkit.zoo.system import System

POLICY_EPOCHS: Final = 20

GATE_FEATURES: Final = 10
"""Inputs and hidden units of the LSTM, as in the paper's own code."""

State = tuple[Tensor, Tensor]


class RecurrentGate(nn.Module):
    """RNNGate (Wang et al. 2018): features pooled and projected, one LSTM, one linear layer."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.embed = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(width, GATE_FEATURES),
                nn.BatchNorm1d(GATE_FEATURES),  # not in the paper: averages of images hardly differ without
            )
            for width in channels[:-1]
        )
        self.lstm = nn.LSTM(GATE_FEATURES, GATE_FEATURES)
        self.open = nn.Linear(GATE_FEATURES, 1)
        nn.init.zeros_(self.open.bias)  # undecided: gates that all start on one side tend to stay there

    def forward(self, block: int, features: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Returns the probability (n,) that the block after `block` runs, and the LSTM's state."""
        embedded = self.embed[block](features)[None]  # a sequence of one step
        if state is None:
            state = (torch.zeros_like(embedded), torch.zeros_like(embedded))
        hidden, state = self.lstm(embedded, state)
        return self.open(hidden[0]).sigmoid()[:, 0], state


def build() -> SkipNet:
    """Returns the network with random weights."""
    return SkipNet(RecurrentGate(CHANNELS))


SYSTEM: Final = System(
    name="skipnet_lstm",
    title="SkipNet, one LSTM gate for all blocks",
    source="Wang et al. 2018, arXiv:1711.09485",
    build=build,
    loss=functional.cross_entropy,
    fit=lambda model: fit(model, policy_epochs=POLICY_EPOCHS),
    decisions=decisions,
)

"""Exits along a recurrent sequence: a digit is read row by row, and may be known before the last row.

Dennis et al. 2018, "Multiple Instance Learning for Efficient Sequential Data Classification on Resource-Constrained
Devices", NeurIPS 2018 (EMI-RNN): early classification.
"""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from eetoolkit.zoo.digits import LABELS
from eetoolkit.zoo.system import System

ROWS: Final = 8
STATE: Final = 256
FIRST_EXIT: Final = 3
"""Rows read before the first exit: fewer show too little of any digit."""


class RecurrentExits(nn.Module):
    """A GRU cell that reads one row of pixels at a time, and one classifier for the states behind rows 3 to 8."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(8, STATE)
        self.heads = nn.ModuleList(nn.Linear(STATE, len(LABELS)) for _ in range(FIRST_EXIT, ROWS + 1))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Returns the logits after each row from the third on, `row3` to `row8`, each float32 (batch, 10).

        Args:
            image: float32 (batch, 1, 8, 8), in [0, 1], read from the top.
        """
        state = image.new_zeros(len(image), STATE)
        answers = {}
        for row in range(ROWS):
            state = self.cell(image[:, 0, row], state)
            if row + 1 >= FIRST_EXIT:
                answers[f"row{row + 1}"] = self.heads[row + 1 - FIRST_EXIT](state)
        return answers


def loss(outputs: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Returns the mean of the cross-entropies behind every row, in nats."""
    return torch.stack([functional.cross_entropy(logits, labels) for logits in outputs.values()]).mean()


SYSTEM: Final = System(
    name="recurrent_exits",
    title="Exits along a recurrent sequence",
    source="Dennis et al. 2018, NeurIPS (EMI-RNN)",
    build=RecurrentExits,
    loss=loss,
)

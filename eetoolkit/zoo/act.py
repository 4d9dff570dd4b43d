"""Adaptive Computation Time: a recurrent cell that thinks about a digit until its halting unit has had enough.

Graves 2016, "Adaptive Computation Time for Recurrent Neural Networks", arXiv:1603.08983, section 2.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from eetoolkit.zoo.digits import LABELS
from eetoolkit.zoo.system import System

PIXELS: Final = 64
STATE: Final = 144
MAX_STEPS: Final = 8
"""M: halting is forced here (section 2.1)."""

EPSILON: Final = 0.01
"""A step may be the last when the halting probabilities reach 1 - epsilon (section 2)."""

PONDER_WEIGHT: Final = 0.05
"""tau: the price of a step, in nats (section 2)."""


class Thinking(NamedTuple):
    """What one step hands to the next; each row has its own, so a batch gives what its rows alone would.

    Attributes:
        step: int64 scalar, steps done.
        state: (batch, 144), the cell's.
        mean: (batch, 144), sum of halting probability times state so far.
        total: (batch, 1), sum of the halting probabilities so far.
        ponder: (batch, 1), N + R of the rows that have halted, steps so far of the others.
        running: bool (batch, 1), the rows that have not halted.
    """

    step: Tensor
    state: Tensor
    mean: Tensor
    total: Tensor
    ponder: Tensor
    running: Tensor


class ACT(nn.Module):
    """A GRU that reads the whole image at every step, a halting unit, and one classifier behind the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(PIXELS + 1, STATE)
        self.halt = nn.Linear(STATE, 1)
        self.head = nn.Linear(STATE, len(LABELS))
        # A positive bias, as in section 3, keeps the network from pondering long before it has learned anything.
        nn.init.ones_(self.halt.bias)

    def forward(self, image: Tensor) -> dict[str, dict[str, Tensor]]:
        """Returns the only exit.

        Args:
            image: float32 (batch, 1, 8, 8), in [0, 1].

        Returns:
            `logits` float32 (batch, 10) and `ponder_cost` float32 (batch,): N + R, in steps.
        """
        pixels = image.flatten(1)
        thinking = self.begin(pixels)
        if self.training:
            # Gradients do not flow through torch.while_loop; rows that have halted add nothing to their mean.
            for _ in range(MAX_STEPS):
                thinking = self.ponder(pixels, thinking)
        else:

            def unfinished(*carried: Tensor) -> Tensor:
                now = Thinking(*carried)
                return (now.step < MAX_STEPS) & now.running.any()

            def ponder(*carried: Tensor) -> tuple[Tensor, ...]:
                return tuple(self.ponder(pixels, Thinking(*carried)))

            halted = torch.while_loop(unfinished, ponder, tuple(thinking))  # type: ignore[no-untyped-call]  # torch leaves it untyped
            thinking = Thinking(*halted)
        return {"exit0": {"logits": self.head(thinking.mean), "ponder_cost": thinking.ponder.squeeze(1)}}

    def begin(self, pixels: Tensor) -> Thinking:
        """Returns the state before the first step."""
        zeros, zero = pixels.new_zeros(len(pixels), STATE), pixels.new_zeros(len(pixels), 1)
        step = torch.zeros((), dtype=torch.int64)
        # Clones, as two states of a while_loop may not be one tensor.
        return Thinking(step, zeros, zeros.clone(), zero, zero.clone(), torch.ones_like(zero, dtype=torch.bool))

    def ponder(self, pixels: Tensor, now: Thinking) -> Thinking:
        """Returns the state after one more step.

        h = sigmoid(w s + b); N is the first step at which the sum of h reaches 1 - epsilon, at most M; R = 1 - the sum
        of h before N; the weight of a state is h before N and R at N, and the answer is the weighted mean (section 2).
        """
        first = (now.step == 0).to(pixels.dtype).expand(len(pixels), 1)  # section 2: is it the first step?
        state = self.cell(torch.cat([pixels, first], dim=1), now.state)
        halting = torch.sigmoid(self.halt(state))
        halts = (now.total + halting >= 1 - EPSILON) | (now.step == MAX_STEPS - 1)
        remainder = 1 - now.total
        weight = torch.where(now.running, torch.where(halts, remainder, halting), 0.0)
        cost = torch.where(now.running, torch.where(halts, 1 + remainder, 1.0), 0.0)
        return Thinking(
            now.step + 1,
            state,
            now.mean + weight * state,
            now.total + weight,
            now.ponder + cost,
            now.running & ~halts,
        )


def loss(outputs: dict[str, dict[str, Tensor]], labels: Tensor) -> Tensor:
    """Returns cross-entropy plus tau times the mean ponder cost N + R (section 2), in nats."""
    answer = outputs["exit0"]
    return functional.cross_entropy(answer["logits"], labels) + PONDER_WEIGHT * answer["ponder_cost"].mean()


def decisions(model: Any, inputs: Sequence[Tensor]) -> list[int]:
    """Returns, after each step of the loop, 1 if another follows: N - 1 ones and a zero. The first step is certain."""
    (image,) = inputs
    pixels, taken = image.flatten(1), list[int]()
    with torch.no_grad():
        thinking = model.begin(pixels)
        for step in range(MAX_STEPS):
            thinking = model.ponder(pixels, thinking)
            taken.append(int(step + 1 < MAX_STEPS and bool(thinking.running.any())))
            if not taken[-1]:
                break
    return taken


SYSTEM: Final = System(
    name="act",
    title="Adaptive Computation Time",
    source="Graves 2016, arXiv:1603.08983, section 2",
    build=ACT,
    loss=loss,
    # One row decides how often the loop runs; what it blends is a few numbers.
    options={"dynamic_batch": False, "lower_control_flow": True},
    decisions=decisions,
)

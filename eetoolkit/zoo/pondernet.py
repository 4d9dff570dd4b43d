"""PonderNet: every step has a probability of being the last, learned against a geometric prior.

Banino et al. 2021, "PonderNet: Learning to Ponder", arXiv:2107.05407, section 2.
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
"""N: training unrolls so far, and evaluation halts there."""

QUANTILE: Final = 0.5
"""Evaluation halts once it is more likely than not to have halted: the median step.

The paper draws a coin at every step (section 2); an export must be deterministic.
"""

PRIOR: Final = 0.4
"""lambda_p of the geometric prior: 2.5 steps on average (section 2)."""

PRIOR_WEIGHT: Final = 0.1
"""beta (section 2). With the paper's 0.01 every digit ponders to the end: the prior must outweigh small gains."""


class Pondering(NamedTuple):
    """What one step hands to the next; each row has its own, so a batch gives what its rows alone would.

    Attributes:
        step: int64 scalar, steps done.
        state: (batch, 144), the cell's.
        answer: (batch, 144), the state at which a row halted; until then the latest.
        going: (batch, 1), probability of not having halted, the product of 1 - lambda so far.
        steps: (batch, 1), steps of each row so far.
        running: bool (batch, 1), the rows that have not halted.
    """

    step: Tensor
    state: Tensor
    answer: Tensor
    going: Tensor
    steps: Tensor
    running: Tensor


class PonderNet(nn.Module):
    """A GRU that reads the whole image at every step, a halting unit, and one classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(PIXELS, STATE)
        self.halt = nn.Linear(STATE, 1)
        self.head = nn.Linear(STATE, len(LABELS))

    def forward(self, image: Tensor) -> dict[str, dict[str, Tensor]]:
        """Returns the only exit.

        Args:
            image: float32 (batch, 1, 8, 8), in [0, 1].

        Returns:
            In evaluation `logits` float32 (batch, 10) and `ponder_cost` float32 (batch,), in steps. In training those
            of all steps: `logits` (batch, 8, 10), and `halting` (batch, 8), the lambdas.
        """
        pixels = image.flatten(1)
        if self.training:
            return {"exit0": self.unrolled(pixels)}

        def unfinished(*carried: Tensor) -> Tensor:
            now = Pondering(*carried)
            return (now.step < MAX_STEPS) & now.running.any()

        def ponder(*carried: Tensor) -> tuple[Tensor, ...]:
            return tuple(self.ponder(pixels, Pondering(*carried)))

        start = tuple(self.begin(pixels))
        halted = Pondering(*torch.while_loop(unfinished, ponder, start))  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return {"exit0": {"logits": self.head(halted.answer), "ponder_cost": halted.steps.squeeze(1)}}

    def begin(self, pixels: Tensor) -> Pondering:
        """Returns the state before the first step."""
        zeros, ones = pixels.new_zeros(len(pixels), STATE), pixels.new_ones(len(pixels), 1)
        step = torch.zeros((), dtype=torch.int64)
        running = torch.ones_like(ones, dtype=torch.bool)
        return Pondering(step, zeros, zeros.clone(), ones, torch.zeros_like(ones), running)

    def ponder(self, pixels: Tensor, now: Pondering) -> Pondering:
        """Returns the state after one more step.

        lambda_n = sigmoid(w s_n + b) is the probability of halting at step n if not before; to have halted by step n
        has probability 1 - the product of 1 - lambda_j over j <= n (section 2).
        """
        state = self.cell(pixels, now.state)
        going = now.going * (1 - torch.sigmoid(self.halt(state)))
        return Pondering(
            now.step + 1,
            state,
            torch.where(now.running, state, now.answer),
            going,
            now.steps + now.running.to(pixels.dtype),
            now.running & (1 - going < QUANTILE),
        )

    def unrolled(self, pixels: Tensor) -> dict[str, Tensor]:
        """Returns the logits (batch, 8, 10) and lambdas (batch, 8) of every step; the last lambda is one."""
        state = pixels.new_zeros(len(pixels), STATE)
        states = []
        for _ in range(MAX_STEPS):
            state = self.cell(pixels, state)
            states.append(state)
        every = torch.stack(states, dim=1)
        halting = torch.sigmoid(self.halt(every).squeeze(2))
        last = torch.ones_like(halting[:, :1])
        return {"logits": self.head(every), "halting": torch.cat([halting[:, :-1], last], dim=1)}


def loss(outputs: dict[str, dict[str, Tensor]], labels: Tensor) -> Tensor:
    """Returns the expected cross-entropy plus beta times the divergence from the prior (section 2), in nats.

    p_n = lambda_n times the product of 1 - lambda_j over j < n; the loss is the sum of p_n CE_n + beta KL(p || prior),
    with the geometric prior cut off after N steps and scaled to sum to one.

    Args:
        outputs: what `forward` returns in training mode, or in evaluation (then the cross-entropy alone).
        labels: int64 (batch,).
    """
    answer = outputs["exit0"]
    if "halting" not in answer:
        return functional.cross_entropy(answer["logits"], labels)
    halting = answer["halting"]
    before = torch.cumprod(torch.cat([torch.ones_like(halting[:, :1]), 1 - halting[:, :-1]], dim=1), dim=1)
    p = halting * before
    errors = functional.cross_entropy(answer["logits"].transpose(1, 2), labels[:, None].expand_as(p), reduction="none")
    prior = PRIOR * (1 - PRIOR) ** torch.arange(MAX_STEPS, dtype=p.dtype)
    divergence = (p * (torch.log(p.clamp_min(1e-12)) - torch.log(prior / prior.sum()))).sum(dim=1)
    return ((p * errors).sum(dim=1) + PRIOR_WEIGHT * divergence).mean()


def decisions(model: Any, inputs: Sequence[Tensor]) -> list[int]:
    """Returns, after each step of the loop, 1 if another follows. That there is a first one is certain."""
    (image,) = inputs
    pixels, taken = image.flatten(1), list[int]()
    with torch.no_grad():
        pondering = model.begin(pixels)
        for step in range(MAX_STEPS):
            pondering = model.ponder(pixels, pondering)
            taken.append(int(step + 1 < MAX_STEPS and bool(pondering.running.any())))
            if not taken[-1]:
                break
    return taken


SYSTEM: Final = System(
    name="pondernet",
    title="PonderNet",
    source="Banino et al. 2021, arXiv:2107.05407, section 2",
    build=PonderNet,
    loss=loss,
    # One row decides how often the loop runs; what it blends is a few numbers.
    options={"dynamic_batch": False, "lower_control_flow": True},
    decisions=decisions,
)

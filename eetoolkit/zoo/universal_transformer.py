"""Universal Transformer: one layer applied again and again, with Adaptive Computation Time for every position.

Dehghani et al. 2019, "Universal Transformers", arXiv:1807.03819, sections 2.1 and 2.2.
"""

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from eetoolkit.zoo.digits import LABELS
from eetoolkit.zoo.system import System

ROWS: Final = 8
"""The positions: a digit is read as eight rows of eight pixels."""

WIDTH: Final = 96
HEADS: Final = 4
MAX_STEPS: Final = 6
EPSILON: Final = 0.01
PONDER_WEIGHT: Final = 0.01
"""The price of a step of one position, averaged over the positions, in nats."""


class Depth(NamedTuple):
    """What one step hands to the next; each row has its own, so a batch gives what its rows alone would.

    Attributes:
        step: int64 scalar, steps done.
        states: (batch, 8, 96); a position that has halted keeps its own, where the others still see it.
        mean: (batch, 8, 96), sum of halting probability times state so far.
        total: (batch, 8, 1), sum of the halting probabilities so far.
        ponder: (batch, 8, 1), N + R of the positions that have halted, steps so far of the others.
        running: bool (batch, 8, 1), the positions that have not halted.
    """

    step: Tensor
    states: Tensor
    mean: Tensor
    total: Tensor
    ponder: Tensor
    running: Tensor


class UniversalTransformer(nn.Module):
    """One transformer layer over the rows of a digit; it is applied until every position has halted."""

    coordinates: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, WIDTH)
        self.project = nn.Linear(WIDTH, 3 * WIDTH)
        self.attended = nn.Linear(WIDTH, WIDTH)
        self.norm1 = nn.LayerNorm(WIDTH)
        self.wide = nn.Linear(WIDTH, 4 * WIDTH)
        self.narrow = nn.Linear(4 * WIDTH, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.halt = nn.Linear(WIDTH, 1)
        self.head = nn.Linear(WIDTH, len(LABELS))
        nn.init.ones_(self.halt.bias)
        self.register_buffer("coordinates", _coordinates(), persistent=False)

    def forward(self, image: Tensor) -> dict[str, dict[str, Tensor]]:
        """Returns the only exit.

        Args:
            image: float32 (batch, 1, 8, 8), in [0, 1].

        Returns:
            `logits` float32 (batch, 10) and `ponder_cost` float32 (batch,): N + R, the mean over the positions.
        """
        depth = self.begin(image)
        if self.training:
            # Gradients do not flow through torch.while_loop; positions that have halted no longer change.
            for _ in range(MAX_STEPS):
                depth = self.deepen(depth)
        else:

            def unfinished(*carried: Tensor) -> Tensor:
                now = Depth(*carried)
                return (now.step < MAX_STEPS) & now.running.any()

            def deepen(*carried: Tensor) -> tuple[Tensor, ...]:
                return tuple(self.deepen(Depth(*carried)))

            halted = torch.while_loop(unfinished, deepen, tuple(depth))  # type: ignore[no-untyped-call]  # torch leaves it untyped
            depth = Depth(*halted)
        return {"exit0": {"logits": self.head(depth.mean.mean(dim=1)), "ponder_cost": depth.ponder.mean(dim=(1, 2))}}

    def begin(self, image: Tensor) -> Depth:
        """Returns the state before the first step: the embedded rows."""
        states = self.embed(image.squeeze(1))
        zero = image.new_zeros(len(image), ROWS, 1)
        step = torch.zeros((), dtype=torch.int64)
        running = torch.ones_like(zero, dtype=torch.bool)
        return Depth(step, states, torch.zeros_like(states), zero, zero.clone(), running)

    def deepen(self, now: Depth) -> Depth:
        """Returns the state after one more step: ACT's rules (see `act`), for every position by itself."""
        proposed = self.layer(now.states + self.coordinates.index_select(0, now.step.reshape(1)))
        states = torch.where(now.running, proposed, now.states)  # section 2.2: a halted state is simply copied on
        halting = torch.sigmoid(self.halt(states))
        halts = (now.total + halting >= 1 - EPSILON) | (now.step == MAX_STEPS - 1)
        remainder = 1 - now.total
        weight = torch.where(now.running, torch.where(halts, remainder, halting), 0.0)
        cost = torch.where(now.running, torch.where(halts, 1 + remainder, 1.0), 0.0)
        return Depth(
            now.step + 1,
            states,
            now.mean + weight * states,
            now.total + weight,
            now.ponder + cost,
            now.running & ~halts,
        )

    def layer(self, states: Tensor) -> Tensor:
        """Returns states (batch, 8, 96) after self-attention and the transition (section 2.1)."""
        heads = self.project(states).reshape(len(states), ROWS, 3, HEADS, WIDTH // HEADS)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind()
        scores = query @ key.transpose(-1, -2) / math.sqrt(WIDTH / HEADS)
        mixed = (scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)
        attended = self.norm1(states + self.attended(mixed))
        layered: Tensor = self.norm2(attended + self.narrow(functional.relu(self.wide(attended))))
        return layered


def _coordinates() -> Tensor:
    """Returns (steps, positions, width): sinusoids of the position plus sinusoids of the step (section 2.1)."""
    frequency = 10000.0 ** (-torch.arange(0, WIDTH, 2) / WIDTH)
    position, step = (torch.arange(1, count + 1)[:, None] * frequency for count in (ROWS, MAX_STEPS))
    waves = [torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1) for angle in (position, step)]
    return waves[0][None] + waves[1][:, None]


def loss(outputs: dict[str, dict[str, Tensor]], labels: Tensor) -> Tensor:
    """Returns cross-entropy plus tau times the mean ponder cost, in nats."""
    answer = outputs["exit0"]
    return functional.cross_entropy(answer["logits"], labels) + PONDER_WEIGHT * answer["ponder_cost"].mean()


def decisions(model: Any, inputs: Sequence[Tensor]) -> list[int]:
    """Returns, after each application of the layer, 1 if another follows. That there is a first one is certain."""
    (image,) = inputs
    taken = list[int]()
    with torch.no_grad():
        depth = model.begin(image)
        for step in range(MAX_STEPS):
            depth = model.deepen(depth)
            taken.append(int(step + 1 < MAX_STEPS and bool(depth.running.any())))
            if not taken[-1]:
                break
    return taken


SYSTEM: Final = System(
    name="universal_transformer",
    title="Universal Transformer, ACT for every position",
    source="Dehghani et al. 2019, arXiv:1807.03819, section 2.2",
    build=UniversalTransformer,
    loss=loss,
    options={"dynamic_batch": False},  # one row decides how often the loop runs
    decisions=decisions,
)

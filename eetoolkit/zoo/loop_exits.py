"""Exits inside a loop: one layer applied again and again towards its equilibrium, which may answer at any iteration.

Bai, Kolter and Koltun 2019, "Deep Equilibrium Models", arXiv:1909.01377, section 3: a weight-tied layer with the input
injected at every iteration, here iterated and trained unrolled.
"""

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from eetoolkit.zoo.digits import LABELS
from eetoolkit.zoo.system import System
from eetoolkit_exporters.capturing.marker import exit as exit_here

PIXELS: Final = 64
STATE: Final = 256
ITERATIONS: Final = 8


class LoopExits(nn.Module):
    """A weight-tied layer in a loop, with one classifier for every iteration."""

    def __init__(self) -> None:
        super().__init__()
        self.inject = nn.Linear(PIXELS, STATE)
        self.layer = nn.Linear(STATE, STATE)
        self.norm = nn.LayerNorm(STATE)
        self.head = nn.Linear(STATE, len(LABELS))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Returns the logits.

        Args:
            image: float32 (batch, 1, 8, 8), in [0, 1].

        Returns:
            In evaluation `last`, float32 (batch, 10); those of every iteration before leave the loop at the exit marked
            `iteration`, which a loop could not return. In training those of all: `iteration1`, ... .
        """
        injected = self.inject(image.flatten(1))
        state = torch.zeros_like(injected)
        if self.training:
            answers = {}
            for number in range(1, ITERATIONS + 1):
                state = self.iterate(state, injected)
                answers[f"iteration{number}"] = self.head(state)
            return answers

        def unfinished(step: Tensor, *_: Tensor) -> Tensor:
            return step < ITERATIONS

        def iterate(step: Tensor, state: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            state = self.iterate(state, injected)
            return step + 1, state, exit_here(self.head(state), "iteration")

        start = torch.zeros((), dtype=torch.int64)
        logits = injected.new_zeros(len(image), len(LABELS))
        end = torch.while_loop(unfinished, iterate, (start, state, logits))  # type: ignore[no-untyped-call]  # torch leaves it untyped
        logits = end[-1]
        return {"last": logits}

    def iterate(self, state: Tensor, injected: Tensor) -> Tensor:
        """Returns the state (batch, 256) one iteration nearer to z = tanh(norm(W z + U x))."""
        return torch.tanh(self.norm(self.layer(state) + injected))


def loss(outputs: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Returns the mean of the cross-entropies of all iterations, in nats."""
    return torch.stack([functional.cross_entropy(logits, labels) for logits in outputs.values()]).mean()


def decisions(model: Any, inputs: Sequence[Tensor]) -> list[int]:
    """Returns, after each iteration, 1 if another follows when no exit fires; with one that fires, it is cut short."""
    del model, inputs  # the loop itself always runs to its end
    return [1] * (ITERATIONS - 1) + [0]


SYSTEM: Final = System(
    name="loop_exits",
    title="Exits inside a loop",
    source="Bai et al. 2019, arXiv:1909.01377, section 3",
    build=LoopExits,
    loss=loss,
    options={"dynamic_batch": False},  # one row decides how often the loop runs
    decisions=decisions,
)

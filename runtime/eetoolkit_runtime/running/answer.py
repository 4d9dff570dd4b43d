"""What one run returns."""

from __future__ import annotations

import math
from collections import Counter
from typing import Literal

import msgspec

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.plan.types import ClassScores
from eetoolkit_runtime.printable import printable
from eetoolkit_runtime.running.scores import predicted

StoppedBy = Literal["exit", "end", "deadline", "interrupt", "remote"]


class Answer(msgspec.Struct, frozen=True, eq=False):
    """The answer of the exit that fired; its arrays are copies that the caller may keep.

    Attributes:
        outputs: The exit's outputs by name, each with a leading dimension of 1.
        exit: The exit's name.
        confidence: The exit's confidence; higher is surer.
        path: The segments that were run, in order.
        segments: How many segments with a model the bundle has.
        gates: The decisions met, in order: the segment, and 1 or 0 for a gate, the number of the case for a switch.
        stopped_by: `exit`: an exit before the end fired, or was asked for; `end`: none did, so the plan ran to its end;
            `deadline` or `interrupt`: the best answer that was finished by then; `remote`: that of the last exit on
            this machine, since the server gave none and this bundle cannot go on.
        scores: Where the class scores are, and how they are read; None: no output says a class.
        remote: Whether a server gave it, by the segments at the end of the path.
    """

    outputs: dict[str, Array]
    exit: str
    confidence: float
    path: tuple[str, ...]
    segments: int
    gates: tuple[tuple[str, int], ...] = ()
    stopped_by: StoppedBy = "exit"
    scores: ClassScores | None = None
    remote: bool = False

    @property
    def visits(self) -> dict[str, int]:
        """How often each segment of the path was run, in the order first met."""
        return dict(Counter(self.path))

    @property
    def ponder_cost(self) -> float | None:
        """The exit's output `ponder_cost`, such as N + R of Adaptive Computation Time; None where it has none."""
        cost = self.outputs.get("ponder_cost")
        return float(cost.item()) if cost is not None and cost.size == 1 else None

    @property
    def prediction(self) -> int | None:
        """The predicted class of the one row; None where the outputs do not say one, or are not numbers (NaN).

        An exit's own `label` (a vote's) is taken as it is; else it is the class with the largest of the class scores,
        or of one score 1 where its probability is at least one half, else 0.
        """
        return predicted(self.outputs, self.scores)

    def __repr__(self) -> str:
        arrays = (f"{printable(name)}: {array.dtype}{list(array.shape)}" for name, array in self.outputs.items())
        return f"<Answer {self}; {', '.join(arrays)}>"

    def __str__(self) -> str:
        stopped = f", stopped by {self.stopped_by}" if self.stopped_by in ("deadline", "interrupt", "remote") else ""
        ran = f"{len(set(self.path))} of {self.segments} segments"
        remote = ", remote" if self.remote else ""
        return f"{printable(self.exit)}, confidence {self.confidence:.4g}, {ran}{remote}{stopped}"


def rank(answer: Answer) -> float:
    """Orders answers by confidence; NaN ranks lowest."""
    return -math.inf if math.isnan(answer.confidence) else answer.confidence


def stand_in(best: Answer, last: Answer) -> Answer:
    """Returns the answer of an earlier exit as that of a run which ended with `last`."""
    return msgspec.structs.replace(best, path=last.path, gates=last.gates, stopped_by=last.stopped_by)

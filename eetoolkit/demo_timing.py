"""A bundle beside the whole network in one session: the same inputs, in one loop, in turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from eetoolkit_runtime.answer import Answer
from eetoolkit_runtime.bundle import Bundle
from eetoolkit_runtime.inputs import Array
from eetoolkit_runtime.runner import Runner

ROUNDS = 5  # times that every input is run; the median of these is its latency, without what the machine did meanwhile
_WARMUP = 50


class Session(Protocol):
    """What is used of an `onnxruntime.InferenceSession`."""

    def run(self, names: None, inputs: dict[str, Array]) -> list[Any]:
        """Returns all outputs."""
        ...


@dataclass(frozen=True)
class Runs:
    """What was measured, a row an input.

    Attributes:
        answers: Of the bundle.
        bundle_ms: float64 (n,), the latency of `Runner.run`.
        whole_ms: float64 (n,), the latency of the session's `run`.
        exit_logits: For each exit, what it says of all inputs, (n, classes).
        whole_logits: What the session says.
    """

    answers: list[Answer]
    bundle_ms: Array
    whole_ms: Array
    exit_logits: list[Array]
    whole_logits: Array


def interleave(
    bundle: Bundle, whole: Session, inputs: Array, threads: int, tell: Callable[[str, int, int], None]
) -> Runs:
    """Returns answers and latencies of both on `inputs`, which are rows of the bundle's only input.

    Both run each row right after the other, and take turns at being first, so that whatever else the machine does hits
    both alike.
    """
    name = bundle.manifest.inputs[0].name
    rows = [np.ascontiguousarray(inputs[number : number + 1]) for number in range(len(inputs))]
    with Runner(bundle, threads=threads, load="eager") as runner:
        every_exit = [runner.run_all_exits(row) for row in rows]
        whole_logits = [whole.run(None, {name: row})[0] for row in rows]
        answers = [runner.run(row) for row in rows]
        for row in rows[:_WARMUP]:
            runner.run(row)
            whole.run(None, {name: row})
        times = np.empty((2, ROUNDS, len(rows)))
        for turn in range(ROUNDS):
            for number, row in enumerate(rows):
                first = (turn + number) % 2
                for which in (first, 1 - first):
                    start = time.perf_counter_ns()
                    if which == 0:
                        runner.run(row)
                    else:
                        whole.run(None, {name: row})
                    times[which, turn, number] = time.perf_counter_ns() - start
            tell("running the digits", (turn + 1) * len(rows), ROUNDS * len(rows))
    bundle_ms, whole_ms = np.median(times, axis=1) / 1e6
    exit_logits = [
        np.concatenate([found[number].outputs["logits"] for found in every_exit])
        for number in range(len(every_exit[0]))
    ]
    return Runs(answers, bundle_ms, whole_ms, exit_logits, np.concatenate(whole_logits))

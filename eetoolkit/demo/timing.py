"""A bundle beside the whole network in one session: the same inputs, in one loop, in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from eetoolkit_runtime.answer import Answer
from eetoolkit_runtime.bundle import Bundle
from eetoolkit_runtime.inputs import Array
from eetoolkit_runtime.runner import Runner

ROUNDS = 5  # times that every input is run; the median of these is its latency, without what the machine did meanwhile
_WARMUP = 50
BLOCK = 25
"""Rows that one way runs in a turn: enough that its caches are as warm as in use, few enough that what else the machine
does hits all ways alike."""

Tell = Callable[[str, int, int], None]
"""Takes what goes on, how much of it is done, and of how much; 0 of 0 where nobody knows."""

Row = tuple[Array, ...]
"""One row of a bundle's inputs, in its order."""


class Session(Protocol):
    """What is used of an `onnxruntime.InferenceSession`."""

    def run(self, names: None, inputs: dict[str, Array]) -> list[Any]:
        """Returns all outputs."""
        ...


@dataclass(frozen=True)
class Whole:
    """The whole network as one session, and the names of its inputs and outputs, in its order.

    The inputs are those of the bundle, in whatever order; an input that this session does not need is left out.
    """

    session: Session
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Runs:
    """What was measured, an item a row.

    Attributes:
        answers: Of the bundle.
        every_exit: The answers of all exits that the row meets, none of them firing.
        whole: What the session says, by the names of the last exit's outputs.
        bundle_ms: float64 (n,), the latency of `Runner.run`.
        whole_ms: float64 (n,), the latency of the session's `run`.
    """

    answers: list[Answer]
    every_exit: list[list[Answer]]
    whole: list[dict[str, Array]]
    bundle_ms: Array
    whole_ms: Array


def interleave(bundle: Bundle, whole: Whole, rows: Sequence[Row], threads: int, tell: Tell) -> Runs:
    """Returns answers and latencies of both on `rows`.

    They take turns at every few rows, and at being first, so that whatever else the machine does hits both alike; a
    turn begins with one more call that does not count.
    """
    session = whole.session
    names = [spec.name for spec in bundle.manifest.inputs]
    named = [dict(zip(names, row, strict=True)) for row in rows]
    feeds = [{name: row[name] for name in whole.inputs} for row in named]
    given = [row[0] if len(row) == 1 else row for row in rows]
    with Runner(bundle, threads=threads, load="eager") as runner:
        every_exit = [runner.run_all_exits(row) for row in given]
        said = [dict(zip(whole.outputs, session.run(None, feed), strict=True)) for feed in feeds]
        answers = [runner.run(row) for row in given]
        for row, feed in zip(given[:_WARMUP], feeds, strict=False):
            runner.run(row)
            session.run(None, feed)
        times = np.empty((2, ROUNDS, len(rows)))
        ways: tuple[tuple[Callable[[Any], object], list[Any]], ...] = (
            (runner.run, given),
            (partial(session.run, None), feeds),
        )
        for turn in range(ROUNDS):
            for begin in range(0, len(rows), BLOCK):
                block = range(begin, min(begin + BLOCK, len(rows)))
                first = (turn + begin // BLOCK) % 2
                for which in (first, 1 - first):
                    take_turn(*ways[which], block, times[which, turn])
            tell("running the digits", (turn + 1) * len(rows), ROUNDS * len(rows))
    bundle_ms, whole_ms = np.median(times, axis=1)
    return Runs(answers, every_exit, said, bundle_ms, whole_ms)


def take_turn(run: Callable[[Any], object], given: Sequence[Any], rows: Sequence[int], found: Array) -> None:
    """Writes the latency of each of some rows, in ms, to its place in `found`; a call before them does not count."""
    clock = time.perf_counter_ns
    run(given[rows[0]])
    for row in rows:
        item = given[row]
        start = clock()
        run(item)
        found[row] = (clock() - start) / 1e6

"""What is asked of a bundle before it is timed: every input once, for shares, visits and accuracies."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from eetoolkit_runtime.errors import InputError
from eetoolkit_runtime.profiling.budget import Budget
from eetoolkit_runtime.profiling.machine import resident_bytes
from eetoolkit_runtime.profiling.rounds import Row, Tell, rows_of, scattered
from eetoolkit_runtime.running.answer import Answer
from eetoolkit_runtime.running.inputs import Inputs
from eetoolkit_runtime.running.runner import Runner

# What has passed of the time when a part ends; what it leaves is the next one's.
OPENED_BY, ASKED_BY, JUDGED_BY = 0.25, 0.4, 0.5


@dataclass(frozen=True)
class Asked:
    """All inputs, each answered once: shares, visits and accuracies are theirs.

    Attributes:
        rows: The inputs.
        answers: Theirs, with the bundle's thresholds.
        right: Their classes, (rows,); None without labels, or where no answer names a class.
        always: By exit, for each row that comes there whether its answer is right; without those that were not run.
        call_s: What a call took in the mean, the first ones included.
        load_ms: What opening each segment took; without those for which there was no time.
        opened: This process's memory with all segments open, in bytes; None where not all are, or it is not known.
        providers: What the segments run on.
    """

    rows: list[Row]
    answers: list[Answer]
    right: npt.NDArray[Any] | None
    always: dict[str, list[bool]]
    call_s: float
    load_ms: dict[str, float]
    opened: int | None
    providers: tuple[str, ...]

    @property
    def load_s(self) -> float:
        """What opening all segments takes, in seconds, as far as it is known."""
        return sum(self.load_ms.values()) / 1e3


def ask(
    runner: Runner,
    inputs: Inputs | Iterator[Inputs] | None,
    labels: npt.ArrayLike | None,
    budget: Budget,
    tell: Tell,
) -> Asked:
    """Opens all segments and runs every input once, as far as there is time: inputs from all over, at least one."""
    rows = rows_of(runner.bundle, inputs)
    right = _labels(labels, len(rows))
    load_ms, opened = _open_all(runner, budget, tell), resident_bytes()
    answers: dict[int, Answer] = {}
    always: dict[str, list[bool]] = {}
    taken_s = 0.0
    for place in scattered(len(rows)):
        started = time.perf_counter()
        if answers and not budget.until(ASKED_BY).allows(taken_s / len(answers)):
            budget.lack("inputs")
            break
        answers[place] = runner.run(rows[place])
        taken_s += time.perf_counter() - started
        tell("answering", len(answers), len(rows))
    kept = sorted(answers)
    answered = [answers[place] for place in kept]
    if right is None or all(answer.prediction is None for answer in answered):
        right = None
    else:
        right = right[kept]
        always = _always(runner, [rows[place] for place in kept], right, taken_s / len(kept), budget)
    return Asked(
        rows=[rows[place] for place in kept],
        answers=answered,
        right=right,
        always=always,
        call_s=taken_s / len(kept),
        load_ms=load_ms,
        opened=None if "segments" in budget.lacking else opened,
        providers=runner.providers,
    )


def _open_all(runner: Runner, budget: Budget, tell: Tell) -> dict[str, float]:
    """Opens every segment, as far as there is time; returns how long each took, in milliseconds."""
    found: dict[str, float] = {}
    names = [name for name, segment in runner.bundle.manifest.segments.items() if segment.model is not None]
    for name in names:
        if not budget.until(OPENED_BY).allows():
            budget.lack("segments")
            break
        tell("opening", len(found), len(names))
        started = time.perf_counter()
        runner.open(name)
        found[name] = (time.perf_counter() - started) * 1e3
    return found


def _always(
    runner: Runner, rows: Sequence[Row], right: npt.NDArray[Any], row_s: float, budget: Budget
) -> dict[str, list[bool]]:
    """Returns, by exit, whether the answers there of the rows that come there are right; nothing without time."""
    found: dict[str, list[bool]] = {}
    for done, (row, label) in enumerate(zip(rows, right, strict=True)):
        started = time.perf_counter()
        if not budget.until(JUDGED_BY).allows(row_s * (len(rows) - done)):
            budget.lack("accuracies")
            return {}
        first: dict[str, Answer] = {}
        for answer in runner.run_all_exits(row):
            first.setdefault(answer.exit, answer)
        for name, answer in first.items():
            found.setdefault(name, []).append(bool(answer.prediction == label))
        row_s += (time.perf_counter() - started - row_s) / (done + 1)
    return found


def _labels(labels: npt.ArrayLike | None, rows: int) -> npt.NDArray[Any] | None:
    if labels is None:
        return None
    found = np.asarray(labels)
    if found.shape != (rows,) or found.dtype.kind not in "iu":
        raise InputError(f"labels are {found.dtype}{list(found.shape)}, expected integers, one for each of {rows} rows")
    return found

"""At which exits a network may stop and how sure it must be there, chosen on validation data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eetoolkit.tuning.objective import Candidates, Objective
from eetoolkit.tuning.record import Record
from eetoolkit.tuning.search import Constraint, Search
from eetoolkit_runtime.arrays import Array

_LEVELS = 100  # thresholds that an exit may get: quantiles of what its confidence was


@dataclass(frozen=True)
class Policy:
    """The exits that are kept, ascending, the last one always; `thresholds` are of the others, in that order."""

    exits: tuple[int, ...]
    thresholds: tuple[float, ...]


def choose(confidences: Array, right: Array, costs: Sequence[float], max_drop: float) -> Policy:
    """Returns the cheapest policy that tuning finds whose accuracy is at most `max_drop` below the last exit's.

    An exit at which nothing would stop is left out.

    Args:
        confidences: (exits, rows).
        right: bool (exits, rows), whether the exit's answer is right.
        costs: Of a row that stops at each exit, in any unit.
        max_drop: As a share: 0.005 is half a point.
    """
    last, rows = len(confidences) - 1, confidences.shape[1]
    levels = Candidates((*(_levels(row) for row in confidences[:-1]), np.zeros(0)))
    cost = np.tile(np.asarray(costs, float) / costs[-1], (rows, 1))
    record = chain_record(confidences.T, right.T)
    objective = Objective(record, levels, right.T.astype(float), cost, "last")
    found = levels.spell(Search(objective).best(Constraint(least_score=objective.full[0] - max_drop)))[:last]
    taken = stops(confidences, found)
    kept = [exit_ for exit_ in range(last) if (taken == exit_).any()]
    return Policy((*kept, last), tuple(float(found[exit_]) for exit_ in kept))


def chain_record(confidences: Array, right: Array) -> Record:
    """Returns the record of a chain of exits, of confidences (rows, exits) and whether answers are right."""
    rows, count = confidences.shape
    exits = np.tile(np.arange(count, dtype=np.int16), (rows, 1))
    names = tuple(f"exit{e}" for e in range(count))
    return Record(
        "chain", {}, {}, names, names, np.arange(rows), np.arange(rows).astype(np.uint64), np.zeros(rows, np.int64),
        exits, confidences.astype(np.float32), np.where(right, 0, 1), exits.astype(np.int32),
        np.tril(np.ones((count, count), np.int32)), {},
    )  # fmt: skip


def stops(confidences: Array, thresholds: Array) -> NDArray[np.intp]:
    """Returns at which exit each row stops, int (rows,), with `thresholds` of all exits but the last; NaN: none."""
    fires = np.ones(confidences.shape, bool)  # the last exit takes all that is left
    fires[:-1] = confidences[:-1] >= np.asarray(thresholds)[:, np.newaxis]
    first: NDArray[np.intp] = fires.argmax(axis=0)
    return first


def _levels(confidences: Array) -> Array:
    """Returns thresholds half-way between confidences that occurred, so that rounding moves no row across."""
    seen = np.unique(confidences.astype(np.float32).astype(float))
    between = np.concatenate([[0.0], (seen[1:] + seen[:-1]) / 2])  # at 0 all of them stop
    if len(between) <= _LEVELS:
        return between
    return np.unique(np.quantile(between, np.linspace(0, 1, _LEVELS), method="nearest"))

"""At which exits a network may stop and how sure it must be there, chosen on validation data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_LEVELS = 64  # thresholds that are tried at each exit: quantiles of what its confidence was


@dataclass(frozen=True)
class Policy:
    """The exits that are kept, ascending, the last one always; `thresholds` are of the others, in that order."""

    exits: tuple[int, ...]
    thresholds: tuple[float, ...]


def choose(confidences: Array, right: Array, costs: Sequence[float], max_drop: float) -> Policy:
    """Returns the cheapest policy found whose accuracy is at most `max_drop` below the last exit's.

    Greedy, from no threshold and from the best one that all exits share: of all exits and levels the move that saves
    most is taken, again and again, until none is left that keeps the accuracy. An exit at which nothing would stop is
    left out.

    Args:
        confidences: (exits, rows).
        right: bool (exits, rows), whether the exit's answer is right.
        costs: Of a row that stops at each exit, in any unit.
        max_drop: As a share: 0.005 is half a point.
    """
    last = len(confidences) - 1
    weights = np.asarray(costs, float)
    least = float(right[-1].mean()) - max_drop

    def cost(thresholds: Array) -> float:
        """Returns the mean cost, infinite where too many answers are wrong."""
        taken = stops(confidences, thresholds)
        accurate = right[taken, np.arange(len(taken))].mean() >= least
        return float(weights[taken].mean()) if accurate else math.inf

    levels = [_levels(row) for row in confidences[:-1]]
    shared = min((np.full(last, level) for level in _levels(confidences[:-1].ravel())), key=cost)
    found = min((_greedy(start, levels, cost) for start in (np.full(last, math.inf), shared)), key=cost)
    taken = stops(confidences, found)
    kept = [exit_ for exit_ in range(last) if (taken == exit_).any()]
    return Policy((*kept, last), tuple(float(found[exit_]) for exit_ in kept))


def _greedy(start: Array, levels: list[list[float]], cost: Callable[[Array], float]) -> Array:
    best, thresholds = cost(start), start
    while True:
        trials = []
        for exit_, tried in enumerate(levels):
            for level in tried:
                trial = thresholds.copy()
                trial[exit_] = level
                trials.append(trial)
        trial = min(trials, key=cost)
        if not cost(trial) < best:
            return thresholds
        best, thresholds = cost(trial), trial


def stops(confidences: Array, thresholds: Array) -> NDArray[np.intp]:
    """Returns at which exit each row stops, int (rows,), with `thresholds` of all exits but the last."""
    fires = np.ones(confidences.shape, bool)  # the last exit takes all that is left
    fires[:-1] = confidences[:-1] >= np.asarray(thresholds)[:, np.newaxis]
    first: NDArray[np.intp] = fires.argmax(axis=0)
    return first


def _levels(confidences: Array) -> list[float]:
    """Returns thresholds half-way between confidences that occurred, so that rounding moves no row across."""
    seen = np.unique(confidences.astype(float))
    between = np.concatenate([[0.0], (seen[1:] + seen[:-1]) / 2])  # at 0 all of them stop
    if len(between) <= _LEVELS:
        return [float(level) for level in between]
    return [float(level) for level in np.quantile(between, np.linspace(0, 1, _LEVELS), method="nearest")]

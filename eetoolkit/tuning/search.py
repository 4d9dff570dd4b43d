"""The search for thresholds: deterministic, over candidates, with everything of use kept.

Score and cost of a plan are not separable over its exits, since which rows reach an exit depends on those before it. So
the search descends along one exit at a time, each step exact over all candidates (`Objective.sweep`): from all exits
disabled (greedy), from what simpler rules choose, and for many prices of the score (Lagrangians).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from eetoolkit.tuning.objective import Objective, moved
from eetoolkit_runtime.arrays import Array

_PRICES = np.geomspace(0.03, 3000, 26)  # of a score of one; costs are in shares of the whole network's
_CYCLES = 12
_TIED = 1e-12

Key = tuple[float, ...]
"""What orders points under a constraint, least first."""


@dataclass(frozen=True)
class Constraint:
    """What the search must keep; one of the two is given, the other is what it makes best.

    Attributes:
        least_score: The answers must score this.
        most_cost: A run may cost this in the mean.
    """

    least_score: float | None = None
    most_cost: float | None = None

    def met(self, score: Array, cost: Array) -> Array:
        """Whether points meet it."""
        if self.least_score is not None:
            return np.asarray(score >= self.least_score - _TIED)
        return np.asarray(cost <= (np.inf if self.most_cost is None else self.most_cost * (1 + _TIED)))

    def stricter(self, by: float) -> Constraint:
        """Returns the constraint with so much higher a score, or so much less cost."""
        if self.least_score is not None:
            return Constraint(least_score=self.least_score + by)
        return Constraint(most_cost=None if self.most_cost is None else self.most_cost - by)

    def rank(self, score: Array, cost: Array) -> Array:
        """Returns what orders points, least first, as (points, 3): what is missing, what is made best, the other."""
        missing = np.where(self.met(score, cost), 0.0, self._missing(score, cost))
        return np.stack([missing, cost, -score] if self.least_score is not None else [missing, -score, cost], axis=-1)

    def key(self, score: float, cost: float) -> Key:
        """Returns the same of one point, rounded, so that sums of other orders are equal."""
        return tuple(np.round(self.rank(np.array(score), np.array(cost)), 12).tolist())

    def _missing(self, score: Array, cost: Array) -> Array:
        if self.least_score is not None:
            return np.asarray(self.least_score - score)
        return np.asarray(cost - (np.inf if self.most_cost is None else self.most_cost))

    def best(self, score: Array, cost: Array) -> int:
        """Returns the place of the best point; among equals the last, the slowest to fire."""
        left = np.arange(len(score))
        for key in np.round(self.rank(score, cost), 12).T:
            left = left[key[left] == key[left].min()]
        return int(left[-1])


@dataclass(frozen=True, eq=False)
class Points:
    """Settings (P, E) with their scores and costs (P,)."""

    settings: Array
    score: Array
    cost: Array

    def frontier(self) -> Points:
        """Returns the points that no other beats, by rising cost."""
        order = np.lexsort((-np.arange(len(self.cost)), -self.score, self.cost))  # among equals the slowest to fire
        score = self.score[order]
        best = np.maximum.accumulate(np.concatenate([[-np.inf], score[:-1]]))
        kept = order[score > best + _TIED]
        return Points(self.settings[kept], self.score[kept], self.cost[kept])


class Search:
    """Looks along one exit after the other, and keeps all points that it has met."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._lines: dict[tuple[int, bytes], tuple[Array, Array, Array]] = {}
        score, cost = objective.at(objective.choices.never)
        self._never = Points(objective.choices.never[None], np.array([score]), np.array([cost]))

    @property
    def points(self) -> Points:
        """Everything met so far."""
        lines = (_points(setting, exit_, *values) for (exit_, _), (setting, *values) in self._lines.items())
        return _joined([self._never, *lines])

    def frontier(self) -> Points:
        """Explores all prices and returns the frontier of what was met."""
        objective = self._objective
        setting = objective.choices.never
        prices = _PRICES if objective.score is not None else _PRICES[2::6]
        for price in [*prices[::-1], *prices]:
            setting = self._descend(setting, _at_price(price))
        return self.points.frontier()

    def best(self, constraint: Constraint, starts: Iterable[Array] = ()) -> Array:
        """Returns the best setting for a constraint, (E,); if none meets it, the nearest to it.

        Args:
            constraint: What it must keep.
            starts: Settings (E,) that others have found; what is returned is no worse than they, nor than greedy.
        """
        self.greedy(constraint)
        for start in starts:
            for exit_ in self._objective.exits:
                self._line(start, exit_)
        self.frontier()
        points = self.points
        return np.asarray(points.settings[constraint.best(points.score, points.cost)])

    def greedy(self, constraint: Constraint) -> Array:
        """Returns what greedy coordinate descent finds, (E,).

        From all exits disabled, the one exit's move that helps the constraint most, again and again until none does.
        """
        setting = self._objective.choices.never
        now = constraint.key(*self._objective.at(setting))
        while True:
            moves = []
            for exit_ in self._objective.exits:
                score, cost = self._line(setting, exit_)
                j = constraint.best(score, cost)
                moves.append((constraint.key(score[j], cost[j]), exit_, j))
            if not moves or min(moves)[0] >= now:
                return setting
            now, exit_, j = min(moves)
            setting = moved(setting, exit_, j)

    def _descend(self, setting: Array, best: Callable[[Array, Array], int]) -> Array:
        """Returns where cycles of the best candidate along one exit after the other end."""
        for _ in range(_CYCLES):
            before = setting
            for exit_ in self._objective.exits[::-1]:
                setting = moved(setting, exit_, best(*self._line(setting, exit_)))
            if np.array_equal(setting, before):
                break
        return setting

    def _line(self, setting: Array, exit_: int) -> tuple[Array, Array]:
        start = moved(setting, exit_, 0)
        key = (exit_, start.astype(np.int32).tobytes())
        if key not in self._lines:
            self._lines[key] = (start, *self._objective.sweep(start, exit_))
        _, score, cost = self._lines[key]
        return score, cost


def _at_price(price: float) -> Callable[[Array, Array], int]:
    """Returns what chooses the least of the cost less the price of the score."""

    def best(score: Array, cost: Array) -> int:
        priced = np.round(cost - price * score, 12)
        return int(len(priced) - 1 - priced[::-1].argmin())

    return best


def _points(setting: Array, exit_: int, score: Array, cost: Array) -> Points:
    """Returns the points of a sweep along an exit."""
    settings = np.tile(setting, (len(score), 1))
    settings[:, exit_] = np.arange(len(score))
    return Points(settings, score, cost)


def _joined(points: Sequence[Points]) -> Points:
    """Returns all of some points."""
    return Points(
        np.concatenate([each.settings for each in points]),
        np.concatenate([each.score for each in points]),
        np.concatenate([each.cost for each in points]),
    )

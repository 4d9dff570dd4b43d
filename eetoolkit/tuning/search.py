"""The search for thresholds: deterministic, over candidates, with everything worth keeping kept.

Worth and cost of a plan are not separable over its exits, since which rows reach an exit depends on those before it. So
the search descends along one exit at a time, each step exact over all its candidates (`Objective.sweep`): from the
greedy answer, from what simpler rules choose, and from the answers to many prices of worth (Lagrangians); then, around
the best, along two exits at a time, each step exact over all pairs of their candidates. Where few exits have few
candidates, it tries all settings.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from eetoolkit.tuning.objective import Objective, moved
from eetoolkit.tuning.record import Array

_PRICES = np.geomspace(0.03, 3000, 26)  # of one unit of worth; costs are in shares of the whole network's
_CYCLES = 12
_STARTS = 2  # of moves of pairs, on each side of the goal, where that is quick
_START_CELLS = 6e7  # row visits to look at for which it is
_ALL_CELLS = 6e7  # the same for trying all settings
_SWEEP_CELLS = 4e4  # what a sweep itself takes as long as
_POINT_CELLS = 40  # the same for each of its points
_TIED = 1e-12

Key = tuple[float, ...]
"""What orders points under a goal, least first."""


@dataclass(frozen=True)
class Goal:
    """What is wanted; one of the two is given, the other is what is made best.

    Attributes:
        least_worth: The answers must be worth this.
        most_cost: A run may cost this in the mean.
    """

    least_worth: float | None = None
    most_cost: float | None = None

    def met(self, worth: Array, cost: Array) -> Array:
        """Whether points meet it."""
        if self.least_worth is not None:
            return np.asarray(worth >= self.least_worth - _TIED)
        return np.asarray(cost <= (np.inf if self.most_cost is None else self.most_cost * (1 + _TIED)))

    def stricter(self, by: float) -> Goal:
        """Returns the goal with so much more worth, or so much less cost."""
        if self.least_worth is not None:
            return Goal(least_worth=self.least_worth + by)
        return Goal(most_cost=None if self.most_cost is None else self.most_cost - by)

    def rank(self, worth: Array, cost: Array) -> Array:
        """Returns what orders points, least first, as (points, 3): what is missing, what is made best, the other."""
        missing = np.where(self.met(worth, cost), 0.0, self._missing(worth, cost))
        return np.stack([missing, cost, -worth] if self.least_worth is not None else [missing, -worth, cost], axis=-1)

    def key(self, worth: float, cost: float) -> Key:
        """Returns the same of one point, rounded, so that sums of other orders are equal."""
        return tuple(np.round(self.rank(np.array(worth), np.array(cost)), 12).tolist())

    def _missing(self, worth: Array, cost: Array) -> Array:
        if self.least_worth is not None:
            return np.asarray(self.least_worth - worth)
        return np.asarray(cost - (np.inf if self.most_cost is None else self.most_cost))

    def best(self, worth: Array, cost: Array) -> int:
        """Returns the place of the best point; among equals the last, the slowest to fire."""
        left = np.arange(len(worth))
        for key in np.round(self.rank(worth, cost), 12).T:
            left = left[key[left] == key[left].min()]
        return int(left[-1])


@dataclass(frozen=True, eq=False)
class Points:
    """Settings (P, E) with their worth and cost (P,)."""

    settings: Array
    worth: Array
    cost: Array

    def frontier(self) -> Points:
        """Returns the points that no other beats, by rising cost."""
        order = np.lexsort((-np.arange(len(self.cost)), -self.worth, self.cost))  # among equals the slowest to fire
        worth = self.worth[order]
        best = np.maximum.accumulate(np.concatenate([[-np.inf], worth[:-1]]))
        kept = order[worth > best + _TIED]
        return Points(self.settings[kept], self.worth[kept], self.cost[kept])


class Search:
    """Looks along one exit or two, and keeps points that it has met: along two exits the frontier, where it helps."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._lines: dict[tuple[int, bytes], tuple[Array, Array, Array]] = {}
        self._pairs: dict[tuple[tuple[int, int], bytes, Goal], tuple[Key, Array]] = {}
        self._kept: list[Points] = []
        self._keep(objective.choices.never)

    @property
    def points(self) -> Points:
        """Everything kept so far."""
        lines = (_points(setting, (exit_,), *values) for (exit_, _), (setting, *values) in self._lines.items())
        return _joined([*self._kept, *lines])

    def frontier(self) -> Points:
        """Explores all prices and returns the frontier of what was met."""
        objective = self._objective
        setting = objective.choices.never
        prices = _PRICES if objective.worth is not None else _PRICES[2::6]
        for price in [*prices[::-1], *prices]:
            setting = self._descend(setting, _priced(price))
        return self.points.frontier()

    def best(self, goal: Goal, starts: Iterable[Array] = ()) -> Array:
        """Returns the best setting for a goal, (E,); if none meets it, the nearest to it.

        Args:
            goal: The goal.
            starts: Settings (E,) that others have found: like greedy descent's, what is returned is no worse than they.
        """
        if self._all_are_few():
            self._try_all()
        else:
            self.greedy(goal)
            for start in starts:
                for exit_ in self._objective.exits:
                    self._line(start, exit_)
            self.frontier()
            self._try_pairs(goal)
        points = self.points
        return np.asarray(points.settings[goal.best(points.worth, points.cost)])

    def greedy(self, goal: Goal) -> Array:
        """Returns what greedy coordinate descent finds, (E,).

        From the setting in which no exit fires, the one exit's move that helps the goal most, again and again until
        none does.
        """
        return self._steepest(self._objective.choices.never, goal)

    def _steepest(self, setting: Array, goal: Goal) -> Array:
        now = goal.key(*self._objective.at(setting))
        while True:
            moves = []
            for exit_ in self._objective.exits:
                worth, cost = self._line(setting, exit_)
                j = goal.best(worth, cost)
                moves.append((goal.key(worth[j], cost[j]), exit_, j))
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

    def _try_pairs(self, goal: Goal) -> None:
        """Moves two exits at once, from the best points for a goal, each time to the best of all their candidates."""
        pairs = list(itertools.combinations(self._objective.exits, 2))
        if self._objective.worth is None or not pairs:
            return
        most = _START_CELLS / (len(pairs) * self._sweep_cells())
        for setting in self._near(goal, int(np.clip(most, 1, _STARTS))):
            self._descend_pairs(setting, goal, [[pair] for pair in pairs])  # the first move that helps
            self._descend_pairs(setting, goal, [pairs])  # the one that helps most; both, since they end elsewhere

    def _descend_pairs(self, setting: Array, goal: Goal, batches: Sequence[Sequence[tuple[int, int]]]) -> None:
        """Moves from a setting by the best move of each batch of pairs, in cycles, until none helps."""
        now = goal.key(*self._objective.at(setting))
        for _ in range(_CYCLES):
            before = now
            for batch in batches:
                moves = [self._best_of(setting, pair, goal, now) for pair in batch]
                now, setting = min([(now, setting), *moves], key=lambda move: move[0])
            if now == before:
                break

    def _best_of(self, setting: Array, pair: tuple[int, int], goal: Goal, now: Key) -> tuple[Key, Array]:
        """Returns the best setting along a pair of exits, its key first; keeps the frontier where that beats now."""
        start = moved(setting, pair, 0)
        known = pair, start.tobytes(), goal
        if known not in self._pairs:
            worth, cost = self._objective.sweep(start, *pair)
            place = goal.best(worth.ravel(), cost.ravel())
            key = goal.key(worth.flat[place], cost.flat[place])
            if key < now:
                self._kept.append(_points(start, pair, worth, cost).frontier())
            self._pairs[known] = key, moved(start, pair, np.unravel_index(place, worth.shape))
        return self._pairs[known]

    def _near(self, goal: Goal, count: int) -> list[Array]:
        """Returns the settings to move from: the best that meet the goal, and those that miss it by least."""
        points = self.points
        ranks = np.round(goal.rank(points.worth, points.cost), 12)
        order = np.lexsort(ranks.T[::-1])
        met = ranks[order, 0] == 0
        found = []
        for places in (order[met], order[~met]):
            _, distinct = np.unique(ranks[places], axis=0, return_index=True)
            found += [points.settings[place] for place in places[np.sort(distinct)[:count]]]
        return found

    def _all_are_few(self) -> bool:
        """Whether all settings can be tried: sweeps along the two longest exits, for every choice of the others."""
        sides = np.sort(self._objective.choices.never + 1.0)[:-2]
        return bool(np.prod(sides) * self._sweep_cells() <= _ALL_CELLS and self._objective.worth is not None)

    def _try_all(self) -> None:
        bounds = self._objective.choices.never
        along = sorted(np.argsort(bounds, kind="stable")[-2:].tolist())
        others = [range(1) if e in along else range(bound + 1) for e, bound in enumerate(bounds.tolist())]
        for setting in map(np.array, itertools.product(*others)):
            self._kept.append(_points(setting, along, *self._objective.sweep(setting, *along)).frontier())

    def _sweep_cells(self) -> float:
        """Returns how many row visits a sweep along the two longest exits takes as long as."""
        points = np.prod(np.sort(self._objective.choices.never + 1.0)[-2:])
        return float(self._objective.record.exit.size + _SWEEP_CELLS + _POINT_CELLS * points)

    def _keep(self, setting: Array) -> None:
        worth, cost = self._objective.at(setting)
        self._kept.append(Points(setting[None], np.array([worth]), np.array([cost])))

    def _line(self, setting: Array, exit_: int) -> tuple[Array, Array]:
        start = moved(setting, exit_, 0)
        key = (exit_, start.astype(np.int32).tobytes())
        if key not in self._lines:
            self._lines[key] = (start, *self._objective.sweep(start, exit_))
        _, worth, cost = self._lines[key]
        return worth, cost


def _priced(price: float) -> Callable[[Array, Array], int]:
    """Returns what chooses the least cost less worth at a price."""

    def best(worth: Array, cost: Array) -> int:
        score = np.round(cost - price * worth, 12)
        return int(len(score) - 1 - score[::-1].argmin())

    return best


def _points(setting: Array, exits: Sequence[int], worth: Array, cost: Array) -> Points:
    """Returns the points of a sweep along some exits."""
    settings = np.tile(setting, (worth.size, 1))
    settings[:, list(exits)] = np.indices(worth.shape).reshape(len(exits), -1).T
    return Points(settings, worth.ravel(), cost.ravel())


def _joined(points: Sequence[Points]) -> Points:
    """Returns all of some points."""
    return Points(
        np.concatenate([each.settings for each in points]),
        np.concatenate([each.worth for each in points]),
        np.concatenate([each.cost for each in points]),
    )

"""The search for thresholds: deterministic, over candidates, with everything that it meets kept.

Worth and cost of a plan are not separable over its exits, since which rows reach an exit depends on those before it. So
the search descends along one exit at a time, each step exact over all its candidates (`Objective.line`): from the
greedy answer, from what simpler rules choose, and from the answers to many prices of worth (Lagrangians); then along
pairs of exits around the best.
Where few exits have few candidates, it tries all of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from eetoolkit.tuning.objective import Objective
from eetoolkit.tuning.record import Array

_PRICES = np.geomspace(0.03, 3000, 26)  # of one unit of worth; costs are in shares of the whole network's
_CYCLES = 12
_ROUNDS = 8
_STARTS = 3  # from which pairs are moved, on each side of the goal, where that is quick
_SHIFTS = (1, 2, 4, 8, 16, 32)  # candidates by which a pair's first exit is moved up and down
_ALL_CELLS = 2e8  # row visits to look at for which trying all settings is quick
_LINE_CELLS = 3e4  # how many a line's own overhead takes as long as
_PAIR_CELLS = 1e8  # the same for one round of pairs
_TIED = 1e-12


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

    def rank(self, worth: Array, cost: Array) -> Array:
        """Returns what orders points, least first, as (points, 3): what is missing, what is made best, the other."""
        missing = np.where(self.met(worth, cost), 0.0, self._missing(worth, cost))
        return np.stack([missing, cost, -worth] if self.least_worth is not None else [missing, -worth, cost], axis=-1)

    def _missing(self, worth: Array, cost: Array) -> Array:
        if self.least_worth is not None:
            return np.asarray(self.least_worth - worth)
        return np.asarray(cost - (np.inf if self.most_cost is None else self.most_cost))

    def best(self, worth: Array, cost: Array) -> int:
        """Returns the place of the best point; among equals the last, the slowest to fire."""
        ranks = np.round(self.rank(worth, cost), 12)
        order = np.lexsort((-np.arange(len(worth)), *ranks.T[::-1]))
        return int(order[0])


@dataclass(frozen=True, eq=False)
class Points:
    """Settings (P, E) with their worth and cost (P,)."""

    settings: Array
    worth: Array
    cost: Array

    def frontier(self) -> Points:
        """Returns the points that no other beats, by rising cost."""
        order = np.lexsort((-self.worth, self.cost))
        worth = self.worth[order]
        best = np.maximum.accumulate(np.concatenate([[-np.inf], worth[:-1]]))
        kept = order[worth > best + _TIED]
        return Points(self.settings[kept], self.worth[kept], self.cost[kept])


class Search:
    """Looks along lines and keeps all points that it has met."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._lines: dict[tuple[int, bytes], tuple[Array, Array, Array]] = {}

    @property
    def points(self) -> Points:
        """Everything met so far."""
        if not self._lines:
            return self._none()
        settings = []
        for (exit_, _), (setting, worth, _) in self._lines.items():
            along = np.tile(setting, (len(worth), 1))
            along[:, exit_] = np.arange(len(worth))
            settings.append(along)
        worth = np.concatenate([worth for _, worth, _ in self._lines.values()])
        cost = np.concatenate([cost for *_, cost in self._lines.values()])
        return Points(np.concatenate(settings), worth, cost)

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
            self._pairs(goal)
        points = self.points
        return np.asarray(points.settings[goal.best(points.worth, points.cost)])

    def greedy(self, goal: Goal) -> Array:
        """Returns what greedy coordinate descent finds, (E,).

        From the setting in which no exit fires, the one exit's move that helps the goal most, again and again until
        none does.
        """
        return self._steepest(self._objective.choices.never, goal)

    def _steepest(self, setting: Array, goal: Goal) -> Array:
        now = self._rank(goal, setting)
        while True:
            moves = []
            for exit_ in self._objective.exits:
                worth, cost = self._line(setting, exit_)
                j = goal.best(worth, cost)
                moves.append((tuple(np.round(goal.rank(worth, cost)[j], 12)), exit_, j))
            if not moves or min(moves)[0] >= now:
                return setting
            now, exit_, j = min(moves)
            setting = _with(setting, exit_, j)

    def _descend(self, setting: Array, best: Callable[[Array, Array], int]) -> Array:
        """Returns where cycles of the best candidate along one exit after the other end."""
        for _ in range(_CYCLES):
            before = setting
            for exit_ in self._objective.exits[::-1]:
                setting = _with(setting, exit_, best(*self._line(setting, exit_)))
            if np.array_equal(setting, before):
                break
        return setting

    def _pairs(self, goal: Goal) -> None:
        """Moves one exit by a little and another by anything, from the best points for a goal, while that helps."""
        exits, bounds = self._objective.exits, self._objective.choices.never
        if self._objective.worth is None or len(exits) < 2:
            return
        lines = len(exits) ** 2 * 2 * len(_SHIFTS)
        starts = int(np.clip(_PAIR_CELLS / (lines * (self._objective.record.exit.size + _LINE_CELLS)), 1, _STARTS))
        before = self._best_rank(goal)
        for _ in range(_ROUNDS):
            for setting in self._near(goal, starts):
                for first in exits:
                    moved = {
                        min(max(setting[first] + sign * by, 0), bounds[first]) for by in _SHIFTS for sign in (-1, 1)
                    }
                    for j in sorted(moved | {0, bounds[first]}):
                        for second in exits:
                            if second != first:
                                self._line(_with(setting, first, j), second)
            points = self.points
            self._steepest(points.settings[goal.best(points.worth, points.cost)], goal)
            now = self._best_rank(goal)
            if now >= before:
                return
            before = now

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

    def _best_rank(self, goal: Goal) -> tuple[float, ...]:
        points = self.points
        return self._rank(goal, points.settings[goal.best(points.worth, points.cost)])

    def _all_are_few(self) -> bool:
        """Whether all settings can be tried: lines along the longest exit, one for every choice of the others."""
        bounds = self._objective.choices.never + 1
        lines = np.prod(bounds.astype(np.float64)) / bounds.max(initial=1)
        return bool(
            lines * (self._objective.record.exit.size + _LINE_CELLS) <= _ALL_CELLS and self._objective.worth is not None
        )

    def _try_all(self) -> None:
        bounds = self._objective.choices.never
        along = int(np.argmax(bounds))
        others = [range(1) if e == along else range(bound + 1) for e, bound in enumerate(bounds.tolist())]
        for setting in itertools.product(*others):
            self._line(np.array(setting), along)

    def _rank(self, goal: Goal, setting: Array) -> tuple[float, ...]:
        worth, cost = self._objective.at(setting)
        return tuple(np.round(goal.rank(np.array(worth), np.array(cost)), 12).tolist())

    def _line(self, setting: Array, exit_: int) -> tuple[Array, Array]:
        start = _with(setting, exit_, 0)
        key = (exit_, start.astype(np.int32).tobytes())
        if key not in self._lines:
            self._lines[key] = (start, *self._objective.line(start, exit_))
        _, worth, cost = self._lines[key]
        return worth, cost

    def _none(self) -> Points:
        """Returns the one setting there is where no exit may fire."""
        never = self._objective.choices.never
        worth, cost = self._objective.at(never)
        return Points(never[None], np.array([worth]), np.array([cost]))


def _priced(price: float) -> Callable[[Array, Array], int]:
    """Returns what chooses the least cost less worth at a price."""

    def best(worth: Array, cost: Array) -> int:
        score = np.round(cost - price * worth, 12)
        return int(len(score) - 1 - score[::-1].argmin())

    return best


def _with(setting: Array, exit_: int, j: int) -> Array:
    found = setting.copy()
    found[exit_] = j
    return found

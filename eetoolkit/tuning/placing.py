"""Where exits go: of many candidates the few, with their thresholds, that cost the least.

An exit that is not chosen costs nothing, so each set of exits is searched as the bundle that has no others. Sets grow
by one exit at a time (a beam search), by those first that a sweep along them finds promising; then the best set of each
size exchanges its exits, one by one, until that does not help.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from eetoolkit.tuning.choose import Task, margin_of
from eetoolkit.tuning.evaluate import Subset, objective_of
from eetoolkit.tuning.objective import Candidates, Objective
from eetoolkit.tuning.pruning import only_exits, without_overheads
from eetoolkit.tuning.search import Constraint, Key, Search
from eetoolkit.tuning.static import AS_GOOD, keeps_goal
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import TuneError
from eetoolkit_runtime.plan.flow import without_exits
from eetoolkit_runtime.plan.types import Manifest

_BEAM = 3  # sets of a size that grow
_TRIED = 5  # further exits of a set that are searched in full
_SETTINGS = 8  # of a set, along which further exits are swept

Exits = tuple[int, ...]
"""Numbers of early exits, ascending."""


@dataclass(frozen=True)
class Tried:
    """The best placement of at most so many exits.

    Attributes:
        exits: Names of early exits.
        score: On the tuning rows.
        cost: On the tuning rows, as a share of the network's without early exits.
    """

    exits: tuple[str, ...]
    score: float
    cost: float


@dataclass(frozen=True, eq=False)
class Placement:
    """Which early exits stay.

    Attributes:
        exits: Names; none where no placement beats the whole network.
        thresholds: In the record's order, (E,); NaN for what is gone, and for what ends the plan.
        score: On the tuning rows.
        cost: On the tuning rows, as a share of the network's without early exits.
        whole_score: The whole network's.
        tried: The best of at most 1, 2, ... exits; none where no margin is enough for an exit to keep the goal.
        fixed: The cheapest exit that always answers and meets the goal; None where none is cheaper than the network.
    """

    exits: tuple[str, ...]
    thresholds: Array
    score: float
    cost: float
    whole_score: float
    tried: tuple[Tried, ...]
    fixed: Tried | None


def place(task: Task, overheads: Array, most: int, *, margin: bool = True, added: Array | None = None) -> Placement:
    """Returns which early exits to keep, and thresholds, for the goal at the least cost; by the tuning rows alone.

    Simpler wins: fewer exits, one that always answers, or none, where that costs at most `AS_GOOD` times as much. A
    risk counts as a drop.

    Args:
        task: What is tuned, with all candidates as exits.
        overheads: What a visit of each exit costs, its head and its cut, (E,), in the unit of the task's costs.
        most: How many early exits may stay.
        added: What it costs to keep one, (E,); None: its overhead.
        margin: Whether to keep the tuner's safety margin, which is measured on the exits that are best without one.

    Raises:
        TuneError: The goal cannot be met, it says the best that can; or exits that cost more than the network.
    """
    sets = _Sets(task, overheads, overheads if added is None else added)
    constraint = task.goal.constraint(sets.whole)
    asked, found = constraint, sets.grow(constraint, most)
    if margin and found[-1].exits:
        asked = constraint.stricter(margin_of(task.goal, constraint, *sets.bundle(found[-1].exits)) or 0.0)
        found = sets.grow(asked, most) if asked.least_score != np.inf else found[:1]
    best = found[-1]
    task.goal.check_met(constraint, (best.score, best.cost), sets.whole[1], task.costs)
    static = sets.static(best, constraint)
    cheap = [each for each in static if each.cost <= AS_GOOD * best.cost]
    good = (each for each in found if each.as_good_as(best, asked))
    chosen = (
        cheap[0] if cheap else next(good, best)
    )  # where noise makes costs negative, not even the best is among them
    names = task.data.record.exits

    def named(each: _Found) -> Tried:
        return Tried(tuple(names[e] for e in each.exits), each.score, each.cost)

    return Placement(
        exits=tuple(names[e] for e in chosen.exits),
        thresholds=chosen.thresholds,
        score=chosen.score,
        cost=chosen.cost,
        whole_score=sets.whole[0],
        tried=tuple(named(each) for each in found[1:]),
        fixed=named(static[0]) if static and static[0].exits else None,
    )


@dataclass(frozen=True, eq=False)
class _Found:
    """Some exits with thresholds (E,), NaN for all others, and their score and cost on the tuning rows."""

    exits: Exits
    thresholds: Array
    score: float
    cost: float

    def rank(self, constraint: Constraint) -> tuple[Key, int, Exits]:
        """Returns what orders it under a constraint, least first; fewer exits come first among equals."""
        return constraint.key(self.score, self.cost), len(self.exits), self.exits

    def as_good_as(self, other: _Found, constraint: Constraint) -> bool:
        """Whether it does what another does under a constraint, at a cost that is as good."""
        own, best = (constraint.key(each.score, each.cost) for each in (self, other))
        return own[0] <= best[0] and constraint.key(self.score, self.cost / AS_GOOD) <= best


class _Sets:
    """Sets of early exits, each as the bundle that has no others; what was searched is kept.

    Attributes:
        whole: Score and cost of the network without early exits on the tuning rows.
    """

    def __init__(self, task: Task, overheads: Array, added: Array) -> None:
        tuned = task.tuned
        if tuned.score is not None:
            tuned = replace(tuned, record=replace(tuned.record, outputs={}))  # which only a metric of all looks at
        self._task, self._added = task, np.asarray(added, np.float64)
        self._plain = without_overheads(tuned, np.asarray(overheads, np.float64))
        self._ends = np.array([exit_.ends for exit_ in task.plan.exits.values()])
        self._thresholds = objective_of(task.plan, tuned).choices.thresholds
        self._candidates = tuple(e for e, own in enumerate(self._thresholds) if len(own))
        self._searches: dict[Exits, tuple[Objective, Search]] = {}
        self._best: dict[tuple[Exits, Constraint], _Found] = {}
        self._more: dict[tuple[Exits, Constraint], list[Exits]] = {}
        _, plain = self.bundle(())
        self.whole = plain.means((plain.record.last, plain.record.last))
        if not 0 < self.whole[1] < np.inf:
            raise TuneError(
                f"without its early exits {task.plan.name!r} would cost {self.whole[1]:.4g} {task.costs.unit}, since "
                "their heads are said to cost more than all of it; profile again"
            )

    def bundle(self, exits: Exits) -> tuple[Manifest, Subset]:
        """Returns the plan with only these early exits, and the tuning rows as it answers them."""
        stay, names = self._stay(exits), self._plain.record.exits
        gone = [name for name, stays in zip(names, stay, strict=True) if not stays]
        return without_exits(self._task.plan, gone), self._rows(exits)

    def grow(self, constraint: Constraint, most: int) -> list[_Found]:
        """Returns the best of at most 0, 1, ... `most` exits under a constraint."""
        found: list[_Found] = [self._searched((), constraint)]
        beam: list[Exits] = [()]
        for _ in range(min(most, len(self._candidates))):
            tried = self._all(constraint, (more for exits in beam for more in self._grown(exits, constraint)))
            best = self._exchanged(tried[0], constraint)
            beam = list(dict.fromkeys([best.exits, *(each.exits for each in tried)]))[:_BEAM]
            found.append(min(found[-1], best, key=lambda each: each.rank(constraint)))
        return found

    def static(self, best: _Found, constraint: Constraint) -> list[_Found]:
        """Returns the exits, and the network, that are as good where they always answer, the cheapest first."""
        found = []
        for exits in ((), *((e,) for e in self._candidates)):
            rows, objective = self._rows(exits), self._objective(exits)
            always = np.zeros(len(rows.record.exits), int)
            limits, point = objective.choices.spell(always), objective.at(always)
            if keeps_goal(self._task.goal, constraint, rows, rows.ends(limits)[0], point, best.score):
                found.append(_Found(exits, self._spelled(objective, exits, always), *point))
        return sorted(found, key=lambda each: (each.cost, len(each.exits)))

    def _all(self, constraint: Constraint, sets: Iterable[Exits]) -> list[_Found]:
        """Returns what the search finds with each of some sets, the best first."""
        found = [self._searched(exits, constraint) for exits in dict.fromkeys(sets)]
        return sorted(found, key=lambda each: each.rank(constraint))

    def _exchanged(self, found: _Found, constraint: Constraint) -> _Found:
        """Returns where exchanging one exit for another ends, each time the exchange that helps most."""
        while True:
            rests = [tuple(e for e in found.exits if e != gone) for gone in found.exits]
            others = self._all(constraint, (more for rest in rests for more in self._grown(rest, constraint)))
            if not others or others[0].rank(constraint) >= found.rank(constraint):
                return found
            found = others[0]

    def _grown(self, exits: Exits, constraint: Constraint) -> list[Exits]:
        """Returns a set with one more exit, the most promising ones; of an empty set all."""
        others = [tuple(sorted((*exits, e))) for e in self._candidates if e not in exits]
        if not exits:
            return others
        key = exits, constraint
        if key not in self._more:
            _, search = self._search(exits)
            points = search.frontier()
            dear = np.linspace(constraint.best(points.score, points.cost), len(points.cost) - 1, _SETTINGS)
            settings = points.settings[np.unique(dear.round().astype(int))]
            ranks = sorted((self._promise(settings, exits, more, constraint), more) for more in others)
            self._more[key] = [more for _, more in ranks[:_TRIED]]
        return self._more[key]

    def _promise(self, settings: Array, exits: Exits, more: Exits, constraint: Constraint) -> Key:
        """Returns the best key of a set's settings (P, ...) with any candidate of one exit more."""
        objective = self._objective(more)
        own, wider = self._stay(exits), self._stay(more)
        place = int((wider & ~own).argmax())
        e = int(wider[:place].sum())
        keys = []
        for setting in np.insert(settings, e, objective.choices.never[e], axis=1):
            score, cost = objective.sweep(setting, e)
            j = constraint.best(score, cost)
            keys.append(constraint.key(score[j], cost[j]))
        return min(keys)

    def _searched(self, exits: Exits, constraint: Constraint) -> _Found:
        """Returns the best thresholds of a set of exits, or of fewer of them where it disables some."""
        key = exits, constraint
        if key not in self._best:
            objective, search = self._search(exits)
            setting = search.best(constraint)
            limits = self._spelled(objective, exits, setting)
            found = _Found(exits, limits, *objective.at(setting))
            fewer = tuple(e for e in exits if not np.isnan(limits[e]))
            if fewer != exits:
                found = min(found, self._searched(fewer, constraint), key=lambda each: each.rank(constraint))
            self._best[key] = found
        return self._best[key]

    def _search(self, exits: Exits) -> tuple[Objective, Search]:
        """Returns the search of a set of exits, which keeps what it has met."""
        if exits not in self._searches:
            objective = self._objective(exits)
            self._searches[exits] = objective, Search(objective)
        return self._searches[exits]

    def _rows(self, exits: Exits) -> Subset:
        """Returns the tuning rows as a bundle with only these early exits answers them."""
        return only_exits(self._plain, self._stay(exits), self._added)

    def _objective(self, exits: Exits) -> Objective:
        """Returns what thresholds of these early exits score and cost, in shares of the network without any."""
        rows, stay = self._rows(exits), self._stay(exits)
        choices = Candidates(tuple(own for own, stays in zip(self._thresholds, stay, strict=True) if stays))
        return Objective(rows.record, choices, rows.score, rows.cost / self.whole[1], rows.fallback, rows.metric)

    def _stay(self, exits: Exits) -> Array:
        """Returns which exits there are with these early ones, bool (E,)."""
        return self._ends | np.isin(np.arange(len(self._ends)), exits)

    def _spelled(self, objective: Objective, exits: Exits, setting: Array) -> Array:
        """Returns the thresholds (E,) of a setting of a set of exits."""
        limits = np.full(len(self._ends), np.nan)
        limits[self._stay(exits)] = objective.choices.spell(setting)
        return limits

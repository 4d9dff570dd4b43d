"""How much more to ask of the rows that choose, so that other rows meet the goal.

Whoever searches many thresholds finds some that are good on the rows of the search by luck alone. Cross-validation
(Stone 1974) tells how much: thresholds found without a fold of the rows are tried on that fold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eetoolkit.tuning.measure import Part, objective_of
from eetoolkit.tuning.record import Array
from eetoolkit.tuning.replay import means
from eetoolkit.tuning.search import Search
from eetoolkit_runtime.plan import Manifest

FOLDS = 5
_REPEATS = 4  # divisions into folds, as one alone is a matter of luck
_MANY_CELLS = 50_000  # visits from which one is enough
_STEPS = 32
LEAST_ROWS = 50
"""Of the tune part, from which it can be told."""


@dataclass(frozen=True, eq=False)
class _Fold:
    """A frontier found without some rows: by rising cost its worth where it was found, and on the rows left out.

    Attributes:
        found: (P,), above the least worth that the goal asks of the rows of the search.
        tried: (P,), above the least worth that it asks of the others.
        whole: The same of the whole network.
        rows: How many were left out.
    """

    found: Array
    tried: Array
    whole: float
    rows: int


def margin(plan: Manifest, tuned: Part, worth: float, *, drop: bool) -> float:
    """Returns how far above the goal thresholds must be where they are searched, for other rows to meet it too.

    The least that keeps the goal in the mean over the folds of several divisions; infinity where only the whole network
    does, and 0 where rows are too few to tell.

    Args:
        plan: The bundle's.
        tuned: The tune part, whose rows have a worth of their own.
        worth: What the goal asks for: at least this, or with `drop` at most so much below the whole network.
        drop: Which of both.
    """
    if len(tuned.record) < LEAST_ROWS:
        return 0.0
    repeats = _REPEATS if tuned.record.exit.size <= _MANY_CELLS else 1
    draw = np.random.default_rng(tuned.seed)
    lefts = [left for _ in range(repeats) for left in np.array_split(draw.permutation(len(tuned.record)), FOLDS)]
    folds = [_fold(plan, tuned, np.sort(left), worth, drop=drop) for left in lefts]
    most = max(float(fold.found.max(initial=0.0)) for fold in folds)
    if sum(fold.rows * fold.whole for fold in folds) < 0:  # not even the whole network meets it: no margin helps
        return 0.0
    for asked in np.linspace(0.0, most, _STEPS + 1).tolist():
        if sum(fold.rows * _tried(fold, asked) for fold in folds) >= 0:
            return float(asked)
    return np.inf


def _fold(plan: Manifest, tuned: Part, left: Array, worth: float, *, drop: bool) -> _Fold:
    rows = np.setdiff1d(np.arange(len(tuned.record)), left)
    part, other = tuned.take(rows), tuned.take(left)
    objective = objective_of(plan, part)
    points = Search(objective).frontier()
    wholes = [each.means((each.record.last, each.record.last))[0] for each in (part, other)]
    least = [whole - worth if drop else worth for whole in wholes]
    limits, values = objective.choices.spell(points.settings), np.asarray(other.worth, np.float64)
    tried, _ = means(other.record, limits, values, other.cost, other.fallback)
    return _Fold(points.worth - least[0], tried - least[1], wholes[1] - least[1], len(left))


def _tried(fold: _Fold, asked: float) -> float:
    """Returns what the cheapest thresholds so far above the goal are above it on the rows left out."""
    enough = np.flatnonzero(fold.found >= asked)
    return float(fold.tried[enough[0]]) if len(enough) else fold.whole

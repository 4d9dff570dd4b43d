"""The safety margin: how much stricter the goal must be while searching, for it to hold on held-out rows.

A search over many thresholds finds some that are good on its own rows by luck alone. Cross-validation (Stone 1974)
measures that: thresholds found without a fold of the rows are tried on that fold. A goal that is kept in the mean is
missed on every other draw of rows. So the margin has one standard error more, of the difference between tuning and
held-out rows, as in the one-standard-error rule (Breiman, Friedman, Olshen and Stone 1984, section 3.4.3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from eetoolkit.tuning.evaluate import Subset, objective_of
from eetoolkit.tuning.record import NO_EXIT
from eetoolkit.tuning.replay import means
from eetoolkit.tuning.search import Search
from eetoolkit.tuning.splits import SHARES
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.plan.types import Manifest

FOLDS = 5
_REPEATS = 4  # divisions into folds, as one alone is a matter of luck
_MANY_CELLS = 50_000  # visits from which one is enough
_STEPS = 32
_HELD_OUT = SHARES["test"] / SHARES["tune"]  # held-out rows for each tuning row
LEAST_ROWS = 50
"""Tuning rows, from which a margin can be measured."""


@dataclass(frozen=True, eq=False)
class _Fold:
    """A frontier found without some rows: by rising cost its score where it was found, and on the rows left out.

    Attributes:
        found: (P + 1,), above the least score that the goal asks of the rows of the search; infinity for the whole
            network, which comes last.
        tried: (P + 1,), the mean over the others of how far each is above what it asks of them.
        squares: (P + 1,), the mean of the squares of that.
        rows: How many were left out.
    """

    found: Array
    tried: Array
    squares: Array
    rows: int


def safety_margin(plan: Manifest, tuned: Subset, score: float, *, drop: bool) -> float:
    """Returns how far above the goal thresholds must score on the tuning rows, for held-out rows to meet it too.

    The least that keeps the goal over the folds of several divisions, and a standard error more; if none does, what
    comes nearest to that and keeps it in the mean. Infinity where only the whole network does, and 0 where rows are too
    few to measure it.

    Args:
        plan: The bundle's.
        tuned: The tuning rows, which have a score each.
        score: What the goal asks for: at least this, or with `drop` at most so much below the whole network.
        drop: Which of both.
    """
    if len(tuned.record) < LEAST_ROWS:
        return 0.0
    repeats = _REPEATS if tuned.record.exit.size <= _MANY_CELLS else 1
    draw = np.random.default_rng(tuned.seed)
    lefts = [left for _ in range(repeats) for left in np.array_split(draw.permutation(len(tuned.record)), FOLDS)]
    folds = [_fold(plan, tuned, np.sort(left), score, drop=drop) for left in lefts]
    if sum(fold.rows * fold.tried[-1] for fold in folds) < 0:  # not even the whole network meets it: no margin helps
        return 0.0
    most = max(float(fold.found[:-1].max(initial=0.0)) for fold in folds)
    asked = np.linspace(0.0, most, _STEPS + 1)
    weights = [fold.rows for fold in folds]
    kept, squares = np.average([_tried(fold, asked) for fold in folds], axis=0, weights=weights)
    span = float(np.ptp(np.asarray(tuned.score)))
    spare = kept - _standard_error(squares - kept**2, span, len(tuned.record))
    if (spare >= 0).any():
        return float(asked[(spare >= 0).argmax()])
    return float(asked[np.where(kept >= 0, spare, -np.inf).argmax()]) if (kept >= 0).any() else np.inf


def keeps(tuned: Subset, answered: Array, score: float, *, drop: bool) -> bool:
    """Whether answers at these visits, (N,), which no search has found, keep a goal by a standard error.

    The whole network loses nothing against itself. Where rows are few, no standard error is asked.

    Args:
        tuned: The tuning rows, which have a score each.
        answered: The visits.
        score: As for `safety_margin`.
        drop: As for `safety_margin`.
    """
    values, rows = np.asarray(tuned.score, np.float64), np.arange(len(answered))
    if drop and np.array_equal(answered, tuned.record.last):
        return True
    above = values[rows, answered] - (values[rows, tuned.record.last] - score if drop else score)
    error = _standard_error(above.var(), float(np.ptp(values)), len(rows)) if len(rows) >= LEAST_ROWS else 0.0
    return bool(above.mean() >= error)


def budget_margin(tuned: Subset, budget: float) -> float:
    """Returns how much of a budget to leave, in shares of the whole network's cost, for held-out rows to keep it too.

    A standard error of the mean, by the most that costs can vary between the dearest and the cheapest run where their
    mean is the budget (Bhatia and Davis 2000), but no more than half of what the cheapest leaves; 0 where rows are too
    few, or where nothing costs more.

    Args:
        tuned: The tuning rows.
        budget: In shares of the whole network's cost.
    """
    rows = np.arange(len(tuned.record))
    costs = tuned.cost / tuned.full_cost
    least, most = float(costs[tuned.record.exit != NO_EXIT].min()), float(costs[rows, tuned.record.last].max())
    if len(rows) < LEAST_ROWS or not least < budget < most:
        return 0.0
    error = _standard_error(np.array((most - budget) * (budget - least)), 0.0, len(rows))
    return min((budget - least) / 2, float(error))


def rows_to_show(tuned: Subset, answered: Array, room: float) -> int | None:
    """Returns of about how many tuning rows like these one standard error is no more than `room`; None: of no number.

    Args:
        tuned: The tuning rows, which have a score each.
        answered: The visits that answer, (N,).
        room: How far the whole network is above the goal.
    """
    if room <= 0:
        return None
    values, rows = np.asarray(tuned.score, np.float64), np.arange(len(answered))
    variance = float((values[rows, tuned.record.last] - values[rows, answered]).var())
    pairs = 1 + 1 / _HELD_OUT
    return math.ceil(max(float(np.ptp(values)) * math.sqrt(pairs) / room, variance * pairs / room**2))


def _standard_error(variance: Array, span: float, rows: int) -> Array:
    """Returns that of the difference between the means of so many tuning rows and of the held-out ones.

    The variance is taken as that of one in all of them at least, of values that lie as far apart as `span`.
    """
    return np.asarray(np.sqrt(np.maximum(variance, span**2 / rows) * (1 / rows + 1 / (_HELD_OUT * rows))))


def _fold(plan: Manifest, tuned: Subset, left: Array, score: float, *, drop: bool) -> _Fold:
    rows = np.setdiff1d(np.arange(len(tuned.record)), left)
    subset, other = tuned.take(rows), tuned.take(left)
    objective = objective_of(plan, subset)
    points = Search(objective).frontier()
    least = objective.full[0] - score if drop else score
    values, ends = np.asarray(other.score, np.float64), other.record.last[:, None]
    above = values - (np.take_along_axis(values, ends, axis=1) - score if drop else score)
    limits, whole = objective.choices.spell(points.settings), np.take_along_axis(above, ends, axis=1)
    tried, squares = (
        np.append(means(other.record, limits, each, other.cost, other.fallback)[0], full.mean())
        for each, full in ((above, whole), (above**2, whole**2))
    )
    return _Fold(np.append(points.score - least, np.inf), tried, squares, len(left))


def _tried(fold: _Fold, asked: Array) -> Array:
    """Returns how far the cheapest thresholds so far above the goal are above it on the rows left out, and squares."""
    place = (fold.found >= asked[:, None]).argmax(axis=1)
    return np.stack([fold.tried[place], fold.squares[place]])

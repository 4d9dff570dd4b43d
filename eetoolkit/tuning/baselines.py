"""What others do, on the same rows and costs: the rules that the search is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from eetoolkit.tuning.evaluate import Subset
from eetoolkit.tuning.search import Constraint
from eetoolkit_runtime.arrays import Array

_STEPS = 40


def baselines(subset: Subset, allowed: Array, constraint: Constraint) -> Iterator[tuple[str, Array]]:
    """Yields the name and the thresholds (E,) that each rule chooses on `subset` for a constraint.

    Args:
        subset: The rows to choose on.
        allowed: Which exits may fire, bool (E,), without the one that ends the plan.
        constraint: What each rule's own parameter is chosen for.
    """
    swept = {
        "budgeted batch (MSDNet)": [_budgeted_batch(subset, allowed, p / 20) for p in range(1, _STEPS + 1)],
        "fixed shares": [_fixed_shares(subset, allowed, step / _STEPS) for step in range(_STEPS + 1)],
        "one threshold": list(_one_threshold(subset, allowed)),
    }
    for name, settings in swept.items():
        limits = np.array(settings)
        score, cost = subset.means_at(limits)
        yield name, limits[constraint.best(score, cost / subset.full_cost)]


def _budgeted_batch(subset: Subset, allowed: Array, q: float) -> Array:
    """Returns thresholds with which the share of rows that leaves at exit k is proportional to q^k.

    MSDNet's budgeted batch classification (Huang et al. 2018, arXiv 1703.09844, section 5 and the published code's
    `dynamic_eval_find_threshold`): at each exit the surest of the rows still there leave, as many as its share.
    """
    exits = np.flatnonzero(allowed)
    shares = q ** np.arange(1, len(exits) + 2)
    counts = np.floor(shares / shares.sum() * len(subset.record)).astype(int)
    return _leave(subset, exits, lambda k, _waiting: int(counts[k]))


def _fixed_shares(subset: Subset, allowed: Array, share: float) -> Array:
    """Returns thresholds with which the same share leaves of the rows that come to each exit."""
    return _leave(subset, np.flatnonzero(allowed), lambda _k, waiting: int(share * waiting))


def _leave(subset: Subset, exits: Array, count: Callable[[int, int], int]) -> Array:
    """Returns thresholds with which `count(k, rows still there)` rows leave at the kth of `exits`, the surest first."""
    record = subset.record
    limits = np.full(len(record.exits), np.nan)
    left = np.ones(len(record), bool)
    for k, exit_ in enumerate(exits.tolist()):
        sure = np.where(record.exit == exit_, record.confidence, -np.inf)
        best = np.nan_to_num(sure.max(axis=1), nan=-np.inf).astype(np.float64)
        here = np.sort(best[left & np.isfinite(best)])[::-1]
        leave = min(count(k, len(here)), len(here))
        if leave > 0:
            limits[exit_] = here[leave - 1]
            left &= best < limits[exit_]
    return limits


def _one_threshold(subset: Subset, allowed: Array) -> Iterator[Array]:
    """Yields settings in which all exits have one threshold: quantiles of all confidences, and none at all."""
    record = subset.record
    seen = record.confidence[np.isin(record.exit, np.flatnonzero(allowed))].astype(np.float64)
    seen = seen[np.isfinite(seen)]
    steps = np.quantile(seen, np.linspace(0, 1, 4 * _STEPS), method="nearest") if len(seen) else np.zeros(0)
    for limit in [*np.unique(steps).tolist(), np.nan]:
        yield np.where(allowed, limit, np.nan)

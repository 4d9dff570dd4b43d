"""What others do, on the same rows and costs: the rules that the search is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from eetoolkit.tuning.measure import Part
from eetoolkit.tuning.record import Array
from eetoolkit.tuning.replay import means
from eetoolkit.tuning.search import Goal
from eetoolkit_runtime.plan import Manifest

Evaluate = Callable[[Array], tuple[Array, Array]]
"""From settings of thresholds (S, E) to worth and cost, (S,) each, costs in shares of the whole network's."""

_EARLYON_CONFIDENCES = (0.99, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5)
_EARLYON_ENTROPIES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)  # shares of ln C
_STEPS = 40


def baselines(part: Part, plan: Manifest, allowed: Array, goal: Goal) -> Iterator[tuple[str, Array]]:
    """Yields the name and the thresholds (E,) that each rule chooses on `part` for a goal.

    Args:
        part: The rows to choose on.
        plan: The bundle's.
        allowed: Which exits may fire, bool (E,), without the one that ends the plan.
        goal: What each rule's own parameter is chosen for.
    """
    scale = float(part.cost[np.arange(len(part.record)), part.record.last].mean())

    def evaluate(limits: Array) -> tuple[Array, Array]:
        if part.worth is None:
            worth, cost = np.array([part.means(part.ends(one)) for one in limits]).T
        else:
            worth, cost = means(part.record, limits, part.worth, part.cost, part.fallback)
        return worth, cost / scale

    swept = {
        "budgeted batch (MSDNet)": [_budgeted_batch(part, allowed, p / 20) for p in range(1, _STEPS + 1)],
        "fixed shares": [_fixed_shares(part, allowed, step / _STEPS) for step in range(_STEPS + 1)],
        "one threshold": list(_one_threshold(part, allowed)),
    }
    for name, settings in swept.items():
        limits = np.array(settings)
        yield name, limits[goal.best(*evaluate(limits))]
    yield "earlyon's calibrator", _earlyon(plan, allowed, goal, evaluate)


def _budgeted_batch(part: Part, allowed: Array, q: float) -> Array:
    """Returns thresholds with which the share of rows that leaves at exit k is proportional to q^k.

    MSDNet's budgeted batch classification (Huang et al. 2018, arXiv 1703.09844, section 5 and the published code's
    `dynamic_eval_find_threshold`): at each exit the surest of the rows still there leave, as many as its share.
    """
    exits = np.flatnonzero(allowed)
    shares = q ** np.arange(1, len(exits) + 2)
    counts = np.floor(shares / shares.sum() * len(part.record)).astype(int)
    return _leave(part, exits, lambda k, _waiting: int(counts[k]))


def _fixed_shares(part: Part, allowed: Array, share: float) -> Array:
    """Returns thresholds with which the same share leaves of the rows that come to each exit."""
    return _leave(part, np.flatnonzero(allowed), lambda _k, waiting: int(share * waiting))


def _leave(part: Part, exits: Array, count: Callable[[int, int], int]) -> Array:
    """Returns thresholds with which `count(k, rows still there)` rows leave at the kth of `exits`, the surest first."""
    record = part.record
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


def _one_threshold(part: Part, allowed: Array) -> Iterator[Array]:
    """Yields settings in which all exits have one threshold: quantiles of all confidences, and none at all."""
    record = part.record
    seen = record.confidence[np.isin(record.exit, np.flatnonzero(allowed))].astype(np.float64)
    seen = seen[np.isfinite(seen)]
    steps = np.quantile(seen, np.linspace(0, 1, 4 * _STEPS), method="nearest") if len(seen) else np.zeros(0)
    for limit in [*np.unique(steps).tolist(), np.nan]:
        yield np.where(allowed, limit, np.nan)


def _earlyon(plan: Manifest, allowed: Array, goal: Goal, evaluate: Evaluate) -> Array:
    """Returns what earlyon 0.3.0 chooses (`earlyon.core.thresholds`, its default grids; read, and written anew).

    One exit after the other, in order, those before fixed and those behind off. For a least worth: the lowest threshold
    of the grid that keeps it and saves work. For a most cost: until it is met, the threshold of best worth within it,
    else the cheapest.
    """
    limits = np.full(len(plan.exits), np.nan)
    for e, exit_ in enumerate(plan.exits.values()):
        now_worth, now_cost = (float(value[0]) for value in evaluate(limits[None]))
        if goal.most_cost is not None and bool(goal.met(np.array(now_worth), np.array(now_cost))):
            break
        if not allowed[e]:
            continue
        entropy = exit_.criterion.kind == "entropy"
        grid = np.array([1 - share for share in _EARLYON_ENTROPIES] if entropy else _EARLYON_CONFIDENCES)
        trial = np.tile(limits, (len(grid), 1))
        trial[:, e] = grid
        worth, cost = evaluate(trial)
        useful, met = cost < now_cost, goal.met(worth, cost)
        if goal.most_cost is None:
            passing = np.flatnonzero(useful & met)
            chosen = passing[grid[passing].argmin()] if len(passing) else None
        elif met.any():
            chosen = np.flatnonzero(met)[worth[met].argmax()]
        else:
            chosen = cost.argmin() if useful.any() else None
        if chosen is not None:
            limits[e] = grid[chosen]
    return limits

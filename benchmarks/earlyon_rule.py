"""The rule by which earlyon 0.3.0 chooses thresholds, on the same rows and costs as the search."""

from __future__ import annotations

import numpy as np

from eetoolkit.tuning.evaluate import Subset
from eetoolkit.tuning.search import Constraint
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.plan.types import Manifest

NAME = "earlyon's calibrator"
_CONFIDENCES = (0.99, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5)
_ENTROPIES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)  # shares of ln C


def earlyon(subset: Subset, plan: Manifest, allowed: Array, constraint: Constraint) -> Array:
    """Returns what earlyon 0.3.0 chooses, (E,) (`earlyon.core.thresholds`, its default grids; read, and written anew).

    One exit after the other, in order, those before fixed and those behind off. For a least score: the lowest threshold
    of the grid that keeps it and saves work. For a most cost: until it is met, the threshold of best score within it,
    else the cheapest.

    Args:
        subset: The rows to choose on.
        plan: The bundle's.
        allowed: Which exits may fire, bool (E,), without the one that ends the plan.
        constraint: What the choice must keep.
    """
    limits = np.full(len(plan.exits), np.nan)
    for e, exit_ in enumerate(plan.exits.values()):
        now_score, now_cost = _evaluate(subset, limits[None])
        if constraint.most_cost is not None and bool(constraint.met(now_score, now_cost)[0]):
            break
        if not allowed[e]:
            continue
        entropy = exit_.criterion.kind == "entropy"
        grid = np.array([1 - share for share in _ENTROPIES] if entropy else _CONFIDENCES)
        trial = np.tile(limits, (len(grid), 1))
        trial[:, e] = grid
        score, cost = _evaluate(subset, trial)
        useful, met = cost < now_cost, constraint.met(score, cost)
        if constraint.most_cost is None:
            passing = np.flatnonzero(useful & met)
            chosen = passing[grid[passing].argmin()] if len(passing) else None
        elif met.any():
            chosen = np.flatnonzero(met)[score[met].argmax()]
        else:
            chosen = cost.argmin() if useful.any() else None
        if chosen is not None:
            limits[e] = grid[chosen]
    return limits


def _evaluate(subset: Subset, limits: Array) -> tuple[Array, Array]:
    """Returns scores and costs, in shares of the whole network's, of settings (S, E)."""
    score, cost = subset.means_at(limits)
    return score, cost / subset.full_cost

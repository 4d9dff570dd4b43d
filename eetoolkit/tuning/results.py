"""A choice of thresholds with its figures, as reports hold it."""

from __future__ import annotations

import msgspec

from eetoolkit.tuning.intervals import Interval
from eetoolkit_runtime.plan.types import Threshold

Thresholds = dict[str, Threshold]
"""By exit; the one that ends the plan is left out."""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """One choice of thresholds, measured on the held-out rows.

    Attributes:
        name: What it is.
        thresholds: By exit.
        score: Accuracy, or the metric.
        drop: What that is below the whole network's, row by row.
        cost: Of a run in the mean.
        share: That over the whole network's.
        exits: Which share of the rows answers where.
        tune_score: The same on the part that it was chosen on.
        tune_cost: The same there.
    """

    name: str
    thresholds: Thresholds
    score: Interval
    drop: Interval
    cost: Interval
    share: Interval
    exits: dict[str, float]
    tune_score: float
    tune_cost: float


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """A point of the frontier: chosen on the tuning rows, `score` and `cost` are from the held-out rows."""

    thresholds: Thresholds
    tune_score: float
    tune_cost: float
    score: float
    cost: float

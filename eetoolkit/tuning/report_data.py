"""What a page about a choice shows beside its figures: classes, confidences, mistakes, costs."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np

from eetoolkit.tuning.evaluate import Subset
from eetoolkit.tuning.intervals import Interval, difference_of
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.profiling.latency import QUANTILES

_BINS = 20
_MISTAKES = 48
_RUNS = 200  # of each row, and of what is kept of all of them
_QUANTILES = (0.5, 0.95, 0.99)


class ClassFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One class on the held-out rows: does early exit hurt it?

    Attributes:
        label: The class.
        rows: How many.
        score: What their answers score in the mean.
        whole: What the whole network's are.
        drop: What early exit takes from them, row by row.
        share: What they cost, as a share of the whole network's.
        exits: Which share of them answers where.
    """

    label: int
    rows: int
    score: float
    whole: float
    drop: Interval
    share: float
    exits: dict[str, float]


class Histogram(msgspec.Struct, frozen=True, kw_only=True):
    """An exit's confidences on the held-out rows, of all rows that its visits meet, right against wrong.

    Attributes:
        exit: Its name.
        edges: Of the bins, one more than these.
        right: Visits in each bin that are right.
        wrong: And that are not.
    """

    exit: str
    edges: tuple[float, ...]
    right: tuple[int, ...]
    wrong: tuple[int, ...]


class Mistake(msgspec.Struct, frozen=True, kw_only=True):
    """A row that left early and wrong: its number in the data, what was said, and what the whole network says."""

    row: int
    exit: str
    confidence: float
    label: int
    prediction: int
    whole: int


class CostSpread(msgspec.Struct, frozen=True, kw_only=True):
    """What runs on the held-out rows cost.

    Attributes:
        p50: The median.
        p95: What one run in twenty exceeds.
        p99: What one in a hundred does.
        steps: Costs, ascending, each with the share of runs that has it.
        jitter: Whether one row's runs differ as the profile's did; else a row's runs all cost the same.
    """

    p50: float
    p95: float
    p99: float
    steps: tuple[tuple[float, float], ...]
    jitter: bool


def by_class(subset: Subset, thresholds: Array) -> Iterator[ClassFigures]:
    """Yields each class's figures; none where rows have no score each."""
    record, rows = subset.record, np.arange(len(subset.record))
    if subset.score is None or record.label.ndim != 1 or record.label.dtype.kind not in "iu":
        return
    answered, ended = subset.ends(thresholds)
    drops = subset.score[rows, record.last] - subset.score[rows, answered]
    for label in np.unique(record.label).tolist():
        here = rows[record.label == label]
        met = record.exit[here, answered[here]]
        yield ClassFigures(
            label=label,
            rows=len(here),
            score=float(subset.score[here, answered[here]].mean()),
            whole=float(subset.score[here, record.last[here]].mean()),
            drop=difference_of(drops[here], subset.seed),
            share=float(subset.cost[here, ended[here]].mean() / subset.cost[here, record.last[here]].mean()),
            exits={name: float((met == e).mean()) for e, name in enumerate(record.exits)},
        )


def histograms(subset: Subset) -> Iterator[Histogram]:
    """Yields each exit's histogram; right is what scores at least one half."""
    for e, name in enumerate(subset.record.exits):
        here = subset.record.exit == e
        if subset.score is None or not here.any():
            continue
        seen, right = subset.record.confidence[here].astype(np.float64), subset.score[here] >= 0.5
        finite = seen[np.isfinite(seen)]
        edges = np.linspace(finite.min(initial=0.0), finite.max(initial=1.0), _BINS + 1)
        seen = np.clip(seen, edges[0], edges[-1])  # infinite ones are in the outermost bins
        counts = [tuple(np.histogram(seen[which], edges)[0].tolist()) for which in (right, ~right)]
        yield Histogram(exit=name, edges=tuple(edges.tolist()), right=counts[0], wrong=counts[1])


def mistakes(subset: Subset, thresholds: Array) -> tuple[Mistake, ...]:
    """Returns rows that left early and wrong, those first that the whole network has right, then the surest."""
    record, rows = subset.record, np.arange(len(subset.record))
    if subset.score is None or record.label.ndim != 1 or record.label.dtype.kind not in "iu":
        return ()
    answered, _ = subset.ends(thresholds)
    wrong = np.flatnonzero((answered != record.last) & (subset.score[rows, answered] < 0.5))
    cost = subset.score[wrong, record.last[wrong]]
    sure = record.confidence[wrong, answered[wrong]]
    order = wrong[np.lexsort((-sure, -cost))][:_MISTAKES]
    return tuple(
        Mistake(
            row=int(record.row[n]),
            exit=record.exits[record.exit[n, answered[n]]],
            confidence=float(record.confidence[n, answered[n]]),
            label=int(record.label[n]),
            prediction=int(record.prediction[n, answered[n]]),
            whole=int(record.prediction[n, record.last[n]]),
        )
        for n in order.tolist()
    )


def spread(subset: Subset, thresholds: Array, jitter: Array | None) -> CostSpread:
    """Returns what runs cost.

    Args:
        subset: The held-out rows.
        thresholds: The choice, (E,).
        jitter: By exit, what quantiles of a run's latency are over its cost, (E, Q) at `QUANTILES`; None: not known.
    """
    rows, ended = np.arange(len(subset.record)), subset.ends(thresholds)[1]
    costs = subset.cost[rows, ended]
    if jitter is None:
        values, counts = np.unique(costs, return_counts=True)
        p50, p95, p99 = np.quantile(costs, _QUANTILES).tolist()
        steps = zip(values.tolist(), (counts / len(costs)).tolist(), strict=True)
        return CostSpread(p50=p50, p95=p95, p99=p99, steps=tuple(steps), jitter=False)
    # Every row's runs at the same levels of their own distribution, which is linear between its quantiles.
    levels = (np.arange(_RUNS) + 0.5) / _RUNS
    shapes = np.array([np.interp(levels, QUANTILES, one) for one in jitter])
    runs = costs[:, None] * shapes[subset.record.exit[rows, ended]]
    p50, p95, p99 = np.quantile(runs, _QUANTILES).tolist()
    drawn = tuple((float(cost), 1 / _RUNS) for cost in np.quantile(runs, levels))
    return CostSpread(p50=p50, p95=p95, p99=p99, steps=drawn, jitter=True)

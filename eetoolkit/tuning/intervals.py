"""Figures with their 95 % intervals, and those of a choice of thresholds as reports hold them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
import numpy as np
from scipy.stats import beta, norm

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.plan.types import Threshold

Thresholds = dict[str, Threshold]
"""By exit; the one that ends the plan is left out."""

Z95 = float(norm.ppf(0.975))
"""The 97.5 % quantile of the standard normal distribution."""
_DRAWS = 1000
_AT_ONCE = 1 << 13  # rows drawn: small enough for a cache


class Interval(msgspec.Struct, frozen=True):
    """A figure, and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def wilson(hits: float, count: int) -> Interval:
    """Returns a share with Wilson's score interval (Wilson 1927; Brown, Cai and DasGupta 2001, equation 4)."""
    share, z2 = hits / count, Z95**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z95 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return Interval(share, max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share)))


SHARES_ERROR = 0.01
"""With which probability over the draw of the rows any of `intervals_of_shares` may miss its share."""


def intervals_of_shares(shares: Mapping[str, float], count: int) -> dict[str, Interval]:
    """Returns each share of N rows with an interval; all of them hold together with probability 99 %.

    Clopper and Pearson's exact intervals (1934; Brown, Cai and DasGupta 2001, section 4.2.1), each at 1 % over how many
    there are (Bonferroni).

    Args:
        shares: By name.
        count: Of how many rows.
    """
    found, tail = {}, SHARES_ERROR / (2 * max(1, len(shares)))
    for name, share in shares.items():
        hits = round(share * count)
        low = float(beta.ppf(tail, hits, count - hits + 1)) if hits else 0.0
        high = float(beta.ppf(1 - tail, hits + 1, count - hits)) if hits < count else 1.0
        found[name] = Interval(share, low, high)
    return found


def bootstrap_means(columns: Array, seed: int) -> Array:
    """Returns the means of K columns (N, K) over resampled rows, the same for all columns: (draws, K)."""
    draw, count = np.random.default_rng(seed), len(columns)
    at_once = max(1, _AT_ONCE // count)
    sizes = [min(at_once, _DRAWS - start) for start in range(0, _DRAWS, at_once)]
    return np.concatenate([columns[draw.integers(0, count, (size, count))].mean(axis=1) for size in sizes])


def mean_of(values: Array, seed: int) -> Interval:
    """Returns a mean of (N,) with its interval: Wilson's where all are 0 or 1, else the percentile bootstrap's."""
    if np.isin(values, (0, 1)).all():
        return wilson(float(values.sum()), len(values))
    return percentile(float(values.mean()), bootstrap_means(values[:, None], seed)[:, 0])


def difference_of(values: Array, seed: int) -> Interval:
    """Returns the mean of paired differences (N,) with its bootstrap interval.

    Where none differs, the bootstrap would claim to know that for sure: then it is as wide as Wilson's of none in N.
    """
    if not values.any():
        wide = wilson(0, len(values)).high
        return Interval(0.0, -wide, wide)
    return percentile(float(values.mean()), bootstrap_means(values[:, None], seed)[:, 0])


def ratio_of(above: Array, below: Array, seed: int) -> Interval:
    """Returns the ratio of two means of the same rows, (N,) each, with its paired bootstrap interval."""
    found = bootstrap_means(np.stack([above, below], axis=1), seed)
    return percentile(float(above.mean() / below.mean()), found[:, 0] / found[:, 1])


def ratio_in_turns(above: Array, below: Array, seed: int) -> Interval:
    """Returns the ratio of two means over rows of medians over turns, (T, N) each.

    Its interval is the percentile bootstrap's over turns and rows, both resampled (Owen 2007, the pigeonhole
    bootstrap).
    """
    draw, (turns, rows) = np.random.default_rng(seed), above.shape
    places: list[tuple[Array, Array]] = [(np.arange(turns), np.arange(rows))]
    places += [(draw.integers(0, turns, (turns,)), draw.integers(0, rows, (rows,))) for _ in range(_DRAWS)]
    means = [[np.median(times[np.ix_(*place)], axis=0).mean() for times in (above, below)] for place in places]
    value, *draws = np.divide(*np.transpose(means))
    return percentile(float(value), np.array(draws))


def percentile(value: float, draws: Array) -> Interval:
    """Returns a figure with the middle 95 % of its resampled values (Efron and Tibshirani 1993, section 13.3)."""
    low, high = np.quantile(draws, (0.025, 0.975))
    return Interval(value, float(min(low, value)), float(max(high, value)))


def rows_needed(differences: Array, within: float) -> int:
    """Returns how many rows would tell the mean of differences like these (N,) to +-`within`, at 95 %.

    By the normal approximation, n = (z s / d)^2; where none differs, s^2 is taken as that of one in N.
    """
    variance = max(float(np.var(differences)), 1 / len(differences) * (1 - 1 / len(differences)))
    return math.ceil((Z95 / within) ** 2 * variance)


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

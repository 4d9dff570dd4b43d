"""How long something took, summarised so that no run is left out and summaries can be put together."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

QUANTILES = (0.0, 0.01, 0.02, *(percent / 100 for percent in range(5, 100, 5)), 0.98, 0.99, 1.0)
"""What a latency keeps of its distribution, so that profiles can be merged."""
_FAR = 5  # spreads above the median from which a latency counts as an outlier


class Latency(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long something took, in milliseconds; no run is left out.

    Attributes:
        runs: How often it was run.
        spread_ms: Half the distance between the quartiles.
        outliers: How many runs took longer than the median and five times the distance between the quartiles.
        quantiles_ms: At `QUANTILES`, from the fastest run to the slowest.
    """

    runs: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    spread_ms: float
    outliers: int
    quantiles_ms: tuple[float, ...]


def summarise(latencies_ms: npt.ArrayLike) -> Latency:
    """Returns the summary of latencies, (runs,)."""
    values = np.asarray(latencies_ms, np.float64)
    quantiles = np.quantile(values, QUANTILES)
    p25, p50, p75 = quantiles[[QUANTILES.index(q) for q in (0.25, 0.5, 0.75)]]
    return _latency(quantiles, len(values), float(values.mean()), int((values > p50 + _FAR * (p75 - p25)).sum()))


def pool(latencies: Sequence[Latency]) -> Latency:
    """Returns the summary of the runs of several latencies: counts and mean exact, quantiles interpolated.

    Each distribution is taken as linear between its quantiles; outliers are those that each had for itself.
    """
    if len(latencies) == 1:
        return latencies[0]
    runs = np.array([latency.runs for latency in latencies], np.float64)
    weights = runs / runs.sum()
    grid = np.unique(np.concatenate([latency.quantiles_ms for latency in latencies]))
    below = sum(w * np.interp(grid, one.quantiles_ms, QUANTILES) for w, one in zip(weights, latencies, strict=True))
    quantiles = np.interp(QUANTILES, np.asarray(below), grid)
    mean = float(sum(w * one.mean_ms for w, one in zip(weights, latencies, strict=True)))
    return _latency(quantiles, int(runs.sum()), mean, sum(latency.outliers for latency in latencies))


def _latency(quantiles: npt.NDArray[np.float64], runs: int, mean: float, outliers: int) -> Latency:
    at = dict(zip(QUANTILES, map(float, quantiles), strict=True))
    return Latency(
        runs=runs,
        mean_ms=mean,
        p50_ms=at[0.5],
        p90_ms=at[0.9],
        p99_ms=at[0.99],
        spread_ms=(at[0.75] - at[0.25]) / 2,
        outliers=outliers,
        quantiles_ms=tuple(float(f"{value:.6g}") for value in quantiles),
    )

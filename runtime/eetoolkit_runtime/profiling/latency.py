"""How long something took, summarised so that no run is left out."""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt

QUANTILES = (0.0, 0.01, 0.02, *(percent / 100 for percent in range(5, 100, 5)), 0.98, 0.99, 1.0)
"""What a latency keeps of its distribution."""
_FAR = 5  # spreads above the median from which a latency counts as an outlier
_ALIKE = 20  # runs, at least, that are judged together
_MOST = 1e15  # of anything that a profile counts or measures, so that no sum, product or ratio of them is lost

Count = Annotated[int, msgspec.Meta(ge=0, le=int(_MOST))]
"""How many of something there are."""
Some = Annotated[int, msgspec.Meta(ge=1, le=int(_MOST))]
"""How many of something there are that is there."""
Amount = Annotated[float, msgspec.Meta(ge=0, le=_MOST)]
"""A measure of something that may be nothing."""
Difference = Annotated[float, msgspec.Meta(ge=-_MOST, le=_MOST)]
"""A measure that may be below 0."""
Took = Annotated[float, msgspec.Meta(ge=1 / _MOST, le=_MOST)]
"""What something took that has run, or its ratio to what something else took."""


class Latency(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long something took, in milliseconds; no run is left out.

    Attributes:
        runs: How often it was run.
        robust_ms: The mean without what other programs added to single runs, see `robust_mean`; left out: `mean_ms`.
        spread_ms: Half the distance between the quartiles.
        outliers: How many runs took longer than the median and five times the distance between the quartiles.
        quantiles_ms: At `QUANTILES`, from the fastest run to the slowest; left out: through the three percentiles.
    """

    runs: Some
    mean_ms: Took
    robust_ms: Took = 0
    p50_ms: Took
    p90_ms: Took
    p99_ms: Took
    spread_ms: Amount = 0
    outliers: Count = 0
    quantiles_ms: Annotated[tuple[Amount, ...], msgspec.Meta(max_length=len(QUANTILES))] = ()

    def __post_init__(self) -> None:
        """Fill in what another profiler has left out."""
        if not self.robust_ms:
            msgspec.structs.force_setattr(self, "robust_ms", self.mean_ms)
        if not self.quantiles_ms:
            known = np.interp(QUANTILES, (0.5, 0.9, 0.99), (self.p50_ms, self.p90_ms, self.p99_ms))
            msgspec.structs.force_setattr(self, "quantiles_ms", tuple(known.tolist()))
        if len(self.quantiles_ms) != len(QUANTILES):
            raise ValueError(f"{len(self.quantiles_ms)} quantiles_ms, expected {len(QUANTILES)}")


def summarise(latencies_ms: npt.ArrayLike, sizes: npt.ArrayLike | None = None) -> Latency:
    """Returns the summary of latencies, (runs,), of inputs of these sizes, (runs,); None: of one size."""
    values = np.asarray(latencies_ms, np.float64)
    alike = np.zeros(len(values)) if sizes is None else np.asarray(sizes)
    quantiles = np.quantile(values, QUANTILES)
    at = dict(zip(QUANTILES, map(float, quantiles), strict=True))
    return Latency(
        runs=len(values),
        mean_ms=float(values.mean()),
        robust_ms=robust_mean(values, alike),
        p50_ms=at[0.5],
        p90_ms=at[0.9],
        p99_ms=at[0.99],
        spread_ms=(at[0.75] - at[0.25]) / 2,
        outliers=int((values > _fence(values)).sum()),
        quantiles_ms=tuple(float(f"{value:.6g}") for value in quantiles),
    )


def robust_mean(values: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64]) -> float:
    """Returns a mean of latencies, (runs,), to which single runs that were disturbed add little.

    Inputs of one size take the same work. Among the runs of one size, or of a few sizes next to each other where these
    are few, what takes longer than an outlier's bound counts as that bound: a winsorised mean (Tukey 1962, "The future
    of data analysis", section 14), by fences at five quartile distances (after Tukey 1977, "Exploratory data analysis",
    section 2D). Up to a quarter of the runs may be disturbed. It is a mean, so what segments take still adds up, and
    what inputs of other sizes take stays in it.

    Args:
        values: What runs took.
        sizes: Of their inputs.
    """
    return float(sum(np.minimum(values[some], _fence(values[some])).sum() for some in _alike(sizes)) / len(values))


def _alike(sizes: npt.NDArray[np.float64]) -> list[npt.NDArray[np.intp]]:
    """Returns the places of runs of one size together, of several sizes next to each other where these are few."""
    order = np.argsort(sizes, kind="stable")
    _, starts = np.unique(sizes[order], return_index=True)
    cuts = [0]
    for start in starts.tolist():
        if min(start - cuts[-1], len(order) - start) >= _ALIKE:
            cuts.append(start)
    return np.split(order, cuts[1:])


def _fence(values: npt.NDArray[np.float64]) -> float:
    """Returns the latency beyond which one of these is an outlier."""
    p25, p50, p75 = np.quantile(values, (0.25, 0.5, 0.75))
    return float(p50 + _FAR * (p75 - p25))

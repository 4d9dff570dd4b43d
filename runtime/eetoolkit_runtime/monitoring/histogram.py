"""Latencies in buckets of constant number, from which every quantile comes with a stated relative error.

A bucket is an eighth of the way from one power of two to the next, so its number is what stands in a float64's exponent
and first three digits. That is DDSketch (Masson, Rim and Lee 2019, "DDSketch: a fast and fully-mergeable quantile
sketch with relative-error guarantees", PVLDB 12(12), section 2) with the logarithm interpolated linearly between powers
of two, as its fast variant does, and with fixed ends. A bucket from a to b stands for `2 a b / (a + b)`, which is at
most `(b - a) / (b + a)` of itself away from all that it holds. Counts of two histograms add.
"""

from __future__ import annotations

import math

import numpy as np

from eetoolkit_runtime.arrays import Array

_DIGITS = 3  # binary ones, after the first
ERROR = 1 / (2 ** (_DIGITS + 1) + 1)
"""By which share of itself a quantile may be off, from `LEAST_NS` to `MOST_NS`: 5.9 %."""
LEAST_NS, MOST_NS = 2**10, 2**40 - 1
"""What is faster counts as 1 us, what is slower as 18 minutes."""
_SHIFT = 52 - _DIGITS  # of the bits of a float64
_FIRST = int(np.float64(LEAST_NS).view(np.int64)) >> _SHIFT
BUCKETS = (int(np.float64(MOST_NS).view(np.int64)) >> _SHIFT) - _FIRST + 1
"""How many there are."""


def buckets_of(nanoseconds: Array) -> Array:
    """Returns the bucket of each latency, float64 (N,) of at most `MOST_NS`, as int64 (N,)."""
    return (np.maximum(nanoseconds, float(LEAST_NS)).view(np.int64) >> _SHIFT) - _FIRST


def end_ms(bucket: int) -> float:
    """Returns the latency before which a bucket ends, where the next one begins, in milliseconds."""
    return float(np.int64((bucket + 1 + _FIRST) << _SHIFT).view(np.float64)) / 1e6


def quantile_ms(counts: Array, share: float) -> float | None:
    """Returns a quantile in milliseconds; None of nothing.

    It is within `ERROR` of the latency of rank floor(share * (n - 1)) among the n that were counted (algorithm 2).

    Args:
        counts: Of the buckets, (`BUCKETS`,).
        share: From 0 to 1.
    """
    upto = np.cumsum(counts)
    if not upto[-1]:
        return None
    bucket = int(np.searchsorted(upto, math.floor(share * (int(upto[-1]) - 1)), side="right"))
    low, high = end_ms(bucket - 1), end_ms(bucket)
    return 2 * low * high / (low + high)

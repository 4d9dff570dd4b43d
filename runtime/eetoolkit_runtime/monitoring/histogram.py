"""Latencies in buckets of constant number, from which every quantile comes with a stated relative error.

The buckets are DDSketch's (Masson, Rim and Lee 2019, "DDSketch: a fast and fully-mergeable quantile sketch with
relative-error guarantees", PVLDB 12(12), section 2) with fixed ends: bucket i holds what is above
`LEAST_NS * GAMMA ** (i - 1)` and at most `LEAST_NS * GAMMA ** i`, and stands for a value that is at most `ERROR` away
from all of it. Counts of two histograms add.
"""

from __future__ import annotations

import math

import numpy as np

from eetoolkit_runtime.arrays import Array

ERROR = 0.05
"""By which share of itself a quantile may be off, from `LEAST_NS` to `MOST_NS`."""
GAMMA = (1 + ERROR) / (1 - ERROR)
"""By which factor a bucket's upper end is above its lower one (section 2.1)."""
LEAST_NS, MOST_NS = 10**3, 10**12
"""What is faster counts as 1 us, what is slower as 1,000 s."""
_LOG_GAMMA = math.log(GAMMA)
BUCKETS = math.ceil(math.log(MOST_NS / LEAST_NS) / _LOG_GAMMA) + 1
"""How many there are."""
_SHIFT = math.log(LEAST_NS) / _LOG_GAMMA


def buckets_of(nanoseconds: Array) -> Array:
    """Returns the bucket of each latency, intp of the shape of `nanoseconds`."""
    found = np.log(np.maximum(nanoseconds, float(LEAST_NS)))
    found *= 1 / _LOG_GAMMA
    found -= _SHIFT
    return np.minimum(np.ceil(found), BUCKETS - 1.0).astype(np.intp)  # `np.clip` takes four times as long


def upper_end_ms(bucket: int) -> float:
    """Returns the largest latency that a bucket holds, in milliseconds."""
    return float(LEAST_NS * GAMMA**bucket / 1e6)


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
    return upper_end_ms(bucket) if bucket == 0 else upper_end_ms(bucket) * 2 / (GAMMA + 1)

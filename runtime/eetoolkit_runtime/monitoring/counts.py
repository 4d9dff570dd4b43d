"""What answers add up to, in arrays of constant size: per exit, how many, how sure and how fast."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import DeadlineError, InputError, RunError
from eetoolkit_runtime.monitoring.histogram import BUCKETS, MOST_NS, buckets_of, end_ms, quantile_ms
from eetoolkit_runtime.monitoring.snapshot import ExitCounts, Latencies

_BY_ITSELF = ("exit", "end")  # a run that nothing cut short
_ERRORS = (InputError, DeadlineError, RunError)  # in this order: the last is the first two's parent
SCALE = 2048.0
"""Beside codes in one float64: more seconds than `MOST_NS` has. Up to a thousand codes, it still tells nanoseconds."""
OTHER = "other"
"""What counts errors of no kind that the runner promises."""


class Counts:
    """The sums of one bundle's answers.

    Args:
        exits: The plan's, in order.
        stops: What can stop a run, as answers say it.

    Attributes:
        places: A number for each exit.
        stops: A number for what stopped a run, by whether it ran with the bundle's own thresholds. The sum of both is
            `SCALE` times the answer's code.
        errors: How many calls raised what.
    """

    def __init__(self, exits: Sequence[str], stops: Sequence[str]) -> None:
        self._exits, self._stops = tuple(exits), tuple(stops)
        self._by_itself = [len(stops) + place for place, kind in enumerate(stops) if kind in _BY_ITSELF]
        self._bits = (2 * len(stops) - 1).bit_length()  # of what is no exit in a code
        shape = (len(exits), 1 << self._bits)
        self.places = {name: SCALE * (place << self._bits) for place, name in enumerate(exits)}
        self.stops = {
            tuned: {stop: SCALE * (place + tuned * len(stops)) for place, stop in enumerate(stops)}
            for tuned in (False, True)
        }
        self._answers = np.zeros(shape, np.int64)
        self._near: float | None = None
        self._sum, self._squares, self._odd = np.zeros((3, len(exits)))  # the last: how many are not finite
        self._calls = np.zeros((len(exits) + 1, BUCKETS), np.int64)  # the last: batches
        self._sum_ns = np.zeros(len(exits) + 1)
        self.errors = {**{kind.__name__: 0 for kind in _ERRORS}, OTHER: 0}

    def add_packed(self, answers: Sequence[complex], count: int) -> tuple[Array, int]:
        """Adds the first `count` answers of `run`, each confidence + i (code * `SCALE` + seconds); returns as `add`."""
        both = np.fromiter(answers, np.complex128, count)
        packed = both.imag
        codes = (packed * (1 / SCALE)).astype(np.int64)
        took_ns = (packed - codes * SCALE) * 1e9
        at = codes >> self._bits
        calls = np.bincount(at * BUCKETS + buckets_of(took_ns), minlength=len(self._exits) * BUCKETS)
        self._calls[:-1] += calls.reshape(-1, BUCKETS)
        self._sum_ns[:-1] += np.bincount(at, took_ns, len(self._exits))
        return self.add(codes, at, both.real)

    def add(self, codes: Array, at: Array, confidences: Array) -> tuple[Array, int]:
        """Adds N answers.

        Args:
            codes: Of each, int64 (N,), without `SCALE`.
            at: At which exit, int64 (N,).
            confidences: Of each, float64 (N,).

        Returns:
            Of those that ran with the bundle's own thresholds: how many left at each exit, (E,), and how many were
            stopped before they could.
        """
        found = np.bincount(codes, minlength=self._answers.size).reshape(self._answers.shape)
        self._answers += found
        self._add_confidences(at, confidences)
        left = found[:, self._by_itself].sum(axis=1)
        return left, int(found[:, len(self._stops) :].sum() - left.sum())

    def add_codes(self, codes: Array, confidences: Array) -> tuple[Array, int]:
        """Adds answers that were no calls, by `SCALE` times their codes, float64 (N,); returns as `add`."""
        whole = (codes * (1 / SCALE)).astype(np.int64)
        return self.add(whole, whole >> self._bits, confidences)

    def add_batch(self, took_s: float) -> None:
        """Adds how long a batch took, as a whole."""
        took_ns = min(took_s * 1e9, float(MOST_NS))
        self._calls[-1, buckets_of(np.array(took_ns))] += 1
        self._sum_ns[-1] += took_ns

    def add_error(self, error: BaseException) -> None:
        """Adds a call that raised."""
        self.errors[next((kind.__name__ for kind in _ERRORS if isinstance(error, kind)), OTHER)] += 1

    def _add_confidences(self, at: Array, confidences: Array) -> None:
        """Adds to the sums of confidences and of their squares.

        Both are of the distances to one value near all of them, so that little cancels (Chan, Golub and LeVeque 1983,
        "Algorithms for computing the sample variance", section 3, shifted data).
        """
        if self._near is None:
            self._near = float(confidences[0]) if np.isfinite(confidences[0]) else 0.0
        off, kinds = confidences - self._near, len(self._exits)
        sums = np.bincount(at, off, kinds)
        if not math.isfinite(sums.sum()):
            finite = np.isfinite(off)
            self._odd += np.bincount(at[~finite], minlength=kinds)
            at, off = at[finite], off[finite]
            sums = np.bincount(at, off, kinds)
        self._sum += sums
        self._squares += np.bincount(at, off * off, kinds)

    def by_exit(self) -> dict[str, ExitCounts]:
        """Returns what each exit's answers add up to."""
        total, each = max(1, self.answers), self._answers.sum(axis=1)
        found = {}
        for e, name in enumerate(self._exits):
            answers, sure = int(each[e]), int(each[e] - self._odd[e])
            mean = None if self._near is None or not sure else float(self._sum[e]) / sure
            found[name] = ExitCounts(
                answers=answers,
                share=answers / total,
                confidence_mean=None if mean is None or self._near is None else self._near + mean,
                confidence_variance=None if mean is None or sure < 2 else self._variance(e, sure, mean),
                latency=self._latencies(e),
            )
        return found

    def _variance(self, place: int, count: int, mean: float) -> float:
        return max(0.0, (float(self._squares[place]) - count * mean * mean) / (count - 1))

    @property
    def size_bytes(self) -> int:
        """What its arrays take."""
        return self._answers.nbytes + self._calls.nbytes + self._sum_ns.nbytes + 3 * self._sum.nbytes

    @property
    def answers(self) -> int:
        """How many rows were answered."""
        return int(self._answers.sum())

    @property
    def stopped_by(self) -> dict[str, int]:
        """How many runs were stopped by what."""
        count = len(self._stops)
        each = self._answers[:, :count] + self._answers[:, count : 2 * count]
        return dict(zip(self._stops, each.sum(axis=0).tolist(), strict=True))

    @property
    def batches(self) -> Latencies:
        """How long batches took."""
        return self._latencies(-1)

    def _latencies(self, place: int) -> Latencies:
        counts = self._calls[place]
        p50, p90, p99 = (quantile_ms(counts, share) for share in (0.5, 0.9, 0.99))
        return Latencies(
            calls=int(counts.sum()),
            sum_ms=float(self._sum_ns[place]) / 1e6,
            p50_ms=p50,
            p90_ms=p90,
            p99_ms=p99,
            buckets=tuple((end_ms(bucket), int(counts[bucket])) for bucket in np.flatnonzero(counts).tolist()),
        )

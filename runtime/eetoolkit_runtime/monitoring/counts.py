"""What answers add up to, in arrays of constant size: per exit, how many, how sure and how fast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import DeadlineError, InputError, RunError
from eetoolkit_runtime.monitoring.histogram import BUCKETS, buckets_of, quantile_ms, upper_end_ms
from eetoolkit_runtime.monitoring.snapshot import ExitCounts, Latencies
from eetoolkit_runtime.running.answer import StoppedBy

_BY_ITSELF: tuple[StoppedBy, ...] = ("exit", "end")
_ERRORS = (InputError, DeadlineError, RunError)  # in this order: the last is the first two's parent
OTHER = "other"
"""What counts errors of no kind that the runner promises."""


class Counts:
    """The sums of one bundle's answers.

    Args:
        exits: The plan's, in order.
    """

    def __init__(self, exits: Sequence[str]) -> None:
        self._place = {name: place for place, name in enumerate(exits)}
        self._answers = np.zeros(len(exits), np.int64)
        self._sure = np.zeros((3, len(exits)))  # of finite confidences: how many, their mean, squares around it
        self._calls = np.zeros((len(exits) + 1, BUCKETS), np.int64)  # the last: batches
        self._sum_ns = np.zeros(len(exits) + 1)
        self.stopped_by: dict[str, int] = dict.fromkeys(get_args(StoppedBy), 0)
        self.errors = {**{kind.__name__: 0 for kind in _ERRORS}, OTHER: 0}

    def add(
        self,
        exits: Sequence[str],
        confidences: Sequence[float],
        took_ns: Sequence[int] | None,
        stopped_by: Sequence[StoppedBy],
        tuned: Sequence[bool],
    ) -> tuple[Array, int]:
        """Adds N answers.

        Args:
            exits: Where.
            confidences: How sure.
            took_ns: How long each call took; None: they were no calls of their own.
            stopped_by: What stopped each run.
            tuned: Whether it ran with the bundle's own thresholds.

        Returns:
            Of those that did: how many left at each exit, (E,), and how many were stopped before they could.
        """
        count, kinds = len(exits), len(self._place)
        at = np.fromiter(map(self._place.__getitem__, exits), np.intp, count)
        left = np.bincount(at, minlength=kinds)
        self._answers += left
        self._add_confidences(at, np.array(confidences, np.float64), left)
        if took_ns is not None:
            took = np.fromiter(took_ns, np.float64, count)
            np.add.at(self._calls.reshape(-1), at * BUCKETS + buckets_of(took), 1)
            self._sum_ns[:-1] += np.bincount(at, took, kinds)
        met = 0
        for kind in _BY_ITSELF:
            found = stopped_by.count(kind)
            met += found
            self.stopped_by[kind] += found
        if met < count:
            for kind in stopped_by:
                if kind not in _BY_ITSELF:
                    self.stopped_by[kind] = self.stopped_by.get(kind, 0) + 1
        if met == count == tuned.count(True):
            return left, 0
        whole = np.fromiter((kind in _BY_ITSELF for kind in stopped_by), np.bool_, count)
        own = np.fromiter(tuned, np.bool_, count)
        return np.bincount(at[own & whole], minlength=kinds), int((own & ~whole).sum())

    def add_batch(self, took_ns: int) -> None:
        """Adds how long a batch took, as a whole."""
        self._calls[-1, buckets_of(np.array(took_ns))] += 1
        self._sum_ns[-1] += took_ns

    def add_error(self, error: BaseException) -> None:
        """Adds a call that raised."""
        self.errors[next((kind.__name__ for kind in _ERRORS if isinstance(error, kind)), OTHER)] += 1

    def _add_confidences(self, at: Array, confidences: Array, left: Array) -> None:
        """Merges means and squares of two samples (Chan, Golub and LeVeque 1983, equation 1.5) for each exit."""
        finite = np.isfinite(confidences)
        if not finite.all():
            at, confidences = at[finite], confidences[finite]
            left = np.bincount(at, minlength=len(left))
        count, mean, squares = self._sure
        new_mean = np.bincount(at, confidences, len(left)) / np.maximum(left, 1)
        off = confidences - new_mean[at]
        total, apart = count + left, new_mean - mean
        share = left / np.maximum(total, 1)
        squares += np.bincount(at, off * off, len(left)) + apart * apart * count * share
        mean += apart * share
        count += left

    def by_exit(self) -> dict[str, ExitCounts]:
        """Returns what each exit's answers add up to."""
        answers, (counts, means, squares) = self._answers, self._sure
        total = max(1, int(answers.sum()))
        return {
            name: ExitCounts(
                answers=int(answers[e]),
                share=int(answers[e]) / total,
                confidence_mean=float(means[e]) if counts[e] else None,
                confidence_variance=float(squares[e] / (counts[e] - 1)) if counts[e] > 1 else None,
                latency=self._latencies(e),
            )
            for name, e in self._place.items()
        }

    @property
    def answers(self) -> int:
        """How many rows were answered."""
        return int(self._answers.sum())

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
            buckets=tuple((upper_end_ms(bucket), int(counts[bucket])) for bucket in np.flatnonzero(counts).tolist()),
        )

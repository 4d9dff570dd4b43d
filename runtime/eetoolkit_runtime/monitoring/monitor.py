"""The monitor: counts what runners answer, at a microsecond a call and in constant memory."""

from __future__ import annotations

import datetime
import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Protocol, TypeVar

import msgspec
import numpy as np

from eetoolkit_runtime.arguments import check_range, checked
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import InputError, RunError
from eetoolkit_runtime.forked import renew_after_fork
from eetoolkit_runtime.monitoring.counts import Counts
from eetoolkit_runtime.monitoring.drift import BLOCK, DriftTest, tuned_shares
from eetoolkit_runtime.monitoring.histogram import MOST_NS
from eetoolkit_runtime.monitoring.snapshot import Drift, MonitorSnapshot
from eetoolkit_runtime.plan.types import Manifest

_MOST_BYTES = 52 << 10  # of answers that wait and of arrays
_ANSWER_BYTES = 42  # of one that waits: a complex number and its place in a list, which grows by eighths
_ROWS_AT_ONCE = 4096  # of a batch
_MOST_S = MOST_NS / 1e9
A = TypeVar("A", bound="Answered")


class Answered(Protocol):
    """What is looked at of an answer."""

    @property
    def exit(self) -> str:
        """Where the run answered."""

    @property
    def confidence(self) -> float:
        """How sure it was."""

    @property
    def stopped_by(self) -> str:
        """What stopped it."""


class Monitor:
    """Counts what one bundle's runners answer: `Runner(bundle, monitor=Monitor())`. Safe under concurrent calls.

    It counts the answers of `run`, `run_batch` and `stream`, and keeps no input and no output. Several runners of one
    bundle may share it. Where the bundle was tuned, it tests whether exits still answer the shares of rows that they
    were tuned for, as soon as 256 rows have been counted since the last time. Rows that ran with other thresholds,
    another exit or another fallback than the bundle's own do not count for that; rows that a deadline or a token
    stopped, that a server should have answered, or that failed, count as rows whose exit is not known.

    The rate of false alarms holds, whatever the number of rows, if every row leaves at each exit with a probability,
    given all rows before it, within the exit's tuned interval. So rows that come in long runs of one kind may give an
    alarm without a change of what they are in the mean. The tuned intervals hold together with probability 99 % over
    the draw of the held-out rows.

    A forked process begins anew, at zero.

    Args:
        false_alarms: At most so many false alarms for each `per_rows` rows since the beginning, in the mean.
        per_rows: See `false_alarms`.

    Raises:
        RunError: A setting that is none.
    """

    __slots__ = (
        "__weakref__", "_at_once", "_counts", "_folding", "_key", "_lock", "_other_stops", "_own_stops",
        "_places", "_plan", "_rate", "_remote", "_since", "_started_s", "_stops", "_test", "_waiting", "_why_no_rule",
    )  # fmt: skip

    @checked(RunError)
    def __init__(self, *, false_alarms: float = 0.01, per_rows: int = 100_000) -> None:
        check_range(RunError, "false_alarms", false_alarms, 1e-9, 1)
        check_range(RunError, "per_rows", per_rows, BLOCK, 10**15)
        self._rate = (float(false_alarms), int(per_rows))
        self._plan: Manifest | None = None
        self._stops: tuple[str, ...] = ()
        self._key = b""
        self._begin()
        renew_after_fork(self)

    def _begin(self) -> None:
        self._lock = threading.RLock()  # a signal handler may run a bundle in the middle of `_fold`
        self._folding = False
        self._waiting: list[complex] = []
        self._since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._started_s = time.monotonic()
        self._remote = 0
        self._counts = Counts((), ())
        self._test: DriftTest | None = None
        self._why_no_rule: str | None = "no runner has this monitor yet"
        if self._plan is not None:
            shares, self._why_no_rule = tuned_shares(self._plan)
            behind = () if self._plan.split is None else self._plan.split.exits  # of which a server answers
            names = dict.fromkeys((*self._plan.exits, *(exit_.name for exit_ in behind)))
            self._counts = Counts(tuple(names), self._stops)
            self._test = DriftTest(shares, *self._rate) if shares else None
        counts = self._counts
        self._places, self._own_stops, self._other_stops = counts.places, counts.stops[True], counts.stops[False]
        size = counts.size_bytes + (0 if self._test is None else self._test.size_bytes)
        self._at_once = min(1024, max(64, (_MOST_BYTES - size) // _ANSWER_BYTES))

    def snapshot(self) -> MonitorSnapshot:
        """Returns what has been counted so far."""
        with self._lock:
            self._fold()
            counts, (rate, per_rows) = self._counts, self._rate
            none = Drift(why_no_rule=self._why_no_rule, false_alarms=rate, per_rows=per_rows)
            return MonitorSnapshot(
                bundle="" if self._plan is None else self._plan.name,
                since=self._since,
                seconds=time.monotonic() - self._started_s,
                answers=counts.answers,
                remote=self._remote,
                exits=counts.by_exit(),
                stopped_by=counts.stopped_by,
                errors=dict(counts.errors),
                batches=counts.batches,
                drift=none if self._test is None else self._test.verdict(),
            )

    # What runners call.

    def attach(self, plan: Manifest, stops: Sequence[str]) -> None:
        """Gets ready for a plan's answers, whose runs may be stopped by these.

        Raises:
            RunError: It counts those of another.
        """
        key = hashlib.sha256(msgspec.json.encode(plan)).digest()
        with self._lock:
            if self._plan is None:
                self._plan, self._stops, self._key = plan, tuple(stops), key
                self._begin()
            elif key != self._key:
                raise RunError(
                    f"monitor counts {self._plan.name!r}, and this runner's bundle is another one, or tuned anew; "
                    "give it a Monitor of its own"
                )

    def count(self, answer: Answered, started_s: float, tuned: bool) -> None:
        """Counts the answer of a call that began at `started_s` of `time.perf_counter`.

        Most calls only add to the list. A complex number is the smallest thing that holds an answer: one object, which
        no garbage collector looks at. This is the hot path, so nothing here is asked for twice.

        Args:
            answer: What the call returned.
            started_s: When it began.
            tuned: Whether it was decided as the bundle says.
        """
        took_s = perf_counter() - started_s
        if took_s > _MOST_S:  # noqa: PLR1730 - `min` takes as long as all the rest
            took_s = _MOST_S
        stops = self._own_stops if tuned else self._other_stops
        waiting = self._waiting
        waiting.append(answer.confidence + (self._places[answer.exit] + stops[answer.stopped_by] + took_s) * 1j)
        if len(waiting) >= self._at_once:
            self._fold()

    def run_batch(self, run: Callable[[], list[A]], rows: int, *, tuned: bool) -> list[A]:
        """Returns the answers that `run` gives to rows that run together, and counts them, or that it failed."""
        started_s = perf_counter()
        try:
            answers = run()
        except Exception as error:
            self.count_error(error, rows, tuned=tuned)
            raise
        took_s = perf_counter() - started_s
        with self._lock:
            counts, stops = self._counts, self._counts.stops[tuned]
            counts.add_batch(took_s)
            for start in range(0, len(answers), _ROWS_AT_ONCE):
                some = answers[start : start + _ROWS_AT_ONCE]
                codes = np.array([counts.places[answer.exit] + stops[answer.stopped_by] for answer in some])
                self._test_also(*counts.add_codes(codes, np.array([answer.confidence for answer in some])))
        return answers

    def count_error(self, error: BaseException, rows: int = 1, *, tuned: bool) -> None:
        """Counts a call that raised instead of answering `rows` rows."""
        with self._lock:
            self._counts.add_error(error)
            if tuned and self._test is not None and not isinstance(error, InputError):
                self._test.add(None, rows)

    def count_remote(self) -> None:
        """Counts that a server gave an answer, which `count` or `run_batch` counts as well."""
        with self._lock:
            self._remote += 1

    def renew(self) -> None:
        """Begins anew in a forked process, where another thread's lock would never open."""
        self._begin()

    def _fold(self) -> None:
        """Adds what waits to the arrays; answers that come meanwhile wait for the next time."""
        with self._lock:
            if self._folding:
                return
            self._folding = True
            try:
                waiting, count = self._waiting, len(self._waiting)
                if count:
                    added = self._counts.add_packed(waiting, count)
                    del waiting[:count]
                    self._test_also(*added)
            finally:
                self._folding = False

    def _test_also(self, left: Array, unknown: int) -> None:
        if self._test is None:
            return
        plan = self._plan
        if plan is not None and plan.split is not None:  # what the server answered was handed over
            exits = list(plan.exits)
            here = left[: len(exits)].copy()
            here[exits.index(plan.split.exit)] += left[len(exits) :].sum()
            left = here
        self._test.add(left, unknown)

"""What a monitor has counted so far, as one value for programs, people and exporters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from eetoolkit_runtime.printable import printable, spell_count, spell_figure


class Latencies(msgspec.Struct, frozen=True, kw_only=True):
    """How long calls took, from their beginning to their answer.

    Attributes:
        calls: How many.
        sum_ms: All together, in milliseconds.
        p50_ms: Half of them took at most this; within 6 %. None where there was no call.
        p90_ms: The same of 90 %.
        p99_ms: The same of 99 %.
        buckets: Where each bucket that holds any ends, in milliseconds, and how many it holds.
    """

    calls: int
    sum_ms: float
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    buckets: tuple[tuple[float, int], ...]


class ExitCounts(msgspec.Struct, frozen=True, kw_only=True):
    """The answers of one exit.

    Attributes:
        answers: How many.
        share: Of all answers; 0 where there is none.
        confidence_mean: Of their confidences that are finite; None where none is.
        confidence_variance: The same, with n - 1 below the sum; None of fewer than two.
        latency: Of the calls of `run` among them.
    """

    answers: int
    share: float
    confidence_mean: float | None
    confidence_variance: float | None
    latency: Latencies


class TunedShare(msgspec.Struct, frozen=True, kw_only=True):
    """An exit's share of the held-out rows that the bundle was tuned with, and what it was lately.

    Attributes:
        value: Of the held-out rows.
        low: The lower end of its interval.
        high: The upper end.
        recent: Of about the last 2,000 rows that counted, newer ones weighing more; None before the first 256.
    """

    value: float
    low: float
    high: float
    recent: float | None


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """One time at which the shares of exits had left their intervals, as far as the stated rate lets one say so.

    Attributes:
        exit: Whose share says so most.
        share: Whether it was above its interval or below.
        recent: What it was lately.
        rows: How many rows had counted by then, from the monitor's beginning.
        at: When, in UTC (ISO 8601).
    """

    exit: str
    share: Literal["above", "below"]
    recent: float
    rows: int
    at: str


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """Whether exits still answer the shares of rows that they were tuned for.

    Attributes:
        why_no_rule: Why nothing can be said; None where something can.
        false_alarms: The mean number of false alarms among `per_rows` rows is at most this.
        per_rows: See `false_alarms`.
        rows: How many rows have counted.
        alarms: How many alarms there were; after one the evidence begins anew.
        first: The first; None where there was none.
        last: The latest.
        evidence: How near the next alarm is: the logarithm of the evidence over that of the limit; 1 is an alarm.
        exits: By exit.
    """

    why_no_rule: str | None = None
    false_alarms: float
    per_rows: int
    rows: int = 0
    alarms: int = 0
    first: Alarm | None = None
    last: Alarm | None = None
    evidence: float = 0.0
    exits: dict[str, TunedShare] = {}

    def __str__(self) -> str:
        if self.why_no_rule is not None:
            return f"no rule: {self.why_no_rule}"
        rate = f"at most {self.false_alarms:g} false alarms in {self.per_rows:,} rows"
        if self.last is None:
            return f"no alarm in {self.rows:,} rows ({rate})"
        last, times = self.last, spell_count(self.alarms, "alarm", "alarms")
        tuned = self.exits[last.exit]
        return (
            f"{times} in {self.rows:,} rows, the last at row {last.rows:,}: {last.exit} {last.share} its interval, "
            f"lately {last.recent:.1%}, tuned {tuned.low:.1%} to {tuned.high:.1%} ({rate})"
        )


class MonitorSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All that a monitor knows at one moment; `msgspec.json.encode` writes it, `str` is for people.

    Attributes:
        bundle: The bundle's name; empty where no runner has the monitor yet.
        since: When the monitor began, in UTC (ISO 8601).
        seconds: How long ago that was.
        answers: How many rows were answered.
        remote: How many of them a server answered, as `Answer.remote`.
        exits: By exit, in the plan's order; behind them those of a server's half.
        stopped_by: How many runs were stopped by what, as `Answer.stopped_by`.
        errors: How many calls raised which error instead of answering.
        batches: Of the calls of `run_batch` whose rows ran together, each as a whole.
        drift: Whether exits still answer the shares that they were tuned for.
    """

    bundle: str
    since: str
    seconds: float
    answers: int
    remote: int = 0
    exits: dict[str, ExitCounts]
    stopped_by: dict[str, int]
    errors: dict[str, int]
    batches: Latencies
    drift: Drift

    def __str__(self) -> str:
        return "\n".join(map(printable, self._lines()))

    def _lines(self) -> Iterator[str]:
        failed = sum(self.errors.values())
        if not self.bundle:
            yield str(self.drift.why_no_rule)
            return
        answers, errors = spell_count(self.answers, "answer", "answers"), spell_count(failed, "error", "errors")
        yield f"{self.bundle}: {answers} since {self.since}, {errors}"
        for name, exit_ in self.exits.items():
            yield f"{name} {exit_.share:.1%}, confidence {_spread(exit_)}, {_times(exit_.latency)}"
        if self.remote:
            yield f"{self.remote:,} by a server"
        if self.batches.calls:
            yield f"{spell_count(self.batches.calls, 'batch', 'batches')}, {_times(self.batches)}"
        stops = [f"{kind} {count:,}" for kind, count in self.stopped_by.items() if count]
        if stops:
            yield f"stopped by {', '.join(stops)}"
        wrong = [f"{kind} {count:,}" for kind, count in self.errors.items() if count]
        if wrong:
            yield f"errors {', '.join(wrong)}"
        yield f"drift: {self.drift}"


def _spread(exit_: ExitCounts) -> str:
    if exit_.confidence_mean is None:
        return "-"
    around = "" if exit_.confidence_variance is None else f" ± {exit_.confidence_variance**0.5:.2g}"
    return f"{exit_.confidence_mean:.4g}{around}"


def _times(latency: Latencies) -> str:
    if latency.p50_ms is None:
        return "no call timed"
    each = ("p50", latency.p50_ms), ("p90", latency.p90_ms), ("p99", latency.p99_ms)
    return ", ".join(f"{name} {spell_figure(ms)} ms" for name, ms in each if ms is not None)

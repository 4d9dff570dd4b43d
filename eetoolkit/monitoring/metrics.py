"""What a snapshot says as metrics: one list of names, units and values, from which both exporters read.

Names and units follow Prometheus' rules (prometheus.io/docs/practices/naming): base units, counters end in `_total`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from eetoolkit_runtime.errors import RunError
from eetoolkit_runtime.monitoring.monitor import Monitor
from eetoolkit_runtime.monitoring.snapshot import Latencies, MonitorSnapshot

Labels = dict[str, str]


class Metric(NamedTuple):
    """One metric: what it counts or measures.

    Attributes:
        name: Without what either system adds to it.
        kind: A counter only grows; a gauge is a value of now.
        unit: As UCUM writes it; 1 for a ratio.
        text: What it is.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    text: str


ANSWERS = Metric("answers", "counter", "{answer}", "Rows answered, by exit.")
REMOTE = Metric("remote_answers", "counter", "{answer}", "Rows that a server answered.")
STOPPED = Metric("stopped", "counter", "{answer}", "Rows answered, by what stopped the run.")
ERRORS = Metric("errors", "counter", "{call}", "Calls that raised instead of answering, by error.")
LATENCY = Metric("latency", "histogram", "s", "Time of a call of one row, by exit.")
BATCH_LATENCY = Metric("batch_latency", "histogram", "s", "Time of a call whose rows ran together.")
CONFIDENCE_MEAN = Metric("confidence_mean", "gauge", "1", "Mean confidence of an exit's answers.")
CONFIDENCE_VARIANCE = Metric("confidence_variance", "gauge", "1", "Variance of the confidence of an exit's answers.")
DRIFT_RULE = Metric("drift_rule", "gauge", "1", "1 where the bundle's tuning says which shares exits should have.")
DRIFT_ALARMS = Metric("drift_alarms", "counter", "{alarm}", "Times at which shares of exits had left their intervals.")
DRIFT_EVIDENCE = Metric("drift_evidence", "gauge", "1", "How near the next alarm is; 1 is an alarm.")
RECENT_SHARE = Metric("recent_share", "gauge", "1", "An exit's share of about the last 2,000 rows.")
TUNED_LOW = Metric("tuned_share_low", "gauge", "1", "The lower end of an exit's tuned share.")
TUNED_HIGH = Metric("tuned_share_high", "gauge", "1", "The upper end of an exit's tuned share.")

METRICS = (
    ANSWERS, REMOTE, STOPPED, ERRORS, CONFIDENCE_MEAN, CONFIDENCE_VARIANCE, DRIFT_RULE, DRIFT_ALARMS, DRIFT_EVIDENCE,
    RECENT_SHARE, TUNED_LOW, TUNED_HIGH,
)  # fmt: skip
"""All with one value for each set of labels."""
TIMES = (LATENCY, BATCH_LATENCY)


def snapshots(monitors: Monitor | Sequence[Monitor]) -> list[MonitorSnapshot]:
    """Returns what the monitors say now, but for those that no runner has yet, which have no bundle to be labelled by.

    Raises:
        RunError: Two of them count bundles of one name, whose figures nobody could tell apart.
    """
    each = (monitor.snapshot() for monitor in ([monitors] if isinstance(monitors, Monitor) else monitors))
    found = [snapshot for snapshot in each if snapshot.bundle]
    names = [snapshot.bundle for snapshot in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RunError(
            f"two monitors count bundles called {twice[0]!r}; share one Monitor, or export under other names"
        )
    return found


def values(metric: Metric, snapshot: MonitorSnapshot) -> Iterator[tuple[Labels, float]]:
    """Yields the labels and values of one of `METRICS`, without those that are not known."""
    bundle, drift, exits = {"bundle": snapshot.bundle}, snapshot.drift, snapshot.exits
    found: dict[str, float | None] = {}
    label = "exit"
    if metric is STOPPED:
        label, found = "by", dict(snapshot.stopped_by)
    elif metric is ERRORS:
        label, found = "error", dict(snapshot.errors)
    elif metric is REMOTE:
        yield bundle, snapshot.remote
    elif metric is DRIFT_RULE:
        yield bundle, float(drift.why_no_rule is None)
    elif metric in (DRIFT_ALARMS, DRIFT_EVIDENCE):
        if drift.why_no_rule is None:
            yield bundle, drift.alarms if metric is DRIFT_ALARMS else drift.evidence
    elif metric is ANSWERS:
        found = {name: exit_.answers for name, exit_ in exits.items()}
    elif metric in (CONFIDENCE_MEAN, CONFIDENCE_VARIANCE):
        found = {name: getattr(exit_, metric.name) for name, exit_ in exits.items()}
    else:
        field = {RECENT_SHARE: "recent", TUNED_LOW: "low", TUNED_HIGH: "high"}[metric]
        found = {name: getattr(share, field) for name, share in drift.exits.items()}
    yield from (({**bundle, label: name}, value) for name, value in found.items() if value is not None)


def times(metric: Metric, snapshot: MonitorSnapshot) -> Iterator[tuple[Labels, Latencies]]:
    """Yields the labels and latencies of one of `TIMES`."""
    if metric is BATCH_LATENCY:
        yield {"bundle": snapshot.bundle}, snapshot.batches
    else:
        for name, exit_ in snapshot.exits.items():
            yield {"bundle": snapshot.bundle, "exit": name}, exit_.latency

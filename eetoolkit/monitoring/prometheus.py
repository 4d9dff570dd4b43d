"""What monitors count, for Prometheus, by `prometheus_client`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from eetoolkit.extras import install
from eetoolkit.monitoring.metrics import METRICS, TIMES, snapshots, times, values
from eetoolkit_runtime.arguments import checked
from eetoolkit_runtime.errors import RunError
from eetoolkit_runtime.monitoring.monitor import Monitor
from eetoolkit_runtime.monitoring.snapshot import Latencies

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric as Family

_ENDS_NS = [2**power for power in range(13, 35)]
"""Where buckets end, from 8 us to 17 s: at powers of two, where the monitor's own end too, so no count is a guess."""


@checked(RunError)
def prometheus_text(monitors: Monitor | Sequence[Monitor]) -> str:
    """Returns what monitors count in Prometheus' text format, for an HTTP route or a file that an agent collects.

    Args:
        monitors: One, or several of bundles of different names.

    Raises:
        RunError: The extra `monitor` is not installed; two bundles have one name.
    """
    client = _client()
    registry = client.CollectorRegistry()
    register_prometheus(monitors, registry)
    return str(client.generate_latest(registry).decode())


@checked(RunError)
def register_prometheus(monitors: Monitor | Sequence[Monitor], registry: Any = None) -> None:
    """Has what monitors count exported with all else that a registry of `prometheus_client` holds.

    Args:
        monitors: As `prometheus_text`'s.
        registry: A `prometheus_client.CollectorRegistry`; None: its default one, which `start_http_server` serves.

    Raises:
        RunError: As `prometheus_text`'s; the registry is none, or has monitors already.
    """
    client = _client()
    into: CollectorRegistry = client.REGISTRY if registry is None else registry
    if not isinstance(into, client.CollectorRegistry):
        raise RunError(f"registry is {into!r}, expected a prometheus_client.CollectorRegistry")
    try:
        into.register(_collector(monitors))
    except ValueError as error:
        raise RunError("the registry has monitors already; register all of them in one call") from error


def _client() -> Any:
    try:
        import prometheus_client
    except ModuleNotFoundError as error:
        raise RunError(f"metrics for Prometheus need prometheus_client: {install('monitor')}") from error
    return prometheus_client


def _collector(monitors: Monitor | Sequence[Monitor]) -> Any:
    from prometheus_client.registry import Collector

    class Monitors(Collector):
        """Reads the monitors whenever it is asked."""

        def collect(self) -> Iterator[Family]:
            return _families(monitors)

        describe = collect
        """By whose names a registry sees that it has monitors already."""

    return Monitors()


def _families(monitors: Monitor | Sequence[Monitor]) -> Iterator[Family]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    found = snapshots(monitors)
    for metric in METRICS:
        rows = [row for snapshot in found for row in values(metric, snapshot)]
        names = list(rows[0][0]) if rows else ["bundle"]
        kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
        family = kind(f"eetoolkit_{metric.name}", metric.text, labels=names)
        for labels, value in rows:
            family.add_metric(list(labels.values()), value)
        yield family
    for metric in TIMES:
        timed = [row for snapshot in found for row in times(metric, snapshot)]
        names = list(timed[0][0]) if timed else ["bundle"]
        histogram = HistogramMetricFamily(f"eetoolkit_{metric.name}_seconds", metric.text, labels=names)
        for labels, latency in timed:
            histogram.add_metric(list(labels.values()), _buckets(latency), latency.sum_ms / 1e3)
        yield histogram


def _buckets(latency: Latencies) -> list[tuple[str, float]]:
    """Returns how many calls took at most what each bucket ends with, in seconds."""
    ends = [(end / 1e9, sum(count for at, count in latency.buckets if at <= end / 1e6)) for end in _ENDS_NS]
    return [*((f"{end:.9f}".rstrip("0"), float(count)) for end, count in ends), ("+Inf", float(latency.calls))]

"""What monitors count, for OpenTelemetry, by the instruments of its API."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from eetoolkit.extras import install
from eetoolkit.monitoring.metrics import METRICS, TIMES, Metric, snapshots, times, values
from eetoolkit_runtime.arguments import checked
from eetoolkit_runtime.errors import RunError
from eetoolkit_runtime.monitoring.monitor import Monitor

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Observation

_QUANTILES = ("p50", "p90", "p99")
_Monitors = Monitor | Sequence[Monitor]


@checked(RunError)
def register_opentelemetry(monitors: Monitor | Sequence[Monitor], meter: Any = None) -> None:
    """Has what monitors count observed by a meter, whenever its provider collects.

    OpenTelemetry has no histogram that is read instead of recorded. So latencies are gauges, with the quantile as an
    attribute (`p50`, `p90`, `p99`), of all calls since the monitor began.

    Args:
        monitors: One, or several of bundles of different names.
        meter: An `opentelemetry.metrics.Meter`; None: `opentelemetry.metrics.get_meter("eetoolkit")`.

    Raises:
        RunError: The extra `monitor` is not installed; two bundles have one name; the meter is none.
    """
    try:
        from opentelemetry import metrics
    except ModuleNotFoundError as error:
        raise RunError(f"metrics for OpenTelemetry need opentelemetry-api: {install('monitor')}") from error
    into = metrics.get_meter("eetoolkit") if meter is None else meter
    if not isinstance(into, metrics.Meter):
        raise RunError(f"meter is {into!r}, expected an opentelemetry.metrics.Meter")
    snapshots(monitors)
    for metric in METRICS:
        create = into.create_observable_counter if metric.kind == "counter" else into.create_observable_gauge
        create(_name(metric), [_observing(monitors, metric)], metric.unit, metric.text)
    for metric in TIMES:
        into.create_observable_gauge(_name(metric), [_observing_times(monitors, metric)], metric.unit, metric.text)


def _name(metric: Metric) -> str:
    return f"eetoolkit.{metric.name}"


def _observing(monitors: _Monitors, metric: Metric) -> Callable[[CallbackOptions], Iterator[Observation]]:
    from opentelemetry.metrics import Observation as Seen

    def observe(_options: CallbackOptions) -> Iterator[Observation]:
        for snapshot in snapshots(monitors):
            for labels, value in values(metric, snapshot):
                yield Seen(value, labels)

    return observe


def _observing_times(monitors: _Monitors, metric: Metric) -> Callable[[CallbackOptions], Iterator[Observation]]:
    from opentelemetry.metrics import Observation as Seen

    def observe(_options: CallbackOptions) -> Iterator[Observation]:
        for snapshot in snapshots(monitors):
            for labels, latency in times(metric, snapshot):
                for name in _QUANTILES:
                    value = getattr(latency, f"{name}_ms")
                    if value is not None:
                        yield Seen(value / 1e3, {**labels, "quantile": name})

    return observe

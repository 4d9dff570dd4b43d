"""What monitors count comes out of Prometheus' and OpenTelemetry's own clients as it was counted."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from plans import Open, chain, opening, row
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from test_monitor_drift import SHARES, tuning_of

import eetoolkit as ee
from eetoolkit.monitoring.metrics import METRICS, TIMES

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    yield from opening(tmp_path)


@pytest.fixture
def monitor(opened: Open) -> ee.Monitor:
    """A monitor of a tuned bundle that has answered 300 rows, three one by one."""
    draft, monitor = chain(), ee.Monitor()
    draft.options |= {"tuning": tuning_of(draft.plan(), SHARES), "name": "it"}
    runner = opened(draft, monitor=monitor)
    for x in (row(0.9), row(0, 0.8), row(0, 0, 0.7)):
        runner.run(x)
    runner.run_batch(np.repeat(row(0.9), 297, axis=0))
    with pytest.raises(ee.InputError):
        runner.run("it")
    return monitor


def parsed(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def key(name: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return f"eetoolkit_{name}", tuple(sorted({"bundle": "it", **labels}.items()))


def test_prometheus_reads_what_was_counted(monitor: ee.Monitor) -> None:
    found, snapshot = parsed(ee.prometheus_text(monitor)), monitor.snapshot()
    for name, exit_ in snapshot.exits.items():
        assert found[key("answers_total", exit=name)] == exit_.answers
        assert found[key("latency_seconds_count", exit=name)] == exit_.latency.calls == 1
        assert found[key("latency_seconds_bucket", exit=name, le="+Inf")] == 1
        assert found[key("latency_seconds_sum", exit=name)] == pytest.approx(exit_.latency.sum_ms / 1e3)
        assert found[key("confidence_mean", exit=name)] == exit_.confidence_mean
        assert found[key("recent_share", exit=name)] == snapshot.drift.exits[name].recent
        assert (found[key("tuned_share_low", exit=name)], found[key("tuned_share_high", exit=name)]) == SHARES[name][1:]
    assert found[key("stopped_total", by="end")] == 1
    assert found[key("errors_total", error="InputError")] == 1
    assert found[key("batch_latency_seconds_count")] == 1
    assert found[key("drift_rule")] == 1
    assert found[key("drift_alarms_total")] == snapshot.drift.alarms == 1  # 298 of 300 rows at exit0


def test_a_monitor_that_no_runner_has_exports_nothing(monitor: ee.Monitor) -> None:
    assert parsed(ee.prometheus_text([ee.Monitor(), ee.Monitor()])) == {}
    assert parsed(ee.prometheus_text([monitor, ee.Monitor()])).keys() == parsed(ee.prometheus_text(monitor)).keys()


def test_buckets_hold_what_took_at_most_their_ends(monitor: ee.Monitor) -> None:
    for name, exit_ in monitor.snapshot().exits.items():
        found = [
            (float(dict(labels)["le"]), count)
            for (sample, labels), count in parsed(ee.prometheus_text(monitor)).items()
            if sample == "eetoolkit_latency_seconds_bucket" and dict(labels)["exit"] == name
        ]
        took_s = exit_.latency.sum_ms / 1e3  # of the one call
        assert len(found) == 23
        assert [count for _, count in found] == [float(took_s < end) for end, _ in found]


def test_a_registry_asks_anew_each_time_and_takes_monitors_once(monitor: ee.Monitor) -> None:
    registry = CollectorRegistry()
    ee.register_prometheus(monitor, registry)
    before = parsed(generate_latest(registry).decode())[key("answers_total", exit="exit0")]
    monitor.count(ee.Answer({}, "exit0", 0.5, (), 3), 0, False)
    assert parsed(generate_latest(registry).decode())[key("answers_total", exit="exit0")] == before + 1
    with pytest.raises(ee.RunError, match=r"^the registry has monitors already; register all of them in one call$"):
        ee.register_prometheus(monitor, registry)


def test_opentelemetry_observes_what_was_counted(monitor: ee.Monitor) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    ee.register_opentelemetry([monitor], provider.get_meter("it"))
    data = reader.get_metrics_data()
    provider.shutdown()
    assert data is not None
    (scope,) = data.resource_metrics[0].scope_metrics
    found = {metric.name: metric for metric in scope.metrics}
    assert set(found) == {f"eetoolkit.{metric.name}" for metric in (*METRICS, *TIMES)}
    snapshot = monitor.snapshot()
    answers = {point.attributes["exit"]: point.value for point in found["eetoolkit.answers"].data.data_points}  # type: ignore[index, union-attr]
    assert answers == {name: exit_.answers for name, exit_ in snapshot.exits.items()}
    times = {
        (point.attributes["exit"], point.attributes["quantile"]): point.value  # type: ignore[index, union-attr]
        for point in found["eetoolkit.latency"].data.data_points
    }
    assert times["exit1", "p50"] == pytest.approx((snapshot.exits["exit1"].latency.p50_ms or 0) / 1e3)
    assert (found["eetoolkit.latency"].unit, found["eetoolkit.answers"].unit) == ("s", "{answer}")


def test_bundles_of_two_names_are_exported_together_and_of_one_name_refused(opened: Open, monitor: ee.Monitor) -> None:
    other = ee.Monitor()
    draft = chain(0.9, 0.9)
    draft.options["name"] = "other"
    opened(draft, monitor=other).run(row(0.9))
    found = parsed(ee.prometheus_text([monitor, other]))
    assert found["eetoolkit_answers_total", (("bundle", "other"), ("exit", "exit2"))] == 1
    assert ("eetoolkit_drift_alarms_total", (("bundle", "other"),)) not in found  # it was not tuned
    with pytest.raises(ee.RunError, match=r"^two monitors count bundles called 'it'"):
        ee.prometheus_text([monitor, monitor])


@pytest.mark.parametrize(
    ("package", "export"),
    [("prometheus_client", ee.prometheus_text), ("opentelemetry", ee.register_opentelemetry)],
)
def test_a_missing_extra_is_one_line_with_the_fix(
    package: str, export: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ee.RunError, match=r"need .+: install the extra 'monitor' \(README: Install\)$"):
        export(ee.Monitor())  # type: ignore[operator]


def test_what_is_no_monitor_registry_or_meter_is_refused() -> None:
    with pytest.raises(ee.RunError, match=r"^monitors is 'it', expected a Monitor or a list, each a Monitor$"):
        ee.prometheus_text("it")  # type: ignore[arg-type] # what is tried
    with pytest.raises(ee.RunError, match=r"^registry is 'it', expected a prometheus_client.CollectorRegistry$"):
        ee.register_prometheus(ee.Monitor(), "it")
    with pytest.raises(ee.RunError, match=r"^meter is 'it', expected an opentelemetry.metrics.Meter$"):
        ee.register_opentelemetry(ee.Monitor(), "it")

"""A monitor counts what runners answer, right, in constant memory, and keeps nothing of it."""

from __future__ import annotations

import gc
import json
import math
import os
import statistics
import sys
import threading
import tracemalloc
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plans import Array, Open, chain, opening, row
from test_monitor_drift import tuning_of

from eetoolkit_runtime.errors import DeadlineError, InputError, RunError
from eetoolkit_runtime.monitoring.histogram import BUCKETS, ERROR, LEAST_NS, MOST_NS, buckets_of, quantile_ms
from eetoolkit_runtime.monitoring.monitor import Monitor
from eetoolkit_runtime.monitoring.snapshot import MonitorSnapshot
from eetoolkit_runtime.plan.types import Manifest
from eetoolkit_runtime.running.answer import Answer, StoppedBy
from eetoolkit_runtime.running.interrupt import Interrupt
from eetoolkit_runtime.running.runner import Runner

STOPS = get_args(StoppedBy)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    yield from opening(tmp_path)


def rows(count: int) -> list[Array]:
    """Returns inputs of `chain`, whose columns are the exits' confidences."""
    return [row(*values) for values in np.random.default_rng(0).random((count, 3)).tolist()]


def check(snapshot: MonitorSnapshot, answers: list[Answer]) -> None:
    """Compares a snapshot with all answers that were given."""
    assert snapshot.answers == len(answers)
    for name, exit_ in snapshot.exits.items():
        here = [answer.confidence for answer in answers if answer.exit == name]
        assert exit_.answers == len(here)
        assert exit_.share == len(here) / len(answers)
        assert exit_.confidence_mean == pytest.approx(statistics.mean(here))
        assert exit_.confidence_variance == pytest.approx(statistics.variance(here))
    stopped = Counter(answer.stopped_by for answer in answers)
    assert snapshot.stopped_by == dict.fromkeys(STOPS, 0) | dict(stopped)


def test_it_counts_what_run_run_batch_and_stream_answer(opened: Open) -> None:
    monitor = Monitor()
    runner, inputs = opened(chain(), monitor=monitor), rows(1200)
    answers = [runner.run(x) for x in inputs]
    answers += [runner.run(x, deadline_ms=60_000) for x in inputs[:50]]
    found = monitor.snapshot()
    check(found, answers)
    assert sum(exit_.latency.calls for exit_ in found.exits.values()) == len(answers)
    assert found.batches.calls == 0
    answers += runner.run_batch(np.concatenate(inputs))
    answers += runner.stream(inputs[:90], rows=40)
    found = monitor.snapshot()
    check(found, answers)
    assert sum(exit_.latency.calls for exit_ in found.exits.values()) == 1250
    assert found.batches.calls == 4
    assert found.batches.p50_ms is not None
    assert found.batches.sum_ms > 0


def test_looking_at_all_exits_is_not_counted(opened: Open) -> None:
    monitor = Monitor()
    runner = opened(chain(), monitor=monitor)
    runner.run_all_exits(row(0.9))
    list(runner.refine(row(0.9)))
    runner.warmup(row(0.9))
    assert monitor.snapshot().answers == 0


def test_runners_of_a_bundle_share_a_monitor_from_many_threads_and_nothing_is_lost(opened: Open) -> None:
    monitor = Monitor()
    runners, inputs = [opened(chain(), monitor=monitor) for _ in range(2)], rows(400)

    def work(runner: Runner) -> None:
        for x in inputs:
            runner.run(x)
        monitor.snapshot()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        threads = [threading.Thread(target=work, args=(runner,)) for runner in runners * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    check(monitor.snapshot(), [opened(chain()).run(x) for x in inputs] * 4)


def test_another_bundle_is_refused(opened: Open) -> None:
    monitor = Monitor()
    opened(chain(), monitor=monitor)
    with pytest.raises(RunError, match=r"^monitor counts 'drafted', and this runner's bundle is another one"):
        opened(chain(0.7, 0.5), monitor=monitor)


def test_errors_are_counted_by_kind_and_what_was_stopped_too(opened: Open) -> None:
    monitor = Monitor()
    runner, token = opened(chain(), monitor=monitor), Interrupt()
    token.set()
    with pytest.raises(InputError):
        runner.run(np.zeros((1, 9), np.float32))
    with pytest.raises(DeadlineError):
        runner.run(row(0.9), interrupt=token)
    runner.run(row(0.9))
    runner.close()
    for _ in range(2):
        with pytest.raises(RunError):
            runner.run(row(0.9, 0.9).repeat(1, 0), deadline_ms=1000)
            runner.run([[1.0, 2.0, 3.0, 4.0]])
    found = monitor.snapshot()
    assert found.answers == 1
    assert found.errors == {"InputError": 1, "DeadlineError": 1, "RunError": 2, "other": 0}


def test_a_confidence_that_is_no_number_leaves_the_mean_alone(opened: Open) -> None:
    monitor = Monitor()
    runner = opened(chain(), monitor=monitor)
    for confidence in (0.75, math.nan, math.inf, 0.25):
        runner.run(row(0, 0, confidence))
    last = monitor.snapshot().exits["exit2"]
    assert (last.answers, last.confidence_mean, last.confidence_variance) == (4, 0.5, 0.125)


class Fake(NamedTuple):
    """What a monitor looks at of an answer."""

    exit: str
    confidence: float
    stopped_by: str


def attached(exits: int) -> Monitor:
    """Returns a monitor of a bundle with so many exits."""
    plan, monitor = chain(*[0.5] * (exits - 1)).plan(), Monitor()
    monitor.attach(plan, STOPS)
    return monitor


def test_its_memory_is_constant_and_at_most_64_kib_with_sixteen_exits() -> None:
    plan, answers = chain(*[0.5] * 15).plan(), [Fake(f"exit{k}", 0.1 + k / 20, "exit") for k in range(16)]
    plan = msgspec.structs.replace(plan, tuning=tuning_of(plan, dict.fromkeys(plan.exits, (1 / 16, 1 / 32, 1 / 8))))
    fill(plan, answers)  # what imports and caches take is not the monitor's
    gc.collect()
    tracemalloc.start()
    try:
        monitor, held = fill(plan, answers)
    finally:
        tracemalloc.stop()
    assert max(held) <= 64 << 10
    assert max(held) <= max(held[:100]) + 200  # numbers of more digits
    assert monitor.snapshot().answers == 6400
    assert monitor.snapshot().drift.rows == 6400


def fill(plan: Manifest, answers: list[Fake]) -> tuple[Monitor, array[int]]:
    """Returns a monitor that has counted these answers 400 times, and how many bytes there were after each time."""
    monitor, held = Monitor(), array("q", bytes(400 * 8))
    monitor.attach(plan, STOPS)
    for turn in range(400):
        for answer in answers:
            monitor.count(answer, 0, True)
        held[turn] = tracemalloc.get_traced_memory()[0]
    return monitor, held


def test_no_answer_is_kept(opened: Open) -> None:
    def references(runner: Runner) -> list[int]:
        answer, (other, *_) = runner.run(row(0.9)), runner.run_batch(np.concatenate(rows(3)))
        outputs = [each.outputs["logits"] for each in (answer, other)]
        return [sys.getrefcount(answer), sys.getrefcount(other), *map(sys.getrefcount, outputs)]

    assert references(opened(chain(), monitor=Monitor())) == references(opened(chain()))


@given(st.lists(st.integers(LEAST_NS, MOST_NS), min_size=1, max_size=60), st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]))
def test_quantiles_are_within_the_stated_error(latencies: list[int], share: float) -> None:
    counts = np.bincount(buckets_of(np.array(latencies, np.float64)), minlength=BUCKETS)
    exact = sorted(latencies)[math.floor(share * (len(latencies) - 1))]
    found = quantile_ms(counts, share)
    assert found is not None
    assert abs(found * 1e6 - exact) <= ERROR * exact * (1 + 1e-9)


def test_times_beyond_the_ends_are_counted_at_the_ends() -> None:
    assert buckets_of(np.array([0.0, 1.0, LEAST_NS, MOST_NS])).tolist() == [0, 0, 0, BUCKETS - 1]
    monitor = attached(3)
    monitor.count(Fake("exit1", 0.5, "end"), -(10**19), False)
    found = monitor.snapshot()
    assert found.stopped_by["end"] == found.exits["exit1"].latency.calls == 1
    assert found.exits["exit1"].latency.sum_ms == pytest.approx(MOST_NS / 1e6)


def test_a_snapshot_is_json_and_text(opened: Open) -> None:
    monitor = Monitor()
    assert monitor.snapshot().drift.why_no_rule == str(monitor.snapshot()) == "no runner has this monitor yet"
    runner = opened(chain(), monitor=monitor)
    runner.run(row(0.9))
    assert str(monitor.snapshot()).startswith(f"drafted: 1 answer since {monitor.snapshot().since}, 0 errors")
    runner.run_batch(np.concatenate(rows(3)))
    found = monitor.snapshot()
    assert "\n1 batch, p50 " in str(found)
    assert msgspec.json.decode(msgspec.json.encode(found), type=MonitorSnapshot) == found
    assert json.loads(msgspec.json.encode(found))["exits"]["exit0"]["answers"] == found.exits["exit0"].answers
    lines = str(found).splitlines()
    assert lines[0] == f"drafted: 4 answers since {found.since}, 0 errors"
    assert lines[1].startswith(f"exit0 {found.exits['exit0'].share:.1%}, confidence ")
    assert lines[-1].startswith("drift: no rule: the bundle was not tuned")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows cannot fork")
def test_a_forked_process_begins_at_zero_even_where_a_thread_held_the_lock() -> None:
    monitor = attached(3)
    monitor.count(Fake("exit0", 0.5, "exit"), 0, False)
    monitor.renew()  # what a child calls
    assert monitor.snapshot().answers == 0
    assert list(monitor.snapshot().exits) == ["exit0", "exit1", "exit2"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"false_alarms": 0}, "false_alarms is 0, expected 1e-09 to 1"),
        ({"per_rows": 1}, r"per_rows is 1, expected 256 to 1e\+15"),
        ({"per_rows": 0.5}, "per_rows is 0.5, expected a whole number"),
    ],
)
def test_settings_that_are_none_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(RunError, match=f"^{message}$"):
        Monitor(**settings)  # type: ignore[arg-type] # what is tried
    with pytest.raises(RunError, match="monitor is True, expected a Monitor or None"):
        Runner("it.ee", monitor=True)  # type: ignore[arg-type] # what is tried

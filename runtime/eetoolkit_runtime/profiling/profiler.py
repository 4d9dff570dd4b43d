"""Measuring what each segment and each exit of a bundle costs on this machine."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from eetoolkit_runtime.arguments import check_range, checked
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.errors import InputError
from eetoolkit_runtime.plan.types import Manifest, Work
from eetoolkit_runtime.profiling.costs import Energy, ExitCost, Memory, SegmentCost, WholeCost
from eetoolkit_runtime.profiling.energy import Meter, find_meter
from eetoolkit_runtime.profiling.exit_costs import ExitsOwn, exits_own
from eetoolkit_runtime.profiling.latency import Latency
from eetoolkit_runtime.profiling.machine import (
    Condition,
    condition,
    peak_bytes,
    resident_bytes,
    this_machine,
    timer_step_us,
)
from eetoolkit_runtime.profiling.operators import TRACED_ROWS, Traced, trace_operators
from eetoolkit_runtime.profiling.profile import Profile, digests
from eetoolkit_runtime.profiling.rounds import (
    Cooler,
    Found,
    Row,
    Runs,
    Tell,
    groups_of,
    measure,
    rows_in_a_round,
    rows_of,
    warm_up,
)
from eetoolkit_runtime.profiling.whole import Whole, open_whole
from eetoolkit_runtime.running.answer import Answer
from eetoolkit_runtime.running.inputs import Inputs
from eetoolkit_runtime.running.providers import Provider, choose_providers
from eetoolkit_runtime.running.runner import Runner
from eetoolkit_runtime.running.sessions import Pool, SessionSettings, Spin

_COMPARED_ROWS = 16  # with the whole network's outputs
_WALKED_ROWS = 64  # to come to every exit
_IDLE_S = 0.5
LONGEST_S = 24 * 3600
"""How long may be measured."""
_OWN_PART = 0.5  # of the seconds: for what exits add to their segments; as much again for tracing


@checked(InputError)
def profile(  # noqa: PLR0913 - what a measurement depends on
    bundle: str | Path | Bundle,
    inputs: Inputs | Iterator[Inputs] | None = None,
    labels: npt.ArrayLike | None = None,
    *,
    threads: int | None = None,
    spin: Spin = "brief",
    pool: Pool = "own",
    providers: Sequence[Provider] | None = None,
    seconds: float = 5.0,
    max_rows: int = 256,
    whole: str | os.PathLike[str] | None = None,
    operators: bool = False,
    cool_down_s: float = 60.0,
    progress: Callable[[str, int, int], object] | None = None,
) -> Profile:
    """Runs a bundle on this machine and returns what its segments and exits cost.

    Rounds over the inputs, or where that takes too long over some of them in turn, alternate between full paths whose
    segments are timed one by one, full paths that are timed as one, and calls as they are made in use, which stop at
    the first confident exit. All rounds count after the warm-up, outliers too. What exits add to their segments, and
    operators, are measured afterwards in sessions of their own.

    Args:
        bundle: A `Bundle`, or the path of one.
        inputs: Any number of rows, best real ones: shares and expected latency are theirs. An iterator gives them one
            by one, which may then differ in shape, as texts do. None: the golden samples.
        labels: The right class of every row, for accuracies; without use where answers name no class.
        threads: As the `Runner`'s, like `spin`, `pool` and `providers`.
        spin: See `threads`.
        pool: See `threads`.
        providers: See `threads`.
        seconds: How long to measure after the warm-up, about.
        max_rows: How many rows are timed at most, in the shares of all; fewer where `seconds` do not suffice for them.
            All are answered once, for shares and accuracies.
        whole: An ONNX file of the same network, which is run in turns with the bundle.
        operators: Whether to trace which operators cost most.
        cool_down_s: How long to pause at most, in all, after rounds that left the machine 10 degrees hotter than it
            was or its clock lowered; 0: never.
        progress: Is told (what, done, total) from time to time.

    Raises:
        BundleError: The bundle cannot be opened.
        InputError: Inputs that it does not take, or none at all; labels of another number; a file that is not there
            or takes other inputs.
        RunError: onnxruntime failed, or it has no such providers.
    """
    check_range(InputError, "seconds", seconds, 0, LONGEST_S)
    check_range(InputError, "cool_down_s", cool_down_s, 0, LONGEST_S)
    check_range(InputError, "max_rows", max_rows, 1, math.inf)
    tell: Tell = progress or (lambda _what, _done, _total: None)
    chosen = choose_providers(providers)
    settings = SessionSettings(threads, spin, pool, chosen, one_row=True)
    start = _look()
    with Runner(bundle, threads=threads, spin=spin, pool=pool, providers=chosen) as runner:
        asked = _ask(runner, inputs, labels)
        network = None if whole is None else open_whole(whole, runner.bundle.manifest, settings)
        groups = groups_of(asked.answers, asked.rows, max_rows, rows_in_a_round(runner, asked.rows, seconds))
        timed = _time(runner, network, asked.rows, groups, seconds, Cooler(start.condition, cool_down_s), start, tell)
        exits = _exits(runner, timed.found, asked)
        expected, full_path = _expected(timed.found, exits), timed.found.full.summary()
        peer = None if network is None else _whole_cost(runner, network, asked.rows, timed.found, expected, full_path)
        opened, plan = runner.bundle, runner.bundle.manifest
    segments = _segments(plan, timed.found, asked)
    tell("exits", 0, 0)
    exits = _with_own(exits, exits_own(opened, asked.rows[:_WALKED_ROWS], settings, seconds * _OWN_PART))
    if operators:
        tell("operators", 0, 0)
        traced = trace_operators(opened, asked.rows[:TRACED_ROWS], settings, seconds * _OWN_PART)
        segments = _with_operators(segments, traced)
    return Profile(
        bundle=plan.name,
        files=digests(plan),
        measured=start.began.isoformat(timespec="seconds"),
        machine=this_machine(),
        backend="python",
        timer_step_us=timer_step_us(),
        before=start.condition,
        after=timed.after,
        threads=threads,
        spin=spin,
        pool=pool,
        providers=asked.providers,
        rows=len(asked.rows),
        timed=len(set(timed.found.places)),
        rounds=timed.found.rounds,
        warmup_rounds=timed.warmup_rounds,
        steady=timed.steady,
        thresholds={name: exit_.threshold for name, exit_ in plan.exits.items()},
        cooled_s=timed.cooled_s,
        segments=segments,
        exits=exits,
        expected=expected,
        full_path=full_path,
        overhead_us=1e3 * float(np.median(timed.found.overheads)),
        accuracy=None if asked.right is None else _accuracy(asked.answers, asked.right),
        memory=Memory(before=start.resident, opened=asked.opened, peak=timed.peak),
        whole=peer,
        energy=None if start.meter is None else _energy(start.meter, start.idle_w, timed.found),
    )


@dataclass(frozen=True)
class _Start:
    """The machine before anything ran; `idle_w` is its draw by the meter, `resident` this process's memory in bytes."""

    began: datetime
    condition: Condition
    resident: int | None
    meter: Meter | None
    idle_w: float


@dataclass(frozen=True)
class _Asked:
    """All inputs, each answered once: shares, visits and accuracies are theirs.

    Attributes:
        rows: The inputs.
        answers: Theirs, with the bundle's thresholds.
        right: Their classes, (rows,); None without labels, or where no answer names a class.
        load_ms: What opening each segment took.
        opened: This process's memory with all segments open, in bytes.
        providers: What the segments run on.
    """

    rows: list[Row]
    answers: list[Answer]
    right: npt.NDArray[Any] | None
    load_ms: dict[str, float]
    opened: int | None
    providers: tuple[str, ...]


@dataclass(frozen=True)
class _Timed:
    """What the rounds found, and the machine after them; `peak` is the most memory that this process has had."""

    found: Found
    warmup_rounds: int
    steady: bool
    cooled_s: float
    peak: int | None
    after: Condition


def _look() -> _Start:
    """Looks at the machine while it does nothing."""
    before, began, resident, meter = condition(), datetime.now(UTC), resident_bytes(), find_meter()
    return _Start(began, before, resident, meter, 0.0 if meter is None else _idle_w(meter))


def _ask(runner: Runner, inputs: Inputs | Iterator[Inputs] | None, labels: npt.ArrayLike | None) -> _Asked:
    """Opens all segments and runs every input once."""
    rows = rows_of(runner.bundle, inputs)
    right = _labels(labels, len(rows))
    load_ms, opened = _open_all(runner), resident_bytes()
    answers = [runner.run(row) for row in rows]
    named = any(answer.prediction is not None for answer in answers)
    return _Asked(rows, answers, right if named else None, load_ms, opened, runner.providers)


def _time(
    runner: Runner,
    network: Whole | None,
    rows: Sequence[Row],
    groups: Sequence[Sequence[int]],
    seconds: float,
    cooler: Cooler,
    start: _Start,
    tell: Tell,
) -> _Timed:
    """Warms up with the first group and runs rounds until the time is up."""
    warmup, steady = warm_up(runner, network, [rows[place] for place in groups[0]], tell)
    found = measure(runner, network, rows, groups, seconds, cooler, start.meter, tell)
    return _Timed(found, warmup, steady, cooler.paused_s, peak_bytes(), condition())


def _with_own(exits: Mapping[str, ExitCost], own: Mapping[str, ExitsOwn]) -> dict[str, ExitCost]:
    """Returns the exits' costs with what each adds to its segment, where that is known."""
    return {
        name: msgspec.structs.replace(cost, decision=own[name].decision, passing=own[name].passing)
        if name in own
        else cost
        for name, cost in exits.items()
    }


def _with_operators(segments: Mapping[str, SegmentCost], traced: Traced) -> dict[str, SegmentCost]:
    """Returns the segments' costs with what was traced of their nodes."""
    costs, traced_ms = traced.operators(), traced.segment_ms()
    return {
        name: msgspec.structs.replace(cost, operators=costs.get(name), traced_ms=traced_ms.get(name))
        for name, cost in segments.items()
    }


def _segments(plan: Manifest, found: Found, asked: _Asked) -> dict[str, SegmentCost]:
    return {
        name: SegmentCost(
            **msgspec.structs.asdict(segment.work or Work(nodes=0, parameters=0)),
            size_bytes=sum(plan.files[file].size for file in (segment.model, *segment.weights) if file is not None),
            load_ms=asked.load_ms[name],
            latency=None if name not in found.segments else found.segments[name].summary(),
            visits=sum(answer.path.count(name) for answer in asked.answers) / len(asked.answers),
            exit=None if segment.exit is None else segment.exit.name,
        )
        for name, segment in plan.segments.items()
        if segment.model is not None
    }


def _exits(runner: Runner, found: Found, asked: _Asked) -> dict[str, ExitCost]:
    exits: dict[str, ExitCost] = {}
    answers, right = asked.answers, asked.right
    segments, ends = runner.bundle.manifest.segments, runner.bundle.manifest.ends
    means = {name: runs.summary().robust_ms for name, runs in found.segments.items()}
    calls: dict[str, Runs] = {}
    called: dict[str, Counter[tuple[str, ...]]] = {}
    for place, took in zip(found.places, found.calls.took_ms, strict=True):
        answer = answers[place]
        end = answer.exit
        if answer.stopped_by == "end" and end not in ends:  # the most confident exit was passed
            last = segments[answer.path[-1]].exit if answer.path else None
            end = last.name if last is not None and last.ends else ends[0]
        calls.setdefault(end, Runs()).add(took, asked.rows[place])
        called.setdefault(end, Counter())[answer.path] += 1
    for name in runner.bundle.exits:
        here = [place for place, answer in enumerate(answers) if answer.exit == name]
        exits[name] = ExitCost(
            latency=found.exits[name].summary() if name in found.exits else None,
            segments_ms=_mean_of_paths(found.reached[name], means) if name in found.reached else None,
            call=calls[name].summary() if name in calls else None,
            called_ms=_mean_of_paths(called[name], means) if name in called else None,
            expected_ms=sum(calls[name].took_ms) / len(found.places) if name in calls else 0.0,
            share=len(here) / len(answers),
            accuracy=None if right is None or not here else _accuracy([answers[i] for i in here], right[here]),
            accuracy_if_always=None if right is None else _always(runner, asked.rows, right, name),
        )
    return exits


def _mean_of_paths(paths: Counter[tuple[str, ...]], means: Mapping[str, float]) -> float:
    """Returns what the segments of some paths take in the mean, each path as often as it was run."""
    return sum(count * sum(means[name] for name in path) for path, count in paths.items()) / paths.total()


def _expected(found: Found, exits: Mapping[str, ExitCost]) -> Latency:
    """Returns the summary of all calls; what is robust is so for each exit, since deep calls are no outliers."""
    calls = [cost.call for cost in exits.values() if cost.call is not None]
    robust_ms = sum(call.runs * call.robust_ms for call in calls) / len(found.places)
    return msgspec.structs.replace(found.calls.summary(), robust_ms=robust_ms)


def _whole_cost(
    runner: Runner, network: Whole, rows: Sequence[Row], found: Found, expected: Latency, full_path: Latency
) -> WholeCost:
    last = runner.bundle.manifest.ends[0]
    known = [network.difference(row, runner.run(row, exit_at=last).outputs) for row in rows[:_COMPARED_ROWS]]
    latency = found.whole.summary()
    return WholeCost(
        file=network.file,
        latency=latency,
        ratio=expected.mean_ms / latency.mean_ms,
        full_path_ratio=full_path.p50_ms / latency.p50_ms,
        difference=max((difference for difference in known if difference is not None), default=None),
    )


def _idle_w(meter: Meter) -> float:
    first = meter.read()
    time.sleep(_IDLE_S)
    last = meter.read()
    return meter.joules([first, last]) / (last.seconds - first.seconds)


def _energy(meter: Meter, idle_w: float, found: Found) -> Energy:
    each = {
        what: 1e3 * sum(meter.joules(readings) for readings in rounds) / len(found.places)
        for what, rounds in found.energy.items()
    }
    return Energy(meter=meter.name, idle_w=idle_w, call_mj=each["call"], full_path_mj=each["full path"])


def _accuracy(answers: Sequence[Answer], right: npt.NDArray[Any]) -> float:
    return float(np.mean([answer.prediction == label for answer, label in zip(answers, right, strict=True)]))


def _open_all(runner: Runner) -> dict[str, float]:
    """Opens every segment; returns how long each took, in milliseconds."""
    found = {}
    for name, segment in runner.bundle.manifest.segments.items():
        if segment.model is not None:
            started = time.perf_counter()
            runner.open(name)
            found[name] = (time.perf_counter() - started) * 1e3
    return found


def _always(runner: Runner, rows: Sequence[Row], right: npt.NDArray[Any], exit_: str) -> float | None:
    answers = [runner.run(row, exit_at=exit_) for row in rows]
    came = [answer.prediction == label for answer, label in zip(answers, right, strict=True) if answer.exit == exit_]
    return float(np.mean(came)) if came else None


def _labels(labels: npt.ArrayLike | None, rows: int) -> npt.NDArray[Any] | None:
    if labels is None:
        return None
    found = np.asarray(labels)
    if found.shape != (rows,) or found.dtype.kind not in "iu":
        raise InputError(f"labels are {found.dtype}{list(found.shape)}, expected integers, one for each of {rows} rows")
    return found

"""Measuring what each segment and each exit of a bundle costs on this machine."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from eetoolkit_runtime.answer import Answer
from eetoolkit_runtime.arguments import check_range, checked
from eetoolkit_runtime.bundle import Bundle
from eetoolkit_runtime.errors import InputError
from eetoolkit_runtime.inputs import Inputs
from eetoolkit_runtime.plan import Manifest, Work
from eetoolkit_runtime.profiling.costs import Energy, ExitCost, Memory, SegmentCost, WholeCost
from eetoolkit_runtime.profiling.energy import Meter, find_meter
from eetoolkit_runtime.profiling.exit_costs import exits_own
from eetoolkit_runtime.profiling.latency import Latency
from eetoolkit_runtime.profiling.machine import condition, peak_bytes, resident_bytes, this_machine
from eetoolkit_runtime.profiling.operators import TRACED_ROWS, trace_operators
from eetoolkit_runtime.profiling.profile import Profile, digests
from eetoolkit_runtime.profiling.rounds import (
    LEAST_ROUNDS,
    Cooler,
    Found,
    Row,
    Runs,
    Tell,
    measure,
    rows_of,
    size_of,
    warm_up,
)
from eetoolkit_runtime.profiling.whole import Whole, open_whole
from eetoolkit_runtime.providers import Provider, choose_providers
from eetoolkit_runtime.runner import Runner
from eetoolkit_runtime.sessions import Pool, SessionSettings, Spin

_COMPARED_ROWS = 16  # with the whole network's outputs
_WALKED_ROWS = 64  # to come to every exit
_TIMED_ROWS = 8  # at least, however slow the network
_ROUND_S = 0.25  # a round, about: what a machine's speed changes by meanwhile is taken for a difference
_GOLDEN = (5**0.5 - 1) / 2  # whose multiples modulo 1 are spread evenly, however many of them
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
    before, began, resident = condition(), datetime.now(UTC), resident_bytes()
    tell: Tell = progress or (lambda _what, _done, _total: None)
    chosen = choose_providers(providers)
    settings = SessionSettings(threads, spin, pool, chosen, one_row=True)
    meter = find_meter()
    idle_w = 0.0 if meter is None else _idle_w(meter)
    with Runner(bundle, threads=threads, spin=spin, pool=pool, providers=chosen) as runner:
        plan = runner.bundle.manifest
        rows = rows_of(runner.bundle, inputs)
        right = _labels(labels, len(rows))
        load_ms = _open_all(runner)
        opened = resident_bytes()
        running_on = runner.providers
        answers = [runner.run(row) for row in rows]
        if all(answer.prediction is None for answer in answers):
            right = None
        one = None if whole is None else open_whole(whole, plan, settings)
        groups = _groups(answers, rows, max_rows, _fitting(runner, rows, seconds))
        warmup, steady = warm_up(runner, one, [rows[place] for place in groups[0]], tell)
        cooler = Cooler(before, cool_down_s)
        found = measure(runner, one, rows, groups, seconds, cooler, meter, tell)
        memory = Memory(before=resident, opened=opened, peak=peak_bytes())
        after = condition()
        segments = _segments(plan, found, answers, load_ms)
        exits = _exits(runner, found, rows, answers, right)
        difference = None if one is None else _difference(runner, one, rows[:_COMPARED_ROWS])
        opened_bundle = runner.bundle
    tell("exits", 0, 0)
    own = exits_own(opened_bundle, rows[:_WALKED_ROWS], settings, seconds * _OWN_PART)
    exits = {
        name: msgspec.structs.replace(cost, decision=own[name].decision, passing=own[name].passing)
        if name in own
        else cost
        for name, cost in exits.items()
    }
    if operators:
        tell("operators", 0, 0)
        traced = trace_operators(opened_bundle, rows[:TRACED_ROWS], settings, seconds * _OWN_PART)
        costs, traced_ms = traced.operators(), traced.segment_ms()
        segments = {
            name: msgspec.structs.replace(cost, operators=costs.get(name), traced_ms=traced_ms.get(name))
            for name, cost in segments.items()
        }
    expected, full_path = _expected(found, exits), found.full.summary()
    return Profile(
        bundle=plan.name,
        files=digests(plan),
        measured=began.isoformat(timespec="seconds"),
        machine=this_machine(),
        before=before,
        after=after,
        threads=threads,
        spin=spin,
        pool=pool,
        providers=running_on,
        rows=len(rows),
        timed=len(set(found.places)),
        rounds=found.rounds,
        warmup_rounds=warmup,
        steady=steady,
        thresholds={name: exit_.threshold for name, exit_ in plan.exits.items()},
        cooled_s=cooler.paused_s,
        segments=segments,
        exits=exits,
        expected=expected,
        full_path=full_path,
        overhead_us=1e3 * float(np.median(found.overheads)),
        accuracy=None if right is None else _accuracy(answers, right),
        memory=memory,
        whole=None if one is None else _whole_cost(one, found, expected, full_path, difference),
        energy=None if meter is None else _energy(meter, idle_w, found),
    )


def _segments(
    plan: Manifest, found: Found, answers: Sequence[Answer], load_ms: dict[str, float]
) -> dict[str, SegmentCost]:
    return {
        name: SegmentCost(
            **msgspec.structs.asdict(segment.work or Work(nodes=0, parameters=0)),
            size_bytes=sum(plan.files[file].size for file in (segment.model, *segment.weights) if file is not None),
            load_ms=load_ms[name],
            latency=None if name not in found.segments else found.segments[name].summary(),
            visits=sum(answer.path.count(name) for answer in answers) / len(answers),
            exit=None if segment.exit is None else segment.exit.name,
        )
        for name, segment in plan.segments.items()
        if segment.model is not None
    }


def _exits(
    runner: Runner, found: Found, rows: Sequence[Row], answers: Sequence[Answer], right: npt.NDArray[Any] | None
) -> dict[str, ExitCost]:
    exits: dict[str, ExitCost] = {}
    segments = runner.bundle.manifest.segments
    means = {name: runs.summary().robust_ms for name, runs in found.segments.items()}
    calls: dict[str, Runs] = {}
    called: dict[str, Counter[tuple[str, ...]]] = {}
    for place, took in zip(found.places, found.calls.took_ms, strict=True):
        answer = answers[place]
        last = segments[answer.path[-1]].exit if answer.path else None
        end = answer.exit if last is None else last.name  # the most confident exit may have been passed
        calls.setdefault(end, Runs()).add(took, rows[place])
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
            accuracy_if_always=None if right is None else _always(runner, rows, right, name),
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


def _fitting(runner: Runner, rows: Sequence[Row], seconds: float) -> int:
    """Returns how many rows fit into a round, each run up to five times, and to each exit."""
    tried = rows[:_TIMED_ROWS]
    started = time.perf_counter()
    for row in tried:
        runner.run_all_exits(row)
    row_s = (time.perf_counter() - started) / len(tried)
    times = 5 + len(runner.bundle.exits) / 2
    return max(_TIMED_ROWS, int(min(seconds / LEAST_ROUNDS, _ROUND_S) / (times * row_s)))


def _groups(answers: Sequence[Answer], rows: Sequence[Row], most: int, together: int) -> list[list[int]]:
    """Returns the places of at most so many rows, in groups of so many that are run together.

    In each group each exit has its share, and of its rows so have all sizes; as evenly as may be also in the first few
    groups together, since time may not suffice for all.
    """
    alike = sorted(range(len(rows)), key=lambda n: (answers[n].exit, size_of(rows[n])))
    kept = min(most, len(alike))
    alike = [alike[int((place + 0.5) * len(alike) / kept)] for place in range(kept)]
    count = max(1, kept // together)
    order = np.argsort(np.argsort(np.arange(count) * _GOLDEN % 1))
    return [sorted(alike[first::count]) for first in order.tolist()]


def _whole_cost(
    whole: Whole, found: Found, expected: Latency, full_path: Latency, difference: float | None
) -> WholeCost:
    latency = found.whole.summary()
    return WholeCost(
        file=whole.file,
        latency=latency,
        ratio=expected.mean_ms / latency.mean_ms,
        full_path_ratio=full_path.p50_ms / latency.p50_ms,
        difference=difference,
    )


def _difference(runner: Runner, whole: Whole, rows: Sequence[Row]) -> float | None:
    last = next(name for name, exit_ in runner.bundle.exits.items() if exit_.ends)
    answers = [runner.run(row, exit_at=last) for row in rows]
    known = [whole.difference(row, answer.outputs) for row, answer in zip(rows, answers, strict=True)]
    return max((difference for difference in known if difference is not None), default=None)


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

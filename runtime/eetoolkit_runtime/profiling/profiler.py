"""Measuring what each segment and each exit of a bundle costs on this machine."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from eetoolkit_runtime.arguments import check_range, checked
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.errors import InputError
from eetoolkit_runtime.plan.types import Manifest, Work
from eetoolkit_runtime.profiling.asking import OPENED_BY, Asked, ask
from eetoolkit_runtime.profiling.budget import LONGEST_S, Budget
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
from eetoolkit_runtime.profiling.operators import TRACED_ROUNDS, TRACED_ROWS, Traced, trace_operators
from eetoolkit_runtime.profiling.probe import measure_link
from eetoolkit_runtime.profiling.profile import Profile, digests
from eetoolkit_runtime.profiling.rounds import (
    Cooler,
    Found,
    Runs,
    Tell,
    groups_of,
    measure,
    rows_in_a_round,
    warm_up,
)
from eetoolkit_runtime.profiling.whole import Whole, open_whole
from eetoolkit_runtime.running.answer import Answer
from eetoolkit_runtime.running.inputs import Inputs
from eetoolkit_runtime.running.providers import Providers, choose_providers
from eetoolkit_runtime.running.runner import Runner
from eetoolkit_runtime.running.sessions import Pool, SessionSettings, Spin

_COMPARED_ROWS = 16  # with the whole network's outputs
_WALKED_ROWS = 64  # to come to every exit
_IDLE_S = 0.5
_LINK_S = 2.0
# What has passed of the seconds when a part ends; what it leaves is the next one's.
_WARM_BY, _ROUNDS_BY, _OWN_BY = 0.55, 0.75, 0.9
_REOPENED = 3  # sessions for each segment: as it is, without its decision, without its exit


@checked(InputError)
def profile(  # noqa: PLR0913 - what a measurement depends on
    bundle: str | Path | Bundle,
    inputs: Inputs | Iterator[Inputs] | None = None,
    labels: npt.ArrayLike | None = None,
    *,
    threads: int | None = None,
    spin: Spin = "brief",
    pool: Pool = "own",
    providers: Providers | None = None,
    seconds: float = 10.0,
    max_rows: int = 256,
    whole: str | os.PathLike[str] | None = None,
    operators: bool = False,
    cool_down_s: float = 60.0,
    remote: Mapping[str, object] | None = None,
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
        seconds: How long all of it may take, opening and warm-up included. What is running then is brought to its end,
            and one input is run whatever it takes; `Profile.no_time_for` says which figures are missing. 0: without a
            bound, each figure from as few runs as it needs.
        max_rows: How many rows are timed at most, in the shares of all; fewer where `seconds` do not suffice for them.
            All are answered once, for shares and accuracies.
        whole: An ONNX file of the same network, which is run in turns with the bundle.
        operators: Whether to trace which operators cost most.
        cool_down_s: How long to pause at most, in all and beside `seconds`, after rounds that left the machine 10
            degrees hotter than it was or its clock lowered; 0: never.
        remote: A server that goes on, as the `Runner` takes it: the link to it is measured at last, for two seconds
            beside `seconds`. All else is measured without it.
        progress: Is told (what, done, total) from time to time.

    Raises:
        BundleError: The bundle cannot be opened.
        InputError: Inputs that it does not take, or none at all; labels of another number; a file that is not there
            or takes other inputs.
        RunError: onnxruntime failed, or it has no such providers.
        RemoteError: The server cannot be asked.
    """
    check_range(InputError, "seconds", seconds, 0, LONGEST_S)
    check_range(InputError, "cool_down_s", cool_down_s, 0, LONGEST_S)
    check_range(InputError, "max_rows", max_rows, 1, math.inf)
    tell: Tell = progress or (lambda _what, _done, _total: None)
    budget = Budget(seconds)
    chosen = choose_providers(providers)
    settings = SessionSettings(threads, spin, pool, chosen, one_row=True)
    start = _look(budget)
    open_runner = partial(Runner, threads=threads, spin=spin, pool=pool, providers=chosen)
    with open_runner(bundle) as runner:
        asked = ask(runner, inputs, labels, budget, tell)
        network = _whole(whole, runner, settings, asked, budget)
        timed = _time(runner, network, asked, max_rows, budget, Cooler(start.condition, cool_down_s), start, tell)
        exits = _exits(runner, timed.found, asked)
        expected, full_path = _expected(timed.found, exits), timed.found.full.summary()
        peer = _whole_cost(runner, network, asked, timed.found, expected, full_path, budget)
        opened, plan = runner.bundle, runner.bundle.manifest
    segments = _segments(plan, timed.found, asked)
    tell("exits", 0, 0)
    exits = _with_own(exits, _own(opened, asked, settings, budget.until(_OWN_BY if operators else 1.0)))
    if operators:
        tell("operators", 0, 0)
        segments = _with_operators(segments, _traced(opened, asked, timed.found, settings, budget))
    link = None
    if remote is not None:
        with open_runner(opened, remote=remote) as runner:
            link = measure_link(runner, asked.rows[0], seconds=_LINK_S)
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
        no_time_for=budget.lacks(),
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
        link=link,
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
class _Timed:
    """What the rounds found, and the machine after them; `peak` is the most memory that this process has had."""

    found: Found
    warmup_rounds: int
    steady: bool
    cooled_s: float
    peak: int | None
    after: Condition


def _look(budget: Budget) -> _Start:
    """Looks at the machine while it does nothing."""
    before, began, resident, meter = condition(), datetime.now(UTC), resident_bytes(), find_meter()
    if meter is not None and not budget.until(OPENED_BY).allows(2 * _IDLE_S):
        budget.lack("energy")
        meter = None
    return _Start(began, before, resident, meter, 0.0 if meter is None else _idle_w(meter))


def _whole(
    file: str | os.PathLike[str] | None, runner: Runner, settings: SessionSettings, asked: Asked, budget: Budget
) -> Whole | None:
    """Opens the whole network where one is given and there is time."""
    if file is None:
        return None
    if budget.until(_WARM_BY).allows(asked.load_s):
        return open_whole(file, runner.bundle.manifest, settings)
    budget.lack("whole")
    return None


def _time(
    runner: Runner,
    network: Whole | None,
    asked: Asked,
    max_rows: int,
    budget: Budget,
    cooler: Cooler,
    start: _Start,
    tell: Tell,
) -> _Timed:
    """Warms up with the first group and runs rounds until the time is up."""
    groups = groups_of(
        asked.answers, asked.rows, max_rows, rows_in_a_round(runner, asked.rows, budget.until(_ROUNDS_BY))
    )
    warmup, steady = warm_up(runner, network, [asked.rows[place] for place in groups[0]], budget.until(_WARM_BY), tell)
    found = measure(runner, network, asked.rows, groups, budget.until(_ROUNDS_BY), cooler, start.meter, tell)
    return _Timed(found, warmup, steady, cooler.paused_s, peak_bytes(), condition())


def _own(bundle: Bundle, asked: Asked, settings: SessionSettings, budget: Budget) -> dict[str, ExitsOwn]:
    """Measures what exits add to their segments where there is time to open these again."""
    if not budget.allows(_REOPENED * asked.load_s + asked.call_s):
        budget.lack("passing")
        return {}
    return exits_own(bundle, asked.rows[:_WALKED_ROWS], settings, budget)


def _traced(bundle: Bundle, asked: Asked, found: Found, settings: SessionSettings, budget: Budget) -> Traced:
    """Traces operators where there is time to open the segments again and to run some rows."""
    row_s = found.full.summary().mean_ms / 1e3
    if not budget.allows(asked.load_s + (2 + TRACED_ROUNDS) * row_s):
        budget.lack("operators")
        return Traced(())
    return trace_operators(bundle, asked.rows[:TRACED_ROWS], settings, budget.left() if budget.bounded else 0.0)


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


def _segments(plan: Manifest, found: Found, asked: Asked) -> dict[str, SegmentCost]:
    return {
        name: SegmentCost(
            **msgspec.structs.asdict(segment.work or Work(nodes=0, parameters=0)),
            size_bytes=sum(plan.files[file].size for file in (segment.model, *segment.weights) if file is not None),
            load_ms=asked.load_ms.get(name),
            latency=None if name not in found.segments else found.segments[name].summary(),
            visits=sum(answer.path.count(name) for answer in asked.answers) / len(asked.answers),
            exit=None if segment.exit is None else segment.exit.name,
        )
        for name, segment in plan.segments.items()
        if segment.model is not None
    }


def _exits(runner: Runner, found: Found, asked: Asked) -> dict[str, ExitCost]:
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
            accuracy_if_always=float(np.mean(asked.always[name])) if asked.always.get(name) else None,
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
    runner: Runner,
    network: Whole | None,
    asked: Asked,
    found: Found,
    expected: Latency,
    full_path: Latency,
    budget: Budget,
) -> WholeCost | None:
    if network is None or not found.whole.took_ms:
        return None
    latency = found.whole.summary()
    last, row_s = runner.bundle.manifest.ends[0], (latency.mean_ms + full_path.mean_ms) / 1e3
    known: list[float | None] = []
    for row in asked.rows[:_COMPARED_ROWS]:
        if not known or budget.until(_OWN_BY).allows(row_s):
            known.append(network.difference(row, runner.run(row, exit_at=last).outputs))
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

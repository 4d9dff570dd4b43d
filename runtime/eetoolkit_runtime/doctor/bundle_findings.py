"""What a bundle does on this machine, what is wrong with it, and what would make it faster: measured, not guessed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from eetoolkit_runtime.bundle.bundle import Bundle, load_again
from eetoolkit_runtime.doctor.finding import Finding
from eetoolkit_runtime.doctor.quantized_findings import quantized_findings
from eetoolkit_runtime.errors import BundleError, EEToolkitError, InputError, RunError
from eetoolkit_runtime.profiling.budget import Budget
from eetoolkit_runtime.profiling.machine import memory_bytes, resident_bytes, this_machine
from eetoolkit_runtime.profiling.profile import Profile, digests, saved_profile
from eetoolkit_runtime.profiling.rounds import Row
from eetoolkit_runtime.running.inputs import golden_rows
from eetoolkit_runtime.running.release import is_new_enough
from eetoolkit_runtime.running.runner import Runner
from eetoolkit_runtime.running.sessions import Spin
from eetoolkit_runtime.verify import verify

_ROWS = 8
_TURNS = 3  # at most
_RUNS = 2  # of each row in a turn, at least: the first one warms up
_TICK_S = 1e-6
_MEMORY_BY = 0.3  # of the time has passed when the memory is known
_WORTH = 1.1  # how many times as fast other settings must be to be worth a word
_TIE = 1.05  # settings this close to the fastest are as good
_MOST_MEMORY = 0.5  # of what is available


@dataclass(frozen=True)
class _Settings:
    threads: int | None
    spin: Spin
    told: str


_DEFAULT = _Settings(None, "brief", "the defaults")
# The best first where they tie. Not `always`: in a chain its idle workers take the cores from the segment that runs.
_OTHERS = (
    _Settings(1, "brief", "threads=1 (--threads 1)"),
    _Settings(None, "never", "spin='never' (--spin never)"),
)


def examine_bundle(
    bundle: str | Path | Bundle, *, seconds: float = 10.0, progress: Callable[[str, int, int], object] | None = None
) -> Iterator[Finding]:
    """Yields what a bundle does on this machine; ends where it cannot be opened.

    Args:
        bundle: A `Bundle`, or the path of one.
        seconds: How long it may take; what it would take longer for is a finding. 0: without a bound.
        progress: Is told (what, done, total).
    """
    tell, budget = progress or (lambda _what, _done, _total: None), Budget(seconds)
    tell("opening", 0, 0)
    try:
        opened = load_again(bundle, check="full")
    except (BundleError, OSError) as error:
        yield Finding(name="bundle", state="problem", what=str(error), fix="copy or export it again")
        return
    plan = opened.manifest
    made = ", ".join(f"{key} {value}" for key, value in plan.created_with.items() if key != "source")
    yield Finding(name="bundle", what=f"{opened}; made with {made}; every file has its hash")
    if plan.onnxruntime is not None:
        enough = is_new_enough(plan.onnxruntime)
        what = f"{plan.onnxruntime} or newer, {ort.__version__} is installed"
        fix = None if enough else f"pip install --upgrade 'onnxruntime>={plan.onnxruntime}'"
        yield Finding(name="onnxruntime needed", state="ok" if enough else "problem", what=what, fix=fix)
        if not enough:
            return
    yield from quantized_findings(opened)
    try:
        rows = golden_rows(opened)
        taken = _Taken()
        yield from _memory(opened, rows[:_ROWS], budget, taken)
        yield _verified(opened, len(rows), budget, taken, tell)
        if rows:
            yield from _faster(opened, rows[: taken.rows], budget, taken, tell)
    except EEToolkitError as error:
        yield Finding(name="running", state="problem", what=str(error), fix="run `eetoolkit verify` for more")
        return
    try:
        found = saved_profile(opened)
    except BundleError as error:
        yield Finding(name="profile", state="warning", what=str(error), fix="eetoolkit profile BUNDLE --save")
        return
    yield _profiled(opened, found)
    if found is not None and found.files == digests(plan):
        yield from _exits(found)


@dataclass
class _Taken:
    """What opening every segment took in seconds, what a row run to the end took in the mean, and how many were run."""

    open_s: float = 0.0
    row_s: float = 0.0
    rows: int = 0


def _memory(bundle: Bundle, rows: Sequence[Row], budget: Budget, taken: _Taken) -> Iterator[Finding]:
    """Opens every segment and runs rows to the end: what that adds to this process is what the bundle needs."""
    before, free = resident_bytes(), memory_bytes("MemAvailable")
    if free is not None and bundle.size_bytes > free:
        yield Finding(
            name="fits", state="problem", what=f"{bundle.size_bytes / 1e6:.0f} MB, {free / 1e6:.0f} MB are available",
            fix="end other programs, or cut it off at an earlier exit: eetoolkit truncate",
        )  # fmt: skip
    started = time.perf_counter()
    with Runner(bundle, threads=1, load="eager") as runner:
        opened = time.perf_counter()
        taken.open_s = opened - started
        for row in rows:
            if taken.rows and not budget.until(_MEMORY_BY).allows(taken.row_s):
                break
            runner.run_all_exits(row)
            taken.rows += 1
            taken.row_s = (time.perf_counter() - opened) / taken.rows
        after = resident_bytes()
    if before is None or after is None or free is None:
        return
    added = max(0, after - before)
    tight = added > _MOST_MEMORY * free
    fix = "cut it off at an earlier exit (eetoolkit truncate), or end other programs" if tight else None
    what = f"{added / 1e6:.0f} MB with every segment open, {free / 1e6:.0f} MB were available"
    yield Finding(name="memory needed", state="warning" if tight else "ok", what=what, fix=fix)


def _verified(
    bundle: Bundle, samples: int, budget: Budget, taken: _Taken, tell: Callable[[str, int, int], object]
) -> Finding:
    needed_s = taken.open_s + samples * taken.row_s
    if not budget.allows(needed_s):
        return _no_time("verify", needed_s)
    tell("verifying", 0, 0)
    try:
        report = verify(bundle)
    except InputError:
        fix = "export it with golden_inputs="
        return Finding(name="verify", state="warning", what="no golden samples to check this machine by", fix=fix)
    if report.passed:
        gave = "the source network" if bundle.manifest.quantization is None else "the quantised segments"
        told = "1 golden sample gives" if report.samples == 1 else f"{report.samples} golden samples give"
        return Finding(name="verify", what=f"{told} what {gave} gave")
    fix = "run `eetoolkit verify` for all of them; do not trust its answers here"
    return Finding(name="verify", state="problem", what=f"{len(report.failures)} failed: {report.failures[0]}", fix=fix)


def _no_time(name: str, needed_s: float) -> Finding:
    what = f"no time: it takes about {max(1.0, needed_s):.0f} s more"
    return Finding(name=name, state="warning", what=what, fix="more seconds (--seconds)")


def _faster(
    bundle: Bundle, rows: Sequence[Row], budget: Budget, taken: _Taken, tell: Callable[[str, int, int], object]
) -> Iterator[Finding]:
    """Measures other settings beside the defaults, turn after turn, each alone: their workers would fight."""
    all_ = (_DEFAULT, *_OTHERS)
    least_s = taken.open_s + _RUNS * len(rows) * taken.row_s
    turns = int(min(_TURNS, budget.left() / len(all_) / max(least_s, _TICK_S)))
    if not turns:
        yield _no_time("settings", len(all_) * least_s)
        return
    measured_s = budget.left() / turns / len(all_) - taken.open_s if budget.bounded else 0.0
    found: dict[_Settings, list[float]] = {settings: [] for settings in all_}
    try:
        for turn in range(turns):
            for number, settings in enumerate(all_):
                tell("measuring settings", turn * len(all_) + number, turns * len(all_))
                found[settings].append(_median_ms(bundle, rows, settings, measured_s))
    except RunError as error:  # a shared pool, beside which no other can be had
        yield Finding(name="settings", state="warning", what=f"not measured: {error}")
        return
    best = {settings: min(medians) for settings, medians in found.items()}
    fastest = min(best.values())
    told = ", ".join(f"{settings.told.split(' (')[0]} {best[settings]:.3f} ms" for settings in all_)
    what = f"a full path: {told}"
    if best[_DEFAULT] < fastest * _WORTH:
        yield Finding(name="settings", what=what)
        return
    better = next(settings for settings in _OTHERS if best[settings] <= fastest * _TIE)
    fix = f"{better.told}: {best[_DEFAULT] / best[better]:.2f} times as fast here"
    yield Finding(name="settings", state="warning", what=what, fix=fix)


def _median_ms(bundle: Bundle, rows: Sequence[Row], settings: _Settings, seconds: float) -> float:
    with Runner(bundle, threads=settings.threads, spin=settings.spin, load="eager") as runner:
        until = time.perf_counter() + seconds
        for row in rows:
            runner.run_all_exits(row)
        found: list[npt.NDArray[np.float64]] = []
        round_s = 0.0
        while not found or time.perf_counter() + round_s < until:
            began = time.perf_counter()
            taken = np.empty(len(rows))
            for place, row in enumerate(rows):
                started = time.perf_counter_ns()
                runner.run_all_exits(row)
                taken[place] = (time.perf_counter_ns() - started) / 1e6
            found.append(taken)
            round_s = time.perf_counter() - began
    return float(np.median(found, axis=0).mean())


def _profiled(bundle: Bundle, found: Profile | None) -> Finding:
    fix = f"eetoolkit profile {bundle.place} --save"
    if found is None:
        what = "none is saved, so deadlines go by what segments have taken since the start"
        return Finding(name="profile", state="warning", what=what, fix=fix)
    if found.files != digests(bundle.manifest):
        return Finding(name="profile", state="warning", what="the one that is saved is of other graphs", fix=fix)
    here = this_machine()
    other = [
        f"{what} {getattr(found.machine, what)}, here {getattr(here, what)}"
        for what in ("processor", "cores", "system", "onnxruntime")
        if getattr(found.machine, what) != getattr(here, what)
    ]
    if other:
        return Finding(name="profile", state="warning", what=f"of another machine: {'; '.join(other)}", fix=fix)
    return Finding(name="profile", what=f"of this machine, measured {found.measured}")


def _exits(found: Profile) -> Iterator[Finding]:
    """Weighs what an exit costs those that go on against the most that it can save those that leave."""
    for name, cost in found.exits.items():
        visits = sum(segment.visits for segment in found.segments.values() if segment.exit == name)
        if cost.passing is None or cost.latency is None or found.full_path is None:
            continue
        costs_us = (visits - cost.share) * max(0.0, cost.passing.added_us - cost.passing.error_us)
        left_us = 1e3 * (found.full_path.p50_ms - (cost.call or cost.latency).p50_ms)
        saves_us = cost.share * max(0.0, left_us)
        what = f"costs the mean input {costs_us:.1f} us, saves it at most {saves_us:.1f} us ({cost.share:.1%} leave)"
        if costs_us <= saves_us:
            yield Finding(name=f"exit {name}", what=what)
            continue
        fix = "lower its threshold, or export without it"
        yield Finding(name=f"exit {name}", state="warning", what=what, fix=fix)

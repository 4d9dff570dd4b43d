"""What a machine has for running bundles, and what holds it back, as kernel, environment and onnxruntime say."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnxruntime as ort

from eetoolkit_runtime.doctor.finding import Finding
from eetoolkit_runtime.profiling.energy import find_meter
from eetoolkit_runtime.profiling.machine import condition, memory_bytes, read_number, read_text, this_machine
from eetoolkit_runtime.running import telemetry
from eetoolkit_runtime.running.sessions import brief_spin_is_known, shared_pool_threads

_BUSY_S = 0.2  # until a governor has raised the clock
_SLOW = 0.8  # of the fastest clock
_HOT_C = 80.0  # where a Raspberry Pi begins to lower its clock (its documentation, "Frequency management")
_NEAR_C = 10.0
_LITTLE_MEMORY = 0.1
_BUSY_MACHINE = 0.5  # of a core, for each that this process may use
_NOT_READ = ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT")  # onnxruntime has its own workers since 1.3, not OpenMP's


def examine_machine(root: Path = Path("/"), environment: Mapping[str, str] | None = None) -> list[Finding]:
    """Returns what this machine is and what of it makes bundles slow or keeps them from running.

    Args:
        root: Where `/sys` and `/proc` are.
        environment: None: that of this process.
    """
    return [
        *_machine(),
        *_runtime(),
        *_cores(root),
        *_settings(os.environ if environment is None else environment),
        *_clock(root),
        *_heat(root),
        *_memory(root),
        *_load(root),
        *_energy(root),
    ]


def _machine() -> Iterator[Finding]:
    machine = this_machine()
    memory = "" if machine.memory_bytes is None else f", {machine.memory_bytes / 1e9:.1f} GB of memory"
    yield Finding(name="machine", what=f"{machine.processor}, {machine.cores} cores{memory}, {machine.system}")
    if sys.maxsize > 2**32:
        yield Finding(name="python", what=f"{machine.python}, 64-bit, numpy {machine.numpy}")
    else:
        fix = "install a 64-bit system: onnxruntime has no wheels for 32 bits"
        yield Finding(name="python", state="problem", what=f"{machine.python}, 32-bit", fix=fix)


def _runtime() -> Iterator[Finding]:
    what = f"{ort.__version__}, {', '.join(ort.get_available_providers())}"
    if brief_spin_is_known():
        yield Finding(name="onnxruntime", what=what)
    else:
        fix = "update onnxruntime: before 1.26, spin='brief' can only stop idle workers at the end of each segment"
        yield Finding(name="onnxruntime", state="warning", what=what, fix=fix)


def _cores(root: Path) -> Iterator[Finding]:
    """Looks for fewer cores than onnxruntime thinks: it starts a worker for each physical core, whatever is allowed."""
    all_, allowed = os.cpu_count() or 1, this_machine().cores
    quota = _quota(root)
    may_use = allowed if quota is None else min(allowed, quota)
    if may_use >= all_:
        yield Finding(name="cores", what=f"all {all_} may be used")
        return
    limits = [f"{allowed} of {all_} allowed (affinity)"] if allowed < all_ else []
    limits += [f"a quota of {quota:g} (cgroup)"] if quota is not None and quota < all_ else []
    number = max(1, math.floor(may_use))
    yield Finding(
        name="cores", state="warning", what=", ".join(limits),
        fix=f"pass threads={number} (--threads {number}): onnxruntime's default does not see this limit",
    )  # fmt: skip


def _quota(root: Path) -> float | None:
    """Returns how many cores' time this process may use by its cgroup, version 2 or 1; None where it has no limit."""
    base, found = root / "sys/fs/cgroup", []
    lines = (read_text(root / "proc/self/cgroup") or "").splitlines()
    own = next((line[3:] for line in lines if line.startswith("0::")), "/").strip("/")
    folder = base / own
    for place in (folder, *folder.parents):
        if not place.is_relative_to(base):
            break
        quota, _, period = (read_text(place / "cpu.max") or "").partition(" ")
        if quota.isdigit() and period.isdigit():
            found.append(int(quota) / int(period))
    quota_us, period_us = (read_number(base / f"cpu/cpu.cfs_{what}_us") for what in ("quota", "period"))
    if quota_us is not None and period_us and quota_us > 0:
        found.append(quota_us / period_us)
    return min(found, default=None)


def _settings(environment: Mapping[str, str]) -> Iterator[Finding]:
    given = [f"{name}={environment[name]}" for name in _NOT_READ if name in environment]
    if given:
        fix = "pass threads= (--threads) and spin= (--spin): onnxruntime's own workers heed no variable"
        yield Finding(name="environment", state="warning", what=", ".join(given), fix=fix)
    if telemetry.tells(environment):
        yield Finding(
            name="telemetry", state="warning",
            what="onnxruntime tells its makers how it is used: a thread, files in the home folder, and processes that "
            "do not end where they were forked",
            fix=f"set {telemetry.SWITCH}=1 before onnxruntime is imported",
        )  # fmt: skip
    threads = shared_pool_threads()
    if threads is not None:
        yield Finding(
            name="shared pool", state="warning",
            what=f"this process has onnxruntime's shared pool, {threads or 'all'} threads: it refuses sessions with "
            "default options",
            fix="give your own sessions use_per_session_threads = False, or run bundles with pool='own' from the start",
        )  # fmt: skip


def _clock(root: Path) -> Iterator[Finding]:
    """Reads the clock of a core that has just been kept busy: an idle one says nothing."""
    files = list((root / "sys/devices/system/cpu").glob("cpu*/cpufreq/scaling_cur_freq"))
    now = condition(root)
    if not files or now.limit_mhz is None:
        told = "the kernel does not tell" if now.clock_mhz is None else f"{now.clock_mhz:,.0f} MHz"
        yield Finding(name="clock", what=told)
        return
    until = time.perf_counter() + _BUSY_S
    while time.perf_counter() < until:
        pass
    fastest = max((k / 1e3 for path in files if (k := read_number(path)) is not None), default=0.0)
    what = f"{fastest:,.0f} MHz when busy, of {now.limit_mhz:,.0f}" + (f", {now.governor}" if now.governor else "")
    if fastest >= _SLOW * now.limit_mhz:
        yield Finding(name="clock", what=what)
        return
    fix = "set the governor: echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
    yield Finding(name="clock", state="warning", what=what, fix=fix)


def _heat(root: Path) -> Iterator[Finding]:
    now = condition(root)
    if now.temperature_c is not None:
        hot = now.temperature_c >= _HOT_C - _NEAR_C
        fix = f"cool it: boards lower their clock from about {_HOT_C:.0f} on" if hot else None
        what = f"{now.temperature_c:.0f} degrees Celsius"
        yield Finding(name="temperature", state="warning" if hot else "ok", what=what, fix=fix)
    if now.throttling or now.throttled:
        when = "is lowered now" if now.throttling else "has been lowered since the start"
        fix = "a stronger power supply, or better cooling"
        yield Finding(name="throttling", state="warning", what=f"the clock {when}", fix=fix)
    elif now.throttled is not None:
        yield Finding(name="throttling", what="none since the start")


def _memory(root: Path) -> Iterator[Finding]:
    all_, free = memory_bytes("MemTotal", root), memory_bytes("MemAvailable", root)
    if all_ is None or free is None:
        return
    little = free < _LITTLE_MEMORY * all_
    fix = "end other programs: weights that are mapped from disk are read again and again" if little else None
    what = f"{free / 1e9:.1f} of {all_ / 1e9:.1f} GB available"
    yield Finding(name="memory", state="warning" if little else "ok", what=what, fix=fix)


def _load(root: Path) -> Iterator[Finding]:
    load = condition(root).load
    if load is None:
        return
    busy = load > _BUSY_MACHINE * this_machine().cores
    fix = "measure when nothing else runs, or give it fewer threads" if busy else None
    what = f"{load:.1f} programs were running at a time in the last minute"
    yield Finding(name="load", state="warning" if busy else "ok", what=what, fix=fix)


def _energy(root: Path) -> Iterator[Finding]:
    meter = find_meter(root)
    what = "no meter that this process may read" if meter is None else f"measured by {meter.name}"
    yield Finding(name="energy", what=what)

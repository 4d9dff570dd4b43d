"""What a latency depends on beside the network: the machine, and the state it is in, from the kernel's own files."""

from __future__ import annotations

import os
import platform
import time
from itertools import pairwise
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import onnxruntime as ort

_READINGS = 1000
_THROTTLING_NOW = 0b1111  # under-voltage, frequency capped, throttled, soft temperature limit; bits 16 to 19: ever


class Machine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A machine and the libraries on it; an empty string stands for what is not there or not told.

    Attributes:
        processor: As the kernel calls it.
        cores: How many logical cores this process may use.
        memory_bytes: Of the whole machine; None where nothing tells.
        system: Kernel and architecture.
    """

    processor: str
    cores: int
    memory_bytes: int | None = None
    system: str = ""
    python: str = ""
    onnxruntime: str = ""
    numpy: str = ""


class Condition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The state a machine is in; None where its kernel does not tell.

    Attributes:
        governor: Who sets the clock, such as `performance` or `ondemand`; several are joined by `, `.
        clock_mhz: The mean clock of all cores now.
        limit_mhz: The clock that the fastest core may reach.
        temperature_c: The hottest sensor, in degrees Celsius.
        throttled: Whether heat or a weak power supply has lowered the clock since the start.
        throttling: Whether it does now.
        load: How many programs ran or waited for a core in the last minute, in the mean; this process counts.
    """

    governor: str | None = None
    clock_mhz: float | None = None
    limit_mhz: float | None = None
    temperature_c: float | None = None
    throttled: bool | None = None
    throttling: bool | None = None
    load: float | None = None


def this_machine() -> Machine:
    """Returns the machine that this process runs on."""
    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_bytes=memory_bytes(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        onnxruntime=ort.__version__,
        numpy=np.__version__,
    )


def condition(root: Path = Path("/")) -> Condition:
    """Returns the machine's state now, from `/sys` and `/proc` below `root`."""
    cpus = root / "sys/devices/system/cpu"
    governors = {text for path in sorted(cpus.glob("cpu*/cpufreq/scaling_governor")) if (text := read_text(path))}
    clocks = [k / 1e3 for path in cpus.glob("cpu*/cpufreq/scaling_cur_freq") if (k := read_number(path)) is not None]
    limits = [k / 1e3 for path in cpus.glob("cpu*/cpufreq/scaling_max_freq") if (k := read_number(path)) is not None]
    zones = (root / "sys/class/thermal").glob("thermal_zone*/temp")
    temperatures = [t / 1e3 for path in zones if (t := read_number(path)) is not None and t > 0]
    return Condition(
        governor=", ".join(sorted(governors)) or None,
        clock_mhz=float(np.mean(clocks)) if clocks else _clock_of_cpuinfo(root),
        limit_mhz=max(limits, default=None),
        temperature_c=max(temperatures, default=None),
        throttled=_throttled(root),
        throttling=None if (word := _firmware_word(root)) is None else word & _THROTTLING_NOW != 0,
        load=_load(root),
    )


def instructions(root: Path = Path("/")) -> frozenset[str]:
    """Returns the processor's extensions as the kernel calls them, such as `avx2` or `asimddp`, if it does."""
    lines = (read_text(root / "proc/cpuinfo") or "").splitlines()
    told = next((line.split(":", 1)[1] for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(told.split())


def timer_step_us() -> float:
    """Returns the smallest difference that two readings of the clock can have here, in microseconds."""
    readings = [time.perf_counter_ns() for _ in range(_READINGS)]
    return min((after - before for before, after in pairwise(readings) if after > before), default=1) / 1e3


def resident_bytes() -> int | None:
    """Returns this process's resident memory; None where the kernel does not tell."""
    pages = (read_text(Path("/proc/self/statm")) or "").split()
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if len(pages) > 1 else None


def peak_bytes() -> int | None:
    """Returns the most memory that this process has had resident; None where the kernel does not tell."""
    lines = (read_text(Path("/proc/self/status")) or "").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def _throttled(root: Path) -> bool | None:
    """Whether the clock was lowered: the Raspberry Pi's firmware word, or the count that x86 kernels keep."""
    if (word := _firmware_word(root)) is not None:
        return word != 0
    counts = (root / "sys/devices/system/cpu").glob("cpu*/thermal_throttle/core_throttle_count")
    found = [count for path in counts if (count := read_number(path)) is not None]
    return any(found) if found else None


def _firmware_word(root: Path) -> int | None:
    """Returns the Raspberry Pi's `get_throttled`; elsewhere None."""
    text = read_text(root / "sys/devices/platform/soc/soc:firmware/get_throttled")
    try:
        return None if text is None else int(text, 16)
    except ValueError:
        return None


def _processor() -> str:
    lines = (read_text(Path("/proc/cpuinfo")) or "").splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    board = (read_text(Path("/proc/device-tree/model")) or "").strip("\0 ")
    return ", ".join(name for name in (model, board) if name) or platform.processor() or platform.machine()


def _load(root: Path) -> float | None:
    text = read_text(root / "proc/loadavg")
    return float(text.split()[0]) if text else None


def _clock_of_cpuinfo(root: Path) -> float | None:
    text = read_text(root / "proc/cpuinfo") or ""
    clocks = [float(line.split(":", 1)[1]) for line in text.splitlines() if line.startswith("cpu MHz")]
    return float(np.mean(clocks)) if clocks else None


def memory_bytes(which: Literal["MemTotal", "MemAvailable"] = "MemTotal", root: Path = Path("/")) -> int | None:
    """Returns the machine's memory, all of it or what a new process may have; None where the kernel does not tell."""
    for line in (read_text(root / "proc/meminfo") or "").splitlines():
        if line.startswith(f"{which}:"):
            return int(line.split()[1]) * 1024
    return None


def read_number(path: Path) -> float | None:
    """Returns the number in a kernel's file; None where there is none."""
    text = read_text(path)
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def read_text(path: Path) -> str | None:
    """Returns a kernel's file without its white space; None where it is not there or may not be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None

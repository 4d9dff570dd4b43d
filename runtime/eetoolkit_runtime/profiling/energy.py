"""The machine's own meters of energy and power, read from the kernel's files."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from eetoolkit_runtime.profiling.machine import read_number, read_text


@dataclass(frozen=True)
class Reading:
    """What a meter said at one moment.

    Attributes:
        seconds: When, on a clock of no meaning.
        joules: A counter that only grows, one for each part, if the meter counts energy.
        watts: The draw, if it measures power.
    """

    seconds: float
    joules: tuple[float, ...] = ()
    watts: float | None = None


@dataclass(frozen=True)
class Meter:
    """Counters of energy, or sensors of power; what several measure adds up.

    Attributes:
        name: What people may call it.
        counters: Files of microjoules, each with the number at which it begins again at 0 (Linux's powercap).
        sensors: Files of microwatts (Linux's hwmon and power_supply).
    """

    name: str
    counters: tuple[tuple[Path, float], ...] = ()
    sensors: tuple[Path, ...] = ()

    def read(self) -> Reading:
        """Returns what it says now; a part that cannot be read any more counts as 0."""
        now = time.perf_counter()
        if self.counters:
            return Reading(now, joules=tuple((read_number(path) or 0.0) / 1e6 for path, _ in self.counters))
        return Reading(now, watts=sum(read_number(path) or 0.0 for path in self.sensors) / 1e6)

    def joules(self, readings: Sequence[Reading]) -> float:
        """Returns the energy between the first and the last of some readings; power is linear between two."""
        total = 0.0
        for a, b in pairwise(readings):
            if a.watts is not None and b.watts is not None:
                total += (a.watts + b.watts) / 2 * (b.seconds - a.seconds)
            for (_, wraps_at), before, after in zip(self.counters, a.joules, b.joules, strict=True):
                total += after - before if after >= before else after - before + wraps_at / 1e6
        return total


def find_meter(root: Path = Path("/")) -> Meter | None:
    """Returns the meter of this machine below `root`; None where it has none that this process may read.

    Intel's and AMD's packages count energy (RAPL; most kernels let only root read it). On boards an INA sensor measures
    the power of the supply; on a laptop that is not plugged in, its battery does.
    """
    zones = sorted((root / "sys/class/powercap").glob("intel-rapl:*"))
    packages = [zone for zone in zones if zone.name.count(":") == 1 and (read_text(zone / "name") or "") != "psys"]
    counters = [
        (zone, range_)
        for zone in packages
        if read_number(zone / "energy_uj") is not None
        and (range_ := read_number(zone / "max_energy_range_uj")) is not None
    ]
    if counters:
        names = ", ".join(read_text(zone / "name") or zone.name for zone, _ in counters)
        return Meter(f"intel-rapl {names}", counters=tuple((zone / "energy_uj", range_) for zone, range_ in counters))
    for chip in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        name = read_text(chip / "name") or ""
        sensors = tuple(path for path in sorted(chip.glob("power*_input")) if read_number(path) is not None)
        if name.startswith("ina") and sensors:
            return Meter(name, sensors=sensors)
    for battery in sorted((root / "sys/class/power_supply").glob("*")):
        if read_text(battery / "status") == "Discharging" and read_number(battery / "power_now"):
            return Meter(f"battery {battery.name}", sensors=(battery / "power_now",))
    return None

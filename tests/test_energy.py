"""Meters: which one is read, and what it says between two readings."""

from __future__ import annotations

from pathlib import Path

import pytest

from eetoolkit_runtime.profiling.energy import Meter, Reading, find_meter


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def rapl(root: Path, zone: str, name: str, energy_uj: int) -> None:
    for file, value in (("name", name), ("energy_uj", str(energy_uj)), ("max_energy_range_uj", "1000000")):
        write(root / "sys/class/powercap" / zone / file, value)


def test_a_machine_without_a_meter_has_none(tmp_path: Path) -> None:
    assert find_meter(tmp_path) is None


def test_packages_count_energy_and_their_parts_are_not_counted_twice(tmp_path: Path) -> None:
    rapl(tmp_path, "intel-rapl:0", "package-0", 100_000)
    rapl(tmp_path, "intel-rapl:0:0", "core", 50_000)
    rapl(tmp_path, "intel-rapl:1", "package-1", 900_000)
    rapl(tmp_path, "intel-rapl:2", "psys", 5)
    meter = find_meter(tmp_path)
    assert meter is not None
    assert meter.name == "intel-rapl package-0, package-1"
    before = meter.read()
    rapl(tmp_path, "intel-rapl:0", "package-0", 350_000)
    rapl(tmp_path, "intel-rapl:1", "package-1", 100_000)  # it has begun again at 0
    assert meter.joules([before, meter.read()]) == pytest.approx(0.25 + 0.2)


def test_a_board_has_a_sensor_of_power(tmp_path: Path) -> None:
    write(tmp_path / "sys/class/hwmon/hwmon0/name", "cpu_thermal")
    write(tmp_path / "sys/class/hwmon/hwmon1/name", "ina226")
    write(tmp_path / "sys/class/hwmon/hwmon1/power1_input", "2500000")
    meter = find_meter(tmp_path)
    assert meter is not None
    assert meter.name == "ina226"
    assert meter.read().watts == pytest.approx(2.5)


def test_a_battery_counts_only_while_it_is_discharged(tmp_path: Path) -> None:
    battery = tmp_path / "sys/class/power_supply/BAT0"
    write(battery / "status", "Charging")
    write(battery / "power_now", "7000000")
    assert find_meter(tmp_path) is None
    write(battery / "status", "Discharging")
    meter = find_meter(tmp_path)
    assert meter is not None
    assert (meter.name, meter.read().watts) == ("battery BAT0", pytest.approx(7))


def test_power_between_two_readings_is_linear() -> None:
    meter = Meter("a sensor", sensors=(Path("power"),))
    readings = [Reading(0, watts=2), Reading(2, watts=4), Reading(3, watts=4)]
    assert meter.joules(readings) == pytest.approx(2 * 3 + 4)
    assert meter.joules(readings[:1]) == 0

"""A folder of profiles as a fleet: which file is which device, what is refused, and the table of all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from fleets import device, steady
from plans import chain
from shell import call

import eetoolkit as ee
from eetoolkit.fleet.figures import figures_of, p95_ms
from eetoolkit.fleet.quantile import read_quantile
from eetoolkit_runtime.profiling.latency import summarise
from eetoolkit_runtime.profiling.machine import Condition, Machine

edit = msgspec.structs.replace


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ee.Bundle:
    return ee.load(chain(0.5, 0.5).save(tmp_path_factory.mktemp("fleet") / "chain.ee"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "profiles").mkdir()
    return tmp_path / "profiles"


def named(processor: str) -> Machine:
    return Machine(processor=processor, cores=4)


# Which file is which device


def test_each_file_is_a_device_and_a_later_profile_of_the_same_is_none(bundle: ee.Bundle, folder: Path) -> None:
    one = device(bundle, (1, 1, 1))
    for name in ("pi", "pi-2", "rack-1", "rack-2", "rack-3"):
        one.write(folder / f"{name}.json")
    edit(one, machine=named("another")).write(folder / "pi-3.json")
    edit(one, providers=("CUDAExecutionProvider",)).write(folder / "pi-4.json")
    (folder / ".hidden.json").write_text("{")
    (folder / "notes.txt").write_text("{")
    (folder / "deeper").mkdir()
    one.write(folder / "deeper/other.json")
    found = ee.read_fleet(folder)
    assert {each.name: each.profiles for each in found.devices} == {
        "pi": 2, "pi-3": 1, "pi-4": 1, "rack-1": 1, "rack-2": 1, "rack-3": 1
    }  # fmt: skip
    assert (found.bundle, found.notes) == ("drafted", ())


def test_the_newest_profile_counts_whatever_its_file_is_called(bundle: ee.Bundle, folder: Path) -> None:
    times = {"pi": "2026-03-01T00:00:00Z", "pi-2": "2026-03-01T00:30:00+01:00", "pi-10": "2026-02-01T00:00:00"}
    for name, measured in times.items():
        device(bundle, (1, 1, 1), measured=measured).write(folder / f"{name}.json")
    (found,) = ee.read_fleet(folder).devices
    assert (found.file, found.profiles) == ("pi.json", 3)
    assert found.before is not None
    assert found.before.measured == times["pi-2"]


def test_a_profile_without_a_time_is_refused_only_where_times_matter(bundle: ee.Bundle, folder: Path) -> None:
    device(bundle, (1, 1, 1), measured="yesterday").write(folder / "pi.json")
    assert len(ee.read_fleet(folder).devices) == 1
    device(bundle, (1, 1, 1)).write(folder / "pi-2.json")
    with pytest.raises(ee.BundleError, match=r"^pi.json was measured 'yesterday', expected ISO 8601"):
        ee.read_fleet(folder)


# What is refused, and what is left out


def test_bundles_are_not_mixed_and_one_can_be_named(bundle: ee.Bundle, folder: Path) -> None:
    one = device(bundle, (1, 1, 1))
    one.write(folder / "a.json")
    for name in ("other", one.bundle):
        edit(one, bundle=name, files={"x.onnx": "0"}).write(folder / "b.json", overwrite=True)
        what = "of 'other'" if name == "other" else "of another build of 'drafted'"
        with pytest.raises(
            ee.BundleError, match=rf"^a.json is a profile of 'drafted', b.json {what}: a fleet is of one"
        ):
            ee.read_fleet(folder)
    found = ee.read_fleet(folder, bundle)
    assert [each.name for each in found.devices] == ["a"]
    assert found.notes == ("left out, since of another bundle: b.json",)


@pytest.mark.parametrize("text", ["[1]", '{"a": 1}', '{"machine": {}}', "5", '"text"'])
def test_json_that_is_no_profile_is_left_out_and_named(text: str, bundle: ee.Bundle, folder: Path) -> None:
    device(bundle, (1, 1, 1)).write(folder / "a.json")
    (folder / "settings.json").write_text(text)
    assert ee.read_fleet(folder).notes == ("left out, since no profile: settings.json",)


def test_a_file_that_is_larger_than_any_profile_is_left_out(
    bundle: ee.Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device(bundle, (1, 1, 1)).write(folder / "a.json")
    size = (folder / "a.json").stat().st_size
    monkeypatch.setattr("eetoolkit.fleet.fleet.LIMIT_BYTES", size)
    (folder / "data.json").write_text(" " * (size + 1))
    found = ee.read_fleet(folder)
    assert [each.name for each in found.devices] == ["a"]
    assert found.notes == ("left out, since no profile: data.json",)


DAMAGED: dict[str, Any] = {
    "cut off": lambda text: text[:300],
    "empty": lambda _: b"",
    "of another version": lambda text: text.replace(b'"version": 6', b'"version": 5'),
    "with a wrong value": lambda text: text.replace(b'"rows": 10', b'"rows": -1'),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_profile_goes_no_further(how: str, bundle: ee.Bundle, folder: Path) -> None:
    device(bundle, (1, 1, 1)).write(folder / "a.json")
    (folder / "b.json").write_bytes(DAMAGED[how]((folder / "a.json").read_bytes()))
    with pytest.raises(ee.BundleError, match=r"b\.json.*; or move it out of this folder$"):
        ee.read_fleet(folder)


def test_a_folder_without_profiles_is_refused(folder: Path) -> None:
    (folder / "settings.json").write_text("{}")
    said = "no profile in .*profiles; left out, since no profile: settings.json; write one by `profile --output FILE`$"
    with pytest.raises(ee.BundleError, match=said):
        ee.read_fleet(folder)
    for missing in (folder / "gone", folder / "settings.json"):
        with pytest.raises(ee.BundleError, match=r"^cannot read .*expected a folder with profiles$"):
            ee.read_fleet(missing)


def test_a_bundle_is_no_folder_of_profiles(bundle: ee.Bundle) -> None:
    with pytest.raises(ee.BundleError, match=r"chain\.ee is a bundle, expected a folder of profiles"):
        ee.read_fleet(bundle.path)


# Figures


def test_p95_is_that_of_the_runs(bundle: ee.Bundle, folder: Path) -> None:
    runs = np.random.default_rng(0).gamma(2, 3, 500)
    device(bundle, (1, 1, 1), expected=summarise(runs)).write(folder / "a.json")
    (found,) = figures_of(ee.read_fleet(folder)).devices
    assert found.call_p95_ms == pytest.approx(np.quantile(runs, 0.95), rel=1e-5)
    assert found.call_p50_ms == pytest.approx(np.median(runs))
    assert p95_ms(steady(3)) == 3


def test_quantiles_are_those_of_the_nearest_rank(bundle: ee.Bundle, folder: Path) -> None:
    for number in range(10):  # calls rise, full paths fall
        told = {"expected": steady(1 + number), "full_path": steady(100 - number)}
        device(bundle, (1, 1, 1), **told).write(folder / f"device{number}.json")
    quantiles = {each.name: each for each in figures_of(ee.read_fleet(folder)).quantiles}
    assert [each.devices for each in quantiles.values()] == [5, 9, 10]
    assert [each.call_p50_ms for each in quantiles.values()] == [5, 9, 10]
    assert [each.full_path_ms for each in quantiles.values()] == [95, 99, 100]
    device(bundle, (1, 1, 1), expected=None).write(folder / "unknown.json")
    assert [each.call_p50_ms for each in figures_of(ee.read_fleet(folder)).quantiles] == [None] * 3


@pytest.mark.parametrize(
    ("text", "count", "rank"),
    [("p70-device", 10, 7), ("p55-device", 100, 55), ("p90-device", 11, 10), ("p1-device", 3, 1),
     ("p99.5-device", 1000, 995), ("median-device", 4, 2), ("slowest-device", 4, 4), ("p100-device", 1, 1)],
)  # fmt: skip
def test_a_quantile_has_its_share_of_the_devices_at_it_or_before(text: str, count: int, rank: int) -> None:
    assert read_quantile(text).rank(count) == rank


@pytest.mark.parametrize(
    "text", ["p0-device", "p101-device", "p90", "90-device", "pi4", "", "p-5-device", "p1e1-device"]
)
def test_what_names_no_quantile_is_refused(text: str) -> None:
    with pytest.raises(ee.TuneError, match=rf"^for_='{text}' \(--for {text}\): expected pN-device"):
        read_quantile(text)


# The table


def test_the_table_has_a_row_for_each_device_and_says_what_changed(bundle: ee.Bundle, folder: Path) -> None:
    device(bundle, (4, 5, 6), machine=named("Raspberry Pi 3"), threads=None).write(folder / "attic.json")
    before = edit(named("Raspberry Pi 5"), onnxruntime="1.32.0")
    told: dict[str, Any] = {"thresholds": {"exit0": 0.9}, "machine": before, "before": Condition(governor="ondemand")}
    device(bundle, (1, 2, 3), **told).write(folder / "shed.json")
    told = {
        "thresholds": {"exit0": 0.7},
        "machine": edit(before, onnxruntime="1.33.0"),
        "before": Condition(governor="performance"),
        "measured": "2026-12-01T08:15:00Z",
    }
    device(bundle, (2, 3, 4), **told).write(folder / "shed-2.json")
    (folder / "other.json").write_text("{}")
    done = call("profiles", str(folder))
    assert done.exit_code == 0, done.output
    lines = [line.split("  ") for line in done.stdout.splitlines()]
    rows = [[cell.strip() for cell in line if cell] for line in lines]
    shares = ["33.3%"] * 3
    headings = ["device", "processor", "measured", "threads", "runs on", "call p50", "call p95", "full path"]
    assert rows[0] == [*headings, "exit0", "exit1", "exit2", "what changed"]
    attic = ["attic", "Raspberry Pi 3", "2026-11-01 00:00", "per core", "CPU", "4 ms", "4 ms", "15 ms"]
    assert rows[1] == [*attic, *shares]
    changes = "onnxruntime 1.32.0 to 1.33.0; governor ondemand to performance; threshold of exit0 >= 0.9 to >= 0.7"
    shed = ["shed", "Raspberry Pi 5", "2026-12-01 08:15", "1", "CPU", "2 ms", "2 ms", "9 ms"]
    assert rows[2] == [*shed, *shares, f"full path 1.50 times; {changes}"]
    assert rows[5] == ["median-device", "1 of 2", "2 ms", "2 ms", "9 ms"]
    assert rows[6] == ["p90-device", "2 of 2", "4 ms", "4 ms", "15 ms"]
    assert rows[-1] == ["note", "left out, since no profile: other.json"]


def test_the_slowest_come_first_where_that_is_asked_for(bundle: ee.Bundle, folder: Path) -> None:
    for name, first, rest in (("a", 1, 9), ("b", 3, 1), ("c", 2, 1)):
        device(bundle, (first, rest, rest)).write(folder / f"{name}.json")

    def order(*options: str) -> list[str]:
        return [
            each["name"] for each in json.loads(call("profiles", str(folder), *options, "--json").stdout)["devices"]
        ]

    assert order() == ["a", "b", "c"]
    assert order("--sort", "call") == order("--sort", "p95") == ["b", "c", "a"]
    assert order("--sort", "full-path") == ["a", "b", "c"]


def test_mistakes_of_the_command_line_are_one_line(bundle: ee.Bundle, folder: Path) -> None:
    done = call("profiles", str(folder / "gone"))
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "expected a folder with profiles" in done.stderr
    device(bundle, (1, 1, 1)).write(folder / "a.json")
    assert call("profiles", str(folder), "--bundle", str(bundle.path)).exit_code == 0
    assert call("profiles", str(folder), "--sort", "size").exit_code == 2

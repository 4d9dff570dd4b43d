"""The doctor says what it reads and measures: of a machine made of files, and of bundles that work and do not."""

from __future__ import annotations

import json
import math
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from plans import Draft, chain, recorded, row

import eetoolkit as ee
from eetoolkit.cli import main
from eetoolkit_runtime.doctor import bundle_findings, machine_findings
from eetoolkit_runtime.doctor.bundle_findings import examine_bundle
from eetoolkit_runtime.doctor.finding import Finding
from eetoolkit_runtime.doctor.machine_findings import examine_machine
from eetoolkit_runtime.profiling.costs import Added
from eetoolkit_runtime.profiling.profile import Profile

edit = msgspec.structs.replace


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def examined(root: Path, **environment: str) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine_machine(root, environment)}


def sampled(folder: Path, draft: Draft | None = None, *, wrong: bool = False) -> Path:
    """Returns a bundle with golden samples that are right, or whose outputs are not."""
    draft = draft or chain(0.5, 0.5)
    with ee.Runner(draft.save(folder / "source"), threads=1) as runner:
        samples = [recorded(runner, row(k, 1, 0, 0)) for k in (0, 1)]
    if wrong:
        for sample in samples:
            for visit in sample.visits:
                visit.outputs["logits"][...] += 1
    draft.samples = samples
    return draft.save(folder / "bundle.ee")


def of_bundle(bundle: Path) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine_bundle(bundle, seconds=0)}


# The machine


def test_this_machine_has_no_problem() -> None:
    found = {finding.name: finding for finding in ee.doctor()}
    assert {"machine", "python", "onnxruntime", "cores"} <= found.keys()
    assert [finding for finding in found.values() if finding.state == "problem"] == []
    assert all((finding.fix is None) == (finding.state == "ok") for finding in found.values())


def test_a_quota_of_fewer_cores_is_found_up_the_tree_of_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_findings.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(machine_findings.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert examined(tmp_path)["cores"] == Finding(name="cores", what="all 8 may be used")
    write(tmp_path / "proc/self/cgroup", "0::/service/inner")
    write(tmp_path / "sys/fs/cgroup/service/inner/cpu.max", "max 100000")
    write(tmp_path / "sys/fs/cgroup/service/cpu.max", "250000 100000")
    found = examined(tmp_path)["cores"]
    assert (found.state, found.what) == ("warning", "a quota of 2.5 (cgroup)")
    assert found.fix is not None
    assert found.fix.startswith("pass threads=2 ")


def test_a_quota_of_the_older_groups_and_an_affinity_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_findings.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(machine_findings.os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    write(tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000")
    write(tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000")
    found = examined(tmp_path)["cores"]
    assert found.what == "3 of 8 allowed (affinity), a quota of 0.5 (cgroup)"
    assert found.fix is not None
    assert found.fix.startswith("pass threads=1 ")


def test_variables_that_onnxruntime_does_not_read_are_named(tmp_path: Path) -> None:
    assert "environment" not in examined(tmp_path)
    found = examined(tmp_path, OMP_NUM_THREADS="3", HOME="/")["environment"]
    assert (found.state, found.what) == ("warning", "OMP_NUM_THREADS=3")


@pytest.mark.parametrize(("khz", "state"), [("600000", "warning"), ("1750000", "ok")])
def test_a_clock_that_stays_low_when_busy_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, khz: str, state: str
) -> None:
    monkeypatch.setattr(machine_findings, "_BUSY_S", 0)
    cpu = tmp_path / "sys/devices/system/cpu/cpu0/cpufreq"
    for name, text in (
        ("scaling_governor", "powersave"), ("scaling_cur_freq", khz), ("scaling_max_freq", "1800000"),
    ):  # fmt: skip
        write(cpu / name, text)
    found = examined(tmp_path)["clock"]
    assert found.state == state
    assert found.what == f"{int(khz) / 1000:,.0f} MHz when busy, of 1,800, powersave"


def test_heat_and_throttling_are_told(tmp_path: Path) -> None:
    write(tmp_path / "sys/class/thermal/thermal_zone0/temp", "45000")
    firmware = tmp_path / "sys/devices/platform/soc/soc:firmware/get_throttled"
    write(firmware, "0")
    assert {examined(tmp_path)[name].state for name in ("temperature", "throttling")} == {"ok"}
    write(tmp_path / "sys/class/thermal/thermal_zone0/temp", "79000")
    write(firmware, "50005")
    found = examined(tmp_path)
    assert found["temperature"].state == found["throttling"].state == "warning"
    assert found["throttling"].what == "the clock is lowered now"
    write(firmware, "50000")
    assert examined(tmp_path)["throttling"].what == "the clock has been lowered since the start"


def test_little_memory_and_a_busy_machine_are_told(tmp_path: Path) -> None:
    write(tmp_path / "proc/meminfo", "MemTotal: 1000000 kB\nMemAvailable: 50000 kB")
    write(tmp_path / "proc/loadavg", "99.5 1 1 1/1 1")
    found = examined(tmp_path)
    assert (found["memory"].state, found["memory"].what) == ("warning", "0.1 of 1.0 GB available")
    assert found["load"].state == "warning"
    write(tmp_path / "proc/meminfo", "MemTotal: 1000000 kB\nMemAvailable: 900000 kB")
    write(tmp_path / "proc/loadavg", "0.0 0 0 1/1 1")
    found = examined(tmp_path)
    assert found["memory"].state == found["load"].state == "ok"


def test_a_shared_pool_and_an_old_onnxruntime_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "shared pool" not in examined(tmp_path)
    monkeypatch.setattr(machine_findings, "shared_pool_threads", lambda: 0)
    monkeypatch.setattr(machine_findings, "brief_spin_is_known", lambda: False)
    found = examined(tmp_path)
    assert found["shared pool"].state == found["onnxruntime"].state == "warning"
    assert "all threads" in found["shared pool"].what


# A bundle


def test_a_bundle_that_works_is_verified_and_lacks_only_a_profile(tmp_path: Path) -> None:
    found = of_bundle(sampled(tmp_path))
    assert found["bundle"].state == found["memory needed"].state == found["verify"].state == "ok"
    assert found["verify"].what == "2 golden samples give what the source network gave"
    assert found["settings"].what.startswith("a full path: the defaults ")
    assert found["profile"].state == "warning"
    assert found["profile"].fix is not None
    assert found["profile"].fix.endswith("bundle.ee --save")


def test_one_golden_sample_is_told_as_one(tmp_path: Path) -> None:
    draft = chain(0.5, 0.5)
    with ee.Runner(draft.save(tmp_path / "source"), threads=1) as runner:
        draft.samples = [recorded(runner, row(0, 1, 0, 0))]
    found = of_bundle(draft.save(tmp_path / "bundle.ee"))
    assert found["verify"].what == "1 golden sample gives what the source network gave"


def test_wrong_answers_are_a_problem(tmp_path: Path) -> None:
    found = of_bundle(sampled(tmp_path, wrong=True))
    assert found["verify"].state == "problem"


def test_a_bundle_without_golden_samples_is_not_verified(tmp_path: Path) -> None:
    found = of_bundle(chain().save(tmp_path / "bundle.ee"))
    assert (found["verify"].state, found["verify"].fix) == ("warning", "export it with golden_inputs=")
    assert "settings" not in found


def test_a_bundle_that_cannot_be_opened_is_one_problem(tmp_path: Path) -> None:
    (finding,) = examine_bundle(tmp_path / "none.ee")
    assert (finding.state, finding.what) == ("problem", f"{tmp_path / 'none.ee'} does not exist")
    folder = sampled(tmp_path)
    weights = next(folder.glob("golden-*"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    (finding,) = examine_bundle(folder)
    assert finding.state == "problem"
    assert "the file was changed" in finding.what


def test_the_onnxruntime_that_a_bundle_needs_is_told_and_an_older_one_is_a_problem(tmp_path: Path) -> None:
    draft = chain(0.5, 0.5)
    draft.options["onnxruntime"] = "1.18"
    found = of_bundle(sampled(tmp_path, draft))
    told = f"1.18 or newer, {ort.__version__} is installed"
    assert (found["onnxruntime needed"].state, found["onnxruntime needed"].what) == ("ok", told)
    assert found["verify"].state == "ok"
    draft.options["onnxruntime"] = "99.0"
    (_, finding) = examine_bundle(draft.save(tmp_path / "newer.ee"))
    assert (finding.name, finding.state) == ("onnxruntime needed", "problem")
    assert (finding.what, finding.fix) == (
        f"99.0 or newer, {ort.__version__} is installed", "pip install --upgrade 'onnxruntime>=99.0'"
    )  # fmt: skip


def test_a_graph_that_onnxruntime_does_not_take_is_a_problem(tmp_path: Path) -> None:
    draft = chain()
    draft.graphs["segment1"].graph.node[0].op_type = "NoSuchOperator"
    found = of_bundle(draft.save(tmp_path / "bundle.ee"))
    assert found["running"].state == "problem"
    assert "segment 'segment1'" in found["running"].what


def saved(folder: Path, **changes: object) -> dict[str, Finding]:
    """Returns what is found of a bundle in which a profile was saved that differs from a true one."""
    x = np.array([[1, 0, 0, 0], [0, 0, 0, 0]], np.float32)
    path = sampled(folder)
    bundle = ee.load(path)
    edit(ee.profile(bundle, x, threads=1, seconds=0), **changes).save(bundle)
    return of_bundle(path)


def test_a_saved_profile_is_of_this_machine_or_not(tmp_path: Path) -> None:
    assert saved(tmp_path / "own")["profile"].state == "ok"
    here = machine_findings.this_machine()
    found = saved(tmp_path / "other", machine=edit(here, processor="another", cores=99))["profile"]
    assert found.state == "warning"
    assert found.what == (f"of another machine: processor another, here {here.processor}; cores 99, here {here.cores}")


def priced(found: Profile, *, share: float, passing_us: float) -> Finding:
    """Returns what is found of the exit `exit0` with a share and a price, the full path taking 1 ms longer."""
    first = edit(found.exits["exit0"], share=share, passing=Added(added_us=passing_us, error_us=1))
    at = first.call or first.latency
    assert at is not None
    full_path = edit(found.full_path, p50_ms=at.p50_ms + 1)
    (finding, *_) = bundle_findings._exits(edit(found, exits={"exit0": first}, full_path=full_path))
    return finding


def test_an_exit_that_costs_more_than_it_can_save_is_told(tmp_path: Path) -> None:
    x = np.array([[1, 0, 0, 0], [0, 0, 0, 0]], np.float32)
    found = ee.profile(sampled(tmp_path), x, threads=1, seconds=0)
    cheap, dear = priced(found, share=0.5, passing_us=21), priced(found, share=0.01, passing_us=21)
    assert (cheap.state, dear.state) == ("ok", "warning")
    assert cheap.what == "costs the mean input 10.0 us, saves it at most 500.0 us (50.0% leave)"
    assert dear.what == "costs the mean input 19.8 us, saves it at most 10.0 us (1.0% leave)"


def test_faster_settings_are_recommended_only_where_they_are_worth_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = sampled(tmp_path)
    taken = {1: 2.0, None: 3.0}
    monkeypatch.setattr(bundle_findings, "_median_ms", lambda _bundle, _rows, settings, _s: taken[settings.threads])
    found = of_bundle(bundle)["settings"]
    assert (found.state, found.fix) == ("warning", "threads=1 (--threads 1): 1.50 times as fast here")
    taken[1] = 2.9
    assert of_bundle(bundle)["settings"].state == "ok"


def test_settings_that_tie_are_not_told_apart_by_chance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {(None, "brief"): 3.0, (1, "brief"): 2.0, (None, "never"): 1.95}
    monkeypatch.setattr(bundle_findings, "_median_ms", lambda _b, _r, its, _s: taken[its.threads, its.spin])
    bundle = sampled(tmp_path)
    assert of_bundle(bundle)["settings"].fix == "threads=1 (--threads 1): 1.50 times as fast here"
    taken[None, "never"] = 1.5
    assert of_bundle(bundle)["settings"].fix == "spin='never' (--spin never): 2.00 times as fast here"


# The command


def test_the_command_prints_findings_and_its_status_says_whether_there_is_a_problem(tmp_path: Path) -> None:
    good = CliRunner().invoke(main, ["doctor", str(sampled(tmp_path)), "--seconds", "0"])
    assert good.exit_code == 0, good.output
    for word in ("machine", "onnxruntime", "verify", "extra export"):
        assert word in good.stdout
    bad = CliRunner().invoke(main, ["doctor", str(tmp_path / "none.ee"), "--json"])
    assert bad.exit_code == 1
    found = [finding for finding in json.loads(bad.stdout) if finding["state"] == "problem"]
    assert [finding["name"] for finding in found] == ["bundle"]


@pytest.mark.parametrize("seconds", [math.nan, -1.0, math.inf])
def test_seconds_that_are_no_time_to_measure_are_refused(seconds: float) -> None:
    with pytest.raises(ee.InputError, match=rf"^seconds is {seconds}, expected 0 to 86400$"):
        ee.doctor(seconds=seconds)

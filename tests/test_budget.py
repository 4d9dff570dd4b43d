"""Profiles and the doctor end when their seconds are up, on machines of any slowness, and say what is missing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from plans import chain, recorded, row
from slow_machine import SlowMachine

import eetoolkit as ee
from eetoolkit.cli import main
from eetoolkit.showing.profile_picture import draw
from eetoolkit.tuning.remarks import profile_lacks
from eetoolkit_runtime.doctor.bundle_findings import examine_bundle
from eetoolkit_runtime.profiling.budget import Budget
from eetoolkit_runtime.profiling.rounds import scattered

edit = msgspec.structs.replace
SEGMENTS = 3
X = np.random.default_rng(0).uniform(0, 1, (40, 4)).astype(np.float32)
LABELS = np.arange(40) % 2


@pytest.fixture
def bundle(tmp_path: Path) -> ee.Bundle:
    with ee.Runner(chain(0.5, 0.5).save(tmp_path / "source"), threads=1) as runner:
        samples = [recorded(runner, row(k, 1, 0, 0)) for k in (0, 1)]
    draft = chain(0.5, 0.5)
    draft.samples = samples
    return ee.load(draft.save(tmp_path / "chain.ee"))


def on(machine: SlowMachine, bundle: ee.Bundle, seconds: float, **asked: object) -> tuple[ee.Profile, float]:
    """Returns the profile that a machine gives, and how many seconds it took there."""
    with pytest.MonkeyPatch.context() as patch:
        machine.take_over(patch)
        began = machine.now_s
        found = ee.profile(bundle, X, LABELS, threads=1, seconds=seconds, operators=True, **asked)  # type: ignore[arg-type]
        return found, machine.now_s - began


MOST_RUNS = 1e4


@pytest.mark.parametrize(
    ("run_s", "seconds"),
    [
        (1e-5, 0.1),
        (1e-3, 0.5),
        (1e-3, 10.0),
        *((run_s, s) for run_s in (0.1, 3.0) for s in (0.5, 2.0, 10.0, 60.0, 900.0)),
    ],
)
@pytest.mark.parametrize("open_s", [1e-3, 0.5, 20.0])
def test_a_profile_ends_when_its_seconds_are_up_or_one_input_was_run(
    bundle: ee.Bundle, seconds: float, run_s: float, open_s: float
) -> None:
    found, took_s = on(SlowMachine(open_s, run_s), bundle, seconds)
    must_s = SEGMENTS * open_s + 5 * SEGMENTS * run_s  # opened, answered once, and one round
    assert took_s <= max(1.1 * seconds, seconds + open_s + 2 * SEGMENTS * run_s, 1.05 * must_s)
    assert found.rounds >= 1
    assert found.expected.runs >= 1


def test_a_machine_that_is_fast_enough_lacks_nothing(bundle: ee.Bundle) -> None:
    found, took_s = on(SlowMachine(1e-3, 1e-3), bundle, 10.0)
    assert found.no_time_for == ()
    assert found.gaps is None
    assert found.rows == 40
    assert 9.0 < took_s <= 10.5  # it uses what it is given
    assert all(cost.operators for cost in found.segments.values())


def test_what_there_was_no_time_for_is_missing_and_said(bundle: ee.Bundle, tmp_path: Path) -> None:
    found, _ = on(SlowMachine(2.0, 1.0), bundle, 20.0)
    assert {"inputs", "warm-up", "rounds", "passing", "operators"} <= set(found.no_time_for)
    assert 1 <= found.rows < 40
    assert all(cost.passing is cost.decision is None for cost in found.exits.values())
    assert all(cost.operators is None for cost in found.segments.values())
    told = "there was no time for all of the inputs, a warm-up, five rounds"
    assert found.gaps is not None
    assert found.gaps.startswith(told)
    assert found.gaps.endswith("profile with more seconds (--seconds)")
    assert f"note: {told}" in str(found)
    found.write(tmp_path / "slow.json")
    assert ee.Profile.read(tmp_path / "slow.json") == found
    shown = CliRunner().invoke(main, ["profile", "--show", str(tmp_path / "slow.json")])
    assert told in shown.output
    picture = draw(found, tmp_path / "slow.svg", "svg").read_text()
    assert f"<!-- {told}" in picture


@pytest.mark.parametrize("run_s", [1e-4, 0.3, 5.0])
def test_a_timeline_ends_when_its_seconds_are_up(
    bundle: ee.Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_s: float
) -> None:
    machine = SlowMachine(0.5, run_s)
    machine.take_over(monkeypatch)
    began = machine.now_s
    ee.trace(bundle, tmp_path / "t.json", X, threads=1, seconds=30.0)
    assert machine.now_s - began <= max(30.0 + SEGMENTS * run_s, SEGMENTS * (0.5 + 6 * run_s) + 1)
    rows = {
        event["name"]
        for event in json.loads((tmp_path / "t.json").read_text())["traceEvents"]
        if event.get("cat") == "row"
    }
    assert (len(rows) >= 16) == (run_s == 1e-4)


def test_one_input_is_run_whatever_it_takes_and_its_segments_have_their_figures(bundle: ee.Bundle) -> None:
    machine = SlowMachine(100.0, 50.0)
    found, _ = on(machine, bundle, 1.0)
    assert (found.rows, found.rounds, found.warmup_rounds, found.steady) == (1, 1, 0, False)
    assert set(found.no_time_for) >= {"segments", "inputs", "warm-up", "rounds", "exits", "passing", "operators"}
    assert machine.opened == SEGMENTS
    assert found.memory.opened is None
    assert [cost.load_ms is None for cost in found.segments.values()] == [False, True, True]
    assert all(cost.latency is not None for cost in found.segments.values())
    assert found.full_path.p50_ms == pytest.approx(SEGMENTS * 50e3, rel=1e-3)


def test_accuracies_of_single_exits_are_those_of_all_inputs_or_none(bundle: ee.Bundle) -> None:
    slow, _ = on(SlowMachine(0.01, 0.03), bundle, 10.0)
    assert "accuracies" in slow.no_time_for
    assert slow.rows == 40
    assert slow.accuracy is not None
    assert all(cost.accuracy_if_always is None for cost in slow.exits.values())
    fast, _ = on(SlowMachine(1e-3, 1e-3), bundle, 10.0)
    assert fast.accuracy == slow.accuracy
    assert all(cost.accuracy_if_always is not None for cost in fast.exits.values())


def test_the_whole_network_is_left_out_where_it_does_not_fit(bundle: ee.Bundle) -> None:
    whole = bundle.path / bundle.manifest.segments["segment0"].model  # type: ignore[operator]
    assert on(SlowMachine(1e-3, 1e-3), bundle, 10.0, whole=whole)[0].whole is not None
    slow, _ = on(SlowMachine(5.0, 2.0), bundle, 10.0, whole=whole)
    assert slow.whole is None
    assert "whole" in slow.no_time_for


def test_tuning_takes_a_profile_with_gaps_and_says_so(bundle: ee.Bundle) -> None:
    slow, _ = on(SlowMachine(100.0, 50.0), bundle, 1.0)
    report = ee.tune(bundle, X, LABELS, profile=slow, max_accuracy_drop=0.5, calibrate=False)
    (note,) = [note for note in report.notes if "no time" in note]
    assert note.startswith("in the profile there was no time for what opening each segment takes, all of the inputs")
    assert note.endswith("; here exits are told by their segments and heads cost nothing")
    whole, _ = on(SlowMachine(1e-3, 1e-3), bundle, 10.0)
    assert list(profile_lacks(whole)) == []


def test_tuning_refuses_a_profile_whose_inputs_came_less_far(bundle: ee.Bundle) -> None:
    slow, _ = on(SlowMachine(100.0, 50.0), bundle, 1.0)
    segments = dict(slow.segments)
    segments["segment2"] = edit(segments["segment2"], latency=None)
    with pytest.raises(ee.TuneError, match=r"no latency for segment2.*profile with inputs that reach it"):
        ee.tune(bundle, X, LABELS, profile=edit(slow, segments=segments), max_accuracy_drop=0.5)


@pytest.mark.parametrize("seconds", [0.5, 10.0, 100.0])
@pytest.mark.parametrize("run_s", [1e-4, 0.1, 3.0])
@pytest.mark.parametrize("open_s", [1e-3, 1.0])
def test_the_doctor_ends_when_its_seconds_are_up_and_says_what_it_left_out(
    bundle: ee.Bundle, seconds: float, run_s: float, open_s: float
) -> None:
    machine = SlowMachine(open_s, run_s)
    seconds = min(seconds, MOST_RUNS * run_s)
    with pytest.MonkeyPatch.context() as patch:
        machine.take_over(patch)
        began = machine.now_s
        found = {finding.name: finding for finding in examine_bundle(bundle, seconds=seconds)}
        took_s = machine.now_s - began
    assert took_s <= 1.1 * max(seconds, SEGMENTS * (open_s + run_s)) + SEGMENTS * run_s
    assert {"bundle", "verify", "settings"} <= found.keys()
    assert "profile" in found
    left_out = [finding for finding in found.values() if finding.what.startswith("no time")]
    needed_s = 4 * SEGMENTS * open_s + 18 * SEGMENTS * run_s  # verified, and a turn of three settings
    assert bool(left_out) == (needed_s > seconds) or 0.3 < needed_s / seconds < 3
    assert all(finding.state == "warning" and finding.fix == "more seconds (--seconds)" for finding in left_out)


def test_quick_is_few_seconds(bundle: ee.Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    SlowMachine(0.1, 0.5).take_over(monkeypatch)
    for verb in ("profile", "doctor"):
        how = [verb, str(bundle.path), *(["--pool", "own"] if verb == "profile" else [])]
        shown = CliRunner().invoke(main, [*how, "--quick"])
        assert shown.exit_code == 0, shown.output
        assert "no time" in shown.output
        assert "no time" not in CliRunner().invoke(main, [*how, "--seconds", "2000"]).output


def test_a_budget_counts_only_what_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = SlowMachine(0, 0)
    machine.take_over(monkeypatch)
    budget = Budget(10.0)
    half = budget.until(0.5)
    machine.now_s += 4
    assert half.left() == pytest.approx(1, abs=1e-3)
    half.extend(3)  # a pause
    machine.now_s += 3
    assert half.left() == pytest.approx(1, abs=1e-3)
    assert budget.left() == pytest.approx(6, abs=1e-3)
    half.lack("whole")
    budget.lack("inputs")
    assert budget.lacks() == ("inputs", "whole")
    assert Budget(0).until(0.5).left() == math.inf


def test_the_first_few_places_are_spread_over_all() -> None:
    for count in (1, 2, 7, 100, 1797):
        order = scattered(count)
        assert sorted(order) == list(range(count))
        some = np.array(order[:10])
        assert np.histogram(some, bins=min(4, count), range=(0, count))[0].min() >= 1

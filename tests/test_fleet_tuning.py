"""Tuning for a share of a fleet: the cost that counts against brute force, the promise against the runner."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from fleets import device
from plans import chain
from shell import call
from test_tuning_search import made, plan_of

import eetoolkit as ee
from eetoolkit.tuning.across import FleetSubset, at_rank, contenders, kinds_of, mean_costs
from eetoolkit.tuning.baselines import baselines
from eetoolkit.tuning.costs import Costs
from eetoolkit.tuning.evaluate import objective_of
from eetoolkit.tuning.objective import scores_of, settings_of
from eetoolkit.tuning.record import NO_EXIT
from eetoolkit.tuning.replay import means
from eetoolkit.tuning.search import Constraint, Search
from eetoolkit.tuning.splits import split

Array = Any
CROSSING = ((1.0, 1.0, 8.0), (4.0, 1.0, 1.0), (2.0, 2.0, 3.0), (0.5, 0.5, 1.0), (9.0, 9.0, 9.0))
"""Segments of five devices: early exits are cheap on one and dear on another."""


# The cost that counts


def subset(seed: int, rank: int, by_segment: Array, fallback: Any = "last") -> FleetSubset:
    record = made(seed, rows=150, exits=3)
    by_kind = np.cumsum(by_segment, axis=1)  # a run's kind is the exit that it ends at
    kinds = record.exit.astype(int)
    return FleetSubset(record, scores_of(record, None), by_kind[0][kinds], None, fallback, 0, kinds, by_kind, rank)


def brute_force(rows: FleetSubset, choices: Any) -> tuple[Array, Array, Array]:
    """Returns every setting's thresholds, score, and the costs on all devices, by the replay of each alone."""
    settings = np.array(list(itertools.product(*(range(bound + 1) for bound in choices.never.tolist()))))
    limits = choices.spell(settings)
    score = np.asarray(rows.score, float)
    each = [means(rows.record, limits, score, costs[rows.kinds], rows.fallback) for costs in rows.by_kind]
    return settings, each[0][0], np.array([cost for _, cost in each])


@pytest.mark.parametrize("fallback", ["last", "most_confident"])
@pytest.mark.parametrize("rank", [1, 3, 5])
def test_what_the_search_looks_at_is_the_device_at_the_rank_for_every_setting(
    rank: int, fallback: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eetoolkit.tuning.evaluate._CANDIDATES", 6)
    rows = subset(0, rank, CROSSING, fallback)
    it = objective_of(plan_of(3, fallback), rows)
    settings, score, costs = brute_force(rows, it.choices)
    wanted = np.sort(costs, axis=0)[rank - 1]
    full = np.sort([costs[rows.kinds[np.arange(150), rows.record.last]].mean() for costs in rows.by_kind])[rank - 1]
    assert it.full[1] == pytest.approx(1.0)
    found = rows.means_at(it.choices.spell(settings))
    np.testing.assert_allclose(found, (score, wanted), atol=1e-12)
    for setting in settings[::7]:
        for exit_ in it.exits:
            line = [
                np.flatnonzero((settings == np.where(np.arange(3) == exit_, j, setting)).all(axis=1))[0]
                for j in range(it.choices.never[exit_] + 1)
            ]
            np.testing.assert_allclose(it.sweep(setting, exit_), (score[line], wanted[line] / full), atol=1e-12)
    there = {int(place) for place in np.argsort(costs, axis=0)[rank - 1]}
    assert len(there) == {1: 1, 3: 3, 5: 1}[rank]


@pytest.mark.parametrize("rank", [1, 2, 3, 4, 5])
def test_the_search_is_within_one_percent_of_brute_force_in_the_mean(
    rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eetoolkit.tuning.evaluate._CANDIDATES", 10)
    ratios = []
    for seed in range(6):
        devices = np.random.default_rng(seed).lognormal(size=(5, 3)) if seed else CROSSING
        rows = subset(seed, rank, devices)
        it = objective_of(plan_of(3), rows)
        _, score, costs = brute_force(rows, it.choices)
        counted = np.sort(costs, axis=0)[rank - 1]
        least, budget = it.full[0] - 0.05, float(np.quantile(counted, 0.3))
        reached, cost = searched(rows, it, Constraint(least_score=least))
        assert reached >= least - 1e-12
        ratios.append(cost * rows.full_cost / counted[score >= least - 1e-12].min())
        reached, cost = searched(rows, it, Constraint(most_cost=budget / rows.full_cost))
        assert cost * rows.full_cost <= budget * (1 + 1e-9)
        within = (costs <= budget * (1 + 1e-12)).sum(axis=0) >= rank  # on so many devices at least
        ratios.append(score[within].max() / reached)
    assert min(ratios) >= 1 - 1e-9
    assert max(ratios) <= 1.05
    assert np.mean(ratios) <= 1.01


def searched(rows: FleetSubset, it: Any, constraint: Constraint) -> tuple[float, float]:
    """Returns score and cost of what the search finds as `tune` starts it: from what the rules choose."""
    limits = np.array([thresholds for _, thresholds in baselines(rows, np.array([True, True, False]), constraint)])
    return it.at(Search(it).best(constraint, settings_of(rows.record, it.choices, limits)))


def test_runs_of_one_kind_cost_the_same_where_rows_take_ways_of_their_own() -> None:
    record, draw = made(0, visits=6), np.random.default_rng(1)
    devices = [
        Costs(draw.uniform(1, 2, 6), 0.0, "ms", "made", scale=draw.uniform(1, 2, len(record.exits))) for _ in range(3)
    ]
    kinds, by_kind = kinds_of(record, devices)
    met = record.exit != NO_EXIT
    assert by_kind.shape[1] < met.sum() / 10
    for costs, own in zip(devices, by_kind, strict=True):
        np.testing.assert_allclose(own[kinds][met], costs.of_visits(record)[met])
    ended = draw.integers(0, record.last + 1)
    wanted = [costs.of_visits(record)[np.arange(len(record)), ended].mean() for costs in devices]
    np.testing.assert_allclose(mean_costs(kinds, by_kind, ended), wanted)


def test_devices_that_are_never_at_the_rank_are_left_out_and_change_nothing() -> None:
    draw = np.random.default_rng(0)
    fewer = 0
    for _ in range(200):
        count = int(draw.integers(1, 7))
        by_kind = draw.integers(1, 4, (count, 3)).astype(float)
        rank = int(draw.integers(1, count + 1))
        left, among = contenders(by_kind, rank)
        fewer += len(left) < count
        weights = draw.dirichlet(np.ones(3) / 2, 40).T
        np.testing.assert_allclose(at_rank(by_kind[left] @ weights, among), at_rank(by_kind @ weights, rank))
    assert fewer > 100
    slower = np.outer(np.arange(1.0, 8), (1, 2, 4))  # each slower in all
    assert [contenders(slower, rank)[0].tolist() for rank in (1, 4, 7)] == [[0], [3], [6]]


# The promise


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ee.Bundle:
    return ee.load(chain(0.5, 0.5).save(tmp_path_factory.mktemp("tuned") / "chain.ee"))


@pytest.fixture(scope="module")
def rows() -> tuple[Array, Array]:
    """Rows of which the later exits are right where the first is unsure; `exit{k}` answers the largest of x."""
    draw = np.random.default_rng(0)
    x = draw.uniform(0, 1, (300, 4)).astype(np.float32)
    wrong = draw.uniform(size=300) < 0.1
    return x, np.where(wrong, 0, x.argmax(axis=1))


@pytest.fixture
def folder(bundle: ee.Bundle, tmp_path: Path) -> Path:
    (tmp_path / "profiles").mkdir()
    for number, segments_ms in enumerate(CROSSING):
        device(bundle, segments_ms).write(tmp_path / f"profiles/device{number}.json")
    return tmp_path / "profiles"


def tune(bundle: ee.Bundle, rows: tuple[Array, Array], folder: Any, for_: str, **goal: Any) -> ee.TuningReport:
    return ee.tune(bundle, *rows, profile=folder, for_=for_, calibrate=False, threads=1, **goal)


def run(bundle: ee.Bundle, rows: tuple[Array, Array], thresholds: Any) -> Array:
    """Returns how many segments each held-out row runs, by the runner."""
    x, labels = rows
    held_out = split(labels, calibrate=False, guarantee=False, seed=0).test
    with ee.Runner(bundle, threads=1) as runner:
        return np.array([len(runner.run(x[n : n + 1], thresholds=thresholds).path) for n in held_out])


@pytest.mark.parametrize(("for_", "needed"), [("p60-device", 3), ("p80-device", 4), ("slowest-device", 5)])
def test_so_many_devices_keep_the_budget_by_the_runners_own_paths(
    for_: str, needed: int, bundle: ee.Bundle, rows: tuple[Array, Array], folder: Path
) -> None:
    budget = {3: 3.5, 4: 4.6, 5: 12.0}[needed]
    report = tune(bundle, rows, folder, for_, budget_ms=budget)
    assert report.fleet is not None
    ran = run(bundle, rows, report.thresholds)
    costs = {f"device{d}": np.append(0, np.cumsum(each))[ran].mean() for d, each in enumerate(CROSSING)}
    assert {each.name: each.tuned_ms for each in report.fleet.devices} == pytest.approx(costs)
    assert {each.name: each.whole_ms for each in report.fleet.devices} == pytest.approx(
        {f"device{d}": sum(each) for d, each in enumerate(CROSSING)}
    )
    assert [each.keeps for each in report.fleet.devices] == [cost <= budget for cost in costs.values()]
    assert report.fleet.kept is not None
    assert report.fleet.kept >= report.fleet.needed == needed
    assert sorted(costs.values())[needed - 1] == pytest.approx(costs[report.fleet.device])
    assert report.chosen.cost.value == pytest.approx(costs[report.fleet.device])
    assert report.goal_met
    assert report.goal == f"best answers within {budget:g} ms a run, in the mean, on the {for_} of 5"
    assert report.costs.startswith(f"{report.fleet.device}, the {for_} of 5: a profile of Raspberry Pi 4, ")
    assert f"{report.fleet.kept} of 5 ({report.fleet.kept / 5:.0%}) keep the budget" in str(report)


def test_a_fleet_of_one_device_is_tuned_as_the_device_is(
    bundle: ee.Bundle, rows: tuple[Array, Array], tmp_path: Path
) -> None:
    one = device(bundle, CROSSING[0])
    one.write(tmp_path / "one.json")
    for goal in ({"max_accuracy_drop": 0.02}, {"budget_ms": 4.0}, {"budget_share": 0.4}, {"risk": 0.1}):
        alone = ee.tune(bundle, *rows, profile=one, calibrate=False, threads=1, **goal)  # type: ignore[arg-type]
        found = tune(bundle, rows, tmp_path, "median-device", **goal)
        assert found.thresholds == alone.thresholds
        assert found.chosen == alone.chosen
        assert [point.thresholds for point in found.frontier] == [point.thresholds for point in alone.frontier]


def test_a_share_of_the_whole_networks_cost_is_each_devices_own(
    bundle: ee.Bundle, rows: tuple[Array, Array], folder: Path
) -> None:
    # Always the first exit: 10, 67, 29, 25 and 33 %. In milliseconds the fourth device takes 4 of 10, which is 40 %.
    for share in (0.6, 0.35):
        report = tune(bundle, rows, folder, "p80-device", budget_share=share)
        assert report.fleet is not None
        within = [each.tuned_ms <= share * each.whole_ms for each in report.fleet.devices]
        assert [each.keeps for each in report.fleet.devices] == within
        assert report.fleet.kept is not None
        assert report.fleet.kept >= 4
    with pytest.raises(ee.TuneError, match=r"keep it on 3 of 5 \(60%\)"):
        tune(bundle, rows, folder, "p80-device", budget_share=0.3)


def test_what_no_thresholds_keep_is_said_with_the_share_that_some_keep(
    bundle: ee.Bundle, rows: tuple[Array, Array], folder: Path
) -> None:
    # Always the first exit: 1, 4, 2, 0.5 and 9 ms.
    said = (
        r"budget_ms=2.5 \(--budget-ms 2.5\) cannot be met on 4 of 5 devices, as p80-device asks: thresholds can keep "
        r"it on 3 of 5 \(60%\); allow more, or ask for fewer devices"
    )
    with pytest.raises(ee.TuneError, match=f"^{said}$"):
        tune(bundle, rows, folder, "p80-device", budget_ms=2.5)
    with pytest.raises(ee.TuneError, match="thresholds can keep it on none; allow more"):
        tune(bundle, rows, folder, "median-device", budget_ms=0.1)
    with pytest.raises(ee.TuneError, match="cannot be met: the best thresholds reach"):
        tune(bundle, rows, folder, "median-device", min_accuracy=1.0)


# What is refused


def test_a_quantile_and_a_fleet_go_together(bundle: ee.Bundle, rows: tuple[Array, Array], folder: Path) -> None:
    wrong: Any = None
    for profile, for_, said in (
        (folder, None, "^profile is a fleet of 5 devices: say whose cost counts"),
        (folder / "device0.json", "p90-device", r"^for_='p90-device' \(--for p90-device\) goes with a fleet"),
        (None, "p90-device", r"goes with a fleet: pass a folder of profiles \(--profile DIR\), or leave it out$"),
        (folder, "p90", r"^for_='p90' \(--for p90\): expected pN-device"),
        (ee.read_fleet(folder), wrong, "^profile is a fleet of 5 devices"),
    ):
        with pytest.raises(ee.TuneError, match=said):
            ee.tune(bundle, *rows, profile=profile, for_=for_)


def test_where_to_split_is_asked_of_one_device(bundle: ee.Bundle, rows: tuple[Array, Array], folder: Path) -> None:
    link = {"round_trip_ms": 1.0}
    with pytest.raises(
        ee.TuneError, match=r"^link= \(--link\) goes with the profile of one device, and profile is a fleet"
    ):
        ee.tune(bundle, *rows, profile=folder, for_="p90-device", link=link, server=2.0)


def test_a_device_of_another_bundle_or_on_other_providers_is_refused_by_name(
    bundle: ee.Bundle, rows: tuple[Array, Array], folder: Path
) -> None:
    other = device(bundle, CROSSING[0], providers=("CUDAExecutionProvider", "CPUExecutionProvider"))
    other.write(folder / "gpu.json")
    with pytest.raises(ee.TuneError, match=r"^gpu.json in .*profiles is of a run on CUDAExecutionProvider, CPU"):
        tune(bundle, rows, folder, "p90-device")
    assert tune(bundle, rows, folder, "p90-device", force=True).fleet is not None
    for file in folder.iterdir():
        found = ee.Profile.read(file)
        msgspec.structs.replace(found, files={"x.onnx": "0"}).write(file, overwrite=True)
    with pytest.raises(
        ee.TuneError, match=r"^device0.json in .*profiles is of another bundle, 'drafted', or of another"
    ):
        tune(bundle, rows, folder, "p90-device")


def test_a_device_that_lacks_a_latency_is_named(bundle: ee.Bundle, rows: tuple[Array, Array], folder: Path) -> None:
    found = device(bundle, CROSSING[0])
    segments = found.segments | {"segment1": msgspec.structs.replace(found.segments["segment1"], latency=None)}
    msgspec.structs.replace(found, segments=segments).write(folder / "short.json")
    with pytest.raises(ee.TuneError, match=r"^short.json in .*profiles: a profile of .* has no latency for segment1"):
        tune(bundle, rows, folder, "p90-device")


# The command line and the page


def test_the_command_line_shows_each_device_the_slowest_first(
    bundle: ee.Bundle, rows: tuple[Array, Array], folder: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "val.npz", x=rows[0], labels=rows[1])
    arguments = (
        "tune",
        str(bundle.path),
        "--data",
        str(tmp_path / "val.npz"),
        "--profile",
        str(folder),
        "--threads",
        "1",
    )
    page = tmp_path / "report.html"
    done = call(*arguments, "--for", "p60-device", "--budget-ms", "3.5", "--report", str(page))
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.stdout.splitlines()]
    start = next(n for n, line in enumerate(lines) if line[:3] == ["device", "whole", "network,"])
    table = lines[start + 1 : start + 6]
    assert {line[0] for line in table} == {f"device{d}" for d in range(5)}
    assert [float(line[3]) for line in table] == sorted((float(line[3]) for line in table), reverse=True)
    assert {line[-1] for line in table} == {"yes", "no"}
    assert "is the p60-device: 3 of 5 take no more;" in done.stdout
    assert "What a run takes on each device in the mean" in page.read_text()
    assert call(*arguments).exit_code == 1
    assert call("tune", str(bundle.path), "--data", "val.npz", "--for", "p90-device").exit_code == 2

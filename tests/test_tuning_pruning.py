"""Which exits are pruned, what runs cost without them, and the bundle that is written."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from test_tuning_search import made
from test_tuning_tune import bundle, data, exported  # noqa: F401 - fixtures

import eetoolkit as ee
from eetoolkit.cli import main
from eetoolkit.tuning.evaluate import Subset
from eetoolkit.tuning.objective import scores_of
from eetoolkit.tuning.pruning import choose_gone, without_overheads
from eetoolkit.tuning.record import NO_EXIT
from eetoolkit.tuning.splits import split
from eetoolkit_runtime.plan.types import Fallback
from eetoolkit_runtime.profiling.costs import Added

EXITS = np.array([True, True, True, False])


def part_of(seed: int, *, visits: int | None = None, fallback: Fallback = "last") -> Subset:
    record = made(seed, visits=visits)
    cost = np.broadcast_to(np.arange(1.0, record.exit.shape[1] + 1), record.exit.shape)
    return Subset(record, scores_of(record, None), cost, None, fallback, 0)


@pytest.mark.parametrize("visits", [None, 6])
def test_a_run_without_an_exit_costs_so_much_less_each_time_that_it_came_to_it(visits: int | None) -> None:
    part, overheads = part_of(0, visits=visits), np.array([0.3, 0.0, 0.1, 0.0])
    found = without_overheads(part, overheads).cost
    for n in range(0, 200, 7):
        left = 0.0
        for visit, exit_ in enumerate(part.record.exit[n]):
            left += overheads[exit_] if exit_ != NO_EXIT else 0.0
            assert found[n, visit] == pytest.approx(part.cost[n, visit] - left)


@pytest.mark.parametrize("fallback", ["last", "most_confident"])
@pytest.mark.parametrize("seed", range(8))
def test_what_stays_saves_more_than_it_costs_or_is_needed_and_what_goes_does_not(seed: int, fallback: Fallback) -> None:
    draw = np.random.default_rng(seed)
    part = part_of(seed, fallback=fallback)
    limits = np.append(draw.uniform(0.5, 1.05, 3), np.nan)
    overheads = np.append(draw.uniform(0, 1.5, 3), 0.0)
    least = part.means(part.ends(limits))[0] - 0.02
    gone = choose_gone(part, limits, EXITS, overheads, least, firing=True)
    fewer = np.where(gone, np.nan, limits)
    after = without_overheads(part, np.where(gone, overheads, 0.0))
    score, cost = after.means(after.ends(fewer))
    assert score >= least
    assert cost <= part.means(part.ends(limits))[1] + 1e-12
    assert not gone[3]
    for e in np.flatnonzero(EXITS & ~gone):
        without = fewer.copy()
        without[e] = np.nan
        lesser = without_overheads(after, np.where(np.arange(4) == e, overheads, 0.0))
        other_score, other_cost = lesser.means(lesser.ends(without))
        assert other_cost >= cost - 1e-12 or other_score < least
    silent = choose_gone(part, limits, EXITS, overheads, least, firing=False)
    kept = part.ends(np.where(silent, np.nan, limits))
    assert np.array_equal(kept[0], part.ends(limits)[0])  # no answer is another one


def test_an_exit_that_never_fires_goes_whatever_it_costs() -> None:
    part = part_of(1)
    limits = np.array([2.0, 0.7, np.nan, np.nan])
    assert choose_gone(part, limits, EXITS, np.zeros(4), None, firing=True).tolist() == [True, False, True, False]
    surest = part_of(1, fallback="most_confident")  # there the first may answer after all
    assert choose_gone(surest, limits, EXITS, np.zeros(4), None, firing=True).tolist() == [False, False, True, False]


def dear(bundle: ee.Bundle, exit_: str) -> ee.Profile:  # noqa: F811 - a fixture
    """Returns a profile: segments cost 1, 2 and 7 ms, to pass one exit costs 5, to pass the other nothing."""
    found = ee.profile(bundle, data(8)[0], threads=1, seconds=0)
    costs = dict(zip(found.segments, (1.0, 2.0, 7.0), strict=True))
    paths = dict(zip(found.exits, (1.0, 3.0, 10.0), strict=True))
    segments = {
        name: msgspec.structs.replace(cost, latency=msgspec.structs.replace(cost.latency, robust_ms=costs[name]))
        for name, cost in found.segments.items()
        if cost.latency is not None
    }
    exits = {
        name: msgspec.structs.replace(
            cost,
            latency=msgspec.structs.replace(cost.latency, robust_ms=paths[name]),
            segments_ms=paths[name],
            call=None,
            passing=None if cost.passing is None else Added(added_us=5000.0 if name == exit_ else 0.0, error_us=0.0),
        )
        for name, cost in found.exits.items()
        if cost.latency is not None
    }
    return msgspec.structs.replace(found, segments=segments, exits=exits, overhead_us=0.0)


def tuned(bundle: ee.Bundle, x: np.ndarray, labels: np.ndarray) -> ee.TuningReport:  # noqa: F811 - a fixture
    """Returns a choice in which the first exit costs more than it saves."""
    profile = dear(bundle, "exit0")
    return ee.tune(bundle, x, labels, max_accuracy_drop=0.02, profile=profile, calibrate=False, threads=1)


def test_the_pruned_bundle_has_the_figures_that_the_report_gives_it(
    bundle: ee.Bundle,  # noqa: F811 - a fixture
    tmp_path: Path,
) -> None:
    x, labels = data()
    report = tuned(bundle, x, labels)
    assert report.thresholds["exit0"] != "never"
    assert [verdict.pays for verdict in report.verdict.exits] == [False, True]
    assert report.pruned is not None
    assert report.pruned.thresholds == {"exit0": "never", "exit1": report.thresholds["exit1"]}
    assert report.pruned.tune_score >= report.whole.tune_score - 0.02
    before = (bundle.path / "manifest.json").read_bytes()
    pruning = report.prune(tmp_path / "short.ee", x[:50])
    assert (bundle.path / "manifest.json").read_bytes() == before
    assert (pruning.exits, pruning.rows, pruning.equal) == (("exit0",), 50, 50)
    short = ee.load(tmp_path / "short.ee")
    assert list(short.exits) == ["exit1", "exit2"]
    assert len(short.manifest.segments) == 2
    assert short.manifest.tuning is not None
    assert short.manifest.tuning.figures["score"][0] == pytest.approx(report.pruned.score.value)
    test = split(labels, calibrate=False, guarantee=False, seed=0).test
    with ee.Runner(short, threads=1) as runner:
        found = [runner.run(x[n : n + 1]) for n in test]
    right = np.mean([answer.prediction for answer in found] == labels[test])
    assert report.pruned.score.value == pytest.approx(right)
    # 1 + 2 ms up to exit1, 7 more behind it; exit0's 5 are gone from the 3.
    cost = np.mean([-2 if answer.exit == "exit1" else 5 for answer in found])
    assert report.pruned.cost.value == pytest.approx(cost)


def test_no_exit_that_fires_goes_where_a_guarantee_was_shown_with_it(
    bundle: ee.Bundle,  # noqa: F811 - a fixture
) -> None:
    x, labels = data(1500)
    report = ee.tune(bundle, x, labels, risk=0.05, profile=dear(bundle, "exit0"), calibrate=False, threads=1)
    assert report.guarantee is not None
    assert report.guarantee.passed
    assert report.chosen.exits["exit0"] > 0
    assert report.pruned is None or report.pruned.thresholds["exit0"] == report.thresholds["exit0"]


def test_the_command_writes_a_pruned_bundle_and_the_tuned_one_where_every_exit_pays(
    bundle: ee.Bundle,  # noqa: F811 - a fixture
    tmp_path: Path,
) -> None:
    x, labels = data()
    np.savez(tmp_path / "val.npz", x=x, labels=labels)
    dear(bundle, "exit0").write(tmp_path / "dear.json")
    command = ["tune", str(bundle.path), "--data", str(tmp_path / "val.npz"), "--threads", "1", "--no-calibrate"]
    command += ["--max-accuracy-drop", "0.02", "--prune"]
    told = CliRunner().invoke(main, [*command, str(tmp_path / "short.ee"), "--profile", str(tmp_path / "dear.json")])
    assert told.exit_code == 0, told.output
    assert "without exit0" in told.stdout
    assert "of the tuned bundle's latency" in told.stdout
    assert "the same as the tuned bundle's with these exits disabled, on all rows" in told.stdout
    assert list(ee.load(tmp_path / "short.ee").exits) == ["exit1", "exit2"]
    again = [*command, str(tmp_path / "short.ee"), "--profile", str(tmp_path / "dear.json"), "--json"]
    refused = CliRunner().invoke(main, again)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "short.ee exists; pass --overwrite to replace it" in refused.stderr
    machine = json.loads(CliRunner().invoke(main, [*again, "--overwrite"]).stdout)
    assert machine["pruning"]["exits"] == ["exit0"]
    assert machine["pruned"]["thresholds"]["exit0"] == "never"
    # By multiply-adds nobody knows what a head costs.
    kept = CliRunner().invoke(main, [*command, str(tmp_path / "all.ee"), "--apply"])
    assert kept.exit_code == 0, kept.output
    assert "all.ee, with every exit: every exit pays; what heads cost is not known without a profile" in kept.stdout
    assert "the same as the tuned bundle's, on all rows\n" in kept.stdout
    assert "of the tuned bundle's latency" not in kept.stdout  # there is nothing to compare
    tuned_, all_ = ee.load(bundle.path), ee.load(tmp_path / "all.ee")
    assert all_.manifest.tuning == tuned_.manifest.tuning is not None
    thresholds = [{name: exit_.threshold for name, exit_ in each.exits.items()} for each in (tuned_, all_)]
    assert thresholds[0] == thresholds[1]


def test_a_bundle_is_not_pruned_onto_itself_and_rows_are_looked_at_first(
    bundle: ee.Bundle,  # noqa: F811 - a fixture
    tmp_path: Path,
) -> None:
    x, labels = data()
    report = tuned(bundle, x, labels)
    before = sorted(bundle.path.iterdir()), (bundle.path / "manifest.json").read_bytes()
    with pytest.raises(ee.BundleError, match="is the bundle that is tuned; choose another name for the pruned one"):
        report.prune(bundle.path, overwrite=True)
    for inputs, said in ((iter([]), "the iterator gave no rows"), (x[:5, :3], "got shape")):
        with pytest.raises(ee.InputError, match=said):
            report.prune(tmp_path / "short.ee", inputs)
    assert not (tmp_path / "short.ee").exists()
    assert (sorted(bundle.path.iterdir()), (bundle.path / "manifest.json").read_bytes()) == before
    np.savez(tmp_path / "val.npz", x=x, labels=labels)
    command = [
        "tune",
        str(bundle.path),
        "--data",
        str(tmp_path / "val.npz"),
        "--prune",
        str(bundle.path),
        "--overwrite",
    ]
    refused = CliRunner().invoke(main, command)
    assert (refused.exit_code, refused.stdout) == (1, "")


def test_shares_of_the_pruned_choice_are_of_the_same_whole_network(
    bundle: ee.Bundle,  # noqa: F811 - a fixture
) -> None:
    x, labels = data()
    report = tuned(bundle, x, labels)
    assert report.pruned is not None
    assert report.pruned.share.value == pytest.approx(report.pruned.cost.value / report.whole.cost.value)

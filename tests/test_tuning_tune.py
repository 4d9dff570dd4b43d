"""Tuning end to end: what it chooses, reports, writes, takes back and refuses."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from plans import ROW, Draft, add_head, chain, row
from test_tuning_search import made
from test_tuning_splits import called

import eetoolkit as ee
from eetoolkit.cli import main
from eetoolkit.tuning.baselines import baselines
from eetoolkit.tuning.collect import collect
from eetoolkit.tuning.dataset import rows_to_fit
from eetoolkit.tuning.evaluate import Subset
from eetoolkit.tuning.intervals import Interval
from eetoolkit.tuning.manifest import golden_under, may_fire, replaced, with_golden
from eetoolkit.tuning.objective import scores_of
from eetoolkit.tuning.remarks import less_reliable
from eetoolkit.tuning.report import spell_guarantee
from eetoolkit.tuning.report_data import spread
from eetoolkit.tuning.search import Constraint
from eetoolkit.tuning.splits import split
from eetoolkit.tuning.verdict import exit_verdicts
from eetoolkit_runtime.bundle.golden import Sample, Visit
from eetoolkit_runtime.bundle.integrity import digest
from eetoolkit_runtime.plan.manifest import encode
from eetoolkit_runtime.plan.types import Quantization, SavedProfile, Work
from eetoolkit_runtime.profiling.latency import QUANTILES

ROWS = 600


class Easy(torch.nn.Module):
    """Three exits of four classes; each sees the true class in a column of its own, the later the clearer."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [4 * x[:, :4], 4 * (x[:, :4] + x[:, 4:8]), 4 * (x[:, :4] + x[:, 4:8] + x[:, 8:])]


def data(rows: int = ROWS, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 4, rows)
    clear = np.eye(4)[labels]
    noise = draw.normal(size=(rows, 3, 4)) * [[[0.7], [0.5], [0.3]]]
    return (clear[:, None] * [[[0.8], [1.0], [1.5]]] + noise).reshape(rows, 12).astype(np.float32), labels


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tune")
    x, _ = data(2)
    ee.export(Easy().eval(), torch.from_numpy(x[:1]), folder / "it.ee", golden_inputs=torch.from_numpy(x))
    return folder / "it.ee"


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> ee.Bundle:
    """A bundle of one's own, whose segments cost 1, 2 and 7."""
    target = tmp_path / "own.ee"
    target.mkdir()
    for file in exported.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    found = ee.load(target)
    works = dict(zip(found.manifest.segments, (1, 2, 7), strict=True))
    segments = {
        name: msgspec.structs.replace(segment, work=Work(nodes=1, parameters=0, multiply_adds=works[name]))
        for name, segment in found.manifest.segments.items()
    }
    (target / "manifest.json").write_bytes(encode(msgspec.structs.replace(found.manifest, segments=segments)))
    return ee.load(target)


def test_the_choice_keeps_the_drop_on_its_part_and_its_figures_are_the_runners(bundle: ee.Bundle) -> None:
    x, labels = data()
    report = ee.tune(bundle, x, labels, max_accuracy_drop=0.02, calibrate=False, threads=1)
    assert report.rows == {"tune": 350, "test": 250}
    assert report.chosen.tune_score >= report.whole.tune_score - 0.02 - 1e-12
    assert report.chosen.cost.value < report.whole.cost.value
    assert (report.unit, report.whole.cost.value) == ("multiply-adds", 10)
    # The test part, run by the runner with these thresholds.
    parts = split(labels, calibrate=False, guarantee=False, seed=0)
    with ee.Runner(bundle, threads=1) as runner:
        found = [runner.run(x[n : n + 1], thresholds=report.thresholds) for n in parts.test]
    right = np.array([answer.prediction for answer in found]) == labels[parts.test]
    assert report.chosen.score.value == pytest.approx(right.mean())
    costs = [sum({"segment0": 1, "segment1": 2, "segment2": 7}[s] for s in answer.path) for answer in found]
    assert report.chosen.cost.value == pytest.approx(np.mean(costs))
    assert report.chosen.share.value == pytest.approx(np.mean(costs) / 10)
    for name, share in report.chosen.exits.items():
        assert share == pytest.approx(np.mean([answer.exit == name for answer in found]))
    assert report.chosen.score.low < report.chosen.score.value < report.chosen.score.high
    assert sum(c.rows for c in report.classes) == 250
    assert np.average([c.score for c in report.classes], weights=[c.rows for c in report.classes]) == pytest.approx(
        right.mean()
    )
    assert sum(share for _, share in report.spread.steps) == pytest.approx(1)
    assert all(sum(h.right) + sum(h.wrong) == 250 for h in report.histograms)
    for mistake in report.mistakes:
        answer = next(a for n, a in zip(parts.test, found, strict=True) if n == mistake.row)
        assert (answer.exit, answer.prediction) == (mistake.exit, mistake.prediction)
        assert mistake.prediction != mistake.label == labels[mistake.row]


def test_what_no_row_comes_to_is_said(bundle: ee.Bundle) -> None:
    x, labels = data()
    report = ee.tune(bundle, x, labels, budget_share=0.2, calibrate=False, threads=1)
    said = [note for note in report.notes if "goes beyond" in note]
    assert said == ["no held-out row goes beyond exit1: what lies behind it was not run, and a device does not load it"]
    assert 0 < report.chosen.exits["exit0"] < 1
    one = ee.tune(bundle, x, labels, budget_share=0.1, calibrate=False, threads=1)
    assert one.chosen.exits["exit0"] == 1
    assert "`eetoolkit truncate BUNDLE --at exit0` removes what lies behind it" in str(one.verdict)
    assert not [note for note in one.notes if "goes beyond" in note]  # the verdict says it already
    deep = ee.tune(bundle, x, labels, max_accuracy_drop=0.0, calibrate=False, threads=1)
    assert deep.chosen.exits["exit2"] > 0
    assert not [note for note in deep.notes if "goes beyond" in note]


def test_latencies_spread_over_rows_and_over_the_runs_of_each() -> None:
    record = made(0, rows=400)
    cost = np.tile([1.0, 2.0, 3.0, 4.0], (400, 1))
    part = Subset(record, scores_of(record, None), cost, None, "last", 0)
    limits = np.array([0.5, np.nan, np.nan, np.nan])
    early = (record.confidence[:, 0] >= 0.5).mean()
    still = spread(part, limits, None)
    assert (still.jitter, still.steps) == (False, ((1.0, pytest.approx(early)), (4.0, pytest.approx(1 - early))))
    # Runs to the first exit take 0.5 to 1.5 of their mean, evenly; to the last they all take the same.
    even = np.ones((4, len(QUANTILES)))
    even[0] = 0.5 + np.array(QUANTILES)
    moving = spread(part, limits, even)
    left = round(early * 100_000)
    drawn = np.concatenate([np.linspace(0.5, 1.5, left), np.full(100_000 - left, 4.0)])
    assert moving.jitter
    assert [moving.p50, moving.p95, moving.p99] == pytest.approx(np.quantile(drawn, (0.5, 0.95, 0.99)), abs=0.01)
    assert sum(share for _, share in moving.steps) == pytest.approx(1)
    assert np.mean([step for step, _ in moving.steps]) == pytest.approx(early + 4 * (1 - early), rel=0.01)


def test_quantiles_of_costs_are_those_of_the_runs() -> None:
    record = made(0, rows=400)
    cost = np.random.default_rng(0).gamma(2, size=(400, 4)).cumsum(axis=1)
    part = Subset(record, scores_of(record, None), cost, None, "last", 0)
    limits = np.array([0.5, 0.7, 0.9, np.nan])
    fires = np.append(record.confidence[:, :3] >= np.float32(limits[:3]), np.ones((400, 1), bool), axis=1)
    costs = cost[np.arange(400), fires.argmax(axis=1)]

    def quantiles(runs: np.ndarray) -> list[float]:
        """Returns p50, p95 and p99, on lines between the sorted runs."""
        places = [share * (len(runs) - 1) for share in (0.5, 0.95, 0.99)]
        return [float(np.interp(place, np.arange(len(runs)), np.sort(runs))) for place in places]

    still = spread(part, limits, None)
    assert [still.p50, still.p95, still.p99] == pytest.approx(quantiles(costs), rel=1e-12)
    # All runs take 0.5 to 1.5 of their mean, evenly.
    moving = spread(part, limits, np.tile(0.5 + np.array(QUANTILES), (4, 1)))
    runs = np.outer(costs, 0.5 + (np.arange(1000) + 0.5) / 1000).ravel()
    assert [moving.p50, moving.p95, moving.p99] == pytest.approx(quantiles(runs), rel=0.005)


@pytest.mark.parametrize("fires_where_tuned", [True, False])
def test_whether_an_exit_pays_is_decided_on_the_tuning_rows(fires_where_tuned: bool) -> None:
    def rows(*, fires: bool) -> Subset:
        record = made(0, rows=60, exits=2)
        record = dataclasses.replace(record, confidence=np.full((60, 2), 0.9 if fires else 0.1, np.float32))
        return Subset(record, scores_of(record, None), np.tile([1.0, 4.0], (60, 1)), None, "last", 0)

    test, tuned = rows(fires=not fires_where_tuned), rows(fires=fires_where_tuned)
    (found,) = exit_verdicts(test, tuned, np.array([0.5, np.nan]), [0], np.array([2.0, 0.0]))
    assert found.pays is fires_where_tuned  # 3 saved of each row, 2 for the visit; else nothing saved
    assert found.saved.value == (0.0 if fires_where_tuned else 3.0)  # the figure is the held-out rows'


def test_no_figure_comes_from_tuning_rows(bundle: ee.Bundle) -> None:
    x, labels = data()
    record = collect(bundle, x, labels, threads=1)
    report = ee.tune(bundle, record=record, seed=3)
    parts = split(labels, calibrate=False, guarantee=False, seed=3)
    spoiled = record.label.copy()
    spoiled[parts.tune] = (spoiled[parts.tune] + 1) % 4
    # Other labels of the tune part choose otherwise; the figures of what needs no choice stay.
    other = dataclasses.replace(record, label=spoiled)
    with mock.patch("eetoolkit.tuning.dataset.split", return_value=parts):
        changed = ee.tune(bundle, record=other, seed=3)
    assert changed.thresholds != report.thresholds
    assert changed.whole.score == report.whole.score
    assert [each.score for each in changed.always] == [each.score for each in report.always]


def test_budgets_are_kept_and_no_rule_does_better(bundle: ee.Bundle) -> None:
    x, labels = data(1200)
    for share in (0.25, 0.5, 0.8):
        with mock.patch("eetoolkit.tuning.choose.budget_margin", return_value=0.0):  # as the rules do
            report = ee.tune(bundle, x, labels, budget_share=share, calibrate=False, threads=1)
        assert report.chosen.tune_cost <= 10 * share + 1e-9
        names = [rule.name for rule in report.baselines]
        assert len(names) == 4
        for rule in report.baselines:
            if rule.tune_cost <= 10 * share + 1e-9:
                # a rule may set thresholds between our hundred candidates
                assert report.chosen.tune_score >= rule.tune_score - 0.005, rule.name


def test_temperatures_are_fitted_on_rows_of_their_own_and_written(bundle: ee.Bundle) -> None:
    x, labels = data()
    report = ee.tune(bundle, x, labels, threads=1)
    assert sum(report.rows.values()) == ROWS
    assert set(report.rows) == {"calibrate", "tune", "test"}
    assert len(report.constants) == 3
    assert len(report.calibration) == 3
    assert all(each.before.temperature == 1 for each in report.calibration)
    assert [each.after.temperature for each in report.calibration] == [v for (v,) in report.constants.values()]
    assert sum(each.after.log_loss for each in report.calibration) < sum(
        each.before.log_loss for each in report.calibration
    )
    assert "temperature" in str(list(report.constants))
    tuned = report.apply()
    for name, values in report.constants.items():
        assert tuned.manifest.constants[name].data == pytest.approx(values)
    assert ee.verify(tuned).passed  # the golden confidences are those of the new temperatures


def test_applying_writes_in_one_step_and_undo_puts_back(bundle: ee.Bundle) -> None:
    x, labels = data()
    before = bundle.manifest
    report = ee.tune(bundle, x, labels, budget_share=0.4, threads=1)
    assert ee.load(bundle.path).manifest == before
    tuned = report.apply()
    for name, limit in report.thresholds.items():
        assert tuned.exits[name].threshold == limit
    told = tuned.manifest.tuning
    assert told is not None
    assert (told.goal, told.rows, told.seed) == (report.goal, report.rows, 0)
    assert told.figures["score"][0] == report.chosen.score.value
    again = ee.tune(tuned, x, labels, max_accuracy_drop=0.05, calibrate=False, threads=1)
    again.apply()
    restored = report.undo()
    assert restored.manifest.constants == before.constants
    assert restored.exits == before.exits
    assert restored.manifest.tuning is None
    assert ee.verify(restored).passed
    with pytest.raises(ee.TuneError, match="was not tuned: there is nothing to undo"):
        ee.undo_tuning(bundle)


def test_of_a_quantised_bundle_thresholds_are_stale_until_they_are_tuned_and_again_when_that_is_undone(
    bundle: ee.Bundle,
) -> None:
    x, labels = data()
    last = list(bundle.manifest.segments)[-1]
    said = Quantization(segments={last: "dynamic"}, rows=8, created_with={}, stale=True)
    plan = msgspec.structs.replace(bundle.manifest, quantization=said)
    (bundle.path / "manifest.json").write_bytes(encode(plan))
    report = ee.tune(bundle.path, x, labels, calibrate=False, threads=1)
    assert report.apply().manifest.quantization == msgspec.structs.replace(said, stale=False)
    assert report.undo().manifest.quantization == said


def test_thresholds_are_written_with_the_temperatures_that_they_were_found_with(bundle: ee.Bundle) -> None:
    x, labels = data()
    before = bundle.manifest.constants
    warm = ee.tune(bundle, x, labels, threads=1)
    plain = ee.tune(bundle, x, labels, calibrate=False, threads=1)
    assert warm.apply().manifest.constants != before
    tuned = plain.apply()
    assert tuned.manifest.constants == before
    assert ee.verify(tuned).passed
    warmed = warm.apply()
    again = ee.tune(warmed, x, labels, calibrate=False, threads=1)
    assert ee.undo_tuning(warmed).manifest.constants == before
    assert again.apply().manifest.constants == warmed.manifest.constants
    assert ee.undo_tuning(bundle).manifest.constants == before


def test_what_was_before_is_measured_with_the_temperatures_of_before(bundle: ee.Bundle) -> None:
    x, labels = data()
    own = dict.fromkeys(("exit0", "exit1"), 0.95)
    (bundle.path / "manifest.json").write_bytes(encode(replaced(bundle.manifest, own, {}, None)))
    report = ee.tune(bundle.path, x, labels, threads=1)
    test = split(labels, calibrate=True, guarantee=False, seed=0).test
    with ee.Runner(bundle.path, threads=1) as runner:
        found = [runner.run(x[n : n + 1]) for n in test]
    right = np.array([answer.prediction for answer in found]) == labels[test]
    assert report.before.score.value == pytest.approx(right.mean())
    for name, share in report.before.exits.items():
        assert share == pytest.approx(np.mean([answer.exit == name for answer in found]))


def test_data_that_gives_other_rows_when_run_again_is_refused(bundle: ee.Bundle) -> None:
    x, labels = data()

    class Shuffled:
        def __init__(self) -> None:
            self.draw = np.random.default_rng(0)

        def __iter__(self):  # type: ignore[no-untyped-def]
            return iter([(x[n : n + 1], labels[n]) for n in self.draw.permutation(len(x))])

    with pytest.raises(ee.TuneError, match=r"row \d+ was another one when the rows were run again"):
        ee.tune(bundle, Shuffled(), threads=1)
    assert ee.tune(bundle, Shuffled(), calibrate=False, threads=1).rows == {"tune": 350, "test": 250}

    class Shrinking(Shuffled):
        def __iter__(self):  # type: ignore[no-untyped-def]
            count = int(self.draw.integers(100, 500))
            return iter([(x[n : n + 1], labels[n]) for n in range(count)])

    shrinking = Shrinking()
    shrinking.draw = mock.Mock(integers=mock.Mock(side_effect=[500, 300]))
    with pytest.raises(ee.TuneError, match="of them when run again"):
        ee.tune(bundle, shrinking, threads=1)


@pytest.fixture
def boaster(bundle: ee.Bundle) -> ee.Bundle:
    """One whose first exit is always the surest, and whose surest exit answers where none fires."""
    temperature = bundle.exits["exit0"].criterion.temperature
    assert isinstance(temperature, str)
    plan = replaced(bundle.manifest, {}, {temperature: (1e-3,)}, None)
    plan = msgspec.structs.replace(plan, fallback="most_confident")
    (bundle.path / "manifest.json").write_bytes(encode(plan))
    return ee.load(bundle.path)


def test_the_whole_network_answers_where_no_setting_passes_though_another_exit_is_surer(boaster: ee.Bundle) -> None:
    x, labels = data(200)
    report = ee.tune(boaster, x, labels, risk=0.01, calibrate=False, threads=1)
    assert report.guarantee is not None
    assert not report.guarantee.passed
    assert list(report.thresholds.values()) == ["never", "never"]
    assert (report.chosen.score, report.chosen.cost) == (report.whole.score, report.whole.cost)
    with pytest.raises(ee.TuneError, match="rows of its own are too few to show a risk of at most 1%: at least"):
        report.apply()
    with ee.Runner(report.apply(force=True), threads=1) as runner:
        assert {runner.run(x[n : n + 1]).exit for n in range(20)} == {"exit2"}


def test_the_whole_network_meets_a_goal_that_no_surest_exit_does(boaster: ee.Bundle) -> None:
    x, labels = data()
    report = ee.tune(boaster, x, labels, max_accuracy_drop=0, calibrate=False, threads=1)
    assert list(report.thresholds.values()) == ["never", "never"]
    assert report.chosen.tune_score == report.whole.tune_score
    with ee.Runner(report.apply(), threads=1) as runner:
        assert {runner.run(x[n : n + 1]).exit for n in range(20)} == {"exit2"}


def test_a_packed_bundle_is_tuned_and_not_written(
    bundle: ee.Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EETOOLKIT_CACHE", str(tmp_path / "cache"))
    packed = bundle.pack(tmp_path / "it.zip")
    text = packed.read_bytes()
    x, labels = data()
    report = ee.tune(packed, x, labels, calibrate=False, threads=1)
    with pytest.raises(ee.BundleError, match="is packed, and only a bundle's folder can be changed"):
        report.apply()
    with pytest.raises(ee.BundleError, match="is packed"):
        ee.undo_tuning(packed)
    opened = ee.load(packed)
    with pytest.raises(ee.BundleError, match="is packed"):
        ee.tune(opened, x, labels, calibrate=False, threads=1).apply()
    with pytest.raises(ee.BundleError, match="is packed"):
        ee.undo_tuning(opened)
    assert packed.read_bytes() == text
    assert ee.load(packed).manifest == bundle.manifest


def test_figures_that_json_cannot_hold_are_not_written(bundle: ee.Bundle) -> None:
    x, labels = data()
    report = ee.tune(bundle, x, labels, calibrate=False, threads=1)
    chosen = msgspec.structs.replace(report.chosen, share=Interval(float("nan"), 0.0, 1.0))
    with pytest.raises(ee.ManifestError, match="figures"):
        msgspec.structs.replace(report, chosen=chosen).apply()
    assert ee.load(bundle.path).manifest == bundle.manifest


def test_a_report_of_another_bundle_is_not_written(bundle: ee.Bundle) -> None:
    x, labels = data()
    report = ee.tune(bundle, x, labels, calibrate=False, threads=1)
    other = msgspec.structs.replace(report, files={"segment0.onnx": "0" * 64})
    with pytest.raises(ee.TuneError, match="holds another bundle by now; tune it again"):
        other.apply()
    assert ee.load(bundle.path).manifest == bundle.manifest


def test_an_exit_that_tuning_disabled_may_come_back_but_not_one_that_its_user_did(bundle: ee.Bundle) -> None:
    x, labels = data()
    report = ee.tune(bundle, x, labels, calibrate=False, threads=1)
    off = msgspec.structs.replace(report.chosen, thresholds={"exit0": "never", "exit1": 0.5})
    tuned = msgspec.structs.replace(report, chosen=off).apply()
    assert not tuned.exits["exit0"].enabled
    assert may_fire(tuned.manifest) == [True, True, False]
    ee.undo_tuning(tuned)
    own = replaced(bundle.manifest, {"exit0": "never"}, {}, None)
    (bundle.path / "manifest.json").write_bytes(encode(own))
    assert may_fire(ee.load(bundle.path).manifest) == [False, True, False]
    found = ee.tune(bundle.path, x, labels, calibrate=False, threads=1)
    assert found.thresholds["exit0"] == "never"
    assert all(point.thresholds["exit0"] == "never" for point in found.frontier)


def test_an_exit_that_its_user_disabled_after_a_tuning_stays_disabled(bundle: ee.Bundle) -> None:
    x, labels = data()
    first = ee.tune(bundle, x, labels, calibrate=False, threads=1)
    plan = first.apply().manifest
    assert first.thresholds["exit0"] != "never"
    assert plan.tuning is not None
    assert plan.tuning.thresholds == first.thresholds
    for _ in range(2):  # the second time, a tuning has written the `never` again
        (bundle.path / "manifest.json").write_bytes(encode(replaced(plan, {"exit0": "never"}, {}, plan.tuning)))
        again = ee.tune(bundle.path, x, labels, calibrate=False, threads=1)
        assert again.thresholds["exit0"] == "never"
        plan = again.apply(force=True).manifest
        assert plan.tuning is not None
        assert set(plan.tuning.thresholds) == {"exit1"}
    assert ee.undo_tuning(bundle.path).exits["exit0"].threshold == bundle.exits["exit0"].threshold


def test_an_exit_that_its_user_enables_may_fire(bundle: ee.Bundle) -> None:
    x, labels = data()
    (bundle.path / "manifest.json").write_bytes(encode(replaced(bundle.manifest, {"exit0": "never"}, {}, None)))
    plan = ee.tune(bundle.path, x, labels, calibrate=False, threads=1).apply(force=True).manifest
    assert may_fire(plan) == [False, True, False]
    assert may_fire(replaced(plan, {"exit0": 0.5}, {}, plan.tuning)) == [True, True, False]


def test_a_guarantee_is_written_with_its_grounds(bundle: ee.Bundle) -> None:
    x, labels = data(3000)
    report = ee.tune(bundle, x, labels, risk=0.05, delta=0.1, calibrate=False, threads=1)
    given = report.guarantee
    assert given is not None
    assert given.passed
    assert (given.risk, given.delta, given.rows) == (0.05, 0.1, report.rows["guarantee"])
    assert spell_guarantee(given).startswith(f"{given.loss}: at most 5% with probability 0.9 ({given.method}, ")
    assert given.found <= 0.05
    assert not report.by_label  # its rows must be drawn independently
    assert report.chosen.share.value < 0.9
    assert {rule.name for rule in report.baselines} >= {f"guaranteed by {m}" for m in ("ltt", "ucb", "crc")}
    tuned = report.apply()
    assert tuned.manifest.tuning is not None
    assert tuned.manifest.tuning.guarantee == given
    few = ee.tune(bundle, x[:200], labels[:200], risk=0.01, calibrate=False, threads=1)
    assert few.guarantee is not None
    assert not few.guarantee.passed
    assert spell_guarantee(few.guarantee) == ("no early exit passed a risk of 1% on 59 rows: the whole network answers")
    assert list(few.thresholds.values()) == ["never", "never"]
    assert few.chosen.cost == few.whole.cost
    assert few.goal_met is None
    assert "59 rows of its own are too few to show a risk of at most 1%: at least 299 are needed" in few.goal_reason


def test_the_verdict_is_against_the_best_static_choice(bundle: ee.Bundle) -> None:
    x, labels = data(1500)
    report = ee.tune(bundle, x, labels, max_accuracy_drop=0.01, calibrate=False, threads=1)
    assert report.verdict.pays
    assert str(report.verdict).startswith("early exit pays here")
    lax = ee.tune(bundle, x, labels, min_accuracy=0.3, calibrate=False, threads=1)
    assert not lax.verdict.pays
    assert lax.verdict.best_static == "always exit0"
    assert "early exit does not pay here: always answering at exit0" in str(lax)
    for verdict in report.verdict.exits:
        without = report.thresholds | {verdict.exit: "never"}
        parts = split(labels, calibrate=False, guarantee=False, seed=0)
        with ee.Runner(bundle, threads=1) as runner:
            paths = [runner.run(x[n : n + 1], thresholds=without).path for n in parts.test]
        cost = np.mean([sum({"segment0": 1, "segment1": 2, "segment2": 7}[s] for s in path) for path in paths])
        assert verdict.saved.value == pytest.approx(cost - report.chosen.cost.value)
        assert verdict.pays == (verdict.saved.value > 0)


def test_a_metric_takes_the_place_of_accuracy(bundle: ee.Bundle) -> None:
    x, labels = data(300)

    def first_two(outputs, labels):  # type: ignore[no-untyped-def]
        return (outputs["logits"].argmax(axis=1) // 2) == labels // 2

    report = ee.tune(bundle, x, labels, metric=first_two, threads=1)
    assert report.metric == "first_two"
    with ee.Runner(bundle, threads=1) as runner:
        whole = np.mean([runner.run(row[None], exit_at="exit2").prediction // 2 == label // 2  # type: ignore[operator]
                         for row, label in zip(x, labels, strict=True)])  # fmt: skip
    assert report.whole.tune_score == pytest.approx(whole, abs=0.05)

    def whole_only(outputs, labels):  # type: ignore[no-untyped-def]
        return float(first_two(outputs, labels).mean())

    found = ee.tune(bundle, x, labels, metric=whole_only, threads=1)
    assert found.whole.score.value == pytest.approx(report.whole.score.value)
    assert found.chosen.tune_score >= found.whole.tune_score - 0.01 - 1e-12


def test_a_profile_that_is_saved_after_tuning_keeps_the_tuning(bundle: ee.Bundle) -> None:
    x, labels = data(300)
    profile = ee.profile(bundle, x[:8], threads=1, seconds=0)
    tuned = ee.tune(bundle, x, labels, threads=1).apply()
    profile.save(bundle)
    found = ee.load(bundle.path, check="full")
    assert found.manifest.tuning == tuned.manifest.tuning
    assert found.manifest.constants == tuned.manifest.constants
    assert ee.verify(found).passed
    assert ee.Profile.read(found) == profile


def test_a_profile_of_another_version_leaves_its_latencies(bundle: ee.Bundle) -> None:
    x, labels = data(300)
    old = b'{"version": 4}'
    name = f"profile-{hashlib.sha256(old).hexdigest()[:8]}.json"
    (bundle.path / name).write_bytes(old)
    plan = bundle.manifest
    saved = SavedProfile(file=name, expected_ms={"segment0": 1.0, "segment1": 2.0, "segment2": 7.0})
    files = plan.files | {name: digest(bundle.path / name)}
    (bundle.path / "manifest.json").write_bytes(encode(msgspec.structs.replace(plan, profile=saved, files=files)))
    report = ee.tune(bundle.path, x, labels, calibrate=False, threads=1)
    assert (report.unit, report.costs) == ("ms", "the latencies (p90) in the bundle's manifest")
    assert report.whole.cost.value == pytest.approx(10)


def test_a_profile_gives_milliseconds_and_must_be_of_this_bundle(bundle: ee.Bundle, tmp_path: Path) -> None:
    x, labels = data(300)
    record = collect(bundle, x, labels, threads=1)
    profile = called(ee.profile(bundle, x[:8], threads=1, seconds=0))
    report = ee.tune(bundle, record=record, profile=profile, budget_ms=1e6)
    assert report.unit == "ms"
    always = {name: cost.latency.robust_ms for name, cost in profile.exits.items() if cost.latency is not None}
    assert report.whole.cost.value == pytest.approx(always["exit2"])
    assert [each.cost.value for each in report.always] == pytest.approx(list(always.values()))
    each = max(0.0, profile.overhead_us) / 1e3
    heads = {e: c.passing.added_us for e, c in profile.exits.items() if c.passing is not None}
    assert set(heads) == {"exit0", "exit1"}
    for verdict in report.verdict.exits:
        assert verdict.overhead == pytest.approx(each + max(0.0, heads[verdict.exit]) / 1e3)
        assert verdict.break_even == pytest.approx(min(1.0, verdict.overhead / verdict.behind))
    profile.save(bundle)
    assert ee.tune(bundle.path, record=record).whole.cost == report.whole.cost
    with pytest.raises(ee.TuneError, match=r"budget_ms=1e-09 \(--budget-ms 1e-09\) cannot be met: the cheapest"):
        ee.tune(bundle, record=record, profile=profile, budget_ms=1e-9)
    other = msgspec.structs.replace(profile, files={"other.onnx": "0" * 64}, bundle="other")
    with pytest.raises(ee.TuneError, match="this profile is of another bundle, 'other'"):
        ee.tune(bundle, record=record, profile=other)
    assert ee.tune(bundle, record=record, profile=other, force=True).unit == "ms"
    said = "costs are those of a runner with one thread, as profiled; without the same `threads` (--threads) yours has"
    assert f"{said} a worker for each core" in report.notes
    assert not any("thread" in note for note in ee.tune(bundle, record=record, profile=profile, threads=1).notes)
    blind = msgspec.structs.replace(
        profile,
        segments=profile.segments | {"segment2": msgspec.structs.replace(profile.segments["segment2"], latency=None)},
    )
    with pytest.raises(ee.TuneError, match="has no latency for segment2"):
        ee.tune(bundle, record=record, profile=blind)
    with pytest.raises(ee.BundleError, match=r"none\.json does not exist"):
        ee.tune(bundle, record=record, profile=tmp_path / "none.json")


def test_a_profile_of_another_backend_is_refused_unless_forced(tmp_path: Path, bundle: ee.Bundle) -> None:
    # The one provider beside the CPU that every wheel of onnxruntime has; it leaves all nodes to the CPU.
    backend = ["AzureExecutionProvider"]
    x, labels = data()
    record = tmp_path / "rows.npz"
    on_cpu = ee.profile(bundle, x[:8], threads=1, seconds=0)
    elsewhere = ee.profile(bundle, x[:8], threads=1, seconds=0, providers=backend)
    assert on_cpu.providers == ("CPUExecutionProvider",)
    assert elsewhere.providers == ("AzureExecutionProvider", "CPUExecutionProvider")
    report = ee.tune(bundle, x, labels, profile=elsewhere, providers=backend, calibrate=False, threads=1, record=record)
    assert report.unit == "ms"
    for profile, providers in ((elsewhere, None), (on_cpu, backend), (on_cpu, backend[0])):
        with pytest.raises(ee.TuneError, match=r"this profile is of a run on .*, expected .*force=True") as caught:
            ee.tune(bundle, record=record, profile=profile, providers=providers)
        assert "\n" not in str(caught.value)
        assert ee.tune(bundle, record=record, profile=profile, providers=providers, force=True).unit == "ms"
    with pytest.raises(ee.RunError, match=r"providers \['NoSuchExecutionProvider'\] are not in this onnxruntime"):
        ee.tune(bundle, x, labels, providers="NoSuchExecutionProvider", threads=1)


BAD = {
    "wrong_length": (lambda x, y: (x, y[:-1]), ee.InputError, r"labels have shape \[599\]"),
    "out_of_range": (lambda x, y: (x, np.where(np.arange(len(y)) == 7, 4, y)), ee.TuneError,
                     "label 4 of row 7 is no class; expected 0 to 3"),
    "negative": (lambda x, y: (x, y - 1), ee.TuneError, "label -1 of row .* is no class"),
    "fractions": (lambda x, y: (x, y + 0.5), ee.TuneError, "labels are float64"),
    "one_class": (lambda x, y: (x, np.zeros_like(y)), ee.TuneError, "all 600 labels are 0"),
    "nan": (lambda x, y: (np.where(np.arange(len(x))[:, None] == 5, np.nan, x).astype(np.float32), y), ee.TuneError,
            "exit0: the confidence of 1 rows is NaN, first of row 5"),
    "shape": (lambda x, y: (x[:, :5], y), ee.InputError, "got shape"),
    "too_few": (lambda x, y: (x[:1], y[:1]), ee.TuneError, "all 1 labels are"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_data_is_one_clear_error_and_the_bundle_untouched(name: str, bundle: ee.Bundle) -> None:
    spoil, error, said = BAD[name]
    x, labels = spoil(*data())
    before = (bundle.path / "manifest.json").read_bytes()
    with pytest.raises(error, match=said):
        ee.tune(bundle, x, labels, threads=1)
    assert (bundle.path / "manifest.json").read_bytes() == before


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "bundle": ({"bundle": 5}, ee.TuneError, "bundle is 5, expected a text or a path or a Bundle"),
    "a text": ({"max_accuracy_drop": "0.01"}, ee.TuneError, "max_accuracy_drop is '0.01', expected a number or None"),
    "a truth": ({"min_accuracy": True}, ee.TuneError, "min_accuracy is True, expected a number or None"),
    "a list": ({"budget_share": [0.5]}, ee.TuneError, r"budget_share is \[0.5\], expected a number or None"),
    "method": ({"risk": 0.1, "method": "LTT"}, ee.TuneError, "method is 'LTT', expected 'ltt' or 'ucb' or 'crc'"),
    "metric": ({"metric": "accuracy"}, ee.TuneError, "metric is 'accuracy', expected a function or None"),
    "profile": (
        {"profile": 5},
        ee.TuneError,
        "profile is 5, expected a Profile or a Fleet or a text or a path or None",
    ),
    "record": ({"record": {}}, ee.TuneError, "record is {}, expected a Record or a text or a path or None"),
    "force": ({"force": 1}, ee.TuneError, "force is 1, expected True or False"),
    "calibrate": ({"calibrate": "no"}, ee.TuneError, "calibrate is 'no', expected True or False or None"),
    "seed": ({"seed": 0.5}, ee.TuneError, "seed is 0.5, expected a whole number"),
    "a negative seed": ({"seed": -1}, ee.TuneError, r"seed is -1, expected 0 to \d+"),
    "a seed that JSON loses": ({"seed": 2**64}, ee.TuneError, r"seed is 18446744073709551616, expected 0 to \d+"),
    "threads": ({"threads": 2.0}, ee.TuneError, "threads is 2.0, expected a whole number or None"),
    "providers": ({"providers": 5}, ee.TuneError, "providers is 5, expected a text or a list"),
    "progress": ({"progress": 5}, ee.TuneError, "progress is 5, expected a function or None"),
    "no data": (
        {"inputs": 5, "labels": None},
        ee.InputError,
        "the data are 5, expected inputs beside labels, or pairs",
    ),
    "ragged labels": ({"labels": [0, [1, 2]]}, ee.InputError, "labels are no array: setting an array element"),
    "labels that are None": ({"labels": [None] * 40}, ee.InputError, "labels are object, expected numbers or texts"),
    "masked labels": ({"labels": np.ma.masked_less(np.arange(40) % 4, 1)}, ee.InputError, "labels are masked"),
    "a metric of texts": ({"metric": lambda _, labels: ["x"] * len(labels)}, ee.TuneError, "the metric gave .'x'"),
    "a metric of pairs": ({"metric": lambda _, labels: np.zeros((len(labels), 2))}, ee.TuneError, "gave shape"),
    "a metric of nothing": ({"metric": lambda *_: None}, ee.TuneError, "the metric gave nan, expected a number"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_argument_of_the_wrong_type_is_one_clear_error(name: str, exported: Path) -> None:
    given, error, said = WRONG[name]
    x, labels = data(40)
    with pytest.raises(error, match=said):
        ee.tune(**({"bundle": exported, "inputs": x, "labels": labels, "threads": 1} | given))


def test_what_a_report_and_undo_are_asked_wrongly_is_one_clear_error(bundle: ee.Bundle, tmp_path: Path) -> None:
    x, labels = data(60)
    report: Any = ee.tune(bundle, x, labels, threads=1)
    undo: Any = ee.undo_tuning
    with pytest.raises(ee.TuneError, match="force is 'yes', expected True or False"):
        report.apply(force="yes")
    with pytest.raises(ee.TuneError, match="output is 5, expected a text or a path"):
        report.prune(5, force=True)
    with pytest.raises(ee.TuneError, match="threads is 'all', expected a whole number or None"):
        report.prune(tmp_path / "out.ee", threads="all")
    with pytest.raises(ee.TuneError, match="bundle is 5, expected a text or a path or a Bundle"):
        undo(5)
    with pytest.raises(ee.BundleError, match="expected a path"):
        undo("a\0b")


def test_a_record_whose_values_no_run_gives_is_refused_or_told_without_a_traceback(bundle: ee.Bundle) -> None:
    x, labels = data(120)
    record = collect(bundle, x, labels, threads=1)
    cold = dict.fromkeys(record.constants, (0.0,))
    with pytest.raises(ee.TuneError, match=r"exit0: the temperature is 0, expected a number above 0"):
        ee.tune(bundle, record=dataclasses.replace(record, constants=cold))
    with pytest.raises(ee.TuneError, match=r"a static estimate makes the whole network cost 0 over all rows"):
        ee.tune(bundle, record=dataclasses.replace(record, ways=0 * record.ways))
    sure = record.confidence.copy()
    sure[:5, 0], sure[5:9, 1] = np.inf, -np.inf
    report = ee.tune(bundle, record=dataclasses.replace(record, confidence=sure))
    for histogram in report.histograms:  # infinite ones are in the outermost bins
        assert sum(histogram.right) + sum(histogram.wrong) == report.rows["test"]
        assert (histogram.edges[0], histogram.edges[-1]) == (0, 1)


def test_an_exit_that_tells_fewer_classes_apart_has_no_temperature_and_no_reliability(tmp_path: Path) -> None:
    class Coarse(torch.nn.Module):
        """The first exit knows two of the four classes."""

        def forward(self, x: torch.Tensor) -> dict[str, dict[str, torch.Tensor]]:
            return {"few": {"logits": 4 * x[:, :2]}, "all": {"scores": 4 * x[:, 8:]}}

    x, labels = data(300)
    bundle = ee.export(Coarse().eval(), torch.from_numpy(x[:1]), tmp_path / "it.ee")
    report = ee.tune(bundle, x, labels, threads=1, max_accuracy_drop=0.9)
    assert [each.exit for each in report.calibration] == ["all"]
    assert "no temperature for few: it uses none, or its logits are not an output" in report.notes


def test_goals_that_cannot_be_met_say_the_best_that_can(bundle: ee.Bundle) -> None:
    x, labels = data()
    record = collect(bundle, x, labels, threads=1)
    with pytest.raises(
        ee.TuneError,
        match=r"min_accuracy=1 .* cannot be met: the best thresholds reach 0\.9\d* on the tuning rows, at ",
    ):
        ee.tune(bundle, record=record, min_accuracy=1)
    with pytest.raises(ee.TuneError, match=r"budget_share=0\.05 .* the cheapest thresholds cost 0\.1 of"):
        ee.tune(bundle, record=record, budget_share=0.05)
    with pytest.raises(ee.TuneError, match=r"budget_ms=1 .* needs latencies, and there is no profile here; pass"):
        ee.tune(bundle, record=record, budget_ms=1)
    with pytest.raises(ee.TuneError, match=r"one goal at a time: got max_accuracy_drop=0\.1 .* and budget_share=0\.5"):
        ee.tune(bundle, record=record, max_accuracy_drop=0.1, budget_share=0.5)
    for goal, example in (
        ({"max_accuracy_drop": -1}, r"0\.01 for one per cent"),
        ({"min_accuracy": 95}, r"0\.95 for 95 per cent"),
        ({"min_accuracy": 980}, r"0\.01 for one per cent"),
        ({"budget_share": 50}, r"0\.5 for 50 per cent"),
        ({"risk": 2}, r"0\.02 for 2 per cent"),
    ):
        with pytest.raises(ee.TuneError, match=f"expected a share from 0 to 1, such as {example}$"):
            ee.tune(bundle, record=record, **goal)  # type: ignore[arg-type] # the names are its goals
    with pytest.raises(ee.TuneError, match="expected a number from 0"):
        ee.tune(bundle, record=record, budget_ms=-1)
    with pytest.raises(ee.TuneError, match=r"risk 0\.05 and delta 2 must lie between 0 and 1"):
        ee.tune(bundle, record=record, risk=0.05, delta=2)
    for rare in ({"risk": 1e-300}, {"risk": 0.05, "delta": 1e-300}):
        with pytest.raises(ee.TuneError, match="must lie between 0 and 1, at 1e-05 or above"):
            ee.tune(bundle, record=record, **rare)  # type: ignore[arg-type] # the names are its goals
    with pytest.raises(ee.TuneError, match="temperatures need inputs that can be run again"):
        ee.tune(bundle, record=record, calibrate=True)
    with pytest.raises(ee.TuneError, match="nothing to tune by"):
        ee.tune(bundle)
    with pytest.raises(ee.TuneError, match="pass inputs or a record"):
        ee.tune(bundle, x, labels, record=record)


def test_rules_choose_what_their_sources_say() -> None:
    """One exit before the last: each rule's choice follows by hand."""
    record = made(0, rows=100, exits=2)
    cost = np.broadcast_to([0.5, 1.0], record.exit.shape)
    part = Subset(record, scores_of(record, None), cost, None, "last", 0)
    allowed = np.array([True, False])
    sure, right = record.confidence[:, 0].astype(float), scores_of(record, None)
    assert right is not None
    full = right[:, 1].mean()
    found = dict(baselines(part, allowed, Constraint(least_score=full - 0.1)))
    # MSDNet's rule lets one half leave at q = 1 and 1 / (1 + q) else: floors of 100 rows.
    leaving = {int(np.floor(100 / (1 + p / 20))) for p in range(1, 41)}
    assert int((sure >= found["budgeted batch (MSDNet)"][0]).sum()) in leaving
    every = [np.where(sure >= t, right[:, 0], right[:, 1]).mean() for t in np.sort(sure)]
    met = [(sure >= t).mean() for t, score in zip(np.sort(sure), every, strict=True) if score >= full - 0.1]
    assert (sure >= found["one threshold"][0]).mean() == pytest.approx(max(met), abs=0.02)


def test_the_command_tunes_writes_and_takes_back(bundle: ee.Bundle, tmp_path: Path) -> None:
    x, labels = data()
    np.savez(tmp_path / "val.npz", image=x, labels=labels)
    name = bundle.manifest.inputs[0].name
    command = ["tune", str(bundle.path), "--threads", "1"]
    shown = CliRunner().invoke(
        main, [*command, "--data", str(tmp_path / "val.npz"), "--record", str(tmp_path / "r.npz")]
    )
    assert shown.exit_code == 0, shown.output
    for word in ("goal", "accuracy", "verdict", "whole network", "greedy", "unchanged"):
        assert word in shown.stdout
    assert ee.load(bundle.path).manifest == bundle.manifest
    machine = CliRunner().invoke(
        main, [*command, "--record", str(tmp_path / "r.npz"), "--budget-share", "0.5", "--apply", "--json"]
    )
    assert machine.exit_code == 0, machine.output
    report = json.loads(machine.stdout)
    assert report["chosen"]["tune_cost"] <= 5
    assert ee.load(bundle.path).manifest.tuning is not None
    assert msgspec.convert(report, ee.TuningReport).thresholds == report["chosen"]["thresholds"]
    undone = CliRunner().invoke(main, ["tune", str(bundle.path), "--undo"])
    assert undone.exit_code == 0, undone.output
    assert undone.stdout.startswith(
        "thresholds and temperatures restored: exit0 >= 0.9, exit1 >= 0.9, exit2 always\nit: 3 segments, exits "
    )
    assert ee.load(bundle.path).manifest == bundle.manifest
    known = [*command, "--record", str(tmp_path / "r.npz")]
    for arguments, code, said in (
        (command, 2, "pass --data, or a --record"),
        ([*command, "--undo", "--apply"], 2, "--undo goes alone"),
        ([*known, "--delta", "0.1"], 2, "--delta goes with --risk"),
        ([*known, "--method", "crc"], 2, "--method goes with --risk"),
        ([*known, "--min-accuracy", "95"], 1, "error: --min-accuracy 95: expected a share from 0 to 1"),
        ([*known, "--calibrate"], 1, "; pass --no-calibrate"),
        ([*command, "--data", str(tmp_path / "none.npz")], 1, "does not exist"),
        ([*command, "--data", str(tmp_path / "r.npz")], 1, f"expected a .npz with the arrays {name} and labels"),
    ):
        failed = CliRunner().invoke(main, arguments)
        assert failed.exit_code == code
        assert said in failed.output


def test_where_no_exit_may_fire_there_is_nothing_to_tune(tmp_path: Path) -> None:
    draft = Draft()
    draft.slot("logits", shape=ROW)
    add_head(draft, "x")
    bundle = ee.load(draft.save(tmp_path / "it.ee"))
    x = np.random.default_rng(0).uniform(size=(40, 4)).astype(np.float32)
    with pytest.raises(ee.TuneError, match="no exit of 'drafted' may leave early, so there is nothing to tune"):
        ee.tune(bundle, x, np.arange(40) % 4, threads=1)


def test_what_is_the_whole_network_by_definition_loses_nothing_for_sure(bundle: ee.Bundle) -> None:
    x, labels = data()
    report = ee.tune(bundle, x, labels, max_accuracy_drop=0.02, calibrate=False, threads=1)
    sure = Interval(0.0, 0.0, 0.0)
    assert (report.whole.drop, report.always[2].drop) == (sure, sure)
    assert report.always[1].drop.high > 0
    assert report.chosen.drop.high > 0


def test_few_rows_fit_no_temperatures_unasked_and_what_they_cannot_tell_is_said(bundle: ee.Bundle) -> None:
    x, labels = data(100)
    report = ee.tune(bundle, x, labels, threads=1)
    assert report.rows == {"tune": 58, "test": 42}
    fix = "calibrate=True (--calibrate) fits them all the same"
    assert f"no temperatures were fitted: 100 rows are too few, 150 are needed; {fix}" in report.notes
    asked = ee.tune(bundle, x, labels, calibrate=True, threads=1)
    assert asked.rows["calibrate"] == 19
    said = "47 tuning rows are too few for a safety margin; 50 are needed"
    assert said in asked.notes
    assert said not in report.notes
    guaranteed = ee.tune(bundle, x, labels, risk=0.2, calibrate=False, threads=1)
    assert not [note for note in guaranteed.notes if "safety margin" in note]


def test_the_help_says_from_how_many_rows_on_temperatures_are_fitted() -> None:
    text = " ".join(CliRunner().invoke(main, ["tune", "--help"]).output.split())
    plain, with_risk = (rows_to_fit(guarantee=guarantee) for guarantee in (False, True))
    assert f"on when --data has {plain} rows or more, with --risk {with_risk}." in text


def test_a_record_alone_says_that_it_fits_no_temperatures(bundle: ee.Bundle, tmp_path: Path) -> None:
    x, labels = data()
    both = ee.tune(bundle, x, labels, record=tmp_path / "r.npz", threads=1)
    said = "no temperatures were fitted: that takes the data beside the record"
    assert said not in both.notes
    assert said in ee.tune(bundle, record=tmp_path / "r.npz").notes
    assert said not in ee.tune(bundle, record=tmp_path / "r.npz", calibrate=False).notes
    fitted = ee.tune(bundle, record=tmp_path / "r.calibrated.npz")
    assert said not in fitted.notes
    assert fitted.constants == both.constants


def test_temperatures_that_make_probabilities_worse_are_remarked_on(bundle: ee.Bundle) -> None:
    x, labels = data()
    report = ee.tune(bundle, x, labels, threads=1)
    (note,) = [note for note in report.notes if "raise the log loss" in note]
    for each in report.calibration:
        told = f"{each.exit} from {each.before.log_loss:.3g} to {each.after.log_loss:.3g}"
        assert (told in note) == (each.after.log_loss > 1.02 * each.before.log_loss), each.exit
    assert "exit2" in note
    assert "exit0" not in note
    assert not list(less_reliable(report.calibration[:1]))


def test_a_missed_goal_is_the_first_line(bundle: ee.Bundle) -> None:
    x, labels = data()
    record = collect(bundle, x, labels, threads=1)
    reports = [ee.tune(bundle, record=record, max_accuracy_drop=0.02, seed=seed) for seed in (4, 5, 6)]
    over = [report for report in reports if report.chosen.drop.value > 0.02]
    assert over
    assert len(over) < len(reports)
    for report in reports:
        assert report.goal_met is (report not in over)
        first = str(report).splitlines()[0]
        assert first == f"it: goal {'missed' if report in over else 'met'}: {report.goal_reason}"
        assert f"the drop is {100 * report.chosen.drop.value:+.2f} [" in first


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"labels": np.zeros(60, np.float32)},
            r"expected one integer for each row; convert them: labels.astype\('int64'\)$",
        ),
        ({"labels": np.zeros((60, 1), int)}, r"convert them: labels.reshape\(-1\)$"),
        ({"labels": np.zeros((60, 1), bool)}, r"convert them: labels.reshape\(-1\).astype\('int64'\)$"),
        ({"labels": np.full(60, 0.5)}, r"labels are float64\[60\], expected one integer for each row$"),
        ({"labels": np.full(60, 2)}, r"^all 60 labels are 2: figures of one class say nothing"),
        ({"labels": np.arange(60) % 2, "budget_ms": 1.0}, r"needs latencies, and there is no profile here"),
    ],
)
def test_what_can_be_told_of_labels_and_goal_is_told_before_anything_is_run(
    bundle: ee.Bundle, given: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: Any, **__: Any) -> None:
        raise AssertionError("it was run")

    monkeypatch.setattr("eetoolkit.tuning.tune.gather", run)
    x, _ = data(60)
    with pytest.raises(ee.TuneError, match=said):
        ee.tune(bundle, x, threads=1, **given)


def test_a_golden_sample_that_meets_other_exits_here_is_left_out(tmp_path: Path) -> None:
    draft = chain(0.5)
    draft.constant("t", "float32", 1.0)
    met = tuple(Visit(f"exit{k}", {"logits": row(0.9) * 2 ** (k + 1)}, 0.9 * (k == 0)) for k in range(2))
    draft.samples = [Sample({"x": row(0.9)}, met), Sample({"x": row(0.9)}, met[1:])]
    bundle = ee.load(draft.save(tmp_path / "it.ee"))
    changed = replaced(bundle.manifest, {}, {"t": (2.0,)}, None)
    assert [len(sample.visits) for sample in golden_under(bundle, changed)] == [2]
    draft.samples = draft.samples[1:]
    bundle = ee.load(draft.save(tmp_path / "other.ee"))
    (tmp_path / "new").mkdir()
    plan = with_golden(bundle, replaced(bundle.manifest, {}, {"t": (2.0,)}, None), tmp_path / "new")
    assert plan.golden is None
    assert not any(name.startswith("golden") for name in plan.files)

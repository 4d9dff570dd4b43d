"""The benchmarks of tuning: frontiers on held-out rows, latencies predicted and measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from plans import chain
from test_tuning_search import made, plan_of
from test_tuning_splits import called

import eetoolkit as ee
from benchmarks import frontiers, predicted
from benchmarks.earlyon_rule import earlyon
from eetoolkit.tuning.collect import collect
from eetoolkit.tuning.evaluate import Subset
from eetoolkit.tuning.objective import Objective, scores_of
from eetoolkit.tuning.search import Constraint, Points


def part(rows: int, seed: int = 0, exits: int = 4) -> Subset:
    record = made(seed, rows=rows, exits=exits)
    return Subset(record, scores_of(record, None), np.tile(np.arange(1.0, exits + 1), (rows, 1)), None, "last", 0)


def test_a_frontier_is_on_or_above_every_rule_where_it_was_chosen() -> None:
    tune = part(300)
    found = frontiers.measure(plan_of(4), tune, tune)
    assert "greedy coordinate descent" in found.points
    assert len(found.points) == 5
    for rule, points in found.points.items():
        assert len(points) == len(frontiers.DROPS) + len(frontiers.BUDGETS)
        assert (found.tune_points[rule] >= -1e-9).all()
        assert (points >= found.tune_points[rule] - 1e-9).all(), "a line between points is no lower than the step"
        assert (found.points_there[rule] >= -1e-9).all()
        assert (np.exp(found.log_ratio[rule]) <= 1 + 1e-9).all()
        assert not found.lost[rule].any()
    assert max(points.max() for points in found.points.values()) > 0.1  # else nothing is compared


def never(objective: Objective) -> Points:
    """Returns the one setting at which no exit fires."""
    score, cost = objective.at(objective.choices.never)
    return Points(objective.choices.never[None], np.array([score]), np.array([cost]))


def test_a_rule_that_beats_the_search_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    tune = part(300)
    monkeypatch.setattr(frontiers, "settings_of", lambda *_: [])
    monkeypatch.setattr(frontiers.Search, "best", lambda self, *_: self._objective.choices.never)
    monkeypatch.setattr(frontiers.Search, "points", property(lambda self: never(self._objective)))
    with pytest.raises(RuntimeError, match="beats the search on the rows that both chose on"):
        frontiers.measure(plan_of(4), tune, tune)


def test_earlyons_rule_takes_the_lowest_threshold_of_its_grid_that_keeps_the_score() -> None:
    tune, allowed = part(100, exits=2), np.array([True, False])
    sure, right = tune.record.confidence[:, 0].astype(float), tune.score
    assert right is not None
    least = right[:, 1].mean() - 0.1
    grid = (0.99, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5)
    kept = [t for t in grid if (sure >= t).any() and np.where(sure >= t, right[:, 0], right[:, 1]).mean() >= least]
    found = earlyon(tune, plan_of(2), allowed, Constraint(least_score=least))
    np.testing.assert_equal(found, [min(kept), np.nan])


def test_a_frontier_is_read_along_lines_and_flat_beyond() -> None:
    points = np.array([[1.0, -3.0, 0.0], [0.9, 0.1, 0.5]])
    np.testing.assert_allclose(frontiers.interpolated(points, np.array([0.05, 0.3, 0.7, 1.0])), [-3, -1.5, 0.5, 1])


def test_the_interval_allows_for_splits_that_overlap() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0])
    mean, low, high = frontiers.resampled(values, 0.0)
    half = 3.182446 * values.std(ddof=1) / 2
    assert (mean, low, high) == pytest.approx((2.5, 2.5 - half, 2.5 + half))
    assert frontiers.resampled(values, 0.75)[2] - mean == pytest.approx(2 * half)  # 1 / 4 + 3 / 4 = 4 / 4


def test_expected_latency_follows_the_applied_thresholds(tmp_path: Path) -> None:
    bundle = ee.load(chain(0.5, 0.5).save(tmp_path / "it.ee"))
    x = np.random.default_rng(0).uniform(0, 1, (12, 4)).astype(np.float32)
    record = collect(bundle, x, np.arange(12) % 2, threads=1)
    profile = ee.profile(bundle, x, threads=1, seconds=0)
    always = [cost.latency.robust_ms for cost in profile.exits.values() if cost.latency is not None]
    segments = [cost.latency.robust_ms for cost in profile.segments.values() if cost.latency is not None]
    slower = called(profile, exit0=(10**9, 1.1), exit2=(10**9, 1.1))
    names = list(bundle.exits)[:-1]
    at_once, never = dict.fromkeys(names, 0.0), dict.fromkeys(names, "never")
    assert predicted.expected_ms(bundle.manifest, record, slower, at_once) == pytest.approx(1.1 * always[0])
    assert predicted.expected_ms(bundle.manifest, record, slower, never) == pytest.approx(1.1 * always[-1])
    unscaled = predicted.expected_ms(bundle.manifest, record, slower, never, scaled=False)
    assert unscaled == pytest.approx(sum(segments))


def test_a_case_has_the_ratio_of_its_processes() -> None:
    found = [
        {"goal": "g", "predicted_ms": 1.1, "measured_ms": 1.0, "unscaled_ms": 1.2, "tuned_ms": 1.0},
        {"goal": "g", "predicted_ms": 2.0, "measured_ms": 2.0, "unscaled_ms": 2.4, "tuned_ms": 2.0},
    ]
    row = predicted.summary("it", found)
    assert row["ratio"] == pytest.approx(1.1**0.5)
    assert row["ratio_low"] < 1 < row["ratio_high"] - 0.1
    assert row["unscaled"] == pytest.approx(1.2)
    assert row["met"]
    assert not predicted.summary("it", [{**one, "predicted_ms": 1.06 * one["measured_ms"]} for one in found])["met"]

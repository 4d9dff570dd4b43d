"""The safety margin: what thresholds lose on rows that had no part in their search is asked for beforehand."""

from __future__ import annotations

import numpy as np
import pytest
from test_tuning_search import made, plan_of

from eetoolkit.tuning.evaluate import Subset, objective_of
from eetoolkit.tuning.objective import scores_of
from eetoolkit.tuning.safety_margin import safety_margin
from eetoolkit.tuning.search import Constraint, Search

EXITS = 6


def part_of(seed: int, rows: int) -> Subset:
    record = made(seed, rows=rows, exits=EXITS)
    cost = np.tile(np.arange(1.0, EXITS + 1), (rows, 1))
    return Subset(record, scores_of(record, None), cost, None, "last", seed)


def drop_elsewhere(seed: int, drop: float, *, careful: bool) -> float:
    """Returns the drop, on many other rows, of the thresholds chosen on few."""
    plan, few, many = plan_of(EXITS), part_of(seed, 60), part_of(1000 + seed, 5000)
    extra = safety_margin(plan, few, drop, drop=True) if careful else 0.0
    objective = objective_of(plan, few)
    whole, _ = few.means((few.record.last, few.record.last))
    limits = np.full(EXITS, np.nan)
    if np.isfinite(extra):
        limits = objective.choices.spell(Search(objective).best(Constraint(least_score=whole - drop + extra)))
    lost = many.drops(many.ends(limits)[0])
    assert lost is not None
    return float(lost.mean())


def test_with_the_margin_the_goal_holds_in_the_mean_on_held_out_rows() -> None:
    plain = np.mean([drop_elsewhere(seed, 0.02, careful=False) for seed in range(24)])
    careful = np.mean([drop_elsewhere(seed, 0.02, careful=True) for seed in range(24)])
    assert plain > 0.03  # without it the search promises what others do not keep
    assert careful < 0.02


def test_there_is_no_margin_where_it_would_mean_nothing() -> None:
    plan = plan_of(EXITS)
    assert safety_margin(plan, part_of(0, 40), 0.05, drop=True) == 0  # too few rows
    assert safety_margin(plan, part_of(0, 200), 0.999, drop=False) == 0  # not even the whole network is as good
    assert safety_margin(plan, part_of(0, 2000), 0.5, drop=True) == pytest.approx(0, abs=0.05)


def test_a_goal_that_only_the_whole_network_keeps_has_no_finite_margin() -> None:
    draw = np.random.default_rng(0)
    part = part_of(0, 300)
    noise = draw.uniform(size=part.record.confidence.shape).astype(np.float32)  # says nothing of what is right
    part.record.confidence[:] = noise
    assert safety_margin(plan_of(EXITS), part, 0.0, drop=True) == np.inf

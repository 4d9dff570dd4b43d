"""The search: lines against the replay, choices against brute force and greedy descent, on random records."""

from __future__ import annotations

import dataclasses
import itertools

import msgspec
import numpy as np
import pytest
from plans import chain

from eetoolkit.tuning.baselines import baselines
from eetoolkit.tuning.evaluate import Subset, objective_of
from eetoolkit.tuning.objective import NEVER_REACHED, Candidates, Objective, candidates, scores_of, settings_of
from eetoolkit.tuning.record import NO_CLASS, NO_EXIT, Record
from eetoolkit.tuning.replay import answers, stops
from eetoolkit.tuning.search import Constraint, Search
from eetoolkit_runtime.errors import TuneError
from eetoolkit_runtime.plan.types import Manifest


def made(seed: int, rows: int = 200, exits: int = 4, *, visits: int | None = None) -> Record:
    """Returns a record of random confidences; with `visits`, rows meet random exits in random order, as in loops."""
    draw = np.random.default_rng(seed)
    many = visits or exits
    exit_ = np.tile(np.arange(many), (rows, 1))
    if visits:
        exit_ = draw.integers(0, exits - 1, (rows, many))
        lengths = draw.integers(1, many + 1, rows)
        exit_[np.arange(rows), lengths - 1] = exits - 1
        exit_[np.arange(many) >= lengths[:, None]] = NO_EXIT
    hardness = draw.uniform(size=(rows, 1))
    skill = np.linspace(0.35, 1, many)
    right = draw.uniform(size=(rows, many)) < np.clip(1.4 * skill - hardness, 0.05, 0.98)
    confidence = np.clip(0.6 * right + draw.uniform(0, 0.5, (rows, many)), 0, 1).astype(np.float32)
    label = draw.integers(0, 3, rows)
    padded = exit_ == NO_EXIT
    confidence[padded] = np.nan
    prediction = np.where(right, label[:, None], label[:, None] + 1)
    prediction[padded] = NO_CLASS
    ways = np.tril(np.ones((many, many), np.int32))
    return Record(
        "made", {}, {}, tuple(f"exit{e}" for e in range(exits)), tuple(f"segment{v}" for v in range(many)),
        np.arange(rows), np.arange(rows).astype(np.uint64), label, exit_.astype(np.int16), confidence, prediction,
        np.tile(np.arange(many, dtype=np.int32), (rows, 1)), ways, {},
    )  # fmt: skip


def plan_of(exits: int, fallback: str = "last") -> Manifest:
    return msgspec.structs.replace(chain(*[0.5] * (exits - 1)).plan(), fallback=fallback)


def objective(record: Record, fallback: str = "last", most: int = 12) -> Objective:
    plan = plan_of(len(record.exits), fallback)
    allowed = np.ones(len(record.exits), bool)
    costs = (1 + np.arange(record.exit.shape[1])) / record.exit.shape[1]
    found = candidates(record, plan, allowed, most)
    costs = np.broadcast_to(costs, record.exit.shape)
    return Objective(record, found, scores_of(record, None), costs, plan.fallback)


def replayed(it: Objective, settings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns score and cost of settings by the replay, which is tested against the runner."""
    limits = it.choices.spell(settings)
    ended = stops(it.record, limits)
    chosen = answers(it.record, limits, ended, it.fallback)
    assert it.score is not None
    return (
        np.take_along_axis(it.score.astype(float), chosen, 1).mean(0),
        np.take_along_axis(it.cost, ended, 1).mean(0),
    )


@pytest.mark.parametrize("fallback", ["last", "most_confident"])
@pytest.mark.parametrize("visits", [None, 6])
def test_a_line_is_what_the_replay_gives_for_each_of_its_settings(visits: int | None, fallback: str) -> None:
    it = objective(made(0, visits=visits), fallback)
    draw = np.random.default_rng(1)
    for exit_ in it.exits:
        for _ in range(5):
            setting = draw.integers(0, it.choices.never + 1)
            score, cost = it.sweep(setting, exit_)
            along = np.array([np.where(np.arange(4) == exit_, j, setting) for j in range(len(score))])
            assert len(score) == it.choices.never[exit_] + 1
            np.testing.assert_allclose((score, cost), replayed(it, along), atol=1e-12)
            np.testing.assert_allclose(it.at(along[0]), (score[0], cost[0]), atol=1e-12)


def brute_force(it: Objective, constraint: Constraint) -> tuple[float, float]:
    """Returns score and cost of the best of all settings."""
    settings = np.array(list(itertools.product(*(range(bound + 1) for bound in it.choices.never.tolist()))))
    score, cost = replayed(it, settings)
    if constraint.least_score is not None:
        met = score >= constraint.least_score - 1e-12
        place = np.flatnonzero(met)[cost[met].argmin()]
    else:
        assert constraint.most_cost is not None
        met = cost <= constraint.most_cost * (1 + 1e-12)
        place = np.flatnonzero(met)[score[met].argmax()]
    return float(score[place]), float(cost[place])


def searched(it: Objective, constraint: Constraint) -> tuple[float, float]:
    """Returns score and cost of what the search finds as `tune` starts it: from what the rules choose."""
    part = Subset(it.record, it.score, it.cost, None, it.fallback, 0)
    allowed = np.arange(len(it.record.exits)) < len(it.record.exits) - 1
    limits = np.array([thresholds for _, thresholds in baselines(part, allowed, constraint)])
    return it.at(Search(it).best(constraint, settings_of(it.record, it.choices, limits)))


def boasting(rows: int = 200) -> Record:
    """Returns a record whose first exit is always the surest and mostly wrong; the others are right where sure."""
    record = made(0, rows=rows, exits=3)
    confidence, prediction = record.confidence.copy(), np.tile(record.label[:, None], 3)
    confidence[:, 0] = 1
    prediction[:, 0] += np.arange(rows) % 10 > 0
    confidence[:, 1] = np.where(np.arange(rows) % 4 > 0, 0.9, 0.1)
    prediction[:, 1] += confidence[:, 1] < 0.5
    confidence[:, 2] = 0.8
    return dataclasses.replace(record, confidence=confidence, prediction=prediction)


def test_the_search_disables_an_exit_that_would_stand_in_and_be_wrong() -> None:
    it = objective(boasting(), "most_confident")
    constraint = Constraint(least_score=1.0)
    for setting in (Search(it).greedy(constraint), Search(it).best(constraint)):
        score, cost = it.at(setting)
        assert np.isnan(it.choices.spell(setting)).tolist() == [True, False, True]
        assert (score, cost) == (1.0, pytest.approx(0.75 * 2 / 3 + 0.25))
    settings = np.array(
        [setting for setting in itertools.product(*map(range, it.choices.never + 1)) if setting[0] == 0]
    )
    settings[:, 0] = it.choices.never[0] - 1  # it never fires, and stands in
    assert replayed(it, settings)[0].max() < 1
    assert it.full == (1.0, pytest.approx(1.0))


@pytest.mark.parametrize(("exits", "fallback"), [(2, "last"), (3, "last"), (4, "last"), (3, "most_confident")])
def test_the_search_is_within_one_percent_of_brute_force_in_the_mean(exits: int, fallback: str) -> None:
    costs, scores = [], []
    for seed in range(12):
        it = objective(made(seed, exits=exits), fallback, most=10)
        full = it.full[0]
        for least in (full - 0.01, full - 0.1):
            score, cost = searched(it, Constraint(least_score=least))
            best = brute_force(it, Constraint(least_score=least))[1]
            assert score >= least - 1e-12
            assert best - 1e-12 <= cost <= 1.05 * best
            costs.append(cost / best)
        for most in (0.5, 0.7):
            score, cost = searched(it, Constraint(most_cost=most))
            best = brute_force(it, Constraint(most_cost=most))[0]
            assert cost <= most + 1e-12
            assert 0.9 * best <= score <= best + 1e-12
            scores.append(score / best)
    assert np.mean(costs) <= 1.01
    assert np.mean(scores) >= 0.99


@pytest.mark.parametrize("visits", [None, 8])
def test_the_search_is_never_below_greedy_and_always_the_same(visits: int | None) -> None:
    better = 0
    for seed in range(3):
        it = objective(made(seed, rows=200, exits=5, visits=visits), most=40)
        for constraint in (Constraint(least_score=it.full[0] - 0.02), Constraint(most_cost=0.45)):
            greedy = it.at(Search(it).greedy(constraint))
            found = Search(it).best(constraint)
            np.testing.assert_array_equal(found, Search(it).best(constraint))
            ranks = [tuple(np.round(constraint.rank(*map(np.array, point)), 10)) for point in (it.at(found), greedy)]
            assert ranks[0] <= ranks[1]
            better += ranks[0] < ranks[1]
    assert better  # else this compares greedy with itself


def test_the_search_is_never_below_the_rules_it_is_compared_with(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, missed = plan_of(4), 0
    for seed in range(6):
        record = made(seed, rows=300)
        part = Subset(record, scores_of(record, None), np.tile([1.0, 2.0, 3.0, 4.0], (300, 1)), None, "last", 0)
        monkeypatch.setattr("eetoolkit.tuning.evaluate._CANDIDATES", 6)
        alone = objective_of(plan, part)
        for constraint in (Constraint(least_score=alone.full[0] - 0.03), Constraint(most_cost=0.5)):
            limits = np.array([one for _, one in baselines(part, np.array([True] * 3 + [False]), constraint)])
            it = objective_of(plan, part, limits)
            starts = settings_of(record, it.choices, limits)
            found, without = it.at(Search(it).best(constraint, starts)), alone.at(Search(alone).best(constraint))
            for limit, start in zip(limits, starts, strict=True):
                point = part.means(part.ends(limit))
                assert it.at(start) == pytest.approx((point[0], point[1] / 4))  # the same rows leave
                ranks = [
                    tuple(np.round(constraint.rank(*map(np.array, one)), 10)) for one in (found, it.at(start), without)
                ]
                assert ranks[0] <= ranks[1]
                missed += ranks[2] > ranks[1]
    assert missed  # else few candidates would do


def test_greedy_takes_the_best_single_move_until_none_helps() -> None:
    it = objective(made(3), most=8)
    constraint = Constraint(least_score=it.full[0] - 0.05)
    setting = it.choices.never
    while True:
        moves = [
            np.where(np.arange(4) == exit_, j, setting)
            for exit_ in it.exits
            for j in range(it.choices.never[exit_] + 1)
        ]
        score, cost = replayed(it, np.array(moves))
        cost = np.where(score >= constraint.least_score - 1e-12, cost, np.inf)  # type: ignore[operator]
        if cost.min() >= it.at(setting)[1] - 1e-12:
            break
        setting = moves[int(cost.argmin())]
    assert it.at(Search(it).greedy(constraint))[1] == pytest.approx(it.at(setting)[1])


def test_the_frontier_rises_and_nothing_met_beats_it() -> None:
    it = objective(made(5, exits=5), most=20)
    search = Search(it)
    found = search.frontier()
    assert len(found.cost) > 10
    assert (np.diff(found.cost) > 0).all()
    assert (np.diff(found.score) > 0).all()
    np.testing.assert_allclose((found.score, found.cost), replayed(it, found.settings), atol=1e-12)
    met = search.points
    best = np.array([found.score[found.cost <= cost + 1e-12].max() for cost in met.cost])
    assert (met.score <= best + 1e-9).all()


def test_candidates_lie_between_confidences_and_counts_on_them() -> None:
    record = made(0, exits=3)
    found = candidates(record, plan_of(3), np.array([True, True, True]))
    assert found.thresholds[2].size == 0
    for e in (0, 1):
        seen = record.confidence[:, e].astype(float)
        assert found.thresholds[e][0] == 0
        assert not np.isin(found.thresholds[e][1:], seen).any()
        assert len(found.thresholds[e]) <= 100
        fires = (seen[:, None] >= found.thresholds[e]).sum(axis=0)
        assert (np.diff(fires) < 0).all()
    assert candidates(record, plan_of(3), np.array([True, False, True])).thresholds[1].size == 0
    also = [[0.3, np.nan, np.nan], [float(record.confidence[5, 0]), 2.0, 0.5]]
    few = candidates(record, plan_of(3), np.array([True] * 3), 4, also)
    assert [len(own) for own in few.thresholds] == [6, 4, 0]
    assert not np.isin(few.thresholds[0][1:], record.confidence[:, 0].astype(float)).any()
    settings = settings_of(record, few, also)
    np.testing.assert_array_equal(stops(record, few.spell(settings)), stops(record, also))
    assert settings[0, 1] == settings[1, 1] == few.never[1]
    counted = chain(0.5, 0.5)
    plan = counted.plan()
    first = plan.segments["segment0"]
    assert first.exit is not None
    patience = msgspec.structs.replace(first.exit.criterion, kind="patience")
    first = msgspec.structs.replace(first, exit=msgspec.structs.replace(first.exit, criterion=patience))
    plan = msgspec.structs.replace(plan, segments=plan.segments | {"segment0": first})
    assert np.isin(candidates(record, plan, np.array([True] * 3)).thresholds[0], record.confidence[:, 0]).all()


def test_an_exit_that_never_fires_is_disabled_or_out_of_reach() -> None:
    own = (np.array([0.25, 0.5]), np.zeros(0))
    np.testing.assert_equal(Candidates(own).spell([[0, 0], [2, 0]]), [[0.25, np.nan], [np.nan, np.nan]])
    for fallback, most in (("last", 1.0), ("most_confident", NEVER_REACHED)):
        found = candidates(made(0, exits=2), plan_of(2, fallback), np.array([True, True]))
        assert (found.thresholds[0] <= most).all()
        assert (found.thresholds[0][-1] == NEVER_REACHED) == (fallback == "most_confident")
        np.testing.assert_equal(found.spell(found.never), [np.nan, np.nan])


def test_a_metric_of_one_number_per_row_is_a_mean_and_one_of_all_is_asked_each_time() -> None:
    record = made(1, rows=60)
    scores = np.eye(5, dtype=np.float32)[record.prediction]
    record = Record(**{name: getattr(record, name) for name in Record.__dataclass_fields__} | {
        "outputs": {"logits": scores}})  # fmt: skip

    def right(outputs, labels):  # type: ignore[no-untyped-def]
        return outputs["logits"].argmax(axis=1) == labels

    def whole(outputs, labels):  # type: ignore[no-untyped-def]
        return right(outputs, labels).mean()

    np.testing.assert_array_equal(scores_of(record, right), scores_of(record, None))
    assert scores_of(record, whole) is None
    it = objective(record, most=6)
    asked = Objective(record, it.choices, None, it.cost, "last", whole)
    for exit_ in it.exits:
        np.testing.assert_allclose(asked.sweep(it.choices.never, exit_), it.sweep(it.choices.never, exit_), atol=1e-12)
    constraint = Constraint(least_score=it.full[0] - 0.05)
    assert asked.at(Search(asked).best(constraint))[1] <= it.at(Search(it).greedy(constraint))[1] + 1e-12
    with pytest.raises(TuneError, match=r"the metric gave shape \[2\], expected one number, or one for each row"):
        scores_of(record, lambda outputs, labels: np.zeros(2))
    with pytest.raises(TuneError, match="the metric gave NaN or infinity for some rows"):
        scores_of(record, lambda outputs, labels: np.full(len(labels), np.nan))


def test_answers_without_a_class_need_a_metric() -> None:
    record = made(0)
    nothing = Record(**{name: getattr(record, name) for name in Record.__dataclass_fields__} | {
        "prediction": np.full_like(record.prediction, NO_CLASS)})  # fmt: skip
    with pytest.raises(TuneError, match="the exits' outputs name no class: pass a metric"):
        scores_of(nothing, None)


def test_a_plan_without_exits_to_choose_has_one_setting() -> None:
    record, plan = made(0, exits=3), plan_of(3)
    none = candidates(record, plan, np.zeros(3, bool))
    it = Objective(record, none, scores_of(record, None), np.ones(record.exit.shape), "last")
    assert it.exits == []
    assert Search(it).best(Constraint(least_score=0.0)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("fallback", ["last", "most_confident"])
def test_an_infinite_confidence_ends_a_run_of_the_search_where_it_ends_one_of_the_runner(fallback: str) -> None:
    record = made(3, rows=60)
    sure = record.confidence.copy()
    sure[::3, 1], sure[1::3, 0] = np.inf, -np.inf
    it = objective(dataclasses.replace(record, confidence=sure), fallback)
    rows = np.arange(len(sure))
    middle = it.choices.never // 2
    for setting in (it.choices.never, middle, np.where(np.arange(len(middle)) == 1, it.choices.never, middle)):
        limits = it.choices.spell(setting)
        ended = stops(it.record, limits)
        answered = answers(it.record, limits, ended, it.fallback)[:, 0]
        found = it.score[rows, answered].mean(), it.cost[rows, ended[:, 0]].mean()
        assert it.at(setting) == pytest.approx(found)
        for exit_ in it.exits:
            np.testing.assert_allclose(np.array(it.sweep(setting, exit_))[:, setting[exit_]], found)
    beyond = it.choices.spell(it.choices.never - [1, 1, 1, 0])
    assert (beyond[:3] > 1e38).all() == (fallback == "most_confident")
    assert (stops(it.record, beyond) == 1).any()

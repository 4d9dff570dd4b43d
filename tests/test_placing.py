"""Where exits go: against brute force over sets and thresholds, and against bundles that never had the others."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import msgspec
import numpy as np
import pytest
from plans import PER_ROW, Draft, column, leave, row
from test_tuning_search import made, plan_of

from eetoolkit.tuning.choose import Task
from eetoolkit.tuning.costs import Costs, estimated_overheads, overheads_of
from eetoolkit.tuning.dataset import TuningData
from eetoolkit.tuning.evaluate import Subset, objective_of
from eetoolkit.tuning.goal import GoalSpec
from eetoolkit.tuning.objective import Metric, scores_of
from eetoolkit.tuning.placing import Placement, place
from eetoolkit.tuning.pruning import only_exits
from eetoolkit.tuning.record import NO_EXIT, Record
from eetoolkit.tuning.replay import stops
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.bundle import load
from eetoolkit_runtime.errors import TuneError
from eetoolkit_runtime.profiling.budget import Budget
from eetoolkit_runtime.profiling.exit_costs import exits_own
from eetoolkit_runtime.running.sessions import SessionSettings

DROP = GoalSpec("max_accuracy_drop", 0.03)


def task_of(
    record: Record, goal: GoalSpec = DROP, *, steps: Array | None = None, tuning: int | None = None,
    metric: Metric | None = None, fallback: str = "last",
) -> Task:  # fmt: skip
    """Returns a task of a chain whose segments cost 1 each, or `steps`; the first `tuning` rows are for tuning."""
    rows = np.arange(len(record))
    tune, test = rows[:tuning], rows[len(rows) if tuning is None else tuning :]
    data = TuningData(record, record, tune, rows[:0], test, {"tune": len(tune), "test": len(test)}, False)
    of = np.ones(len(record.segments)) if steps is None else steps
    costs = Costs(of, 0.0, "ms", "made")
    return Task(goal, plan_of(len(record.exits), fallback), data, costs, metric, 0)


def heads(exits: int, each: float = 0.3) -> Array:
    """Returns overheads of early exits; the last has none."""
    return np.append(np.full(exits - 1, each), 0.0)


def replayed(task: Task, overheads: Array, limits: Array) -> tuple[Array, Array]:
    """Returns score and share of cost of thresholds (S, E) where what is NaN is gone, straight from the replay."""
    part, rows = task.tuned, np.arange(len(task.tuned.record))[:, None]
    assert part.score is not None
    ended = stops(part.record, limits)
    gone = np.where(np.isnan(limits), overheads, 0.0).cumsum(axis=1)  # (S, E): a chain meets exit e at visit e
    plain = part.cost[0, -1] - overheads.sum()
    cost = part.cost[rows, ended] - np.take_along_axis(gone.T, ended, axis=0)
    return part.score[rows, ended].mean(axis=0), cost.mean(axis=0) / plain


def brute_force(task: Task, overheads: Array, most: int) -> float:
    """Returns the least share of cost that keeps the drop, over all sets of exits and all their thresholds."""
    choices = objective_of(task.plan, task.tuned).choices
    early = len(overheads) - 1
    found = [1.0]
    for kept in itertools.combinations(range(early), most):
        axes = [range(choices.never[e] + 1) if e in kept else [choices.never[e]] for e in range(early + 1)]
        score, cost = replayed(task, overheads, choices.spell(list(itertools.product(*axes))))
        met = score >= task.full[0] - task.goal.value - 1e-12
        found.append(float(cost[met].min(initial=np.inf)))
    return min(found)


def few_candidates(monkeypatch: pytest.MonkeyPatch, most: int = 8) -> None:
    monkeypatch.setattr("eetoolkit.tuning.evaluate._CANDIDATES", most)


def test_one_exit_and_two_are_the_best_of_all_and_three_nearly_always(monkeypatch: pytest.MonkeyPatch) -> None:
    few_candidates(monkeypatch)
    ratios = []
    for seed in range(12):
        draw = np.random.default_rng(seed)
        task = task_of(made(seed, exits=7), steps=draw.uniform(0.5, 2, 7))
        overheads = np.append(draw.uniform(0, 0.5, 6), 0.0)
        best = [brute_force(task, overheads, most) for most in (1, 2, 3)]
        costs = [tried.cost for tried in place(task, overheads, 3, margin=False).tried]
        assert costs[:2] == pytest.approx(best[:2])
        ratios.append(costs[2] / best[2])
    assert min(ratios) > 1 - 1e-9
    assert max(ratios) < 1.02
    assert sum(ratio < 1 + 1e-9 for ratio in ratios) >= 9


def test_a_dear_head_is_not_chosen_that_would_be_if_it_cost_nothing() -> None:
    task = task_of(made(1, exits=5))
    free = place(task, np.zeros(5), 1, margin=False)
    (first,) = free.exits
    dear = np.where(np.array(task.data.record.exits) == first, 0.9, 0.0)
    found = place(task, dear, 1, margin=False)
    assert len(found.exits) == 1
    assert found.exits != free.exits
    assert found.cost > free.cost


@pytest.mark.parametrize("margin", [False, True])
def test_the_cost_is_the_replays_on_a_record_that_never_had_the_others(margin: bool) -> None:
    draw = np.random.default_rng(3)
    record, steps, overheads = made(3, exits=6), draw.uniform(1, 2, 6), np.append(draw.uniform(0, 0.8, 5), 0.0)
    found = place(task_of(record, steps=steps), overheads, 2, margin=margin)
    assert len(found.exits) == 2
    stay = [e for e, name in enumerate(record.exits) if name in found.exits or e == 5]
    assert np.isnan(found.thresholds).tolist() == [e not in stay[:-1] for e in range(6)]
    arrays = {name: getattr(record, name)[:, stay] for name in ("exit", "confidence", "prediction", "way")}
    fewer = dataclasses.replace(record, exits=tuple(record.exits[e] for e in stay), **arrays)
    fewer.exit[:] = np.arange(3)
    body = steps - overheads
    # The segments that are left run the bodies of those that are gone, but not their heads.
    ways = np.array([(body[: e + 1].sum() + overheads[[k for k in stay if k <= e]].sum()) for e in stay])
    cost = np.broadcast_to(ways / body.sum(), fewer.exit.shape)
    part = Subset(fewer, scores_of(fewer, None), cost, None, "last", 0)
    assert part.means(part.ends(found.thresholds[stay])) == pytest.approx((found.score, found.cost))
    assert found.whole_score == part.means((fewer.last, fewer.last))[0]


@pytest.mark.parametrize("visits", [None, 6])
def test_rows_of_a_bundle_without_exits_meet_only_the_others_in_the_same_order(visits: int | None) -> None:
    record, stay = made(0, visits=visits), np.array([True, False, True, True])
    cost = np.random.default_rng(0).uniform(size=record.exit.shape)
    plain = Subset(record, scores_of(record, None), cost, None, "last", 0)
    overheads = np.array([0.2, 5.0, 0.1, 0.0])
    found = only_exits(plain, stay, overheads)
    assert found.record.exits == ("exit0", "exit2", "exit3")
    for n in range(0, 200, 7):
        kept = [v for v, e in enumerate(record.exit[n]) if e != NO_EXIT and stay[e]]
        many = len(kept)
        assert found.record.last[n] == many - 1
        own = record.exit[n, kept]
        assert [found.record.exits[e] for e in found.record.exit[n, :many]] == [record.exits[e] for e in own]
        np.testing.assert_array_equal(found.record.confidence[n, :many], record.confidence[n, kept])
        np.testing.assert_array_equal(found.record.prediction[n, :many], record.prediction[n, kept])
        np.testing.assert_allclose(found.cost[n, :many], cost[n, kept] + np.cumsum(overheads[own]))
        assert np.isnan(found.record.confidence[n, many:]).all()
        assert (found.record.exit[n, many:] == NO_EXIT).all()
    everything = only_exits(plain, np.ones(4, bool), np.zeros(4))
    np.testing.assert_array_equal(everything.record.exit, record.exit)
    np.testing.assert_array_equal(everything.cost[record.exit != NO_EXIT], cost[record.exit != NO_EXIT])


@pytest.mark.parametrize("most", [1, 2, 4])
def test_no_more_exits_than_asked_each_further_one_helps_and_it_is_always_the_same(most: int) -> None:
    task, overheads = task_of(made(5, exits=9)), heads(9, 0.1)
    found, again = (place(task, overheads, most) for _ in range(2))
    assert len(found.tried) == most
    assert all(len(tried.exits) <= number for number, tried in enumerate(found.tried, 1))
    costs = [tried.cost for tried in found.tried]
    assert costs == sorted(costs, reverse=True)
    assert 0 < len(found.exits) <= most
    assert found.cost <= 1.01 * costs[-1]  # fewer exits win where they are as good
    assert same(found, again)


def same(one: Placement, other: Placement) -> bool:
    """Whether two placements are equal."""
    return np.array_equal(one.thresholds, other.thresholds, equal_nan=True) and all(
        getattr(one, field.name) == getattr(other, field.name)
        for field in dataclasses.fields(Placement)
        if field.name != "thresholds"
    )


def test_only_the_tuning_rows_count() -> None:
    record = made(2, rows=300, exits=6)
    other = dataclasses.replace(record, label=record.label.copy(), confidence=record.confidence.copy())
    other.label[200:] += 1
    other.confidence[200:] = 0.5
    found, again = (place(task_of(one, tuning=200), heads(6), 2) for one in (record, other))
    assert found.exits
    assert same(found, again)
    assert not same(found, place(task_of(record), heads(6), 2))


def test_nothing_is_placed_where_no_exit_beats_the_whole_network() -> None:
    record = made(0, exits=4)
    wrong = dataclasses.replace(record, prediction=record.prediction.copy())
    wrong.prediction[:, :-1] = record.label[:, None] + 1
    wrong.prediction[:, -1] = record.label
    found = place(task_of(wrong), heads(4), 2)
    assert (found.exits, found.score, found.cost, found.whole_score) == ((), 1.0, pytest.approx(1.0), 1.0)
    assert np.isnan(found.thresholds).all()
    assert [tried.exits for tried in found.tried] == [(), ()]
    late = task_of(record, steps=np.array([1, 1, 1, 1e-3]))  # what lies behind the last early exit is next to nothing
    assert place(late, np.array([0.99, 0.99, 0.99, 0]), 3).exits == ()


def test_one_exit_that_is_as_good_as_the_network_always_answers() -> None:
    record = made(0, exits=5)
    clear = dataclasses.replace(record, prediction=record.prediction.copy())
    clear.prediction[:, 2:] = record.label[:, None]
    clear.prediction[:, :2] = record.label[:, None] + 1
    found = place(task_of(clear), heads(5), 3)
    assert found.exits == ("exit2",)
    assert (stops(clear, found.thresholds) == 2).all()
    assert found.cost == pytest.approx((3 - 2 * 0.3) / (5 - 4 * 0.3))
    assert found.fixed is not None
    assert (found.fixed.exits, found.fixed.cost) == (("exit2",), found.cost)


def test_no_fixed_exit_is_named_where_none_is_as_good_as_the_network() -> None:
    record = made(0, exits=4)
    poor = dataclasses.replace(record, prediction=record.prediction.copy())
    poor.prediction[:, -1] = record.label
    poor.prediction[: len(poor) // 4, :-1] = record.label[: len(poor) // 4, None] + 1
    assert place(task_of(poor), heads(4), 3).fixed is None


def test_of_two_kinds_at_one_place_the_better_one_stays_and_the_other_costs_nothing() -> None:
    record, overheads = made(4, exits=4), np.array([0.25, 0.5, 0.2, 0])
    twice = dataclasses.replace(record, prediction=record.prediction.copy(), confidence=record.confidence.copy())
    steps = np.array([1.25, 0.5, 1.2, 2])  # nothing but a head lies between the first two
    for better, worse in ((0, 1), (1, 0)):
        right = np.arange(200) % 10 > 0  # nine rows of ten
        for e, sure in ((better, 0.9), (worse, 0.4)):
            twice.confidence[:, e] = np.where(right, sure, 0.1)
            twice.prediction[:, e] = record.label + ~(right & (e == better))
        twice.prediction[:, -1] = record.label
        found = place(task_of(twice, GoalSpec("max_accuracy_drop", 0.0), steps=steps), overheads, 1, margin=False)
        assert found.exits == (record.exits[better],)
        head, body = overheads[better], 4.0
        assert found.cost == pytest.approx((head + 0.9 * 1 + 0.1 * body) / body)
    neither = only_exits(Subset(twice, None, np.ones(twice.exit.shape), None, "last", 0), np.arange(4) == 3, overheads)
    assert neither.record.exit.shape == (200, 1)


def test_a_budget_is_a_share_of_the_network_without_exits() -> None:
    task = task_of(made(6, exits=6), GoalSpec("budget_share", 0.6))
    found = place(task, heads(6, 0.2), 2, margin=False)
    assert 0.5 < found.cost <= 0.6 * (1 + 1e-9)
    careful = place(task, heads(6, 0.2), 2)
    assert careful.cost < 0.6
    scores = [tried.score for tried in found.tried]
    assert scores == sorted(scores)


def test_with_the_margin_the_drop_holds_in_the_mean_on_other_rows() -> None:
    lost: dict[bool, list[float]] = {False: [], True: []}
    for seed in range(8):
        task, rows = task_of(made(seed, rows=150, exits=8)), task_of(made(1000 + seed, rows=4000, exits=8)).tuned
        for margin, drops in lost.items():
            found = place(task, heads(8), 2, margin=margin)
            dropped = rows.drops(rows.ends(found.thresholds)[0])
            assert found.exits
            assert dropped is not None
            drops.append(float(dropped.mean()))
    assert np.mean(lost[False]) > DROP.value  # without it the search promises what others do not keep
    assert np.mean(lost[True]) < DROP.value


def test_nothing_is_placed_where_rows_are_too_few_to_show_that_an_exit_keeps_the_goal() -> None:
    record, draw = made(4, rows=100, exits=5), np.random.default_rng(0)
    noise = draw.uniform(size=record.confidence.shape).astype(np.float32)  # says nothing of what is right
    task = task_of(dataclasses.replace(record, confidence=noise), GoalSpec("max_accuracy_drop", 0.0))
    assert place(task, heads(5), 2, margin=False).exits
    found = place(task, heads(5), 2)
    assert (found.exits, found.tried, found.cost) == ((), (), pytest.approx(1.0))


def test_a_metric_of_all_answers_is_asked_for_each_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    record = made(1, rows=80, exits=4)
    record = dataclasses.replace(record, outputs={"logits": np.eye(5, dtype=np.float32)[record.prediction]})
    monkeypatch.setattr("eetoolkit.tuning.evaluate._CANDIDATES", 6)
    monkeypatch.setattr("eetoolkit.tuning.evaluate._FEW_CANDIDATES", 6)

    def accuracy(outputs, labels):  # type: ignore[no-untyped-def]
        return (outputs["logits"].argmax(axis=1) == labels).mean()

    goal = GoalSpec("max_accuracy_drop", 0.1)
    asked = place(task_of(record, goal, metric=accuracy), heads(4), 1, margin=False)
    plain = place(task_of(record, goal), heads(4), 1, margin=False)
    assert asked.tried == plain.tried


def test_what_cannot_be_placed_is_refused() -> None:
    record = made(0, exits=4)
    with pytest.raises(TuneError, match="would cost -2 ms, since their heads are said to cost more than all of it"):
        place(task_of(record), heads(4, 2.0), 2)
    with pytest.raises(
        TuneError, match=r"min_accuracy=1 \(--min-accuracy 1\) cannot be met: the best thresholds reach"
    ):
        place(task_of(record, GoalSpec("min_accuracy", 1.0)), heads(4), 2)
    assert place(task_of(record), heads(4), 0).exits == ()


def three_heads() -> Draft:
    """Returns a plan of two exits at one place, the second in a segment of its own, one behind it, and the end."""
    draft = Draft()
    for k in range(4):
        draft.slot(f"sure{k}", shape=PER_ROW)
    body = "h = Add({0}, {0})"
    for k, (name, before) in enumerate((("a", "x"), ("b", "h0"), ("c", "h0"), ("end", "h2"))):
        goes_on = k in (0, 2)
        draft.segment(
            name,
            f"{column('sure', k)} {body.format('before') if goes_on else ''} logits = Mul(before, before)",
            reads={"x": "x", "before": before},
            writes={f"logits{k}": "logits", f"sure{k}": "sure"} | ({f"h{k}": "h"} if goes_on else {}),
            exit=leave(name, f"logits{k}", f"sure{k}", "always" if name == "end" else 0.5),
            next=("b", "c", "end", None)[k],
        )
    return draft


def test_a_head_that_was_not_measured_costs_what_its_segment_does_or_what_others_do_in_the_mean() -> None:
    plan, names = three_heads().plan(), ("a", "b", "c", "end")
    costs = Costs(np.array([5.0, 2.0, 9.0, 4.0]), 0.5, "ms", "a profile", heads={"a": 1.0})
    np.testing.assert_allclose(overheads_of(plan, costs, names), [1.5, 2.5, 0.5, 0.0])
    np.testing.assert_allclose(estimated_overheads(plan, costs, names), [1.5, 2.5, 2.0, 0.0])
    np.testing.assert_allclose(estimated_overheads(plan, costs, names, {"a": 7.0, "c": 3.0}), [1.5, 2.5, 3.5, 0.0])
    np.testing.assert_allclose(estimated_overheads(plan, costs, names, {"c": 30.0}), [1.5, 2.5, 9.5, 0.0])


def test_a_segment_that_is_nothing_but_an_exit_is_not_measured_without_it(tmp_path: Path) -> None:
    bundle = load(three_heads().save(tmp_path / "it"))
    found = exits_own(bundle, [(row(0, 0, 0, 0),)], SessionSettings(threads=1, one_row=True), Budget(0))
    assert [name for name, own in found.items() if own.passing is None] == ["b", "end"]


def test_where_nothing_is_known_of_heads_that_is_an_error_and_not_nothing() -> None:
    plan = three_heads().plan()
    unknown = Costs(np.array([5.0, np.nan, 9.0, 4.0]), 0.5, "ms", "this profile")
    with pytest.raises(TuneError, match="this profile says nothing of what the heads of 'drafted' cost; profile it"):
        estimated_overheads(plan, unknown, ("a", "b", "c", "end"))
    only_end = msgspec.structs.replace(plan, segments={"end": plan.segments["end"]}, start="end")
    assert estimated_overheads(only_end, dataclasses.replace(unknown, of=np.ones(1)), ("end",)).tolist() == [0.0]

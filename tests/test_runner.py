"""The runner answers at the first exit that fires, whatever ran before."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from plans import (
    NETWORKS,
    PER_ROW,
    Draft,
    Open,
    add_head,
    chain,
    column,
    gated,
    leave,
    looped,
    move,
    one_name_twice,
    only_moves,
    opening,
    picked,
    row,
    switched,
)

from eetoolkit_runtime.errors import InputError, ManifestError, RunError
from eetoolkit_runtime.plan.types import ClassScores
from eetoolkit_runtime.running.answer import Answer


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    yield from opening(tmp_path)


def disabled(draft: Draft, segment: str) -> Draft:
    """Returns the draft with the exit of a segment disabled."""
    found = draft.segments[segment]
    assert found.exit is not None
    exit_ = msgspec.structs.replace(found.exit, threshold="never")
    draft.segments[segment] = msgspec.structs.replace(found, exit=exit_)
    return draft


def most_confident(draft: Draft) -> Draft:
    draft.options["fallback"] = "most_confident"
    return draft


# Which exit answers


@pytest.mark.parametrize(
    ("values", "exit_"),
    [((0.9, 0, 0), "exit0"), ((0.1, 0.9, 0), "exit1"), ((0.1, 0.1, 0.9), "exit2"), ((0, 0, -1), "exit2")],
)
def test_the_first_exit_whose_confidence_reaches_its_threshold_answers(
    opened: Open, values: tuple[float, ...], exit_: str
) -> None:
    answer = opened(chain()).run(row(*values))
    number = int(exit_[-1])
    assert answer.exit == exit_
    assert answer.path == tuple(f"segment{k}" for k in range(number + 1))
    assert answer.confidence == np.float32(values[number])
    np.testing.assert_array_equal(answer.outputs["logits"], row(*values) * np.float32(2 ** (number + 1)))


def test_a_confidence_equal_to_its_threshold_fires(opened: Open) -> None:
    assert opened(chain(0.5)).run(row(0.5)).exit == "exit0"


def test_the_float32_confidence_is_compared_with_the_float64_threshold(opened: Open) -> None:
    runner = opened(chain(0.9))
    assert float(np.float32(0.9)) < 0.9
    assert runner.run(row(0.9)).exit == "exit1"
    assert runner.run(row(np.nextafter(np.float32(0.9), np.float32(1)))).exit == "exit0"


def test_scores_that_are_no_numbers_predict_no_class() -> None:
    scores = np.array([[0.1, np.nan, 0.3]], np.float32)
    assert answering(logits=scores).prediction is None
    assert answering(logits=np.nan_to_num(scores)).prediction == 2


def test_a_nan_confidence_never_fires(opened: Open) -> None:
    answer = opened(chain(-1e30, -1e30)).run(row(math.nan, math.nan, math.nan))
    assert answer.exit == "exit2"
    assert math.isnan(answer.confidence)


def test_a_disabled_exit_does_not_fire(opened: Open) -> None:
    assert opened(disabled(chain(), "segment0")).run(row(0.9, 0.9)).exit == "exit1"


def test_a_disabled_exit_does_not_fire_at_an_infinite_confidence(opened: Open) -> None:
    assert opened(disabled(chain(), "segment0")).run(row(math.inf, 0.9)).exit == "exit1"


def test_an_exit_of_one_name_in_two_branches_answers_in_either(opened: Open) -> None:
    runner = opened(one_name_twice())
    assert [runner.run(row(x, 0.9)).path for x in (1, 0)] == [("gate", "minus"), ("gate", "plus")]
    assert {runner.run(row(x, 0.9)).exit for x in (1, 0)} == {"early"}


def test_an_exit_in_a_loop_answers_at_the_visit_that_is_sure_enough(opened: Open) -> None:
    runner = opened(looped(leave_at=0.25))
    assert runner.run(row(9)).path == ("step", "step", "step")
    assert runner.run(row(2)).path == ("step", "step", "head")


def test_segments_without_a_model_are_not_in_the_path(opened: Open) -> None:
    assert opened(NETWORKS["joined"]()).run(row(1)).path == ("gate", "minus", "head")


def test_a_plan_without_any_model_can_answer(opened: Open) -> None:
    answer = opened(only_moves()).run(row(3))
    assert (answer.exit, answer.confidence, answer.path, answer.segments) == ("only", 1.0, (), 0)
    np.testing.assert_array_equal(answer.outputs["logits"], row(3))


# exit_at


@pytest.mark.parametrize("at", ["exit0", "exit1", "exit2"])
@pytest.mark.parametrize("sure", [0.0, 0.9, math.nan])
def test_exit_at_answers_there_whatever_the_confidences(opened: Open, at: str, sure: float) -> None:
    answer = opened(chain()).run(row(sure, sure, sure), exit_at=at)
    assert answer.exit == at
    assert answer.path[-1] == f"segment{at[-1]}"


def test_exit_at_answers_at_a_disabled_exit(opened: Open) -> None:
    assert opened(disabled(chain(), "segment0")).run(row(), exit_at="exit0").exit == "exit0"


def test_exit_at_in_a_loop_answers_at_the_first_visit(opened: Open) -> None:
    assert opened(looped(leave_at=0.9)).run(row(3), exit_at="inside").path == ("step",)


def test_the_last_exit_answers_where_the_path_does_not_meet_exit_at(opened: Open) -> None:
    draft = gated()
    draft.slot("in_block", shape=PER_ROW)
    draft.segment(
        "block", f"y = Neg(x)  {column('in_block', 1)}", reads=["x"], writes=["y", "in_block"],
        exit=leave("inside", "y", "in_block", 0.5), next="head",
    )  # fmt: skip
    runner = opened(draft)
    assert runner.run(row(1), exit_at="inside").exit == "inside"
    answer = runner.run(row(0), exit_at="inside")
    assert (answer.exit, answer.path) == ("last", ("gate", "head"))


@pytest.mark.parametrize("fallback", ["last", "most_confident"])
def test_exit_at_takes_no_notice_of_the_fallback(opened: Open, fallback: str) -> None:
    assert opened(chain(), fallback=fallback).run(row(0.4, 0.3, 0.2), exit_at="exit1").exit == "exit1"


def test_exit_at_of_no_exit_is_refused_with_the_exits(opened: Open) -> None:
    with pytest.raises(InputError) as caught:
        opened(chain()).run(row(), exit_at="exit7")
    assert str(caught.value) == "no exit 'exit7'; the exits are exit0, exit1, exit2"


# thresholds


def test_thresholds_replace_the_bundles_for_one_call(opened: Open) -> None:
    runner = opened(chain(0.5, 0.5))
    assert runner.run(row(0.3, 0.9), thresholds={"exit0": 0.2}).exit == "exit0"
    assert runner.run(row(0.3, 0.9)).exit == "exit1"


def test_a_threshold_of_never_keeps_an_exit_from_firing(opened: Open) -> None:
    assert opened(chain()).run(row(math.inf, 0.9), thresholds={"exit0": "never"}).exit == "exit1"


def test_a_threshold_brings_a_disabled_exit_back(opened: Open) -> None:
    assert opened(disabled(chain(), "segment0")).run(row(0.9), thresholds={"exit0": 0.5}).exit == "exit0"


@pytest.mark.parametrize(
    ("thresholds", "text"),
    [
        ({"exit7": 0.5}, "no exit 'exit7'; the exits are exit0, exit1, exit2"),
        ({"exit2": 0.5}, "thresholds: 'exit2' ends the plan and accepts everything; it has no threshold"),
        ({"exit0": math.nan}, "thresholds: 'exit0' is nan, expected a number, or 'never'"),
    ],
)
def test_thresholds_that_the_bundle_does_not_take_are_refused(
    opened: Open, thresholds: dict[str, float], text: str
) -> None:
    with pytest.raises(InputError) as caught:
        opened(chain()).run(row(), thresholds=thresholds)
    assert str(caught.value) == text


@pytest.mark.parametrize("number", [np.float32(0.9), np.float64(0.9), np.int64(1), 1])
def test_a_threshold_may_be_a_number_of_numpy_and_is_compared_in_float64(opened: Open, number: Any) -> None:
    runner = opened(chain(0.1))
    for value in (0.9, 1.0):
        fires = float(np.float32(value)) >= float(number)
        assert (runner.run(row(value), thresholds={"exit0": number}).exit == "exit0") == fires


def test_a_threshold_that_is_no_number_is_refused(opened: Open) -> None:
    with pytest.raises(InputError, match="'exit0'"):
        opened(chain()).run(row(), thresholds={"exit0": "0.5"})  # type: ignore[dict-item]


# fallback


@pytest.mark.parametrize(
    ("values", "exit_"),
    [
        ((0.4, 0.3, 0.2), "exit0"),
        ((0.3, 0.4, 0.2), "exit1"),
        ((0.2, 0.3, 0.4), "exit2"),
        ((0.4, 0.4, 0.2), "exit1"),
        ((0.4, 0.3, 0.4), "exit2"),
        ((math.nan, 0.3, 0.2), "exit1"),
        ((0.1, math.nan, math.nan), "exit0"),
        ((math.nan, math.nan, math.nan), "exit2"),
        ((-math.inf, math.nan, -2.0), "exit2"),
    ],
)
def test_the_most_confident_exit_answers_where_none_fired_the_later_of_equals(
    opened: Open, values: tuple[float, ...], exit_: str
) -> None:
    answer = opened(most_confident(chain())).run(row(*values))
    assert answer.exit == exit_
    np.testing.assert_array_equal(answer.outputs["logits"], row(*values) * np.float32(2 ** (int(exit_[-1]) + 1)))
    assert answer.path == ("segment0", "segment1", "segment2")


def test_an_exit_that_fires_answers_before_a_more_confident_one(opened: Open) -> None:
    answer = opened(most_confident(chain())).run(row(0.6, 0.9))
    assert (answer.exit, answer.path) == ("exit0", ("segment0",))


def test_a_disabled_exit_is_never_the_most_confident(opened: Open) -> None:
    assert opened(disabled(most_confident(chain()), "segment0")).run(row(0.9, 0.4, 0.2)).exit == "exit1"


def test_a_disabled_exit_is_never_the_most_confident_even_where_all_others_are_nan(opened: Open) -> None:
    answer = opened(disabled(most_confident(chain()), "segment0")).run(row(0.9, math.nan, math.nan))
    assert answer.exit == "exit2"


def test_the_runners_fallback_goes_before_the_bundles(opened: Open) -> None:
    assert opened(most_confident(chain()), fallback="last").run(row(0.4)).exit == "exit2"
    assert opened(chain(), fallback="most_confident").run(row(0.4)).exit == "exit0"


def test_an_unknown_fallback_is_refused(opened: Open) -> None:
    with pytest.raises(RunError) as caught:
        opened(chain(), fallback="first")
    assert str(caught.value) == "fallback is 'first', expected 'last' or 'most_confident' or None"


# Answers


def test_answers_survive_later_runs(opened: Open) -> None:
    runner = opened(chain())
    first = runner.run(row(0.9, 1, 2))
    kept = first.outputs["logits"].copy()
    for k in range(5):
        runner.run(row(k, 7, 7))
    np.testing.assert_array_equal(first.outputs["logits"], kept)


def test_an_answer_that_is_changed_changes_no_later_answer(opened: Open) -> None:
    runner = opened(chain())
    runner.run(row(0.9)).outputs["logits"][...] = 99
    np.testing.assert_array_equal(runner.run(row(0.9)).outputs["logits"], row(1.8))


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_all_exits_of_a_run_are_copies_of_their_own(opened: Open, network: str) -> None:
    answers = opened(NETWORKS[network]()).run_all_exits(row(2, 0.1))
    arrays = [array for answer in answers for array in answer.outputs.values()]
    assert all(array.base is None for array in arrays)
    assert not any(np.shares_memory(a, b) for k, a in enumerate(arrays) for b in arrays[:k])


def test_the_callers_array_is_neither_kept_nor_changed(opened: Open) -> None:
    x = row(0.9)
    runner = opened(chain())
    answer = runner.run(x)
    np.testing.assert_array_equal(x, row(0.9))
    x[...] = 5
    np.testing.assert_array_equal(answer.outputs["logits"], row(1.8))


def test_an_answer_says_what_a_reader_wants_to_know(opened: Open) -> None:
    answer = opened(chain()).run(row(0.1, 0.75))
    assert str(answer) == "exit1, confidence 0.75, 2 of 3 segments"
    assert answer.prediction == 1


def test_an_answer_without_logits_among_many_outputs_has_no_prediction(opened: Open) -> None:
    draft = chain(0.5)
    found = draft.segments["segment1"]
    exit_ = msgspec.structs.replace(leave("exit1", "h1", "confidence1"), outputs={"a": "h0", "b": "h1"})
    draft.segments["segment1"] = msgspec.structs.replace(found, exit=exit_)
    assert opened(draft).run(row()).prediction is None


def test_an_answer_says_which_decisions_were_taken_and_how_often_each_segment_ran(opened: Open) -> None:
    answer = opened(looped()).run(row(3))
    assert answer.gates == (("step", 1), ("step", 1), ("step", 0))
    assert answer.visits == {"step": 3, "head": 1}
    runner = opened(gated())
    assert [runner.run(row(x)).gates for x in (1, 0, 1)] == [(("gate", 1),), (("gate", 0),), (("gate", 1),)]
    assert opened(switched()).run(row(2)).gates == (("router", 2),)
    assert opened(chain()).run(row()).gates == ()


def test_an_answer_inside_a_loop_has_the_decisions_so_far(opened: Open) -> None:
    answers = opened(looped(leave_at=0.9)).run_all_exits(row(3))
    assert [len(answer.gates) for answer in answers] == [0, 1, 2, 3]


@pytest.mark.parametrize("fallback", ["last", "most_confident"])
def test_an_answer_says_whether_the_plan_ran_to_its_end(opened: Open, fallback: str) -> None:
    runner = opened(chain(), fallback=fallback)
    assert runner.run(row(0.9)).stopped_by == "exit"
    assert runner.run(row(0.4)).stopped_by == "end"
    assert runner.run(row(0.4), exit_at="exit1").stopped_by == "exit"
    assert runner.run(row(0.9), exit_at="exit2").stopped_by == "end"
    assert [answer.stopped_by for answer in runner.run_all_exits(row(0.9))] == ["exit", "exit", "end"]


def answering(**outputs: Any) -> Answer:
    arrays = {name: np.asarray(value) for name, value in outputs.items()}
    return Answer(arrays, "exit0", 0.5, ("a",), 1, scores=ClassScores(output="logits"))


@pytest.mark.parametrize(
    ("outputs", "cost"),
    [
        ({"logits": [[1.0]], "ponder_cost": [2.5]}, 2.5),
        ({"logits": [[1.0]], "ponder_cost": 2.5}, 2.5),
        ({"logits": [[1.0]]}, None),
        ({"logits": [[1.0]], "ponder_cost": [[1.0, 2.0]]}, None),
    ],
)
def test_the_ponder_cost_is_the_exits_output_of_that_name(outputs: dict[str, Any], cost: float | None) -> None:
    assert answering(**outputs).ponder_cost == cost


@pytest.mark.parametrize(
    ("outputs", "prediction"),
    [
        ({"logits": [[0.0, 3.0, 1.0]]}, 1),
        ({"logits": [[0.0, 3.0, 1.0]], "label": np.array([2])}, 2),
        ({"logits": [[0.0, 3.0, 1.0]], "label": [0.5]}, 1),
        ({"scores": [[0.0, 3.0]], "label": np.array([0], np.int32)}, 0),
    ],
)
def test_the_prediction_is_an_exits_own_label_where_it_has_one(outputs: dict[str, Any], prediction: int) -> None:
    assert answering(**outputs).prediction == prediction


def test_an_input_may_be_an_exits_output(opened: Open) -> None:
    runner = opened(only_moves())
    first = runner.run(row(1))
    runner.run(row(2))
    np.testing.assert_array_equal(first.outputs["logits"], row(1))


# All exits, and batches


def test_run_all_exits_gives_each_exit_that_is_met_in_order_none_firing(opened: Open) -> None:
    answers = opened(disabled(chain(), "segment1")).run_all_exits(row(0.9, 0.8, 0.7))
    assert [(a.exit, round(a.confidence, 3), len(a.path)) for a in answers] == [
        ("exit0", 0.9, 1),
        ("exit1", 0.8, 2),
        ("exit2", 0.7, 3),
    ]


def test_run_all_exits_gives_an_exit_in_a_loop_at_every_visit(opened: Open) -> None:
    answers = opened(looped(leave_at=0.1)).run_all_exits(row(3))
    assert [a.exit for a in answers] == ["inside", "inside", "inside", "last"]
    assert [float(a.outputs["logits"][0, 0]) for a in answers] == [6.0, 9.0, 12.0, 12.0]


def test_a_batch_is_answered_row_by_row_in_order(opened: Open) -> None:
    runner = opened(chain())
    rows = np.concatenate([row(*v) for v in [(0.9,), (0, 0.9), (0, 0, 0.9), (0.1,), (0.8,)]])
    answers = runner.run_batch(rows)
    assert [a.exit for a in answers] == ["exit0", "exit1", "exit2", "exit2", "exit0"]
    for k, answer in enumerate(answers):
        np.testing.assert_array_equal(answer.outputs["logits"], runner.run(rows[k : k + 1]).outputs["logits"])


def test_a_batch_takes_the_arguments_of_a_run(opened: Open) -> None:
    runner = opened(chain())
    rows = np.concatenate([row(0.9), row(0.1)])
    assert [a.exit for a in runner.run_batch(rows, exit_at="exit1")] == ["exit1", "exit1"]
    assert [a.exit for a in runner.run_batch(rows, thresholds={"exit0": 0.05})] == ["exit0", "exit0"]


def test_several_rows_at_once_are_refused_with_the_fix(opened: Open) -> None:
    with pytest.raises(InputError, match=r"^got 2 rows, `run` takes one; pass them to `run_batch`$"):
        opened(chain()).run(np.zeros((2, 4), np.float32))


def test_a_refused_input_leaves_the_runner_as_it_was(opened: Open) -> None:
    runner = opened(chain())
    before = runner.run(row(0.9))
    with pytest.raises(InputError):
        runner.run(np.zeros((1, 5), np.float32))
    assert runner.run(row(0.9)).exit == before.exit


# Shapes


def lengthy() -> Draft:
    """Returns a plan over x float32 [batch, n] and y float32 [batch, m]: exit0 answers 2x, exit1 answers (2x, -y)."""
    draft = Draft({"x": ("float32", ("batch", "n")), "y": ("float32", ("batch", "m"))})
    for name, dim in (("a", "n"), ("b", "m")):
        draft.slot(name, shape=("batch", dim))
    for name in ("sure0", "sure1"):
        draft.slot(name, shape=PER_ROW)
    draft.segment(
        "one", f"a = Add(x, x)  {column('sure0', 0)}", reads=["x"], writes=["a", "sure0"],
        exit=leave("exit0", "a", "sure0", 0.5), next="two",
    )  # fmt: skip
    draft.segment(
        "two", f"b = Neg(y)  {column('sure1', 0)}", reads=["x", "y"], writes=["b", "sure1"],
        exit=leave("exit1", "a", "sure1", other="b"),
    )  # fmt: skip
    return draft


def test_inputs_may_change_their_shape_from_run_to_run(opened: Open) -> None:
    runner = opened(lengthy())
    for n, m in [(3, 5), (7, 2), (3, 5), (3, 6), (1, 1), (7, 2)]:
        x, y = np.full((1, n), 0.25, np.float32), np.arange(m, dtype=np.float32)[None]
        answer = runner.run((x, y))
        np.testing.assert_array_equal(answer.outputs["logits"], x + x)
        np.testing.assert_array_equal(answer.outputs["other"], -y)


def test_more_shapes_than_are_kept_still_give_right_answers(opened: Open) -> None:
    runner = opened(lengthy())
    for n in [*range(1, 41), *range(1, 41)]:
        x = np.full((1, n), n / 100, np.float32)
        np.testing.assert_array_equal(runner.run((x, x), exit_at="exit1").outputs["logits"], x + x)


def test_a_slot_may_have_no_values_at_all(opened: Open) -> None:
    runner = opened(picked())
    for values, total in [((1, 2), 6.0), ((), 0.0), ((5,), 10.0), ((), 0.0)]:
        np.testing.assert_array_equal(runner.run(row(*values)).outputs["logits"], np.full((1, 4), total, np.float32))


@pytest.mark.parametrize("by", ["move", "second slot"])
def test_a_confidence_in_a_tensor_whose_shape_depends_on_data_is_never_stale(opened: Open, by: str) -> None:
    draft = Draft()
    draft.slot("found", shape=(None,))
    draft.slot("sure", shape=PER_ROW)
    exit_ = leave("early", "x", "sure", 0.5)
    if by == "move":
        draft.segment("a", column("found", 0), reads=["x"], writes=["found"], next="b")
        draft.segment("b", writes={"sure": move("found")}, exit=exit_, next="head")
    else:
        both = {"found": "found", "sure": "found"}
        draft.segment("a", column("found", 0), reads=["x"], writes=both, exit=exit_, next="head")
    add_head(draft, "x")
    try:
        runner = opened(draft)
    except ManifestError:
        return  # to refuse such a plan is right too
    assert [runner.run(row(v)).exit for v in (0.9, 0.1, 0.8, 0.2)] == ["early", "last", "early", "last"]

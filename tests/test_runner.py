"""The runner answers at the first exit that fires, whatever ran before, and fails with a typed error."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from plans import (
    NETWORKS,
    PER_ROW,
    Draft,
    add_head,
    chain,
    column,
    edit,
    gate,
    gated,
    leave,
    looped,
    move,
    one_name_twice,
    over_half,
    picked,
    row,
    switched,
)

from eetoolkit_runtime.bundle import load
from eetoolkit_runtime.errors import BundleError, EEToolkitError, InputError, IntegrityError, ManifestError, RunError
from eetoolkit_runtime.golden import Sample, Visit
from eetoolkit_runtime.runner import Runner
from eetoolkit_runtime.sessions import SessionSettings

Open = Callable[..., Runner]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Gives a function that saves a draft and opens a runner on it with one thread."""
    runners: list[Runner] = []

    def run(draft: Draft, **settings: Any) -> Runner:
        folder = draft.save(tmp_path / f"bundle{len(runners)}")
        runners.append(Runner(folder, **{"threads": 1, **settings}))
        return runners[-1]

    yield run
    for runner in runners:
        runner.close()


def disabled(draft: Draft, segment: str) -> Draft:
    """Returns the draft with the exit of a segment disabled."""
    found = draft.segments[segment]
    assert found.exit is not None
    exit_ = msgspec.structs.replace(found.exit, enabled=False)
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


def only_moves() -> Draft:
    """Returns a plan that answers with its input and a constant confidence."""
    draft = Draft()
    draft.constant("one", "float32", [1])
    draft.slot("sure", shape=PER_ROW)
    sure = msgspec.structs.replace(move("x"), slot=None, constant="one")
    draft.segment("only", writes={"sure": sure}, exit=leave("only", "x", "sure"))
    return draft


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


def test_a_threshold_of_none_keeps_an_exit_from_firing(opened: Open) -> None:
    assert opened(chain()).run(row(math.inf, 0.9), thresholds={"exit0": None}).exit == "exit1"


def test_a_threshold_brings_a_disabled_exit_back(opened: Open) -> None:
    assert opened(disabled(chain(), "segment0")).run(row(0.9), thresholds={"exit0": 0.5}).exit == "exit0"


@pytest.mark.parametrize(
    ("thresholds", "text"),
    [
        ({"exit7": 0.5}, "no exit 'exit7'; the exits are exit0, exit1, exit2"),
        ({"exit2": 0.5}, "thresholds: 'exit2' ends the plan and accepts everything; it has no threshold"),
        ({"exit0": math.nan}, "thresholds: 'exit0' is NaN; None keeps an exit from firing"),
    ],
)
def test_thresholds_that_the_bundle_does_not_take_are_refused(
    opened: Open, thresholds: dict[str, float], text: str
) -> None:
    with pytest.raises(InputError) as caught:
        opened(chain()).run(row(), thresholds=thresholds)
    assert str(caught.value) == text


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
    assert str(caught.value) == "fallback is 'first', expected 'last' or 'most_confident'"


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


# Opening, warming up, closing


def test_a_lazy_runner_opens_only_what_it_reaches(opened: Open) -> None:
    runner = opened(chain())
    assert runner.opened == ()
    runner.run(row(0.9))
    assert runner.opened == ("segment0",)
    runner.run(row(0.1, 0.9))
    assert runner.opened == ("segment0", "segment1")


def test_a_block_that_is_skipped_is_not_opened(opened: Open) -> None:
    runner = opened(gated())
    runner.run(row(0))
    assert runner.opened == ("gate", "head")


def test_an_eager_runner_opens_everything_at_once(opened: Open) -> None:
    assert opened(looped(), load="eager").opened == ("step", "head")


def loading() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "eetoolkit-load"]


def test_a_background_runner_opens_the_first_segment_now_and_the_rest_on_a_thread(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    original = SessionSettings.open

    def slowly(self: SessionSettings, path: str, what: str) -> Any:
        if what != "segment 'segment0'":
            assert release.wait(30)
        return original(self, path, what)

    monkeypatch.setattr(SessionSettings, "open", slowly)
    runner = opened(chain(), load="background")
    threads = loading()
    assert runner.opened == ("segment0",)
    assert runner.run(row(0.9)).exit == "exit0"
    release.set()
    for thread in threads:
        thread.join(30)
    assert runner.opened == ("segment0", "segment1", "segment2")


def test_a_background_runner_opens_the_start_first_wherever_it_stands(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    first: list[str] = []
    original = SessionSettings.open
    monkeypatch.setattr(
        SessionSettings, "open", lambda self, path, what: (first.append(what), original(self, path, what))[1]
    )
    draft = chain()
    draft.segments = dict(reversed(draft.segments.items()))
    draft.options["start"] = "segment0"
    opened(draft, load="background")
    for thread in loading():
        thread.join(30)
    assert first[0] == "segment 'segment0'"


def test_a_background_runner_opens_a_plan_without_any_model(opened: Open) -> None:
    assert opened(only_moves(), load="background").run(row(1)).exit == "only"


def test_a_failure_on_the_loading_thread_is_raised_by_the_run_that_needs_the_segment(tmp_path: Path) -> None:
    folder = spoiled(chain(), "segment2", tmp_path)
    with Runner(folder, threads=1, load="background") as runner:
        for thread in loading():
            thread.join(30)
        assert runner.run(row(0.9)).exit == "exit0"
        with pytest.raises(IntegrityError, match=r"segment 'segment2': onnxruntime .* cannot load"):
            runner.run(row(0.1))


def spoiled(draft: Draft, segment: str, folder: Path) -> Path:
    """Returns the folder of a bundle one of whose graphs is not ONNX, its hash nevertheless right."""
    draft.save(folder / "good")
    bundle = load(folder / "good")
    other = "not-onnx.onnx"
    (folder / "good" / other).write_bytes(b"not a graph")
    from eetoolkit_runtime.store import digest

    segments = dict(bundle.manifest.segments)
    segments[segment] = msgspec.structs.replace(segments[segment], model=other)
    files = dict(bundle.manifest.files) | {other: digest(folder / "good" / other)}
    return edit(folder / "good", segments=segments, files=files)


def test_an_eager_runner_fails_at_once_where_a_graph_cannot_be_loaded(tmp_path: Path) -> None:
    folder = spoiled(chain(), "segment2", tmp_path)
    with pytest.raises(IntegrityError, match=r"^segment 'segment2': onnxruntime .* cannot load .*not-onnx\.onnx: "):
        Runner(folder, load="eager")


def test_an_unknown_way_to_load_is_refused(opened: Open) -> None:
    with pytest.raises(RunError) as caught:
        opened(chain(), load="later")
    assert str(caught.value) == "load is 'later', expected 'lazy', 'background' or 'eager'"


def test_a_path_without_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"nowhere\.ee does not exist$"):
        Runner(tmp_path / "nowhere.ee")


def test_a_runner_takes_a_bundle_that_is_open(tmp_path: Path) -> None:
    bundle = load(chain().save(tmp_path / "b"))
    with Runner(bundle, threads=1) as runner:
        assert runner.bundle is bundle


def test_check_is_passed_on(tmp_path: Path) -> None:
    folder = chain(weights=True).save(tmp_path / "b")
    weights = next(folder.glob("segment2-*.bin"))
    weights.write_bytes(b"\0" * weights.stat().st_size)
    Runner(folder, check="quick").close()
    with pytest.raises(IntegrityError, match=weights.name):
        Runner(folder, check="full")


def test_warming_up_opens_every_segment_on_the_way_even_behind_a_sure_exit(opened: Open) -> None:
    runner = opened(chain())
    runner.warmup(row(0.9), runs=1)
    assert runner.opened == ("segment0", "segment1", "segment2")


def test_warming_up_takes_the_golden_samples_where_no_inputs_are_given(opened: Open) -> None:
    draft = gated()
    draft.samples = [Sample({"x": x}, (Visit("last", {"logits": x}, 0.0),)) for x in (row(0), row(1))]
    runner = opened(draft)
    runner.warmup(runs=1)
    assert set(runner.opened) == {"gate", "block", "head"}


def test_warming_up_without_anything_to_run_is_refused(opened: Open) -> None:
    with pytest.raises(InputError) as caught:
        opened(chain()).warmup()
    assert str(caught.value) == "warmup: the bundle has no golden samples; pass inputs"


def test_a_closed_runner_is_refused_with_the_fix(opened: Open) -> None:
    runner = opened(chain())
    runner.run(row(0.9))
    runner.close()
    runner.close()
    assert runner.opened == ()
    for call in (runner.run, runner.run_batch, runner.run_all_exits, runner.warmup):
        with pytest.raises(RunError) as caught:
            call(row(0.9))
        assert str(caught.value) == "this runner is closed; make a new one"


def test_a_runner_is_closed_at_the_end_of_its_context(tmp_path: Path) -> None:
    with Runner(chain().save(tmp_path / "b"), threads=1) as runner:
        runner.run(row(0.9))
    with pytest.raises(RunError, match="closed"):
        runner.run(row(0.9))


def test_the_loading_thread_opens_nothing_once_the_runner_is_closed(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    original = SessionSettings.open

    def slowly(self: SessionSettings, path: str, what: str) -> Any:
        if what != "segment 'segment0'":
            assert release.wait(30)
        return original(self, path, what)

    monkeypatch.setattr(SessionSettings, "open", slowly)
    runner = opened(chain(), load="background")
    threads = loading()
    runner.close()
    release.set()
    for thread in threads:
        thread.join(30)
    assert runner.opened == ()


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


# Failures


def fragile() -> Draft:
    """Returns a plan whose second segment fails inside onnxruntime where x[0] is over 3: an index out of bounds."""
    draft = Draft()
    draft.slot("first", shape=PER_ROW)
    draft.segment("first", column("first", 0), reads=["x"], writes=["first"], next="fragile")
    draft.segment(
        "fragile",
        "at = Cast<to = 7>(first)  picked = Gather<axis = 1>(x, at)  y = Add(x, picked)",
        reads=["x", "first"],
        writes=["y"],
        next="head",
    )
    add_head(draft, "y")
    return draft


@pytest.mark.parametrize("method", ["run", "run_all_exits", "run_batch"])
@pytest.mark.parametrize("warm", [True, False])
def test_a_failure_inside_onnxruntime_names_the_segment(opened: Open, method: str, warm: bool) -> None:
    runner = opened(fragile())
    if warm:
        runner.run(row(1))
    with pytest.raises(RunError, match=r"^segment 'fragile': .*out of .*bounds") as caught:
        getattr(runner, method)(row(9))
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("method", ["run", "run_all_exits"])
@pytest.mark.parametrize("where", ["start", "later"])
def test_a_failure_names_the_segment_even_where_its_output_shape_is_not_known_yet(
    opened: Open, method: str, where: str
) -> None:
    draft = Draft()
    draft.slot("y", shape=("batch", "k"))  # k is no symbol of the inputs
    if where == "later":
        draft.segment("before", "x1 = Abs(x)", reads=["x"], writes=["x1"], next="fragile")
    body = f"{column('first', 0)}  at = Cast<to = 7>(first)  y = Gather<axis = 1>(x, at)"
    draft.segment("fragile", body, reads=["x"], writes=["y"], next="head")
    add_head(draft, "y")
    with pytest.raises(RunError, match=r"^segment 'fragile': .*out of .*bounds"):
        getattr(opened(draft), method)(row(9))


def test_a_runner_goes_on_after_a_failure(opened: Open) -> None:
    runner = opened(fragile())
    for _ in range(3):
        with pytest.raises(RunError):
            runner.run(row(9))
        np.testing.assert_array_equal(runner.run(row(1, 2)).outputs["logits"], row(1, 2) + 2)


@pytest.mark.parametrize("case", [3, -1, 100])
def test_a_switch_without_such_a_case_is_a_run_error(opened: Open, case: int) -> None:
    with pytest.raises(RunError) as caught:
        opened(switched()).run(row(case))
    assert str(caught.value) == f"segment 'router': the switch 'expert' is {case}, expected 0 to 2"


def test_a_loop_may_use_all_its_visits(opened: Open) -> None:
    assert opened(looped(max_visits=5)).run(row(5)).path.count("step") == 5


@pytest.mark.parametrize("method", ["run", "run_all_exits"])
def test_a_loop_that_exceeds_its_visits_is_a_run_error(opened: Open, method: str) -> None:
    runner = opened(looped(max_visits=5))
    with pytest.raises(RunError) as caught:
        getattr(runner, method)(row(6))
    assert str(caught.value) == "segment 'step': more than max_visits 5 visits; is the loop endless?"


def test_visits_are_counted_for_each_call(opened: Open) -> None:
    runner = opened(looped(max_visits=5))
    assert [runner.run(row(4)).path.count("step") for _ in range(4)] == [4, 4, 4, 4]


def test_a_start_in_a_loop_counts_its_first_visit(opened: Open) -> None:
    draft = Draft()
    draft.slot("again", "bool", PER_ROW)
    draft.segment(
        "start", over_half("again", 0), reads=["x"], writes=["again"], next=gate("again", "start", "head"), max_visits=2
    )
    add_head(draft, "x")
    runner = opened(draft)
    assert runner.run(row(0)).path == ("start", "head")
    with pytest.raises(RunError, match="more than max_visits 2 visits"):
        runner.run(row(1))


@pytest.mark.parametrize("method", ["run", "run_all_exits"])
def test_a_gate_that_turns_out_to_have_many_values_is_a_run_error(opened: Open, method: str) -> None:
    draft = gated()
    found = draft.segments["gate"]
    draft.slot("open", "bool", ("wide",))
    draft.segment(
        "gate",
        "no = Sub(x, x)  each = Greater(x, no)  four = Constant<value_ints = [4]>()  open = Reshape(each, four)",
        reads=["x"],
        writes=found.writes,
        next=found.next,
    )
    with pytest.raises(RunError, match="segment 'gate'"):
        getattr(opened(draft), method)(row(1))


def renamed(draft: Draft, segment: str, *, output: str | None = None, inputs: str | None = None) -> Draft:
    """Returns the draft with an input or output of one graph called otherwise than the manifest says."""
    graph = draft.graphs[segment].graph
    for old, new in ((graph.output[0].name, output), (graph.input[0].name, inputs)):
        if new is not None:
            for value in (*graph.output, *graph.input):
                value.name = new if value.name == old else value.name
            for node in graph.node:
                node.input[:] = [new if name == old else name for name in node.input]
                node.output[:] = [new if name == old else name for name in node.output]
    return draft


def test_a_graph_without_the_outputs_that_the_manifest_names_is_an_integrity_error(opened: Open) -> None:
    runner = opened(renamed(gated(), "block", output="z"))
    assert runner.run(row(0)).exit == "last"
    with pytest.raises(IntegrityError) as caught:
        runner.run(row(1))
    assert str(caught.value) == (
        "segment 'block': its graph's outputs are ['z'], the manifest names ['y']; export again"
    )


def test_a_graph_without_the_inputs_that_the_manifest_names_is_an_integrity_error(opened: Open) -> None:
    with pytest.raises(IntegrityError) as caught:
        opened(renamed(gated(), "block", inputs="pixels"), load="eager")
    assert str(caught.value) == (
        "segment 'block': its graph's inputs are ['pixels'], the manifest names ['x']; export again"
    )


def test_a_graph_with_an_input_that_the_manifest_does_not_feed_is_an_integrity_error(opened: Open) -> None:
    draft = gated()
    draft.segments["head"] = msgspec.structs.replace(draft.segments["head"], reads={"x": "x"})
    with pytest.raises(IntegrityError, match=r"its graph's inputs are \['x', 'y'\], the manifest names \['x'\]"):
        opened(draft, load="eager")


def test_a_graph_output_that_the_manifest_does_not_name_is_left_alone(opened: Open) -> None:
    draft = gated()
    block = draft.segments["block"]
    draft.segment("block", "y = Neg(x)  spare = Abs(x)", reads=["x"], writes=["spare", "y"], next="head")
    draft.segments["block"] = msgspec.structs.replace(block, model="block.onnx")
    answer = opened(draft).run(row(1))
    np.testing.assert_array_equal(answer.outputs["logits"], -row(1))


def test_a_graph_whose_output_is_of_another_dtype_than_its_slot_never_answers(opened: Open) -> None:
    draft = chain()
    draft.slots["h0"] = msgspec.structs.replace(draft.slots["h0"], dtype="float64")
    runner = opened(draft)
    for _ in range(3):
        with pytest.raises(EEToolkitError, match=r"^segment 'segment0': .*float"):
            runner.run(row(0.9))


def test_a_graph_whose_input_is_of_another_dtype_than_its_slot_never_answers(opened: Open) -> None:
    draft = Draft({"x": ("float64", ("batch", 4))})
    add_head(draft, "x")
    for value in draft.graphs["head"].graph.input:
        value.type.tensor_type.elem_type = 1
    runner = opened(draft)
    for _ in range(3):
        with pytest.raises(EEToolkitError, match=r"^segment 'head': .*(float|double)"):
            runner.run(np.zeros((1, 4)))


@pytest.mark.parametrize("shape", [("batch", 5), ("batch", 4, 1)])
def test_a_graph_whose_output_is_of_another_shape_than_its_slot_never_answers(
    opened: Open, shape: tuple[int | str | None, ...]
) -> None:
    draft = chain()
    draft.slots["h0"] = msgspec.structs.replace(draft.slots["h0"], shape=shape)
    runner = opened(draft)
    for _ in range(3):
        with pytest.raises(EEToolkitError, match=r"^segment 'segment0': "):
            runner.run(row(0.9))


# Concurrency


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_eight_threads_give_the_answers_of_one(opened: Open, network: str) -> None:
    runner = opened(NETWORKS[network]())
    rng = np.random.default_rng(0)
    rows = [row(float(rng.integers(0, 3)), *rng.random(3)) for _ in range(64)]
    alone = opened(NETWORKS[network]())
    expected = [alone.run(x) for x in rows]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(runner.run, rows * 4))
    for k, answer in enumerate(found):
        same = expected[k % len(rows)]
        assert (answer.exit, answer.path, answer.confidence) == (same.exit, same.path, same.confidence)
        for name, array in same.outputs.items():
            np.testing.assert_array_equal(answer.outputs[name], array)


def test_eight_threads_that_all_meet_a_segment_first_open_it_once(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    original = SessionSettings.open
    monkeypatch.setattr(
        SessionSettings, "open", lambda self, path, what: (made.append(what), original(self, path, what))[1]
    )
    runner = opened(chain())
    barrier = threading.Barrier(8)

    def run(_: int) -> str:
        barrier.wait(30)
        return runner.run(row(0.1)).exit

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(run, range(8))) == {"exit2"}
    assert sorted(made) == ["segment 'segment0'", "segment 'segment1'", "segment 'segment2'"]

"""The native runner's calls: thresholds, deadlines, interrupts, and answers that get better."""

from __future__ import annotations

import ctypes
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import native_build
import numpy as np
import pytest
from native_library import Answer, Native, NativeAnswer, NativeError, NativeRunner
from plans import NETWORKS, PER_ROW, ROW, Draft, chain, endless, gated, leave, looped, row, switched
from test_runner_watched import AGES_MS, FREE, ROWS, SOON_MS, STUCK, disabled, profiled

import eetoolkit as ee

pytestmark = pytest.mark.skipif(bool(native_build.why_not()), reason=native_build.why_not())
Open = Callable[..., NativeRunner]


@pytest.fixture(scope="session")
def native() -> Native:
    return Native(native_build.build())


@pytest.fixture
def opened(native: Native, tmp_path: Path) -> Iterator[Open]:
    runners: list[NativeRunner] = []

    def run(draft: Draft, **settings: int) -> NativeRunner:
        runners.append(NativeRunner(native, draft.save(tmp_path / f"bundle{len(runners)}"), **settings))
        return runners[-1]

    yield run
    for runner in runners:
        runner.close()


def same(found: NativeAnswer, expected: ee.Answer | NativeAnswer) -> None:
    assert found.outputs.keys() == expected.outputs.keys()
    for name, array in expected.outputs.items():
        np.testing.assert_array_equal(found.outputs[name], array)
    for key in ("exit", "path", "gates", "stopped_by", "prediction"):
        assert getattr(found, key) == getattr(expected, key)
    np.testing.assert_equal(found.confidence, expected.confidence)


def x(array: Any) -> dict[str, Any]:
    return {"x": array}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("fallback", ["last", "most_confident"])
def test_whatever_a_call_asks_for_it_answers_as_python(
    opened: Open, network: str, fallback: str, tmp_path: Path
) -> None:
    draft = NETWORKS[network]()
    runner = opened(draft, fallback=("last", "most_confident").index(fallback) + 1)
    with ee.Runner(draft.save(tmp_path / "python"), threads=1, fallback=fallback) as python:
        open_exits = [name for name, exit_ in python.bundle.exits.items() if not exit_.ends]
        for given in ROWS:
            asked: list[dict[str, Any]] = [{}, {"thresholds": dict.fromkeys(open_exits, 0.35)}]
            asked += [{"thresholds": dict.fromkeys(open_exits, "never")}, {"deadline_ms": AGES_MS}]
            asked += [{"exit_at": name} for name in python.bundle.exits]
            for options in asked:
                same(runner.run(x(given), **options), python.run(given, **options))
            found, expected = runner.refine(x(given)), list(python.refine(given))
            for one, other in zip(found, [*expected, expected[-1]], strict=True):
                same(one, other)


def test_a_deadline_breaks_off_a_segment_that_never_ends(opened: Open) -> None:
    runner = opened(endless())
    runner.run(x(FREE), thresholds={"early": "never"})
    for _ in range(3):
        began = time.perf_counter()
        answer = runner.run(x(STUCK), deadline_ms=SOON_MS)
        assert time.perf_counter() - began < 20 * SOON_MS / 1e3
        assert (answer.exit, answer.path, answer.stopped_by) == ("early", ("first",), "deadline")
        np.testing.assert_array_equal(answer.outputs["logits"], STUCK)
        assert runner.run(x(FREE)).exit == "last"


def test_a_deadline_before_any_answer_is_an_error_that_says_what_ran(opened: Open) -> None:
    runner = opened(endless(first=False))
    runner.run(x(FREE))
    with pytest.raises(NativeError) as caught:
        runner.run(x(STUCK), deadline_ms=SOON_MS)
    assert (caught.value.kind, caught.value.text) == (
        "DeadlineError",
        "no answer within deadline_ms 300; no segment was finished",
    )


def test_a_segment_that_would_not_fit_by_the_profile_is_not_run(opened: Open) -> None:
    runner = opened(profiled(chain(), segment1=2 * AGES_MS))
    answer = runner.run(x(row(0.1, 0.9)), deadline_ms=AGES_MS)
    assert (answer.exit, answer.path, answer.stopped_by) == ("exit0", ("segment0",), "deadline")
    assert runner.run(x(row(0.1, 0.9))).exit == "exit1"
    runner = opened(disabled(profiled(chain(), segment1=2 * AGES_MS), "segment0"))
    with pytest.raises(NativeError, match=r"DeadlineError: .*ran segment0$"):
        runner.run(x(row(0.9)), deadline_ms=AGES_MS)


def test_the_answer_at_a_deadline_holds_the_gates_and_segments_that_came_after_it(opened: Open) -> None:
    answer = opened(profiled(looped(leave_at=0.9), head=2 * AGES_MS)).run(x(row(3)), deadline_ms=AGES_MS)
    assert (answer.exit, answer.path) == ("inside", ("step", "step", "step"))
    assert answer.gates == (("step", 1), ("step", 1), ("step", 0))


def test_the_most_confident_exit_met_answers_at_a_deadline_where_the_fallback_says_so(opened: Open) -> None:
    draft = profiled(chain(), segment2=2 * AGES_MS)
    for fallback, exit_ in ((2, "exit0"), (1, "exit1")):
        answer = opened(draft, fallback=fallback).run(x(row(0.4, 0.3)), deadline_ms=AGES_MS)
        assert (answer.exit, answer.path, answer.stopped_by) == (exit_, ("segment0", "segment1"), "deadline")


def test_an_interrupt_stops_a_run_from_another_thread_until_it_is_cleared(opened: Open) -> None:
    runner = opened(endless())
    timer = threading.Timer(0.2, runner.interrupt)
    timer.start()
    answer = runner.run(x(STUCK), interruptible=True)
    timer.join()
    assert (answer.exit, answer.path, answer.stopped_by) == ("early", ("first",), "interrupt")
    with pytest.raises(NativeError, match="DeadlineError: interrupted before there was an answer; no segment was"):
        runner.run(x(FREE))
    runner.clear()
    assert runner.run(x(FREE)).exit == "last"


def test_refining_stops_when_it_is_told_to_or_at_a_deadline(opened: Open) -> None:
    runner = opened(chain())
    told = runner.refine(x(row(0.9)), lambda answer: answer.exit == "exit1")
    assert [answer.exit for answer in told] == ["exit0", "exit1", "exit1"]
    stuck = opened(endless()).refine(x(STUCK), deadline_ms=SOON_MS)
    assert [(answer.exit, answer.stopped_by) for answer in stuck] == [("early", "exit")] * 2


def test_runners_of_one_bundle_may_run_in_many_threads(opened: Open, native: Native) -> None:
    first = opened(gated())
    rows = [row(k % 2, 0, 0, k) for k in range(64)]
    expected = [first.run(x(given)) for given in rows]

    def answers(_: int) -> list[NativeAnswer]:
        runner = NativeRunner(native, Path(), like=first)
        try:
            return [runner.run(x(given), deadline_ms=AGES_MS) for given in rows]
        finally:
            native.library.ee_runner_free(runner._runner)

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(answers, range(4)):
            for one, other in zip(found, expected, strict=True):
                same(one, other)


WRONG: dict[str, tuple[Callable[[NativeRunner], object], str]] = {
    "a name": (lambda runner: runner.run({"y": row()}), "InputError: got inputs ['y'], expected ['x']"),
    "a missing input": (lambda runner: runner.run({}), "InputError: got inputs [], expected ['x']"),
    "a dtype": (
        lambda runner: runner.run(x(row().astype("float64"))),
        "InputError: input 'x': got dtype float64, expected x: float32[batch, 4]; convert it",
    ),
    "a shape": (
        lambda runner: runner.run(x(np.zeros((1, 5), np.float32))),
        "InputError: input 'x': got shape [1, 5], expected x: float32[batch, 4]",
    ),
    "rows": (
        lambda runner: runner.run(x(np.zeros((2, 4), np.float32))),
        "InputError: got 2 rows, a run takes one",
    ),
    "no rows": (
        lambda runner: runner.run(x(np.zeros((0, 4), np.float32))),
        "InputError: input 'x': got the empty shape [0, 4], expected x: float32[batch, 4]",
    ),
    "an exit": (
        lambda runner: runner.run(x(row()), exit_at="exit9"),
        "InputError: no exit 'exit9'; the exits are exit0, exit1, exit2",
    ),
    "a threshold of no exit": (
        lambda runner: runner.run(x(row()), thresholds={"exit9": 1.0}),
        "InputError: no exit 'exit9'; the exits are exit0, exit1, exit2",
    ),
    "a threshold of the last exit": (
        lambda runner: runner.run(x(row()), thresholds={"exit2": 1.0}),
        "InputError: thresholds: 'exit2' ends the plan and accepts everything; it has no threshold",
    ),
    "a threshold that is no number": (
        lambda runner: runner.run(x(row()), thresholds={"exit0": math.nan}),
        "InputError: thresholds: 'exit0' is nan, expected a number, or `never`",
    ),
    "a deadline": (
        lambda runner: runner.run(x(row()), deadline_ms=-1),
        "InputError: deadline_ms is -1.0, expected milliseconds, more than 0; 0: none",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_call_is_refused_and_the_next_one_answers(opened: Open, wrong: str) -> None:
    runner = opened(chain())
    call, text = WRONG[wrong]
    for _ in range(2):
        with pytest.raises(NativeError) as caught:
            call(runner)
        assert str(caught.value) == text
        assert runner.run(x(row(0.9))).exit == "exit0"


def test_a_failure_in_a_run_has_pythons_words(opened: Open) -> None:
    for options in ({}, {"deadline_ms": AGES_MS}):
        with pytest.raises(NativeError, match="RunError: segment 'router': the switch 'expert' is 9, expected 0 to 2"):
            opened(switched()).run(x(row(9)), **options)


NULLS: dict[str, tuple[Callable[[Any, Any], None], str]] = {
    "inputs": (lambda call, _: setattr(call, "inputs", None), "InputError: inputs is NULL"),
    "a shape": (
        lambda _, kept: setattr(kept[0][0], "shape", None),
        "InputError: input 'x': its data or its shape is NULL",
    ),
    "data": (
        lambda _, kept: setattr(kept[0][0], "data", None),
        "InputError: input 'x': its data or its shape is NULL",
    ),
    "thresholds": (
        lambda call, _: [setattr(call, "thresholds", None), setattr(call, "threshold_count", 1)],
        "InputError: thresholds is NULL",
    ),
}


@pytest.mark.parametrize("null", NULLS)
def test_null_is_refused_also_after_a_call_that_was_right(opened: Open, native: Native, null: str) -> None:
    runner = opened(chain())
    expected = runner.run(x(row(0.9)))
    call, kept = runner._call(x(row(0.9)))
    forget, text = NULLS[null]
    forget(call, kept)
    answer = ctypes.pointer(Answer())
    with pytest.raises(NativeError) as caught:
        native.call("ee_run", runner._runner, ctypes.byref(call), ctypes.byref(answer))
    assert str(caught.value) == text
    assert not answer  # the one before is gone
    same(runner.run(x(row(0.9))), expected)


def test_an_input_goes_by_its_title_before_another_ones_name(opened: Open, tmp_path: Path) -> None:
    draft = Draft({"a": ("float32", ROW), "b": ("float32", ROW)})
    draft.slot("confidence", shape=PER_ROW)
    draft.segment(
        "s",
        "h = Sub(a, b) k = Constant<value_int = 0>() confidence = Gather<axis = 1>(a, k)",
        reads=("a", "b"),
        writes=("h", "confidence"),
        exit=leave("last", "h", "confidence", "always"),
    )
    for number, titles in enumerate(({"a": "b", "b": "a"}, {"a": "b", "b": "c"})):
        draft.options = {"titles": titles}
        runner = opened(draft)
        with ee.Runner(draft.save(tmp_path / f"python{number}"), threads=1) as python:
            for names in (list(titles.values()), list(titles.values())[::-1]):
                given = {name: row(ord(name)) for name in names}
                same(runner.run(given), python.run(given))
    with pytest.raises(NativeError, match=r"InputError: got inputs \['a', 'b'\], expected \['b', 'c'\]"):
        runner.run({"a": row(), "b": row()})  # two names of one


def test_what_is_kept_for_shapes_is_bounded_inputs_included(opened: Open) -> None:
    draft = Draft({"x": ("float32", ("batch", "n"))})
    draft.slot("h", shape=("batch", 1))
    draft.slot("confidence", shape=PER_ROW)
    draft.segment(
        "s",
        "at = Constant<value_ints = [0]>() h = Gather<axis = 1>(x, at) k = Constant<value_int = 0>() "
        "confidence = Gather<axis = 1>(x, k)",
        reads=("x",),
        writes=("h", "confidence"),
        exit=leave("last", "h", "confidence", "always"),
    )
    runner = opened(draft)
    before = resident_bytes()
    for n in range(10):
        runner.run(x(np.ones((1, (10 << 20) + n), np.float32)))
    assert resident_bytes() - before < 240 << 20  # all of them are 400 MiB


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

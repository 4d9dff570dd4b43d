"""Deadlines, tokens, and answers that get better: what stops a run before its end, and what it then gives."""

from __future__ import annotations

import _thread
import math
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from plans import NETWORKS, Draft, Open, chain, endless, gated, looped, opening, row, switched

from eetoolkit_runtime.errors import DeadlineError, InputError, ManifestError, RunError
from eetoolkit_runtime.plan.types import SavedProfile
from eetoolkit_runtime.running import pace, workspaces
from eetoolkit_runtime.running.answer import Answer
from eetoolkit_runtime.running.clock import Clock
from eetoolkit_runtime.running.interrupt import Interrupt, apart
from eetoolkit_runtime.running.runner import Runner

AGES_MS = 1e9  # twelve days: never reached in a test
SOON_MS = 300.0  # reached in a segment that never ends
STUCK = row(0, 0, 1)
FREE = row(0, 0, 0, 0.25)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    yield from opening(tmp_path)


def profiled(draft: Draft, **latencies_ms: float) -> Draft:
    draft.options["profile"] = SavedProfile(expected_ms=latencies_ms)
    return draft


def disabled(draft: Draft, segment: str) -> Draft:
    found = draft.segments[segment]
    exit_ = msgspec.structs.replace(found.exit, threshold="never")
    draft.segments[segment] = msgspec.structs.replace(found, exit=exit_)
    return draft


def same(found: Answer, expected: Answer) -> None:
    assert found.outputs.keys() == expected.outputs.keys()
    for name, array in expected.outputs.items():
        np.testing.assert_array_equal(found.outputs[name], array)
    for key in ("exit", "path", "segments", "gates", "stopped_by"):
        assert getattr(found, key) == getattr(expected, key)
    np.testing.assert_equal(found.confidence, expected.confidence)


def warm(runner: Runner) -> Runner:
    """Returns the runner with every segment open, so that a deadline is spent in the loop alone."""
    assert runner.run(FREE, thresholds={"early": "never"} if "early" in runner.bundle.exits else None).exit == "last"
    return runner


ROWS = [row(2, 0.9), row(0, 0.1), row(1, 0.4, 0.9), row(2, 0.3, 0.3, 0.1)]


# Deadlines


@pytest.mark.parametrize("fallback", ["last", "most_confident"])
@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_a_deadline_and_a_token_that_are_never_reached_change_nothing(
    opened: Open, network: str, fallback: str
) -> None:
    runner = opened(NETWORKS[network](), fallback=fallback)
    for x in ROWS:
        expected = runner.run(x)
        same(runner.run(x, deadline_ms=AGES_MS), expected)
        same(runner.run(x, deadline_ms=math.inf), expected)
        same(runner.run(x, interrupt=Interrupt()), expected)
        same(runner.run(x, deadline_ms=AGES_MS, interrupt=Interrupt()), expected)


@pytest.mark.parametrize("is_warm", [True, False])
def test_a_deadline_breaks_off_a_segment_that_never_ends(opened: Open, is_warm: bool) -> None:
    runner = opened(endless())
    if is_warm:
        warm(runner)
    else:
        runner.run(row(1))  # opens the first segment alone
    answer = runner.run(STUCK, deadline_ms=SOON_MS)
    assert (answer.exit, answer.path, answer.stopped_by) == ("early", ("first",), "deadline")
    np.testing.assert_array_equal(answer.outputs["logits"], STUCK)
    assert str(answer) == "early, confidence 0, 1 of 3 segments, stopped by deadline"


def test_a_deadline_before_any_answer_is_an_error_that_says_what_ran(opened: Open) -> None:
    with pytest.raises(DeadlineError) as caught:
        warm(opened(endless(first=False))).run(STUCK, deadline_ms=SOON_MS)
    assert str(caught.value) == "no answer within deadline_ms 300; no segment was finished"


def test_a_runner_goes_on_after_a_segment_was_broken_off(opened: Open) -> None:
    runner = warm(opened(endless()))
    expected = runner.run(FREE)
    for _ in range(3):
        assert runner.run(STUCK, deadline_ms=50).stopped_by == "deadline"
        same(runner.run(FREE), expected)
        same(runner.run(FREE, deadline_ms=AGES_MS), expected)


def test_buffers_are_thrown_away_only_where_a_segment_was_left_unfinished(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    original = workspaces.Workspace
    monkeypatch.setattr(workspaces, "Workspace", lambda *given: (made.append(1), original(*given))[1])
    runner = warm(opened(profiled(endless(), head=2 * AGES_MS)))
    runner.run(FREE, deadline_ms=AGES_MS)  # stopped before a segment
    runner.run(FREE)
    assert len(made) == 1
    runner.run(STUCK, deadline_ms=SOON_MS)
    runner.run(FREE)
    assert len(made) == 2


def test_a_segment_that_would_not_fit_by_the_profile_is_neither_run_nor_opened(opened: Open) -> None:
    runner = opened(profiled(chain(), segment1=2 * AGES_MS))
    answer = runner.run(row(0.1, 0.9), deadline_ms=AGES_MS)
    assert (answer.exit, answer.path, answer.stopped_by) == ("exit0", ("segment0",), "deadline")
    assert runner.opened == ("segment0",)
    assert runner.run(row(0.1, 0.9)).exit == "exit1"  # which opens it
    assert runner.run(row(0.1, 0.9), deadline_ms=AGES_MS).exit == "exit0"


def test_a_first_segment_that_would_not_fit_is_an_error(opened: Open) -> None:
    runner = opened(profiled(chain(), segment0=2 * AGES_MS))
    with pytest.raises(DeadlineError, match=r"^no answer within deadline_ms 1e\+09; no segment was finished$"):
        runner.run(row(0.9), deadline_ms=AGES_MS)
    assert runner.opened == ()


def test_a_segment_that_fits_by_the_profile_is_run(opened: Open) -> None:
    runner = opened(profiled(chain(), segment0=1, segment1=1, segment2=1))
    assert runner.run(row(), deadline_ms=AGES_MS).exit == "exit2"


@pytest.mark.parametrize("call", ["run", "run_all_exits", "warmup"])
def test_without_a_profile_the_least_time_seen_decides(
    opened: Open, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    ticks = iter(np.cumsum([0, 10, 0, 5, 0, 20, 0, 1]).tolist())  # s: segments of 10, 5 and 20, then one of 1
    runner = opened(chain())
    with monkeypatch.context() as patch:
        patch.setattr(pace, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
        if call == "warmup":
            runner.warmup(row(), runs=1)
        else:
            getattr(runner, call)(row())
        runner.run(row(0.9))
    # segment0 now 1 s, segment1 5 s, segment2 20 s
    with pytest.raises(DeadlineError):
        runner.run(row(), deadline_ms=0.5e3)
    for given, exit_ in [(3, "exit0"), (15, "exit1"), (3600, "exit2")]:
        assert runner.run(row(), deadline_ms=1e3 * given).exit == exit_
    fresh = opened(chain())  # one that has seen nothing
    assert fresh.run(row(), deadline_ms=3e3).exit == "exit2"


@pytest.mark.parametrize("first", [True, False])
def test_a_segment_that_was_broken_off_is_not_started_again_with_as_little_time(opened: Open, first: bool) -> None:
    runner = opened(endless())
    if first:
        warm(runner)
        runner._workspaces[next(iter(runner._workspaces))].paces["forever"].ended(0.0)  # it was seen to take no time
    assert runner.run(STUCK, deadline_ms=SOON_MS).path == ("first",)
    stuck = runner._workspaces[next(iter(runner._workspaces))].paces["forever"]
    runs = stuck.runs
    for _ in range(5):
        answer = runner.run(STUCK, deadline_ms=SOON_MS / 3)
        assert (answer.exit, answer.path, answer.stopped_by) == ("early", ("first",), "deadline")
    assert stuck.runs == runs, "the segment was started again"


def test_the_most_confident_exit_met_answers_where_the_fallback_says_so(opened: Open) -> None:
    draft = profiled(chain(), segment2=2 * AGES_MS)
    for fallback, exit_ in (("most_confident", "exit0"), ("last", "exit1")):
        answer = opened(draft, fallback=fallback).run(row(0.4, 0.3), deadline_ms=AGES_MS)
        assert (answer.exit, answer.path) == (exit_, ("segment0", "segment1"))
        assert answer.stopped_by == "deadline"


def test_an_exit_that_fires_in_time_answers_as_ever(opened: Open) -> None:
    runner = opened(profiled(chain(), segment2=2 * AGES_MS))
    assert runner.run(row(0, 0.9), deadline_ms=AGES_MS).stopped_by == "exit"
    assert runner.run(row(0.3, 0), deadline_ms=AGES_MS, thresholds={"exit0": 0.2}).stopped_by == "exit"


def test_a_disabled_exit_does_not_answer_at_a_deadline(opened: Open) -> None:
    runner = opened(disabled(profiled(chain(), segment1=2 * AGES_MS), "segment0"))
    with pytest.raises(DeadlineError, match=r"ran segment0$"):
        runner.run(row(0.9), deadline_ms=AGES_MS)


def test_the_exit_before_answers_where_exit_at_is_not_reached_in_time(opened: Open) -> None:
    runner = opened(profiled(chain(), segment2=2 * AGES_MS))
    answer = runner.run(row(0.9, 0.9), exit_at="exit2", deadline_ms=AGES_MS)
    assert (answer.exit, answer.stopped_by) == ("exit1", "deadline")
    assert runner.run(row(), exit_at="exit1", deadline_ms=AGES_MS).stopped_by == "exit"


def test_the_answer_at_a_deadline_holds_the_gates_and_segments_that_came_after_it(opened: Open) -> None:
    draft = profiled(looped(leave_at=0.9), head=2 * AGES_MS)
    answer = opened(draft).run(row(3), deadline_ms=AGES_MS)
    assert (answer.exit, answer.path) == ("inside", ("step", "step", "step"))
    assert answer.gates == (("step", 1), ("step", 1), ("step", 0))
    assert answer.visits == {"step": 3}


@pytest.mark.parametrize("deadline", [0, -1, math.nan, -math.inf, "5"])
@pytest.mark.parametrize("method", ["run", "refine"])
def test_a_deadline_that_is_no_time_is_refused(opened: Open, method: str, deadline: Any) -> None:
    with pytest.raises(InputError) as caught:
        getattr(opened(chain()), method)(row(), deadline_ms=deadline)
    assert str(caught.value) == f"deadline_ms is {deadline!r}, expected milliseconds, more than 0"


def test_a_failure_is_a_failure_under_a_deadline_too(opened: Open) -> None:
    with pytest.raises(RunError, match="the switch 'expert' is 9"):
        opened(switched()).run(row(9), deadline_ms=AGES_MS, interrupt=Interrupt())


def test_eight_threads_with_deadlines_give_the_answers_of_one_without(opened: Open) -> None:
    runner = opened(gated())
    rows = [row(k % 2, 0, 0, k) for k in range(64)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda x: runner.run(x, deadline_ms=AGES_MS), rows))
    for x, answer in zip(rows, found, strict=True):
        same(answer, runner.run(x))


def test_all_deadlines_of_a_process_share_one_thread(opened: Open) -> None:
    runner = opened(chain())
    runner.run(row(), deadline_ms=AGES_MS)
    before = _thread._count()
    for k in range(50):
        runner.run(row(), deadline_ms=AGES_MS + k)
    assert _thread._count() <= before


def test_a_clock_that_got_no_thread_asks_for_one_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    clock, rung = Clock(), threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr("_thread.start_new_thread", refuse)
        with pytest.raises(RunError, match=r"^no thread for deadlines: can't start new thread$"):
            clock.add(time.perf_counter(), rung.set)
        with pytest.raises(RunError, match=r"^no thread to run on: can't start new thread$"):
            apart(lambda: 1, lambda: None)
    clock.add(time.perf_counter(), rung.set)
    assert rung.wait(30)


def test_a_thread_without_memory_to_begin_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def drop(work: Any, arguments: Any) -> None:  # as the interpreter does with what a thread could not call
        started.append(len(arguments))

    monkeypatch.setattr("_thread.start_new_thread", drop)
    with pytest.raises(RunError, match=r"^no memory for a thread to run on$"):
        apart(lambda: 1, lambda: None)
    assert started == [0]


def test_the_clock_wakes_for_an_earlier_deadline_and_forgets_one_that_was_kept() -> None:
    clock = Clock()
    rang: list[str] = []
    first, third = threading.Event(), threading.Event()

    def second() -> None:
        rang.append("second")

    now = time.perf_counter()
    clock.add(now + 3600, third.set)
    clock.add(now + 0.05, second)
    clock.add(now, first.set)
    clock.discard(second)
    assert first.wait(30)
    clock.add(now + 0.1, third.set)
    assert third.wait(30)
    assert rang == []


@pytest.mark.parametrize(
    ("profile", "text"),
    [
        ({"segment9": 1.0}, r"profile names 'segment9', which is not a segment"),
        ({"segment0": 0.0}, r"Expected `float` > 0"),
        ({"segment0": -1.0}, r"Expected `float` > 0"),
    ],
)
def test_a_profile_of_other_segments_or_without_time_is_refused(
    opened: Open, profile: dict[str, float], text: str
) -> None:
    with pytest.raises(ManifestError, match=text):
        opened(profiled(chain(), **profile))


# Tokens


@pytest.mark.parametrize("in_main_thread", [True, False])
@pytest.mark.parametrize("is_warm", [True, False])
def test_a_token_set_by_another_thread_breaks_off_a_segment_that_never_ends(
    opened: Open, in_main_thread: bool, is_warm: bool
) -> None:
    runner, token = opened(endless()), Interrupt()
    if is_warm:
        warm(runner)
    timer = threading.Timer(SOON_MS / 1e3, token.set)
    timer.start()
    if in_main_thread:
        answer = runner.run(STUCK, interrupt=token)
    else:
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(runner.run, STUCK, interrupt=token).result()
    timer.join()
    assert (answer.exit, answer.path, answer.stopped_by) == ("early", ("first",), "interrupt")
    assert token.is_set()
    token.clear()
    assert runner.run(FREE, interrupt=token).exit == "last"


def test_a_token_that_is_set_lets_no_segment_run(opened: Open) -> None:
    runner, token = opened(chain()), Interrupt()
    token.set()
    with pytest.raises(DeadlineError) as caught:
        runner.run(row(0.9), interrupt=token)
    assert str(caught.value) == "interrupted before there was an answer; no segment was finished"
    assert runner.opened == ()
    token.clear()
    assert not token.is_set()
    assert runner.run(row(0.9), interrupt=token).exit == "exit0"


def test_a_token_that_is_cleared_at_once_has_still_stopped_what_ran(opened: Open) -> None:
    runner, token = opened(chain()), Interrupt()
    answers = runner.refine(row(), interrupt=token)
    assert next(answers).exit == "exit0"
    token.set()
    token.clear()
    assert list(answers) == []


def test_one_token_stops_every_run_that_has_it(opened: Open) -> None:
    runner, token = warm(opened(endless())), Interrupt()
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(runner.run, STUCK, interrupt=token) for _ in range(4)]
        threading.Timer(SOON_MS / 1e3, token.set).start()
        assert [run.result().stopped_by for run in runs] == ["interrupt"] * 4


def test_a_token_set_after_a_run_does_not_touch_the_next(opened: Open) -> None:
    runner, token = opened(chain()), Interrupt()
    for _ in range(5):
        runner.run(row(), interrupt=token)
        token.set()
        assert runner.run(row()).exit == "exit2"
        token.clear()


@pytest.mark.parametrize("method", ["run", "refine"])
def test_what_is_no_token_is_refused(opened: Open, method: str) -> None:
    with pytest.raises(InputError, match=r"^interrupt is .*Event.*, expected an `Interrupt`$"):
        getattr(opened(chain()), method)(row(), interrupt=threading.Event())


INTERRUPTED = """
    import os, signal, sys, threading
    import numpy as np
    from eetoolkit_runtime import Runner

    runner = Runner(sys.argv[1], threads=1)
    stuck, free = np.array([[0, 0, 1, 0]], np.float32), np.array([[0, 0, 0, 0]], np.float32)
    for _ in range({runs}):
        runner.run(free), runner.run_batch(np.concatenate([free, free]))

    def late(number, frame):
        raise TimeoutError

    signal.signal(signal.SIGINT, {handler})
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        print({call})
    except (KeyboardInterrupt, TimeoutError) as error:
        print(type(error).__name__)
    many = runner.run_batch(np.concatenate([free, free]))
    print(runner.run(free).exit, runner.run(free, deadline_ms=1e5).exit, len(many))
"""
CALLS = {
    "run": "runner.run(stuck)",
    "deadline": "runner.run(stuck, deadline_ms=1e5)",
    "refine": "list(runner.refine(stuck, deadline_ms=1e5))",
    "most confident": "runner.run(stuck, thresholds={'early': 'never'}, exit_at='last')",
    "run_all_exits": "runner.run_all_exits(stuck)",
    "run_batch": "runner.run_batch(np.concatenate([stuck, stuck]))",
    "stream": "list(runner.stream([stuck, stuck]))",
}


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(("runs", "handler"), [(0, "signal.default_int_handler"), (5, "late")])
@pytest.mark.parametrize("call", sorted(CALLS))
def test_what_a_signal_handler_raises_ends_every_call_that_is_in_a_segment_that_never_ends(
    tmp_path: Path, call: str, runs: int, handler: str
) -> None:
    folder = endless().save(tmp_path / "b")
    script = textwrap.dedent(INTERRUPTED).format(call=CALLS[call], runs=runs, handler=handler)
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(folder)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == ["TimeoutError" if handler == "late" else "KeyboardInterrupt", "last last 2"]


SIGNALLED = """
    import os, signal, sys, threading
    import numpy as np
    from eetoolkit_runtime import Interrupt, Runner

    runner, token = Runner(sys.argv[1], threads=1), Interrupt()
    stuck, free = np.array([[0, 0, 1, 0]], np.float32), np.array([[0, 0, 0, 0]], np.float32)
    runner.run(free)
    {setup}
    try:
        print(runner.run(stuck, interrupt=token))
    except KeyboardInterrupt:
        print("KeyboardInterrupt")
    token.clear()
    print(runner.run(free, interrupt=token))
"""
HANDLER = "signal.signal({name}, lambda number, frame: token.set())"
SETUPS = {
    "SIGALRM": HANDLER.format(name="signal.SIGALRM") + "; signal.setitimer(signal.ITIMER_REAL, 0.3)",
    "SIGINT": HANDLER.format(name="signal.SIGINT")
    + "; threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()",
    "Ctrl-C": "signal.signal(signal.SIGINT, signal.default_int_handler); "
    "threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()",
}


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("how", sorted(SETUPS))
def test_a_signal_handler_in_the_main_thread_breaks_off_a_segment_that_never_ends(tmp_path: Path, how: str) -> None:
    script = textwrap.dedent(SIGNALLED).format(setup=SETUPS[how])
    folder = endless().save(tmp_path / "b")
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(folder)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    stopped, after = run.stdout.splitlines()
    expected = "early, confidence 0, 1 of 3 segments, stopped by interrupt"
    assert stopped == ("KeyboardInterrupt" if how == "Ctrl-C" else expected)
    assert after == "last, confidence 0, 3 of 3 segments"


# Answers that get better


@pytest.mark.parametrize("token", [None, Interrupt()])
@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_refining_yields_every_exit_and_at_last_what_a_run_without_early_exits_gives(
    opened: Open, network: str, token: Interrupt | None
) -> None:
    runner = opened(NETWORKS[network]())
    early = {name: "never" for name, exit_ in runner.bundle.exits.items() if not exit_.ends}
    for x in ROWS:
        answers = list(runner.refine(x, interrupt=token))
        for answer, expected in zip(answers, runner.run_all_exits(x), strict=True):
            same(answer, expected)
        same(answers[-1], runner.run(x, thresholds=early))
        assert answers[-1].stopped_by == "end"


def test_refining_leaves_out_disabled_exits(opened: Open) -> None:
    runner = opened(disabled(chain(), "segment0"))
    assert [answer.exit for answer in runner.refine(row(0.9, 0.9))] == ["exit1", "exit2"]


def test_refining_leaves_out_what_is_less_sure_where_the_most_confident_answers(opened: Open) -> None:
    runner = opened(chain(), fallback="most_confident")
    for values, exits in [
        ((0.3, 0.2, 0.4), ["exit0", "exit2"]),
        ((0.4, 0.3, 0.2), ["exit0"]),
        ((math.nan, 0.1, math.nan), ["exit0", "exit1"]),
    ]:
        answers = list(runner.refine(row(*values)))
        assert [answer.exit for answer in answers] == exits
        assert answers[-1].exit == runner.run(row(*values)).exit


def test_refining_runs_a_segment_only_when_it_is_asked_for_the_next_answer(opened: Open) -> None:
    runner = opened(chain())
    answers = runner.refine(row())
    assert runner.opened == ()
    next(answers)
    assert runner.opened == ("segment0",)
    next(answers)
    assert runner.opened == ("segment0", "segment1")


def test_refining_may_be_given_up_at_any_moment_and_gives_its_buffers_back(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    original = workspaces.Workspace
    monkeypatch.setattr(workspaces, "Workspace", lambda *given: (made.append(1), original(*given))[1])
    runner = opened(chain())
    for token in (None, Interrupt()):
        runner.refine(row(), interrupt=token)  # never begun
        for count in (1, 2, 3):
            answers = runner.refine(row(0.9), deadline_ms=AGES_MS, interrupt=token)
            for _ in range(count):
                next(answers)
            answers.close()
        for answer in runner.refine(row(), interrupt=token):
            if answer.exit == "exit1":
                break
        del answer
    list(runner.refine(row()))
    assert runner.run(row(0.9)).exit == "exit0"
    assert len(made) == 1


def test_two_refinements_may_be_interleaved(opened: Open) -> None:
    runner = opened(chain())
    first, second = runner.refine(row(1)), runner.refine(row(2))
    for k, (a, b) in enumerate(zip(first, second, strict=True)):
        np.testing.assert_array_equal(a.outputs["logits"], row(2.0 ** (k + 1)))
        np.testing.assert_array_equal(b.outputs["logits"], row(2.0 ** (k + 2)))


@pytest.mark.parametrize("token", [None, Interrupt()])
def test_refining_ends_at_a_deadline_with_what_there_is(opened: Open, token: Interrupt | None) -> None:
    runner = warm(opened(endless()))
    answers = list(runner.refine(STUCK, deadline_ms=SOON_MS, interrupt=token))
    assert [(answer.exit, answer.stopped_by) for answer in answers] == [("early", "exit")]
    runner = warm(opened(endless(first=False)))
    with pytest.raises(DeadlineError):
        list(runner.refine(STUCK, deadline_ms=SOON_MS, interrupt=token))
    assert [answer.exit for answer in runner.refine(FREE)] == ["last"]


def test_refining_refuses_a_wrong_input_at_once(opened: Open) -> None:
    runner = opened(chain())
    with pytest.raises(InputError):
        runner.refine(np.zeros((1, 5), np.float32))
    runner.close()
    with pytest.raises(RunError, match="closed"):
        runner.refine(row())


def test_closing_a_runner_ends_a_refinement_with_an_error(opened: Open) -> None:
    runner = opened(chain())
    answers = runner.refine(row())
    next(answers)
    runner.close()
    with pytest.raises(RunError, match=r"^this runner is closed"):
        next(answers)

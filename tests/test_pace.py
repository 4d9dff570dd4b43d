"""What is known of how long segments take, and segments that let signal handlers run."""

from __future__ import annotations

import threading
import time
from typing import Any

import onnxruntime as ort
import pytest

from eetoolkit_runtime.running.pace import Pace, Paces, watched


def test_a_segment_that_nobody_has_seen_fits_into_any_time() -> None:
    assert Pace().fits(1e-6)


def test_the_least_time_in_which_it_ended_is_expected() -> None:
    pace = Pace()
    for took_ms in (30.0, 10.0, 20.0):
        pace.ended(took_ms)
    assert [pace.fits(left_ms) for left_ms in (9.9, 10.0)] == [False, True]


def test_it_takes_at_least_what_it_had_taken_when_it_was_broken_off() -> None:
    pace = Pace()
    pace.ended(10.0)
    pace.stopped(100.0)
    assert [pace.fits(left_ms) for left_ms in (99.0, 100.0)] == [False, True]
    pace.stopped(50.0)  # which says nothing new
    assert not pace.fits(99.0)
    pace.ended(40.0)
    assert pace.fits(40.0)


def test_it_is_tried_again_once_the_time_left_adds_up_to_16_times_what_is_expected() -> None:
    pace = Pace()
    pace.stopped(100.0)
    assert [pace.fits(20.0) for _ in range(81)] == [False] * 79 + [True] * 2  # and from then on, until it has run
    pace.stopped(100.0)
    assert not pace.fits(20.0)


def test_a_profile_is_not_doubted_but_by_a_run_that_was_broken_off() -> None:
    pace = Paces({"a": 50.0})["a"]
    pace.ended(1.0)
    assert not any(pace.fits(49.0) for _ in range(1000))
    assert pace.fits(50.0)
    pace.stopped(80.0)
    assert not pace.fits(60.0)
    assert any(pace.fits(60.0) for _ in range(100))


def test_paces_are_made_when_they_are_asked_for_and_stay() -> None:
    paces = Paces()
    assert paces["a"] is paces["a"]
    assert list(paces) == ["a"]


@pytest.mark.parametrize(
    ("took_ms", "may_loop", "settled"),
    [((1, 1), False, False), ((1, 1, 1), False, True), ((900, 1, 1), False, True), ((1, 1, 60), False, False),
     ((1, 1, 1), True, False)],
)  # fmt: skip
def test_a_segment_need_not_be_watched_once_it_was_short_three_times(
    took_ms: tuple[float, ...], may_loop: bool, settled: bool
) -> None:
    pace = Pace()
    pace.may_loop = may_loop
    for each in took_ms:
        pace.ended(each)
    assert pace.settled is settled


class Segment:
    """Notes the threads that it runs on; `stuck` ones run until their options say `terminate`."""

    def __init__(self, *stuck: bool) -> None:
        self.stuck = list(stuck)
        self.ran_on: list[threading.Thread] = []

    def __call__(self, argument: str, options: Any) -> str:
        self.ran_on.append(threading.current_thread())
        if self.stuck and self.stuck.pop(0):
            give_up = time.monotonic() + 30
            while not options.terminate:
                assert time.monotonic() < give_up
                time.sleep(0.001)
            raise RuntimeError("terminated")
        return argument


def here(segment: Segment) -> list[bool]:
    return [thread is threading.main_thread() for thread in segment.ran_on]


def test_the_first_run_is_on_a_thread_of_its_own_and_short_ones_then_are_not() -> None:
    segment, options, pace = Segment(), ort.RunOptions(), Pace()
    run = watched(segment, pace, options)
    assert [run("a", options), run("b", options), run("c", options)] == ["a", "b", "c"]
    assert here(segment) == [False, True, True]
    assert pace.settled


def test_a_long_one_stays_on_a_thread_of_its_own() -> None:
    segment, options, pace = Segment(), ort.RunOptions(), Pace()
    pace.ended(1e4)
    assert watched(segment, pace, options)("a", options) == "a"
    assert here(segment) == [False]


@pytest.mark.parametrize("loops", [True, False])
def test_one_that_may_loop_and_does_not_end_soon_is_begun_again_on_a_thread(loops: bool) -> None:
    segment, options, pace = Segment(loops), ort.RunOptions(), Pace()
    pace.ended(1.0)
    pace.may_loop = True
    assert watched(segment, pace, options)("a", options) == "a"
    assert here(segment) == ([True, False] if loops else [True])
    assert options.terminate is False


def test_under_a_watch_it_is_never_begun_again_since_the_watch_breaks_it_off() -> None:
    segment, options, pace = Segment(True), ort.RunOptions(), Pace()
    pace.ended(1.0)
    pace.may_loop = True
    threading.Timer(0.2, setattr, (options, "terminate", True)).start()
    with pytest.raises(RuntimeError, match="terminated"):
        watched(segment, pace, ort.RunOptions())("a", options)
    assert here(segment) == [False]


def test_on_another_thread_all_runs_are_where_they_were_asked_for() -> None:
    segment, options, pace = Segment(), ort.RunOptions(), Pace()
    pace.may_loop = True
    thread = threading.Thread(target=watched(segment, pace, options), args=("a", options))
    thread.start()
    thread.join()
    assert segment.ran_on == [thread]


def test_an_error_of_a_short_segment_is_passed_on() -> None:
    def fails(argument: str, options: Any) -> str:
        raise ValueError(argument)

    pace, options = Pace(), ort.RunOptions()
    pace.may_loop = True
    for runs in (0, 1):
        with pytest.raises(ValueError, match=r"^a$"):
            watched(fails, pace, options)("a", options)
        assert pace.runs == runs
        pace.ended(1.0)

"""What a runner holds between calls: all segments, or so many; memory options change no answer."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest
from plans import Open, chain, gated, looped, opening, row, switched

from eetoolkit_runtime.bundle import load
from eetoolkit_runtime.errors import RunError
from eetoolkit_runtime.runner import Runner
from eetoolkit_runtime.sessions import SessionSettings


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    yield from opening(tmp_path)


def test_all_segments_that_were_reached_stay_open_by_default(opened: Open) -> None:
    runner = opened(chain())
    runner.run(row(0.1))
    assert runner.opened == ("segment0", "segment1", "segment2")


@pytest.mark.parametrize("keep", [0, 1, 2, 5])
def test_segments_beyond_those_kept_are_closed_when_the_call_ends(opened: Open, keep: int) -> None:
    runner = opened(chain(), keep=keep)
    runner.run(row(0.1))
    assert runner.opened == ("segment0", "segment1", "segment2")[:keep]


def test_what_is_closed_is_opened_again_and_answers_as_before(opened: Open) -> None:
    plain, small = opened(chain()), opened(chain(), keep=1)
    for value in (0.1, 0.9, 0.1, 0.5, 0.1):
        assert small.run(row(value)).path == plain.run(row(value)).path
        assert small.run(row(value)).confidence == plain.run(row(value)).confidence


@pytest.mark.parametrize("draft", [gated, looped])
def test_gates_and_loops_survive_closed_segments(opened: Open, draft: Any) -> None:
    plain, small = opened(draft()), opened(draft(), keep=0)
    for values in ([0.1] * 4, [0.9] * 4, [0.2, 0.7, 0.4, 0.1]):
        x = row(*values)[:, : plain.bundle.manifest.inputs[0].shape[1]]
        assert small.run(x).path == plain.run(x).path
    assert small.opened == ()


def test_a_segment_that_is_kept_is_not_opened_twice(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    original = SessionSettings.open_segment
    monkeypatch.setattr(
        SessionSettings, "open_segment", lambda self, *where: (asked.append(where[1]), original(self, *where))[1]
    )
    runner = opened(chain(), keep=1)
    for _ in range(3):
        runner.run(row(0.1))
    assert [asked.count(f"segment{k}") for k in range(3)] == [1, 3, 3]


def test_every_way_of_running_closes_what_is_not_kept(opened: Open) -> None:
    runner = opened(chain(), keep=1)
    for call in (
        lambda: runner.run_all_exits(row(0.1)),
        lambda: list(runner.refine(row(0.1))),
        lambda: runner.run(row(0.1), exit_at="exit1"),
        lambda: runner.run(row(0.1), deadline_ms=1e4),
        lambda: runner.run_batch(row(0.1)),
    ):
        call()
        assert runner.opened == ("segment0",)


@pytest.mark.parametrize("keep", [-1, 1.5, "1", True])
def test_a_keep_that_is_no_number_of_segments_is_refused(tmp_path: Path, keep: Any) -> None:
    folder = chain().save(tmp_path / "b")
    with pytest.raises(RunError, match=r"^keep is .*, expected a number of segments, or None for all$"):
        Runner(folder, keep=keep)


def test_keeping_few_and_opening_all_is_refused(tmp_path: Path) -> None:
    folder = chain().save(tmp_path / "b")
    with pytest.raises(RunError, match=r"keep=1 closes what load='eager' opens; use load='lazy'"):
        Runner(folder, keep=1, load="eager")


@pytest.mark.parametrize("options", [{"arena": False}, {"prepack": False}])
def test_memory_options_change_no_answer(opened: Open, options: Any) -> None:
    plain, small = opened(chain(weights=True)), opened(chain(weights=True), **options)
    for value in (0.1, 0.6, 0.9):
        assert small.run(row(value)).confidence == plain.run(row(value)).confidence


def test_memory_options_reach_onnxruntime() -> None:
    options = SessionSettings(arena=False, prepack=False).options()
    assert options.enable_cpu_mem_arena is False
    assert options.get_session_config_entry("session.disable_prepacking") == "1"
    assert SessionSettings().options().enable_cpu_mem_arena is True


def test_a_run_of_one_row_fixes_the_batch_and_a_batch_does_not(tmp_path: Path) -> None:
    bundle = load(chain().save(tmp_path / "b"))
    segment = bundle.manifest.segments["segment0"]
    path = str(bundle.path / str(segment.model))
    fixed = ort.InferenceSession(path, SessionSettings(one_row=True).options(), providers=["CPUExecutionProvider"])
    free = SessionSettings().open(path, "segment0")
    assert fixed.get_inputs()[0].shape[0] == 1
    assert free.get_inputs()[0].shape[0] == "batch"


def test_after_an_error_no_more_stay_open_than_are_kept(opened: Open) -> None:
    runner = opened(switched(), keep=0)
    wrong = row(9.0, 9.0, 9.0, 9.0)
    with pytest.raises(RunError, match=r"the switch .* is 9"):
        runner.run(wrong)
    assert runner.opened == ()
    with pytest.raises(RunError, match=r"the switch .* is 9"):
        runner.run(wrong, exit_at=list(runner.bundle.exits)[-1])
    assert runner.opened == ()


def test_closing_is_for_good_even_where_a_call_ends_after_it(opened: Open) -> None:
    runner = opened(chain(), keep=1)
    runner.run(row(0.1))
    runner.close()
    runner._sessions.keep({"segment0"})
    assert runner.opened == ()


def test_what_is_closed_is_let_go_of_at_once_without_a_garbage_collection(opened: Open) -> None:
    runner = opened(chain(), keep=1)
    gc.collect()
    gc.disable()
    try:
        held = []
        original = runner._sessions._open
        runner._sessions._open = lambda name, segment: held.append(s := original(name, segment)) or s  # type: ignore[method-assign]
        runner.run(row(0.1))
        watched = [weakref.ref(session) for session in held]
        held.clear()
        assert [reference() is None for reference in watched] == [False, True, True]
    finally:
        gc.enable()

"""What a runner holds between calls: all segments, or so many; memory options change no answer."""

from __future__ import annotations

import gc
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from plans import NETWORKS, PER_ROW, Draft, Open, chain, column, gated, leave, looped, opening, row, switched

from eetoolkit_runtime.bundle.bundle import load
from eetoolkit_runtime.errors import RunError
from eetoolkit_runtime.running import workspaces
from eetoolkit_runtime.running.runner import Runner
from eetoolkit_runtime.running.sessions import SessionSettings


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
    with pytest.raises(RunError, match=r"^keep is .*, expected a (number of segments|whole number),? or None"):
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


def test_of_too_many_shapes_the_one_met_longest_ago_goes_first(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    draft = Draft({"x": ("float32", ("batch", "n"))})
    draft.slot("sure", shape=PER_ROW)
    draft.slot("logits", shape=("batch", "n"))
    draft.segment(
        "only", f"{column('sure', 0)}  logits = Neg(x)", reads=["x"], writes=["sure", "logits"],
        exit=leave("last", "logits", "sure"),
    )  # fmt: skip
    monkeypatch.setattr(workspaces, "_SHAPES_KEPT", 3)
    runner = opened(draft)

    def run(n: int) -> list[int]:
        assert runner.run(np.ones((1, n), np.float32)).outputs["logits"].shape == (1, n)
        return [shape[1] for ((shape, _),) in runner._workspaces]

    assert [run(n) for n in (5, 6, 7)][-1] == [5, 6, 7]
    assert run(8) == [6, 7, 8]
    assert run(6) == [6, 7, 8]
    assert run(5) == [7, 8, 5]


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
    gc.disable()
    try:
        held = []
        original = runner._sessions._open
        runner._sessions._open = lambda name, segment: held.append((s := original(name, segment)).session) or s  # type: ignore[method-assign]
        runner.run(row(0.1))
        watched = [weakref.ref(session) for session in held]
        held.clear()
        assert [reference() is None for reference in watched] == [False, True, True]
    finally:
        gc.enable()


# Without a garbage collection


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def held_by(runner: Runner) -> list[weakref.ref[Any]]:
    """Returns references to the sessions, the workspaces and the arrays of the buffers of a runner."""
    workspaces = [workspace for of_shape in runner._workspaces.values() for workspace in of_shape._free]
    sessions = [
        each.session for each in (*runner._sessions._sessions.values(), *runner._sessions_of_rows._sessions.values())
    ]
    cells = [
        cell
        for workspace in workspaces
        for cells in (workspace._inputs.values(), *workspace._pool.values())
        for cell in cells
    ]
    assert workspaces
    assert cells
    return [*map(weakref.ref, sessions), *map(weakref.ref, workspaces), *(weakref.ref(cell.array) for cell in cells)]


def used(runner: Runner) -> None:
    for values in ((0.1, 0.2, 0.3, 0.4), (0.9, 0.1, 0.7, 0.3)):
        x = row(*values)
        for _ in range(4):  # so that what is watched at first is settled
            runner.run(x)
        runner.run(x, deadline_ms=1e6)
        list(runner.refine(x))
        runner.run_all_exits(x)
        runner.run_batch(np.concatenate([x, x]))


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("keep", [None, 1])
@pytest.mark.parametrize("network", sorted(NETWORKS))
@pytest.mark.parametrize("end", ["close", "with", "del", "evicted"])
def test_all_that_a_runner_held_is_gone_at_once(tmp_path: Path, network: str, keep: int | None, end: str) -> None:
    runner = Runner(NETWORKS[network]().save(tmp_path / "b"), threads=1, keep=keep)
    used(runner)
    held = held_by(runner)
    if end == "close":
        runner.close()
    elif end == "with":
        with runner:
            pass
    elif end == "del":
        del runner
    else:
        runner._sessions.keep(())
        runner._sessions_of_rows.keep(())
        runner._workspaces.clear()
    assert [reference() for reference in held if reference() is not None] == []


@pytest.mark.usefixtures("uncollected")
def test_a_workspace_of_a_call_that_failed_is_gone_at_once(tmp_path: Path) -> None:
    with Runner(switched().save(tmp_path / "b"), threads=1) as runner:
        used(runner)
        held = held_by(runner)
        with pytest.raises(RunError, match="the switch"):
            runner.run(row(9.0, 9.0, 9.0, 9.0))
    assert [reference() for reference in held if reference() is not None] == []


@pytest.mark.usefixtures("uncollected")
def test_a_call_that_runs_while_the_runner_is_closed_ends_and_leaves_nothing(tmp_path: Path) -> None:
    runner = Runner(chain().save(tmp_path / "b"), threads=1)
    used(runner)
    held, answers = held_by(runner), runner.refine(row(0.1))
    next(answers)
    runner.close()
    del answers
    assert [reference() for reference in held if reference() is not None] == []


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads where Linux tells them")
@pytest.mark.usefixtures("uncollected")
def test_closed_runners_leave_no_thread(tmp_path: Path) -> None:
    folder, threads = chain().save(tmp_path / "b"), lambda: len(list(Path("/proc/self/task").iterdir()))
    with Runner(folder, threads=2) as runner:  # and with it the thread of all deadlines
        used(runner)
    before = threads()
    for how in ("lazy", "eager", "background"):
        with Runner(folder, threads=2, load=how) as runner:
            used(runner)
            while any(thread.name == "eetoolkit-load" for thread in threading.enumerate()):
                time.sleep(0.01)
            assert threads() > before
    assert threads() == before


@pytest.mark.usefixtures("uncollected")
def test_the_buffers_of_shapes_stay_within_their_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eetoolkit_runtime.running.workspaces._SHAPES_KEPT_BYTES", 20_000)
    draft = Draft({"x": ("float32", ("batch", "n"))})
    for name in ("y", "z"):
        draft.slot(name, shape=("batch", "n"))
    draft.segment("a", "y = Neg(x)", reads=["x"], writes=["y"], next="b")
    draft.slot("sure", shape=PER_ROW)
    draft.segment(
        "b", "z = Neg(y)  last = Constant<value_ints = [1]>()  sure = ReduceMax<keepdims = 0>(y, last)", reads=["y"],
        writes=["z", "sure"], exit=leave("last", "z", "sure"),
    )  # fmt: skip
    with Runner(draft.save(tmp_path / "b"), threads=1) as runner:
        shapes: list[weakref.ref[Any]] = []
        largest = 0
        for n in range(1000, 1030):
            runner.run(np.ones((1, n), np.float32))
            workspaces = [workspace for of_shape in runner._workspaces.values() for workspace in of_shape._free]
            shapes += [weakref.ref(workspace) for workspace in workspaces]
            alive = {id(found): found.size_bytes for reference in shapes if (found := reference()) is not None}
            largest = max(largest, sum(alive.values()))
        assert 12_000 < largest <= 20_000 + 3 * 4 * 1030

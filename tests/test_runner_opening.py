"""A runner opens segments when it was told to, once each, under any number of threads, and closes them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
import pytest
from plans import (
    NETWORKS,
    Draft,
    Open,
    chain,
    edit,
    gated,
    leave,
    looped,
    only_moves,
    opening,
    row,
)

from eetoolkit_runtime.bundle.bundle import Bundle, load
from eetoolkit_runtime.bundle.golden import Sample, Visit
from eetoolkit_runtime.errors import BundleError, InputError, IntegrityError, RunError
from eetoolkit_runtime.running.runner import Runner
from eetoolkit_runtime.running.sessions import SessionSettings


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    yield from opening(tmp_path)


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


@pytest.mark.parametrize("needed", ["1.999", "2.0", "99.0"])
def test_an_older_onnxruntime_than_the_graphs_need_is_named_before_anything_is_opened(
    needed: str, tmp_path: Path
) -> None:
    path = edit(chain().save(tmp_path / "n.ee"), onnxruntime=needed)
    with pytest.raises(BundleError) as caught:
        Runner(path, threads=1)
    assert str(caught.value) == (
        f"{path} needs onnxruntime {needed} or newer, {ort.__version__} is installed: "
        f"pip install --upgrade 'onnxruntime>={needed}'"
    )


@pytest.mark.parametrize("needed", [None, "1.2", "1.18", ".".join(ort.__version__.split(".")[:2])])
def test_one_as_old_as_the_graphs_need_or_newer_opens_them(needed: str | None, tmp_path: Path) -> None:
    with Runner(edit(chain().save(tmp_path / "n.ee"), onnxruntime=needed), threads=1) as runner:
        assert runner.run(row(0.9)).exit


def test_an_eager_runner_opens_everything_at_once(opened: Open) -> None:
    assert opened(looped(), load="eager").opened == ("step", "head")


def loading() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "eetoolkit-load"]


def test_a_background_runner_opens_the_first_segment_now_and_the_rest_on_a_thread(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    original = SessionSettings.open_segment

    def slowly(self: SessionSettings, bundle: Bundle, name: str, *more: Any) -> Any:
        if name != "segment0":
            assert release.wait(30)
        return original(self, bundle, name, *more)

    monkeypatch.setattr(SessionSettings, "open_segment", slowly)
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
    original = SessionSettings.open_segment
    monkeypatch.setattr(
        SessionSettings,
        "open_segment",
        lambda self, bundle, name, *more: (first.append(name), original(self, bundle, name, *more))[1],
    )
    draft = chain()
    draft.segments = dict(reversed(draft.segments.items()))
    draft.options["start"] = "segment0"
    opened(draft, load="background")
    for thread in loading():
        thread.join(30)
    assert first[0] == "segment0"


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
    (folder / "good" / other).write_bytes(b"\x08\x09")  # a message of the right fields, and no graph
    from eetoolkit_runtime.bundle.integrity import digest

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
    assert str(caught.value) == "load is 'later', expected 'lazy' or 'background' or 'eager'"


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
    original = SessionSettings.open_segment

    def slowly(self: SessionSettings, bundle: Bundle, name: str, *more: Any) -> Any:
        if name != "segment0":
            assert release.wait(30)
        return original(self, bundle, name, *more)

    monkeypatch.setattr(SessionSettings, "open_segment", slowly)
    runner = opened(chain(), load="background")
    threads = loading()
    runner.close()
    release.set()
    for thread in threads:
        thread.join(30)
    assert runner.opened == ()


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
    original = SessionSettings.open_segment
    monkeypatch.setattr(
        SessionSettings, "open_segment", lambda self, *where: (made.append(where[1]), original(self, *where))[1]
    )
    runner = opened(chain())
    barrier = threading.Barrier(8)

    def run(_: int) -> str:
        barrier.wait(30)
        return runner.run(row(0.1)).exit

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(run, range(8))) == {"exit2"}
    assert sorted(made) == ["segment0", "segment1", "segment2"]


def test_a_graph_that_gives_an_input_back_is_refused(opened: Open) -> None:
    draft = Draft()
    draft.segment("first", "y = Neg(x)", reads=["x"], writes={"y": "y", "same": "x"}, next="last")
    draft.slot("sure", shape=("batch",))
    draft.segment(
        "last", "z = Add(a, b)  one = Constant<value_int = 1>()  sure = Gather<axis = 1>(z, one)",
        reads={"a": "y", "b": "same"}, writes=["z", "sure"], exit=leave("last", "z", "sure"),
    )  # fmt: skip
    runner = opened(draft)
    with pytest.raises(IntegrityError) as caught:
        runner.run(row(1))
    assert str(caught.value) == "segment 'first': the output 'x' of its graph is an input; write it as a move"

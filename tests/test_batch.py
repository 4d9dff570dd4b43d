"""A batch is answered as its rows are one by one, whatever parts them, and runs each segment as seldom as it can."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import test_runner_plans as plans_of_chance
from lots import MANY
from plans import (
    NETWORKS,
    PER_ROW,
    Array,
    Draft,
    Open,
    add_head,
    chain,
    column,
    fixed,
    gate,
    gated,
    joined,
    leave,
    looped,
    move,
    opening,
    over_half,
    picked,
    row,
    swapped,
    switched,
)

from eetoolkit_runtime.errors import InputError, RunError
from eetoolkit_runtime.running import batch
from eetoolkit_runtime.running.answer import Answer
from eetoolkit_runtime.running.batch import rows_go_together
from eetoolkit_runtime.running.runner import Runner


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    yield from opening(tmp_path)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Returns where every segment that a batch runs is noted, with the number of rows."""
    noted: list[tuple[str, int]] = []
    original = batch._Batch._run_model

    def noting(self: Any, name: str, segment: Any, group: Any) -> Any:
        if segment.model is not None:
            noted.append((name, len(group.rows)))
        return original(self, name, segment, group)

    monkeypatch.setattr(batch._Batch, "_run_model", noting)
    return noted


def unlike(found: Answer, expected: Answer, tolerance: float = 1e-5) -> str | None:
    """Returns how two answers differ by more than the rounding of larger matrix products; None where they do not."""
    for key in ("exit", "path", "segments", "gates", "stopped_by"):
        if getattr(found, key) != getattr(expected, key):
            return f"{key} is {getattr(found, key)}, expected {getattr(expected, key)}"
    if found.outputs.keys() != expected.outputs.keys():
        return f"outputs {sorted(found.outputs)}, expected {sorted(expected.outputs)}"
    pairs = [(found.outputs[name], array) for name, array in expected.outputs.items()]
    for one, other in [*pairs, (np.float32(found.confidence), np.float32(expected.confidence))]:
        if one.dtype != other.dtype or one.shape != other.shape:
            return f"{one.dtype}{one.shape}, expected {other.dtype}{other.shape}"
        if not np.allclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True):
            return f"{one}, expected {other}"
    return None


def as_row_by_row(runner: Runner, rows: tuple[Array, ...], **given: Any) -> None:
    """Asserts that a batch of `rows` is answered as each of them."""
    assert runner._part.rows is not None
    answers = runner.run_batch(rows, **given)
    assert len(answers) == len(rows[0])
    for k, answer in enumerate(answers):
        difference = unlike(answer, runner.run(tuple(array[k : k + 1] for array in rows), **given))
        assert difference is None, f"row {k}: {difference}"


def mixed(count: int, seed: int = 0, steps: int = 3) -> Array:
    rng = np.random.default_rng(seed)
    return np.concatenate([row(float(rng.integers(0, steps)), *rng.random(3)) for _ in range(count)])


def with_exits() -> Draft:
    """Returns gates per row with exits in one branch and behind the join: all three ways to part."""
    draft = Draft()
    for name in ("open", "wide"):
        draft.slot(name, "bool", PER_ROW)
    draft.slot("which", "int64", PER_ROW)
    for name in ("early", "middle"):
        draft.slot(name, shape=PER_ROW)
    draft.segment(
        "gate", over_half("open", 0), reads=["x"], writes={"open": "open", "y": move("x")},
        next=gate("open", "block", "behind"),
    )  # fmt: skip
    draft.segment(
        "block", f"y = Neg(x)  {column('early', 1)}", reads=["x"], writes=["y", "early"],
        exit=leave("early", "y", "early", 0.6), next="behind",
    )  # fmt: skip
    draft.segment(
        "behind", f"{column('middle', 2)}  z = Add(y, y)", reads=["x", "y"], writes=["middle", "z"],
        exit=leave("middle", "z", "middle", 0.6), next="head",
    )  # fmt: skip
    add_head(draft, "z")
    return draft


# Equal to row by row


@pytest.mark.parametrize("fallback", ["last", "most_confident"])
@pytest.mark.parametrize("network", [*sorted(set(NETWORKS) - {"picked"}), "with_exits"])
@pytest.mark.parametrize("count", [1, 2, 33])
def test_every_kind_of_network_is_answered_as_row_by_row(opened: Open, network: str, count: int, fallback: str) -> None:
    runner = opened((NETWORKS | {"with_exits": with_exits})[network](), fallback=fallback)
    as_row_by_row(runner, (mixed(count, seed=count),))
    for exit_, found in runner.bundle.exits.items():
        as_row_by_row(runner, (mixed(count, seed=count),), exit_at=exit_)
        if not found.ends:
            as_row_by_row(runner, (mixed(count, seed=count),), thresholds={exit_: 0.3})
            as_row_by_row(runner, (mixed(count, seed=count),), thresholds={exit_: "never"})


def test_nan_confidences_rank_lowest_and_never_fire(opened: Open) -> None:
    x = np.concatenate([row(math.nan, 0.3), row(0.1, math.nan, math.nan), row(math.nan, math.nan, math.nan)])
    for fallback in ("last", "most_confident"):
        as_row_by_row(opened(chain(), fallback=fallback), (x,))


def test_an_exit_in_a_loop_answers_each_row_at_its_own_visit(opened: Open) -> None:
    for fallback in ("last", "most_confident"):
        runner = opened(looped(leave_at=0.35), fallback=fallback)
        x = np.concatenate([row(k, 1, 2, k) for k in (1, 9, 2, 5, 3, 1)])
        as_row_by_row(runner, (x,))
        as_row_by_row(runner, (x,), exit_at="inside")


def test_a_gate_that_a_constant_decides_goes_for_all_rows(opened: Open) -> None:
    draft = gated()
    draft.constant("always", "bool", [True])
    draft.segment("gate", writes={"open": fixed("always"), "y": move("x")}, next=gate("open", "block", "head"))
    del draft.graphs["gate"]
    as_row_by_row(opened(draft), (mixed(5),))


def test_what_is_not_one_per_row_goes_to_every_row(opened: Open) -> None:
    draft = Draft({"x": ("float32", ("batch", 4)), "scale": ("float32", (4,))})
    draft.constant("three", "float32", [3, 3, 3, 3])
    draft.slot("open", "bool", PER_ROW)
    draft.slot("factor", shape=(4,))
    draft.segment(
        "gate", over_half("open", 0), reads=["x"], writes={"open": "open", "factor": move("scale")},
        next=gate("open", "other", "head"),
    )  # fmt: skip
    draft.segment("other", writes={"factor": fixed("three")}, next="head")
    draft.slot("sure", shape=PER_ROW)
    draft.segment(
        "head", f"{column('sure', 3)}  logits = Mul(x, f)", reads={"x": "x", "f": "factor"}, writes=["sure", "logits"],
        exit=leave("last", "logits", "sure", factor="factor"),
    )  # fmt: skip
    runner = opened(draft)
    x, scale = mixed(9), np.arange(4, dtype=np.float32)
    answers = runner.run_batch((x, scale))
    for k, answer in enumerate(answers):
        assert unlike(answer, runner.run((x[k : k + 1], scale))) is None
    answers[0].outputs["factor"][...] = 99
    assert not any((answer.outputs["factor"] == 99).any() for answer in answers[1:])


def test_rows_may_lie_in_any_dimension_of_a_slot(opened: Open) -> None:
    draft = gated()
    draft.slot("y", shape=(4, "batch"))
    draft.segment(
        "gate", f"{over_half('open', 0)}  y = Transpose(x)", reads=["x"], writes=["open", "y"],
        next=gate("open", "block", "head"),
    )  # fmt: skip
    draft.segment("block", "z = Neg(y)", reads=["y"], writes={"y": "z"}, next="head")
    draft.segment(
        "head", f"{column('sure', 3)}  logits = Transpose(y)", reads=["x", "y"], writes=["sure", "logits"],
        exit=leave("last", "logits", "sure", other="y"),
    )  # fmt: skip
    as_row_by_row(opened(draft), (mixed(7),))


PARTS, PER_PART = 6 if MANY else 2, 50


@pytest.mark.parametrize("part", range(PARTS))
def test_random_plans_answer_a_batch_as_its_rows(part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    per_row = {slot: kind for slot, kind in plans_of_chance.SLOTS.items() if kind != plans_of_chance.SOME}
    monkeypatch.setattr(plans_of_chance, "SLOTS", per_row)  # without shapes that depend on data
    monkeypatch.setattr(plans_of_chance, "MADE", [kind for kind in plans_of_chance.MADE if kind in per_row.values()])
    seen: Counter[str] = Counter()
    for seed in range(part * PER_PART, (part + 1) * PER_PART):
        folder = plans_of_chance.Generator(seed).draft.save(tmp_path / f"{seed}")
        with Runner(folder, threads=1, fallback=("last", "most_confident")[seed % 2]) as runner:
            assert runner._part.rows is not None
            rng = np.random.default_rng(seed)
            rows = tuple(rng.normal(0, 1.5, (12, 4)).astype(np.float32) for _ in plans_of_chance.INPUTS)
            try:
                expected = [runner.run(tuple(array[k : k + 1] for array in rows)) for k in range(12)]
            except RunError as error:
                seen["fault"] += 1
                with pytest.raises(RunError, match=str(error)[:20]):
                    runner.run_batch(rows)
                continue
            for k, (found, answer) in enumerate(zip(runner.run_batch(rows), expected, strict=True)):
                difference = unlike(found, answer)
                assert difference is None, f"seed {seed}, row {k}: {difference}"
            paths = {(answer.exit, answer.path) for answer in expected}
            seen.update(["parted"] if len(paths) > 1 else [], total=1)
    assert seen["parted"] > 10, seen


# How the rows go


def test_rows_that_stay_together_run_each_segment_once(opened: Open, runs: list[tuple[str, int]]) -> None:
    opened(chain()).run_batch(np.repeat(row(), 5, 0))
    assert runs == [("segment0", 5), ("segment1", 5), ("segment2", 5)]


def test_rows_that_have_answered_run_no_further(opened: Open, runs: list[tuple[str, int]]) -> None:
    opened(chain()).run_batch(np.concatenate([row(0.9), row(0, 0.9), row(), row(0.9)]))
    assert runs == [("segment0", 4), ("segment1", 2), ("segment2", 1)]


@pytest.mark.parametrize("network", [gated, joined])
def test_rows_that_part_meet_again_behind_the_join(opened: Open, runs: list[tuple[str, int]], network: Any) -> None:
    opened(network()).run_batch(np.concatenate([row(k % 2) for k in range(6)]))
    assert runs[0] == ("gate", 6)
    assert runs[-1] == ("head", 6)
    assert all(count == 3 for _, count in runs[1:-1])


def test_a_switch_runs_each_case_once(opened: Open, runs: list[tuple[str, int]]) -> None:
    opened(switched()).run_batch(np.concatenate([row(k % 3) for k in range(7)]))
    assert runs == [("router", 7), ("expert0", 3), ("expert1", 2), ("expert2", 2), ("head", 7)]


def test_rows_leave_a_loop_one_by_one_and_go_on_together(opened: Open, runs: list[tuple[str, int]]) -> None:
    opened(looped()).run_batch(np.concatenate([row(k) for k in (3, 1, 2, 1)]))
    assert runs == [("step", 4), ("step", 2), ("step", 1), ("head", 4)]


def test_a_segment_that_no_row_needs_is_not_opened(opened: Open) -> None:
    runner = opened(gated())
    runner.run_batch(np.concatenate([row(0), row(0.1)]))
    assert runner.opened == ("gate", "head")


def test_a_large_batch_starts_in_parts(
    opened: Open, runs: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "ROWS_AT_ONCE", 4)
    runner = opened(chain())
    x = mixed(10)
    answers = runner.run_batch(x)
    assert [count for name, count in runs if name == "segment0"] == [4, 4, 2]
    assert all(unlike(answer, runner.run(x[k : k + 1])) is None for k, answer in enumerate(answers))


def test_the_answers_of_a_batch_are_copies_of_their_own(opened: Open) -> None:
    answers = opened(with_exits()).run_batch(mixed(20))
    arrays = [array for answer in answers for array in answer.outputs.values()]
    assert not any(np.shares_memory(a, b) for k, a in enumerate(arrays) for b in arrays[:k])
    assert all(array.shape[0] == 1 for array in arrays)


# What goes row by row


def test_a_plan_that_decides_once_per_call_goes_row_by_row(opened: Open, runs: list[tuple[str, int]]) -> None:
    draft = gated()
    draft.options["batch"] = 1
    runner = opened(draft)
    answers = runner.run_batch(np.concatenate([row(0), row(1)]))
    assert [answer.gates for answer in answers] == [(("gate", 0),), (("gate", 1),)]
    assert runs == []


def counting() -> Draft:
    """Returns a chain whose first segment passes on how many rows there were, for the second to Reshape with."""
    draft = chain(0.5)
    draft.slot("target", "int64", (2,))
    first = draft.segments["segment0"]
    draft.segment(
        "segment0", f"{column('confidence', 0)}  h = Add(x, x)  target = Shape(x)", reads=["x"],
        writes={**first.writes, "target": "target"}, exit=first.exit, next="segment1",
    )  # fmt: skip
    last = draft.segments["segment1"]
    draft.segment(
        "segment1", f"{column('confidence', 1)}  flat = Flatten<axis = 0>(before)  h = Reshape(flat, target)",
        reads={**last.reads, "target": "target"}, writes=last.writes, exit=last.exit,
    )  # fmt: skip
    return draft


@pytest.mark.parametrize("network", [picked, counting])
def test_a_plan_that_passes_on_what_hangs_on_all_rows_goes_row_by_row(opened: Open, network: Any) -> None:
    runner = opened(network())
    x = np.concatenate([row(0.9, 1), row(0.1, 2), row(0.2, 3), row(0.8, 4)])
    for k, answer in enumerate(runner.run_batch(x)):
        assert unlike(answer, runner.run(x[k : k + 1])) is None
    assert runner._part.rows is None


@pytest.mark.parametrize(
    ("shape", "together"),
    [
        (("batch", 4), True),
        ((4, "batch"), True),
        (("batch", "k"), True),
        ((4,), False),
        ((None, 4), False),
        (("batch", None), False),
        (("2*batch", 4), False),
        (("batch", "batch"), False),
        (("rows", 4), False),
    ],
)
def test_what_a_graph_passes_on_must_be_one_per_row(shape: tuple[Any, ...], together: bool) -> None:
    draft = chain(0.5)
    draft.slots["h0"] = msgspec.structs.replace(draft.slots["h0"], shape=shape)
    assert rows_go_together(draft.plan()) == together


def test_inputs_of_one_row_are_not_joined() -> None:
    draft = Draft({"x": ("float32", (1, 4))})
    add_head(draft, "x")
    assert not rows_go_together(draft.plan())


# Failures


def test_a_row_that_exceeds_a_loops_bound_is_a_run_error(opened: Open) -> None:
    runner = opened(looped(max_visits=5))
    with pytest.raises(RunError) as caught:
        runner.run_batch(np.concatenate([row(2), row(6)]))
    assert str(caught.value) == "segment 'step': more than max_visits 5 visits; is the loop endless?"
    assert len(runner.run_batch(np.concatenate([row(5), row(5)]))) == 2


@pytest.mark.parametrize("case", [3, -1])
def test_a_row_without_such_a_case_is_a_run_error(opened: Open, case: int) -> None:
    with pytest.raises(RunError) as caught:
        opened(switched()).run_batch(np.concatenate([row(0), row(case)]))
    assert str(caught.value) == f"segment 'router': the switch 'expert' is {case}, expected 0 to 2"


def test_a_graph_that_does_not_keep_the_rows_is_a_run_error(opened: Open) -> None:
    draft = chain(0.5)
    found = draft.segments["segment0"]
    body = "two = Constant<value_ints = [2]>()  zero = Constant<value_ints = [0]>()"
    draft.segment(
        "segment0", f"{body}  {column('confidence', 0)}  h = Slice(x, zero, two, zero)", reads=["x"],
        writes=found.writes, exit=found.exit, next="segment1",
    )  # fmt: skip
    with pytest.raises(RunError) as caught:
        opened(draft).run_batch(np.concatenate([row()] * 3))
    assert str(caught.value) == "segment 'segment0': 'h0' has 2 rows, expected 3"


def test_arguments_of_a_batch_are_checked_as_a_runs(opened: Open) -> None:
    runner = opened(swapped())
    with pytest.raises(InputError, match="no exit 'exit7'"):
        runner.run_batch(mixed(3), exit_at="exit7")
    with pytest.raises(InputError, match="accepts everything"):
        runner.run_batch(mixed(3), thresholds={"last": 0.5})
    with pytest.raises(InputError, match="empty shape"):
        runner.run_batch(np.zeros((0, 4), np.float32))

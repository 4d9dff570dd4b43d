"""What exits add: measured where their nodes can be taken out, and nowhere else."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from plans import PER_ROW, Draft, add_head, chain, column, gated, leave, looped, only_moves, row

from eetoolkit_runtime.bundle.bundle import Bundle, load
from eetoolkit_runtime.errors import RunError
from eetoolkit_runtime.profiling.budget import Budget
from eetoolkit_runtime.profiling.exit_costs import exits_own
from eetoolkit_runtime.running.sessions import SessionSettings

SETTINGS = SessionSettings(threads=1, one_row=True)


@pytest.mark.parametrize("weights", [False, True])
def test_each_exit_of_a_chain_is_measured_and_the_last_has_nothing_to_pass(tmp_path: Path, weights: bool) -> None:
    bundle = load(chain(weights=weights).save(tmp_path / "chain"))
    found = exits_own(bundle, [(row(1, 0, 0, 0),)], SETTINGS, Budget(0))
    assert list(found) == ["exit0", "exit1", "exit2"]
    for own in found.values():
        assert own.decision is not None
        assert np.isfinite(own.decision.added_us)
        assert own.decision.error_us > 0
    assert [own.passing is not None for own in found.values()] == [True, True, False]


BUSY = """
    wide = Constant<value_ints = [{size}, {size}]>()
    weights = ConstantOfShape<value = float[1] {{0.001}}>(wide)
    at3 = Constant<value_int = 3>()
    seed = Gather<axis = 1>(x, at3)
    tall = Constant<value_ints = [{size}, 1]>()
    one_row = Expand(seed, tall)
    rows = Expand(one_row, wide)
"""  # (size, size) of x[3], and weights of the same shape


def headed(size: int, trunk: int, head: int) -> Draft:
    """Returns a plan of two exits: the first segment multiplies matrices for what goes on and for its exit's head.

    Args:
        size: Of the matrices, which are square.
        trunk: How many products go on.
        head: How many products only the first exit needs; 0: it answers with what goes on.
    """
    draft = Draft()
    draft.slot("sure0", shape=PER_ROW)
    products = [f"t{k + 1} = MatMul({'rows' if k == 0 else f't{k}'}, weights)" for k in range(trunk)]
    products += [f"e{k + 1} = MatMul({f't{trunk}' if k == 0 else f'e{k}'}, weights)" for k in range(head)]
    few = "axes = Constant<value_ints = [0, 1]>()  four = Constant<value_ints = [1, 4]>()"
    ends = [f"m_h = ReduceSum<keepdims = 1>(t{trunk}, axes)  h = Expand(m_h, four)"]
    ends += [f"m_e = ReduceSum<keepdims = 1>(e{head}, axes)  logits = Expand(m_e, four)"] if head else []
    draft.segment(
        "first", f"{BUSY.format(size=size)} {few} {' '.join(products)} {' '.join(ends)} {column('sure0', 0)}",
        reads=["x"], writes={"h": "h", "sure0": "sure0"} | ({"logits": "logits"} if head else {}),
        exit=leave("early", "logits" if head else "h", "sure0", 0.5), next="head",
    )  # fmt: skip
    add_head(draft, "h")
    return draft


def test_a_head_costs_what_its_products_do_and_an_exit_without_one_next_to_nothing(tmp_path: Path) -> None:
    size, trunk, head = 192, 6, 3
    x = (row(0, 0, 0, 1),)
    with_head, without = (load(headed(size, trunk, n).save(tmp_path / str(n))) for n in (head, 0))
    dear, cheap = (exits_own(bundle, [x], SETTINGS, Budget(3.0))["early"] for bundle in (with_head, without))
    segment_us = 1e6 * float(np.median([timed(with_head, x[0]) for _ in range(20)]))
    assert dear.passing is not None
    assert dear.decision is not None
    assert cheap.decision is not None
    # A third of the products are the head's: more than a tenth of what its segment takes, and less than all of it.
    assert segment_us / 10 < dear.passing.added_us < segment_us
    for nothing in (dear.decision, cheap.decision):  # a Gather of one number
        assert abs(nothing.added_us) < dear.passing.added_us / 2


def timed(bundle: Bundle, x: np.ndarray) -> float:
    """Returns what the first segment takes in a session of its own, in seconds."""
    session = SETTINGS.open_segment(bundle, "first")
    session.run(None, {"x": x})
    started = time.perf_counter()
    session.run(None, {"x": x})
    return time.perf_counter() - started


def test_a_segment_that_is_nothing_but_its_criterion_cannot_be_had_without(tmp_path: Path) -> None:
    bundle = load(looped(leave_at=0.5).save(tmp_path / "looped"))
    found = exits_own(bundle, [(row(3, 0, 0, 0),)], SETTINGS, Budget(0))
    assert found["inside"].decision is not None
    gate = load(gated().save(tmp_path / "gated"))
    assert list(exits_own(gate, [(row(1, 0, 0, 0),)], SETTINGS, Budget(0))) == ["last"]


def test_an_exit_that_only_some_rows_come_to_is_measured_with_these(tmp_path: Path) -> None:
    draft = gated()
    draft.slot("middle", shape=("batch",))
    block = draft.segments["block"]
    draft.segment(
        "block", f"y = Neg(x)  {column('middle', 1)}", reads=["x"], writes=["y", "middle"],
        exit=leave("early", "y", "middle", 0.5), next="head",
    )  # fmt: skip
    assert draft.segments["block"] != block
    bundle = load(draft.save(tmp_path / "gated"))
    skips, runs = (row(-1, 0, 0, 0),), (row(1, 0, 0, 0),)
    assert set(exits_own(bundle, [skips], SETTINGS, Budget(0))) == {"last"}
    found = exits_own(bundle, [skips, runs], SETTINGS, Budget(0))
    assert set(found) == {"early", "last"}
    assert found["early"].decision is not None


def test_a_plan_without_a_model_has_nothing_to_measure(tmp_path: Path) -> None:
    bundle = load(only_moves().save(tmp_path / "moves"))
    assert exits_own(bundle, [(row(1, 0, 0, 0),)], SETTINGS, Budget(0)) == {}


def test_what_onnxruntime_refuses_is_one_error_that_names_the_segment(tmp_path: Path) -> None:
    bundle = load(chain().save(tmp_path / "chain"))
    with pytest.raises(RunError, match=r"^segment 'segment0': \[ONNXRuntimeError\]"):
        exits_own(bundle, [(np.zeros((1, 5)),)], SETTINGS, Budget(0))

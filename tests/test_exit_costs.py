"""What exits add: measured where their nodes can be taken out, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from plans import chain, column, gated, leave, looped, only_moves, row

from eetoolkit_runtime.bundle import load
from eetoolkit_runtime.errors import RunError
from eetoolkit_runtime.profiling.exit_costs import exits_own
from eetoolkit_runtime.sessions import SessionSettings

SETTINGS = SessionSettings(threads=1, one_row=True)


@pytest.mark.parametrize("weights", [False, True])
def test_each_exit_of_a_chain_is_measured_and_the_last_has_nothing_to_pass(tmp_path: Path, weights: bool) -> None:
    bundle = load(chain(weights=weights).save(tmp_path / "chain"))
    found = exits_own(bundle, [(row(1, 0, 0, 0),)], SETTINGS, 0)
    assert list(found) == ["exit0", "exit1", "exit2"]
    for own in found.values():
        assert own.decision is not None
        assert np.isfinite(own.decision.added_us)
        assert own.decision.error_us > 0
    assert [own.passing is not None for own in found.values()] == [True, True, False]


def test_a_segment_that_is_nothing_but_its_criterion_cannot_be_had_without(tmp_path: Path) -> None:
    bundle = load(looped(leave_at=0.5).save(tmp_path / "looped"))
    found = exits_own(bundle, [(row(3, 0, 0, 0),)], SETTINGS, 0)
    assert found["inside"].decision is not None
    gate = load(gated().save(tmp_path / "gated"))
    assert list(exits_own(gate, [(row(1, 0, 0, 0),)], SETTINGS, 0)) == ["last"]


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
    assert set(exits_own(bundle, [skips], SETTINGS, 0)) == {"last"}
    found = exits_own(bundle, [skips, runs], SETTINGS, 0)
    assert set(found) == {"early", "last"}
    assert found["early"].decision is not None


def test_a_plan_without_a_model_has_nothing_to_measure(tmp_path: Path) -> None:
    bundle = load(only_moves().save(tmp_path / "moves"))
    assert exits_own(bundle, [(row(1, 0, 0, 0),)], SETTINGS, 0) == {}


def test_what_onnxruntime_refuses_is_one_error_that_names_the_segment(tmp_path: Path) -> None:
    bundle = load(chain().save(tmp_path / "chain"))
    with pytest.raises(RunError, match=r"^segment 'segment0': \[ONNXRuntimeError\]"):
        exits_own(bundle, [(np.zeros((1, 5)),)], SETTINGS, 0)

"""Operators: traced in sessions of their own, each node once, what is inside an `If` not twice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from plans import Draft, chain, gated, leave, looped, row

import eetoolkit as ee
from eetoolkit_runtime.bundle.bundle import load
from eetoolkit_runtime.profiling.operators import SegmentRun, Traced, trace_operators
from eetoolkit_runtime.profiling.tracing import chrome_trace
from eetoolkit_runtime.running.sessions import SessionSettings

SETTINGS = SessionSettings(threads=1)


def branching() -> Draft:
    draft = Draft()
    draft.slot("sure", shape=("batch",))
    draft.segment(
        "only",
        """
        zero = Constant<value_int = 0>()
        sure = Gather<axis = 1>(x, zero)
        open = Cast<to = 9>(sure)
        first = Squeeze(open)
        y = If(first) <then_branch = t () => (float[batch,4] a) { b = Neg(x)  c = Exp(b)  a = Tanh(c) },
                       else_branch = e () => (float[batch,4] d) { d = Abs(x) }>
        """,
        reads=["x"],
        writes=["y", "sure"],
        exit=leave("only", "y", "sure"),
    )
    return draft


def test_every_node_of_every_segment_that_ran_is_there(tmp_path: Path) -> None:
    bundle = load(chain(weights=True).save(tmp_path / "chain"))
    rows = [(row(1, 0, 0, 0),), (row(0, 0, 0, 0),)]
    found = trace_operators(bundle, rows, SETTINGS, 0)
    assert [[run.segment for run in one] for one in found.rows] == [["segment0", "segment1", "segment2"]] * 2
    for costs in found.operators().values():
        assert {cost.operator for cost in costs} == {"Gather", "Mul"}
        assert sum(cost.share for cost in costs) == pytest.approx(1)
        assert all(cost.runs == len(rows) and cost.p50_us > 0 for cost in costs)
        assert [cost.share for cost in costs] == sorted((cost.share for cost in costs), reverse=True)
    assert found.segment_ms().keys() == bundle.manifest.segments.keys()


def test_a_loop_runs_a_segment_several_times(tmp_path: Path) -> None:
    bundle = load(looped().save(tmp_path / "looped"))
    found = trace_operators(bundle, [(row(3, 0, 0, 0),)], SETTINGS, 0)
    assert [run.segment for run in found.rows[0]] == ["step", "step", "step", "head"]
    assert all(cost.runs == 3 for cost in found.operators()["step"])


def test_segments_that_no_row_came_to_have_no_operators(tmp_path: Path) -> None:
    bundle = load(gated().save(tmp_path / "gated"))
    found = trace_operators(bundle, [(row(-1, 0, 0, 0),)], SETTINGS, 0)
    assert set(found.operators()) == {"gate", "head"}


def test_a_branch_is_counted_by_its_nodes_and_its_if_only_for_the_rest(tmp_path: Path) -> None:
    bundle = load(branching().save(tmp_path / "branching"))
    (run,) = trace_operators(bundle, [(row(1, 0, 0, 0),)], SETTINGS, 0).rows[0]
    nodes = {node.operator: node for node in run.nodes}
    assert {"If", "Neg", "Exp", "Tanh"} <= nodes.keys()
    assert "Abs" not in nodes
    inside = sum(nodes[operator].taken_us for operator in ("Neg", "Exp", "Tanh"))
    assert nodes["If"].own_us == pytest.approx(nodes["If"].taken_us - inside)
    assert sum(node.own_us for node in run.nodes) <= run.taken_us


def test_a_timeline_nests_rows_segments_and_nodes(tmp_path: Path) -> None:
    bundle = load(looped().save(tmp_path / "looped"))
    rows = [(row(3, 0, 0, 0),), (row(1, 0, 0, 0),)]
    found = json.loads(chrome_trace(trace_operators(bundle, rows, SETTINGS, 0), "it"))
    events = [event for event in found["traceEvents"] if event["ph"] == "X"]
    of = {kind: [event for event in events if event["cat"] == kind] for kind in ("row", "segment", "node")}
    assert [event["name"] for event in of["row"]] == ["row 0", "row 1"]
    assert [event["name"] for event in of["segment"]] == ["step"] * 3 + ["head", "step", "head"]

    def within(inner: dict[str, float], outer: dict[str, float]) -> bool:
        return outer["ts"] <= inner["ts"] and inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"]

    for inner, outer in (("segment", "row"), ("node", "segment")):
        assert of[inner]
        assert all(sum(within(event, one) for one in of[outer]) == 1 for event in of[inner])


def test_an_empty_trace_is_a_timeline_too() -> None:
    assert Traced(()).operators() == {}
    events = json.loads(chrome_trace(Traced(((), (SegmentRun("s", 1, 2, ()),))), "it"))["traceEvents"]
    assert [event["name"] for event in events if event["ph"] == "X"] == ["row 1", "s"]


def test_a_trace_is_written_and_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    folder = chain().save(tmp_path / "chain")
    x = np.zeros((3, 4), np.float32)
    target = ee.trace(folder, tmp_path / "t.json", x, threads=1)
    rows = [e for e in json.loads(target.read_bytes())["traceEvents"] if e.get("cat") == "row"]
    assert len(rows) == 3
    with pytest.raises(ee.EEToolkitError, match=r"t.json exists; pass overwrite=True \(--overwrite\) to replace it"):
        ee.trace(folder, target, x, threads=1)
    assert ee.trace(folder, target, x, threads=1, overwrite=True) == target


def test_what_onnxruntime_refuses_is_one_error_that_names_the_segment(tmp_path: Path) -> None:
    bundle = load(chain().save(tmp_path / "chain"))
    with pytest.raises(ee.RunError, match=r"^segment 'segment0': \[ONNXRuntimeError\]"):
        trace_operators(bundle, [(np.zeros((1, 5)),)], SETTINGS, 0)

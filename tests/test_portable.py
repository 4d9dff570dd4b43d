"""Graphs of a bundle are functions of their inputs, and for every machine."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import onnx.parser
import pytest
from lots import MANY
from portable import faults
from program_property import VARIANTS, compiled
from random_programs import random_program

import eetoolkit as ee
from eetoolkit_exporters.cutting import constants, merge, segments
from eetoolkit_runtime.plan.types import Gate

X = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)


def exported(text: str, folder: Path) -> ee.Bundle:
    """Returns an ONNX graph, as text, as a bundle: branches are gates, and what follows them is a segment."""
    onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {text}'), folder / "m.onnx")
    options = {"lower_control_flow": "always", "threshold": 9.0, "max_loop_steps": 4}
    with mock.patch.object(merge, "TAIL_NODES", 0):
        return ee.export(folder / "m.onnx", X[:1], folder / "b.ee", **options)


def branches(then: str, otherwise: str) -> str:
    """Returns a network that adds one of two tensors `y` to x by the sign of x's sum."""
    return f"""network (float[1, 4] x) => (float[1, 4] early, float[1, 4] late) <float one = {{1}}> {{
        early = Tanh(x)
        sum = ReduceSum<keepdims = 0>(x)
        zero = Constant<value_float = 0.0>()
        positive = Greater(sum, zero)
        y = If(positive) <
            then_branch = yes () => (float[1, 4] y_then) {{ {then} }},
            else_branch = no () => (float[1, 4] y_else) {{ {otherwise} }}
        >
        late = Add(early, y)
    }}"""


HALF = "h = Constant<value = float[1] {0.5}>() s = Constant<value = int64[2] {1, 4}>() %s = Expand(h, s)"
COSINE = "%s = Cos(early)"


def test_what_a_branch_computes_from_constants_stands_in_the_manifest(tmp_path: Path) -> None:
    bundle = exported(branches(HALF % "y_then", COSINE % "y_else"), tmp_path)
    plan = bundle.manifest
    assert any(isinstance(segment.next, Gate) for segment in plan.segments.values())
    assert (0.5,) * 4 in [constant.data for constant in plan.constants.values()]
    assert faults(bundle) == []
    with ee.Runner(bundle, threads=1) as runner:
        for x in (X[:1], -X[:1]):
            y = np.full_like(x, 0.5) if x.sum() > 0 else np.cos(np.tanh(x))
            np.testing.assert_allclose(runner.run(x).outputs["logits"], np.tanh(x) + y, atol=1e-6)


def test_what_the_manifest_has_no_room_for_leaves_its_graph(tmp_path: Path) -> None:
    with mock.patch.object(constants, "_MOST_IN_ALL", 7):
        bundle = exported(branches(HALF % "y_then", (HALF % "y_else").replace("0.5", "0.25")), tmp_path)
    assert len([each for each in bundle.manifest.constants.values() if len(each.data) == 4]) == 1
    with ee.Runner(bundle, threads=1) as runner:
        for x in (X[:1], -X[:1]):
            y = 0.5 if x.sum() > 0 else 0.25
            np.testing.assert_allclose(runner.run(x).outputs["logits"], np.tanh(x) + y, atol=1e-6)


def test_a_branch_of_constants_alone_has_no_graph(tmp_path: Path) -> None:
    plan = exported(branches(HALF % "y_then", COSINE % "y_else"), tmp_path).manifest
    made = {name for segment in plan.segments.values() for name, source in segment.writes.items() if source.output}
    moved = {source.constant for segment in plan.segments.values() for source in segment.writes.values()} - {None}
    assert moved
    assert not made & moved


def test_many_constants_of_one_branch_stay_in_the_segment_that_reads_them(tmp_path: Path) -> None:
    text = """network (float[1, 4] x) => (float[1, 4] early, float[1, 4] late) {
        early = Tanh(x)
        h = Constant<value = float[1] {0.5}>()
        s = Constant<value = int64[2] {70000, 4}>()
        wide = Expand(h, s)
        axes = Constant<value = int64[1] {0}>()
        mean = ReduceMean<keepdims = 1>(wide, axes)
        late = Add(early, mean)
    }"""
    bundle = exported(text, tmp_path)
    assert faults(bundle) == []
    assert all(len(constant.data) < 4 for constant in bundle.manifest.constants.values())
    with ee.Runner(bundle, threads=1) as runner:
        np.testing.assert_allclose(runner.run(X[:1]).outputs["logits"], np.tanh(X[:1]) + 0.5, atol=1e-6)


@pytest.mark.parametrize("shard", range(4))
def test_random_programs_hold_nothing_that_another_machine_cannot_take(shard: int, tmp_path: Path) -> None:
    for seed in range(shard, 24 if MANY else 8, 4):
        program = random_program(seed, tmp_path / f"{seed}.onnx")
        for variant in list(VARIANTS)[::2]:
            assert faults(compiled(program, tmp_path / "b", variant)) == [], f"seed {seed}, {variant}"


def test_a_constant_output_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "take_constants", lambda *_: None)
    bundle = exported(branches(HALF % "y_then", COSINE % "y_else"), tmp_path)
    assert [fault.endswith("is constant") for fault in faults(bundle)] == [True]


@pytest.mark.parametrize(
    ("nodes", "fault"),
    [
        ("y = AveragePool<kernel_shape = [1, 1]>(x)", "AveragePool of windows of one element"),
        ("y = Conv<kernel_shape = [1, 1]>(x, unit)", "Conv with the unit matrix"),
        ("y = Identity(unit)", "the output y is constant"),
    ],
)
def test_what_must_not_be_there_would_be_noticed(
    nodes: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = '<ir_version: 8, opset_import: ["" : 18]> g (float[1, 1, 4, 4] x) => (float[1, 1, 4, 4] y) '
    model = onnx.parser.parse_model(text + f"<float[1, 1, 1, 1] unit = {{1}}> {{ {nodes} }}")
    bundle = exported(branches(HALF % "y_then", COSINE % "y_else"), tmp_path)
    monkeypatch.setattr(onnx, "load", lambda _: model)
    assert faults(bundle)[0].endswith(fault)

"""Gates as torch exports them, and as ONNX writes them, are proved hard; what only looks so is not."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from gated_graphs import from_text, from_torch, run
from gated_networks import Forms

from eetoolkit_exporters.capturing.capture import Network
from eetoolkit_exporters.gating.hardness import hard_values, value_ranges


@pytest.fixture(scope="module")
def forms() -> Network:
    """Returns every way to write a gate, exported by torch."""
    torch.manual_seed(0)
    return from_torch(Forms(), torch.randn(3, 6))


def test_the_gates_of_torch_code_are_hard_and_what_looks_like_them_is_not(forms: Network) -> None:
    hard = hard_values(forms.graph)
    found = {exit_.name: next(iter(exit_.outputs.values())) in hard for exit_ in forms.exits}
    assert found == {name: name.startswith("hard_") for name in found}


def test_what_is_called_hard_is_zero_or_one_and_every_range_holds(forms: Network) -> None:
    """The straight-through forms that add last are exact; those that subtract last may be off by a rounding."""
    values = [value for node in forms.graph for value in node.outputs if value.dtype == ir.DataType.FLOAT]
    forms.graph.outputs[:] = values
    rows = np.random.default_rng(0).normal(0, 3, (5000, 6)).astype(np.float32)
    ranges, hard = value_ranges(forms.graph), hard_values(forms.graph)
    for value, array in zip(values, run(forms.graph, {"x": rows}), strict=True):
        assert array.min() >= ranges[value].low - 1e-7
        assert array.max() <= ranges[value].high + 1e-7
        if value in hard:
            np.testing.assert_allclose(array, np.round(array), atol=1.2e-7)
            assert set(np.unique(np.round(array))) <= {0, 1}


def test_the_straight_through_form_is_exact_in_every_float() -> None:
    p = np.concatenate([np.linspace(0, 1, 100_001), np.logspace(-45, 0, 1000), 1 - np.logspace(-8, 0, 1000)])
    for dtype in (np.float16, np.float32, np.float64):
        q = p.astype(dtype)
        for hard in (dtype(0), dtype(1)):
            np.testing.assert_array_equal((hard - q) + q, hard)


HARD = {
    "one_hot": "i = ArgMax <axis = 1, keepdims = 0> (x) d = Constant <value = int64 {6}> ()"
    " v = Constant <value = float[2] {0, 1}> () y = OneHot <axis = 1> (i, d, v)",
    "hardmax": "y = Hardmax <axis = 1> (x)",
    "one_plus_negative": "one = Constant <value = float {1}> () c = Greater (x, one) h = Cast <to = 1> (c)"
    " n = Neg (h) y = Add (n, one)",
    "truncated": "p = Sigmoid (x) i = Cast <to = 7> (p) y = Cast <to = 1> (i)",
    "clipped_index": "z = Constant <value = int64 {0}> () one = Constant <value = int64 {1}> ()"
    " i = Cast <to = 7> (x) c = Clip (i, z, one) y = Cast <to = 1> (c)",
    "branches": "s = ReduceSum <keepdims = 0> (x) z = Constant <value = float {0}> () c = Greater (s, z)"
    " y = If (c) <then_branch = t () => (float[batch,6] a) { r = Sigmoid (x) a = Round (r) },"
    " else_branch = e () => (float[batch,6] b) { g = Greater (x, z) b = Cast <to = 1> (g) }>",
}
SOFT = {
    "one_hot_of_other_values": "i = ArgMax <axis = 1, keepdims = 0> (x) d = Constant <value = int64 {6}> ()"
    " v = Constant <value = float[2] {0, 2}> () y = OneHot <axis = 1> (i, d, v)",
    "bytes_that_wrap": "one = Constant <value = float {1}> () c = Greater (x, one) h = Cast <to = 2> (c)"
    " z = Sub (h, h) w = Sub (z, h) y = Cast <to = 1> (w)",
    "half": "h = Constant <value = float {0.5}> () c = Greater (x, h) f = Cast <to = 1> (c) y = Mul (f, h)",
    "one_soft_branch": "s = ReduceSum <keepdims = 0> (x) z = Constant <value = float {0}> () c = Greater (s, z)"
    " y = If (c) <then_branch = t () => (float[batch,6] a) { r = Sigmoid (x) a = Round (r) },"
    " else_branch = e () => (float[batch,6] b) { b = Sigmoid (x) }>",
    "an_input": "y = Identity (x)",
}


@pytest.mark.parametrize("name", HARD)
def test_a_hard_form_of_onnx_is_proved(name: str) -> None:
    graph = from_text(HARD[name])
    assert graph.outputs[0] in hard_values(graph)


@pytest.mark.parametrize("name", SOFT)
def test_a_soft_form_of_onnx_is_not(name: str) -> None:
    graph = from_text(SOFT[name])
    assert graph.outputs[0] not in hard_values(graph)


def test_gates_inside_a_branch_and_a_loop_are_found() -> None:
    graph = from_text(
        "m = Constant <value = int64 {3}> () t = Constant <value = bool {1}> ()"
        " y = Loop (m, t, x) <body = b (int64 i, bool c, float[batch,6] s) => (bool c2, float[batch,6] s2)"
        " { p = Sigmoid (s) inner = Round (p) s2 = Mul (inner, s) c2 = Identity (c) }>"
    )
    names = {value.name for value in hard_values(graph)}
    assert {"inner", "c", "c2"} <= names
    assert not {"s", "s2", "p", "i", "y"} & names

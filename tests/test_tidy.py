"""A graph is brought into one form at every level, and its shapes are found there."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from invariants import broken_invariants, subgraphs

from eetoolkit_exporters.capturing.tidy import tidy

HEAD = '<ir_version: 10, opset_import: ["" : 20]>\n'
WEIGHTS = "<int64[2] pair = {-1, 2}, float[4,4] w = {0,1,2,3,4,5,6,7,0,1,2,3,4,5,6,7}, int64 trips = {3}>"


def tidied(text: str) -> ir.Model:
    """Returns the model that a text says, in our form."""
    return tidy(ir.from_onnx_text(HEAD + text), infer_shapes=True)


def shape(model: ir.Model, name: str) -> list[int | str | None]:
    """Returns a value's dimensions; None for one that nothing says."""
    values = [value for graph in model.graphs() for node in graph for value in node.outputs]
    values += [value for graph in subgraphs(model.graph) for value in graph.inputs]
    found = next(value for value in values if value.name == name).shape
    assert found is not None
    dims = [dim if isinstance(dim, int) else dim.value for dim in found]
    return [None if str(dim).startswith("unk__") else dim for dim in dims]


BRANCHES = f"""
g (float[batch,4] x, bool p) => (y)
{WEIGHTS}
{{
  h = MatMul(x, w)
  y = If(p) <
    then_branch = t () => (ty) {{
      a = Relu(h)
      c = Constant <value = int64[2] {{-1, 2}}> ()
      r = Reshape(a, c)
      s = Reshape(a, pair)
      ty = Add(r, s)
    }},
    else_branch = e () => (ey) {{
      a = Neg(h)
      c = Constant <value = int64[2] {{2, -1}}> ()
      b = Reshape(a, c)
      d = Transpose(b)
      unused = Exp(a)
      ey = Reshape(d, pair)
    }}>
}}
"""

LOOPS = f"""
g (float[batch,4] x, bool p) => (z, grown, q)
{WEIGHTS}
{{
  h = MatMul(x, w)
  y, grown, a, b = Loop(trips, p, h, x, h, x) <
    body = outer (int64 i, bool go, s, k, a, b) => (again, s2, k2, a2, b2) {{
      again = Identity(go)
      s2 = MatMul(s, w)
      k2 = Concat <axis = 1> (k, s)
      b2 = Relu(a)
      a2 = Loop(trips, go, b) <
        body = inner (int64 j, bool on, t) => (still, t2) {{ still = Identity(on) t2 = MatMul(t, w) }}>
    }}>
  z = Relu(y)
  q = Add(a, b)
}}
"""

CONSTANT_RESULT = """
g (float[batch,4] x, bool p) => (y)
{
  chosen = If(p) <
    then_branch = t () => (c) { c = Constant <value = float[4] {1,2,3,4}> () },
    else_branch = e () => (c) <float[4] c = {5,6,7,8}> { }>
  y = Add(x, chosen)
}
"""

UNUSED = """
g (float[batch,4] x, bool p) => (y)
<int64 trips = {3}>
{
  only_there = Exp(x)
  unused = If(p) <
    then_branch = t () => (ty) { ty = Relu(only_there) },
    else_branch = e () => (ey) { ey = Neg(only_there) }>
  y = If(p) <
    then_branch = t2 () => (ty2) {
      deeper = Loop(trips, p, only_there) <
        body = b (int64 i, bool go, s) => (again, s2) { again = Identity(go) s2 = Relu(only_there) }>
      ty2 = Relu(x)
    },
    else_branch = e2 () => (ey2) { ey2 = Neg(x) }>
}
"""

SCAN = """
g (float[3,4] x) => (total, sums)
{
  zero = Constant <value = float[4] {0,0,0,0}> ()
  total, sums = Scan <num_scan_inputs = 1, body = b (float[4] s, float[4] row) => (s2, copy) {
      one = Constant <value = float {1}> ()
      t = Add(s, row)
      s2 = Add(t, one)
      copy = Identity(s2)
    }> (zero, x)
}
"""

MODELS = {"branches": BRANCHES, "loops": LOOPS, "constant": CONSTANT_RESULT, "unused": UNUSED, "scan": SCAN}


@pytest.mark.parametrize("name", MODELS)
def test_every_level_is_in_our_form(name: str) -> None:
    assert broken_invariants(tidied(MODELS[name]).graph) == []


@pytest.mark.parametrize("name", MODELS)
def test_a_graph_that_was_not_brought_into_our_form_is_found_out(name: str) -> None:
    assert broken_invariants(ir.from_onnx_text(HEAD + MODELS[name]).graph)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("p", [True, False])
def test_the_form_changes_no_result(name: str, p: bool) -> None:
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    results = []
    for model in (ir.from_onnx_text(HEAD + MODELS[name]), tidied(MODELS[name])):
        session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
        feeds = {"x": x, "p": np.array(p)}
        results.append(session.run(None, {value.name: feeds[value.name] for value in session.get_inputs()}))
    for before, after in zip(*results, strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_branch_sees_the_shapes_and_the_constants_around_it() -> None:
    model = tidied(BRANCHES)
    assert shape(model, "a") == ["batch", 4]
    assert shape(model, "s") == [None, 2]
    assert shape(model, "y") == [None, 2]


def test_what_a_loop_carries_unchanged_in_shape_has_that_shape_behind_it() -> None:
    model = tidied(LOOPS)
    for name in ("y", "z", "a", "b", "q", "a2", "b2"):
        assert shape(model, name) == ["batch", 4]


def test_what_a_loop_makes_grow_has_an_unknown_size() -> None:
    model = tidied(LOOPS)
    assert shape(model, "grown") == ["batch", None]
    assert shape(model, "k2") == ["batch", None]


def test_a_nested_state_forgets_what_followed_from_a_shape_that_does_not_hold() -> None:
    text = LOOPS.replace("t2 = MatMul(t, w)", "t2 = Concat <axis = 0> (t, t)")
    model = tidied(text)
    assert shape(model, "a") == [None, 4]
    assert shape(model, "b") == [None, 4]
    assert shape(model, "y") == ["batch", 4]


def test_a_branch_that_is_a_constant_keeps_a_node_of_its_own() -> None:
    model = tidied(CONSTANT_RESULT)
    branches = list(subgraphs(model.graph))
    assert [[node.op_type for node in branch] for branch in branches] == [["Identity"], ["Identity"]]
    assert len(model.graph.initializers) == 2


def test_what_only_an_unused_branch_captured_is_gone() -> None:
    assert [node.op_type for node in tidied(UNUSED).graph] == ["If"]

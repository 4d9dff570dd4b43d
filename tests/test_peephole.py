"""Small patterns of gates take fewer nodes and give the same numbers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx_ir.passes.common import ShapeInferencePass

from eetoolkit_exporters.emitting.peephole import simplify

AXES = "axes = Constant <value = int64[2] {2, 3}> () "
FLAT = "target = Constant <value = int64[2] {-1, 8}> () y = Reshape (m, target)"
COLUMN = (
    "start = Constant <value = int64[1] {1}> () end = Constant <value = int64[1] {2}> ()"
    " axis = Constant <value = int64[1] {1}> () half = Constant <value = float {0.5}> ()"
    " flat = Constant <value = int64[1] {-1}> () "
)
MEANS = {
    "average_pool": (20, f"m = AveragePool <kernel_shape = [5, 5]> (x) {FLAT}"),
    "global_average_pool": (20, "m = GlobalAveragePool (x) y = Flatten (m)"),
    "reduce_mean": (20, f"{AXES} m = ReduceMean (x, axes) y = Squeeze (m, axes)"),
    "reduce_mean_of_opset_13": (13, f"m = ReduceMean <axes = [-2, -1]> (x) {FLAT}"),
    "pool_of_opset_13": (13, "m = GlobalAveragePool (x) y = Flatten (m)"),
}
OTHERS = {
    "part_of_the_map": f"k = AveragePool <kernel_shape = [4, 5]> (x) {AXES} m = ReduceMax (k, axes) {FLAT}",
    "padded": f"k = AveragePool <kernel_shape = [5, 5], pads = [1, 1, 1, 1]> (x) {AXES} m = ReduceMax (k, axes) {FLAT}",
    "maximum": "m = GlobalMaxPool (x) y = Flatten (m)",
    "mean_that_is_read_twice": "m = GlobalAveragePool (x) s = Mul (x, m) f = Flatten (m) g = GlobalMaxPool (s)"
    " h = Flatten (g) y = Add (f, h)",
    "another_shape": "m = GlobalAveragePool (x) t = Constant <value = int64[2] {4, -1}> () y = Reshape (m, t)",
}


def model(body: str, outputs: str, opset: int = 20, inputs: str = "float[N,8,5,5] x") -> ir.Model:
    text = f'<ir_version: 10, opset_import: ["" : {opset}]> graph ({inputs}) => ({outputs}) {{ {body} }}'
    made = ir.from_onnx_text(text)
    ir.passes.common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(made)
    ShapeInferencePass()(made)
    return made


def answers(of: ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    proto = ir.to_proto(of).SerializeToString()
    return ort.InferenceSession(proto, providers=["CPUExecutionProvider"]).run(None, feeds)  # type: ignore[no-any-return]


def kinds(of: ir.Model) -> list[str]:
    return [node.op_type for node in of.graph]


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", MEANS)
def test_a_mean_over_the_whole_map_is_one_node(name: str, rows: int) -> None:
    opset, body = MEANS[name]
    made, x = model(body, "float[N,8] y", opset), np.random.default_rng(0).normal(size=(rows, 8, 5, 5))
    feeds = {"x": x.astype(np.float32)}
    expected = answers(made, feeds)[0]
    simplify(made)
    assert kinds(made) == ["ReduceMean"]
    found = answers(made, feeds)[0]
    assert found.shape == (rows, 8)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_mean_over_the_whole_map_stays(name: str) -> None:
    outputs = "float[4,M] y" if name == "another_shape" else "float[N,8] y"
    made = model(OTHERS[name], outputs)
    before = kinds(made)
    simplify(made)
    assert kinds(made) == before


@pytest.mark.parametrize("limit", ["Greater (s, half)", "LessOrEqual (s, half)"])
def test_a_column_is_compared_without_reshaping(limit: str) -> None:
    body = f"{COLUMN} s = Slice (x, start, end, axis) t = {limit} y = Reshape (t, flat)"
    made = model(body, "bool[N] y", inputs="float[N,3] x")
    feeds = {"x": np.array([[1, 0.2, 1], [0, 0.7, 0], [0, 0.5, 1]], np.float32)}
    expected = answers(made, feeds)[0]
    simplify(made)
    assert kinds(made) == ["Gather", limit.split(maxsplit=1)[0]]
    np.testing.assert_array_equal(answers(made, feeds)[0], expected)


def test_a_column_that_something_else_reads_stays() -> None:
    body = f"{COLUMN} s = Slice (x, start, end, axis) t = Greater (s, half) y = Reshape (t, flat)"
    made = model(body, "bool[N] y, float[N,1] s", inputs="float[N,3] x")
    before = kinds(made)
    simplify(made)
    assert kinds(made) == before


@pytest.mark.parametrize("start, end, step", [(-7, 1, 1), (10, 3, -1), (-1, 9, 1), (4, 9, 1)])
def test_a_column_beyond_the_edge_is_the_one_that_onnx_takes(start: int, end: int, step: int) -> None:
    body = (
        f"a = Constant <value = int64[1] {{{start}}}> () b = Constant <value = int64[1] {{{end}}}> ()"
        f" c = Constant <value = int64[1] {{1}}> () d = Constant <value = int64[1] {{{step}}}> ()"
        " half = Constant <value = float {0.5}> () flat = Constant <value = int64[1] {-1}> ()"
        " s = Slice (x, a, b, c, d) t = Greater (s, half) y = Reshape (t, flat)"
    )
    made = model(body, "bool[N] y", inputs="float[N,5] x")
    feeds = {"x": np.eye(5, dtype=np.float32)}
    expected = answers(made, feeds)[0]
    assert expected.sum() == 1
    simplify(made)
    np.testing.assert_array_equal(answers(made, feeds)[0], expected)


def test_what_a_branch_reads_stays() -> None:
    made = model(
        "m = GlobalAveragePool (x) y = If (p) <then_branch = a () => (float[N,8] ya) { ya = Flatten (m) },"
        " else_branch = b () => (float[N,8] yb) { f = Flatten (m) yb = Neg (f) }>",
        "float[N,8] y",
        inputs="float[N,8,5,5] x, bool p",
    )
    before = kinds(made)
    simplify(made)
    assert kinds(made) == before


def test_what_one_branch_alone_reads_stays() -> None:
    made = model(
        "m = GlobalAveragePool (x) f = GlobalMaxPool (x) z = Flatten (f)"
        " y = If (p) <then_branch = a () => (float[N,8] ya) { ya = Flatten (m) },"
        " else_branch = b () => (float[N,8] yb) { yb = Neg (z) }>",
        "float[N,8] y",
        inputs="float[N,8,5,5] x, bool p",
    )
    before = kinds(made)
    simplify(made)
    assert kinds(made) == before

"""A segment's graph by every method, against the arithmetic written out in numpy."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx_ir.passes.common import ShapeInferencePass
from plans import chain

from eetoolkit_exporters.quantizing.candidates import make_candidates
from eetoolkit_exporters.quantizing.kept import kept
from eetoolkit_exporters.quantizing.methods import Quantized, Settings, left, methods, quantized
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.bundle import load
from eetoolkit_runtime.errors import ExportError
from eetoolkit_runtime.plan.types import Criterion, Exit, Gate, Method, Segment, Source, Stop

RANDOM = np.random.default_rng(0)
CONVOLUTIONS = """float[N,4,8,8] x) => (float[N,4,8,8] y) {
    c = Conv <pads = [1, 1, 1, 1]> (x, w, b) r = Relu (c) y = Conv <pads = [1, 1, 1, 1]> (r, v)"""


def normal(*shape: int) -> Array:
    return RANDOM.normal(size=shape).astype(np.float32)


def graph(text: str, opset: int = 20, **weights: Array) -> ir.Model:
    """Returns a model from its text, without the closing brace and with the weights as further inputs in front."""
    types = {np.dtype(np.float32): "float", np.dtype(np.float16): "float16", np.dtype(np.int64): "int64"}
    given = "".join(f"{types[w.dtype]}[{','.join(map(str, w.shape))}] {name}, " for name, w in weights.items())
    made = ir.from_onnx_text(f'<ir_version: 10, opset_import: ["": {opset}]> g ({given}{text} }}')
    for _ in weights:
        value = made.graph.inputs.pop(0)
        value.const_value = ir.tensor(weights[str(value.name)], name=value.name)
        made.graph.register_initializer(value)
    return ShapeInferencePass()(made).model


def segment(model: ir.Model, answers: Sequence[str] = (), gate: str | None = None) -> Segment:
    """Returns what a plan says of a model; the last of an exit's `answers` is its confidence."""
    exit_ = None
    if answers:
        outputs = {name: name for name in answers[:-1]}
        criterion = Criterion(kind="custom")
        exit_ = Exit(name="exit0", outputs=outputs, criterion=criterion, confidence=answers[-1], threshold=0.5)
    return Segment(
        model="segment0.onnx",
        writes={str(value.name): Source(output=str(value.name)) for value in model.graph.outputs},
        exit=exit_,
        next=Stop() if gate is None else Gate(on=gate, then="segment1", otherwise="segment2"),
    )


def run(model: ir.Model, feeds: Mapping[str, Array]) -> dict[str, Array]:
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip([value.name for value in session.get_outputs()], session.run(None, dict(feeds)), strict=True))


def made(model: ir.Model, method: Method, *feeds: Mapping[str, Array], **settings: object) -> Quantized:
    return quantized(model, segment(model), method, feeds, Settings(**settings))  # type: ignore[arg-type]


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def digest(model: ir.Model) -> str:
    return hashlib.sha256(ir.to_proto(model).SerializeToString(deterministic=True)).hexdigest()


def weights_of(model: ir.Model) -> set[tuple[str, bytes]]:
    """Returns what lies in a file once however many segments have it: dtype, shape and bytes."""
    tensors = [value.const_value for value in model.graph.initializers.values()]
    return {(f"{t.dtype}{t.shape}", t.tobytes()) for t in tensors if t is not None and t.nbytes >= 1024}


def convolutions() -> tuple[ir.Model, list[dict[str, Array]]]:
    model = graph(CONVOLUTIONS, w=normal(4, 4, 3, 3), b=normal(4), v=normal(4, 4, 3, 3))
    return model, [{"x": normal(1, 4, 8, 8)} for _ in range(8)]


def close(found: Array, expected: Array, share: float = 0.04) -> bool:
    """Whether values differ by a small share of their own spread."""
    return bool(np.abs(found - expected).max() <= share * np.ptp(expected))


@pytest.mark.parametrize(("rows", "block"), [(300, 128), (40, 64), (3, 16)])
def test_blockwise_products_have_a_scale_for_each_block_of_a_column(rows: int, block: int) -> None:
    weights = normal(rows, 24)
    weights[: rows // 2] *= 100  # of the other blocks nothing is lost
    model = graph("float[N,K] x) => (float[N,24] y) { y = MatMul (x, w)", w=weights)
    found = made(model, "blockwise")
    assert kinds(found.model) == ["MatMulNBits"]
    stored = run(found.model, {"x": 127 * np.eye(rows, dtype=np.float32)})["y"] / 127  # exact as int8
    for start in range(0, rows, block):
        part = np.s_[start : start + block]
        step = np.abs(weights[part]).max(axis=0) / 128
        assert np.all(np.abs(stored[part] - weights[part]) <= 1.001 * step)
    x = RANDOM.integers(-127, 128, size=(5, rows)).astype(np.float32)
    x[:, ::block] = 127
    expected = x.astype(np.float64) @ stored
    np.testing.assert_allclose(run(found.model, {"x": x})["y"], expected, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("transposed", [False, True])
def test_dynamic_products_scale_columns_and_what_comes(transposed: bool) -> None:
    weights, bias, x = normal(40, 24), normal(24), normal(3, 40)
    stored = np.ascontiguousarray(weights.T) if transposed else weights
    text = f"float[N,40] x) => (float[N,24] y) {{ y = Gemm <transB = {int(transposed)}> (x, w, b)"
    found = made(graph(text, w=stored, b=bias), "dynamic")
    assert "MatMulInteger" in kinds(found.model)
    scale = (x.max() - x.min()) / 255
    zero = np.rint(-x.min() / scale)
    small = np.clip(np.rint(x / scale) + zero, 0, 255) - zero
    columns = np.abs(weights).max(axis=0) / 127
    expected = small @ np.rint(weights / columns) * scale * columns + bias
    np.testing.assert_allclose(run(found.model, {"x": x})["y"], expected, atol=1e-4)


@pytest.mark.parametrize(("activations", "lowest"), [("uint8", 0), ("int8", -128)])
def test_static_convolutions_round_what_comes_and_goes_by_the_ranges_of_the_rows(activations: str, lowest: int) -> None:
    weights, bias = normal(6, 4, 1, 1), normal(6)
    text = "float[N,4,5,5] x) => (float[N,6,5,5] y) { y = Conv (x, w, b)"
    model = graph(text, w=weights, b=bias)
    feeds = [{"x": normal(1, 4, 5, 5)} for _ in range(5)]
    found = made(model, "static", *feeds, activations=activations)

    def rounded(array: Array, seen: list[Array]) -> tuple[Array, float]:
        low, high = min(0, *(each.min() for each in seen)), max(0, *(each.max() for each in seen))
        scale, zero = (high - low) / 255, 0
        if lowest < 0:  # symmetric, as accelerators want it
            scale = max(-low, high) / 127
        else:
            zero = np.rint(lowest - low / scale)
        return (np.clip(np.rint(array / scale) + zero, lowest, lowest + 255) - zero) * scale, float(scale)

    channels = np.abs(weights).max(axis=(1, 2, 3)) / 127
    kernels = np.rint(weights[:, :, 0, 0] / channels[:, None]) * channels[:, None]
    x, _ = rounded(feeds[0]["x"], [feed["x"] for feed in feeds])
    exact = np.einsum("oc,nchw->nohw", kernels, x) + bias[:, None, None]
    expected, step = rounded(exact, [run(model, feed)["y"] for feed in feeds])
    y = run(found.model, feeds[0])["y"]
    assert np.abs(y - expected).max() <= 1.01 * step
    assert np.mean(np.abs(y - expected) < 0.01 * step) > 0.95


def test_rows_of_an_embedding_are_int8_with_a_scale_for_each_column() -> None:
    table = normal(50, 16) * np.geomspace(1, 1000, 16, dtype=np.float32)
    table[:, 3] = 0
    model = graph("int64[N,L] x) => (float[N,L,16] y) { y = Gather (t, x)", t=table)
    assert methods(model, segment(model)) == ("blockwise",)
    found = made(model, "blockwise")
    scale = np.abs(table).max(axis=0) / np.float32(127)
    scale[3] = 1
    rows = np.array([[0, 49, 7]])
    np.testing.assert_array_equal(run(found.model, {"x": rows})["y"], np.rint(table[rows] / scale) * scale)
    assert weights_of(model).isdisjoint(weights_of(found.model))


@pytest.mark.parametrize("size", [1e5, 1e-6])  # infinite as float16, subnormal
def test_float16_rounds_weights_and_computes_in_float32(size: float) -> None:
    text = """int64[N,L] x) => (float[N,L,40] y, float[N,L,40] z) {
        e = Gather (t, x) h = MatMul (e, w) y = Add (h, b) z = MatMul (y, v)"""
    weights = {"t": normal(50, 40), "w": normal(40, 40), "b": normal(40), "v": normal(40, 40) * np.float32(size)}
    model, rows = graph(text, **weights), {"x": np.array([[0, 49, 7]])}
    found = made(model, "float16")
    halves = {name: weights[name].astype(np.float16).astype(np.float32) for name in ("t", "w")}
    expected = run(graph(text, **weights | halves), rows)
    assert [node.op_type for node in found.model.graph][:3] == ["Cast", "Gather", "Cast"], "few rows are cast"
    for name, array in run(found.model, rows).items():
        np.testing.assert_array_equal(array, expected[name])
    dtypes = {str(value.name): value.dtype for value in found.model.graph.initializers.values()}
    assert dtypes == {"b": 1, "v": 1, "t_float16": 10, "w_float16": 10}, "small ones and v stay as they are"


CASES: dict[str, tuple[str, dict[str, tuple[int, ...]], tuple[int, ...], tuple[Method, ...]]] = {
    "one_dimensional": ("float[N,8,9] x) => (float[N,6,7] y) { y = Conv (x, w)", {"w": (6, 8, 3)}, (8, 9), ("static",)),
    "depthwise": (
        "float[N,8,9] x) => (float[N,8,7] y) { y = Conv <group = 8> (x, w)", {"w": (8, 1, 3)}, (8, 9), ("static",),
    ),
    "transposed": (
        "float[N,8,9] x) => (float[N,6,20] y) { y = ConvTranspose <group = 2, strides = [2]> (x, w)",
        {"w": (8, 3, 4)}, (8, 9), ("static",),
    ),
    "convolutions_and_a_product": (
        "float[N,4,8,8] x) => (float[N,5] y) { c = Conv (x, w) f = Flatten (c) y = Gemm <transB = 1> (f, v)",
        {"w": (4, 4, 3, 3), "v": (5, 144)}, (4, 8, 8), ("static",),
    ),
    "patches_and_products": (
        """float[N,3,8,8] x) => (float[N,4,16] y) {
            c = Conv <strides = [4, 4]> (x, w) s = Constant <value = int64[3] {0, 16, -1}> () r = Reshape (c, s)
            t = Transpose <perm = [0, 2, 1]> (r) h = MatMul (t, u) y = MatMul (h, v)""",
        {"w": (16, 3, 4, 4), "u": (16, 64), "v": (64, 16)}, (3, 8, 8), ("blockwise", "dynamic"),
    ),
    "one_weight_for_two_products": (
        "float[N,40] x) => (float[N,40] y) { h = MatMul (x, w) r = Relu (h) y = MatMul (r, w)",
        {"w": (40, 40)}, (40,), ("blockwise", "dynamic"),
    ),
    "weights_that_are_transposed": (
        "float[N,40] x) => (float[N,24] y) { u = Transpose <perm = [1, 0]> (w) y = MatMul (x, u)",
        {"w": (24, 40)}, (40,), ("blockwise", "dynamic"),
    ),
    "scores_of_attention": (
        """float[N,6,16] x) => (float[N,6,6] y) {
            a = MatMul (x, q) b = MatMul (x, k) t = Transpose <perm = [0, 2, 1]> (b) y = MatMul (a, t)""",
        {"q": (16, 16), "k": (16, 16)}, (6, 16), ("blockwise", "dynamic"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_every_method_that_applies_is_near_to_float_and_called_the_same(name: str) -> None:
    text, shapes, shape, expected = CASES[name]
    model = graph(text, **{weight: normal(*dims) for weight, dims in shapes.items()})
    feeds = [{"x": normal(1, *shape)} for _ in range(6)]
    before, floats = digest(model), run(model, feeds[0])["y"]
    assert methods(model, segment(model)) == expected
    for method in expected:
        found = made(model, method, *feeds)
        assert close(run(found.model, feeds[0])["y"], floats)
        assert digest(made(model, method, *feeds).model) == digest(found.model)
        assert found.left == (("Conv",) if name == "patches_and_products" else ())
        for values in ("inputs", "outputs"):
            ours, theirs = getattr(found.model.graph, values), getattr(model.graph, values)
            assert [(v.name, v.dtype, v.shape) for v in ours] == [(v.name, v.dtype, v.shape) for v in theirs]
        tensors = [value.const_value for value in found.model.graph.initializers.values()]
        assert not any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors)
        assert found.settings["onnxruntime"] == ort.__version__
    assert digest(model) == before


FLOATS = {
    "lstm": ("float[L,N,8] x) => (float[L,1,N,8] y) { y = LSTM <hidden_size = 8> (x, w, r)", "LSTM"),
    "weights_on_the_left": ("float[8,N] x) => (float[32,N] y) { y = MatMul (l, x)", "MatMul"),
    "weights_of_every_row": ("float[1,N,8] x) => (float[1,N,32] y) { y = MatMul (x, u)", "MatMul"),
    "in_a_branch": (
        """bool c, float[N,8] x) => (float[N,32] y) {
            y = If (c) <then_branch = a () => (float[N,32] p) { p = MatMul (x, m) },
                        else_branch = b () => (float[N,32] q) { q = MatMul (x, n) }>""",
        "MatMul in If",
    ),
}


@pytest.mark.parametrize("name", FLOATS)
def test_operators_that_cannot_be_quantised_are_named(name: str) -> None:
    shapes = {"w": (1, 32, 8), "r": (1, 32, 8), "l": (32, 8), "u": (1, 8, 32), "m": (8, 32), "n": (8, 32)}
    text, operator = FLOATS[name]
    model = graph(text, **{weight: normal(*shape) for weight, shape in shapes.items()})
    assert methods(model, segment(model)) == ()
    assert left(model, segment(model)) == (operator,)


def test_weights_that_are_not_float32_and_opsets_without_scales_for_channels_stay_as_they_are() -> None:
    half = graph("float16[N,40] x) => (float16[N,40] y) { y = MatMul (x, w)", w=normal(40, 40).astype(np.float16))
    old = graph(CONVOLUTIONS, 12, w=normal(4, 4, 3, 3), b=normal(4), v=normal(4, 4, 3, 3))
    for model in (half, old):
        assert methods(model, segment(model)) == ()


HEAD = """float[N,4,8,8] x, float t) => (float[N,4,8,8] f, float[N,5] logits, float[N] confidence) {
    c = Conv <pads = [1, 1, 1, 1]> (x, w, b) f = Relu (c) p = GlobalAveragePool (f) a = Flatten (p)
    h = Gemm (a, u) g = Relu (h) logits = Gemm (g, v)"""
JUDGES = {
    "max_prob": ("d = Div (logits, t) s = Softmax (d) confidence = ReduceMax <keepdims = 0> (s, one)", ""),
    "patience": ("l = ArgMax <axis = 1, keepdims = 0> (logits) e = Equal (l, before) confidence = Cast <to = 1> (e)",
                 "int64[N] before, "),
    "ensemble": ("s = Softmax (logits) m = Add (s, before) confidence = ReduceMax <keepdims = 0> (m, one)",
                 "float[N,5] before, "),
    "learned": ("k = MatMul (a, o) s = Sigmoid (k) confidence = Squeeze (s, one)", ""),
}  # fmt: skip


@pytest.mark.parametrize("judge", JUDGES)
def test_an_exit_keeps_its_last_product_and_all_behind(judge: str) -> None:
    criterion, state = JUDGES[judge]
    weights = {"w": (4, 4, 3, 3), "b": (4,), "u": (4, 8), "v": (8, 5), "o": (4, 1)}
    constants = {name: normal(*shape) for name, shape in weights.items()} | {"one": np.array([1])}
    model = graph(f"{state}{HEAD} {criterion}", **constants)
    outputs = ["logits", "confidence"]
    stays = {str(node.outputs[0].name) for node in kept(model, segment(model, outputs))}
    judged = {"max_prob": {"d", "s"}, "patience": {"l", "e"}, "ensemble": {"s", "m"}, "learned": {"k", "s"}}[judge]
    assert stays == {"logits", "confidence", *judged}
    feeds = {"x": normal(1, 4, 8, 8), "t": np.array(1, np.float32)}
    if state:
        feeds["before"] = np.zeros((1,), np.int64) if judge == "patience" else np.zeros((1, 5), np.float32)
    found = quantized(model, segment(model, outputs), "static", [feeds], Settings())
    floats = {value.name for value in found.model.graph.initializers.values() if value.dtype == ir.DataType.FLOAT}
    assert {"v"} < floats
    assert {"w", "u"}.isdisjoint(floats)
    assert [value.name for value in found.model.graph.outputs] == ["f", *outputs]
    assert close(run(found.model, feeds)["logits"], run(model, feeds)["logits"], 0.1)


def test_a_gate_keeps_what_decides_and_a_loop_what_sums_up() -> None:
    gated = graph(
        """float[N,4,8,8] x) => (float[N,4,8,8] f, bool[N,1] on) {
            f = Conv <pads = [1, 1, 1, 1]> (x, w) p = GlobalAveragePool (f) a = Flatten (p) d = MatMul (a, o)
            z = Constant <value = float {0.0}> () on = Greater (d, z)""",
        w=normal(4, 4, 3, 3), o=normal(4, 1),
    )  # fmt: skip
    stays = {str(node.outputs[0].name) for node in kept(gated, segment(gated, gate="on"))}
    assert stays == {"d", "z", "on"}
    halting = graph(
        """float[N,8] state, float[N,1] sum, float limit) => (float[N,8] next, float[N,1] total, bool[N,1] on) {
            h = MatMul (state, w) next = Tanh (h) k = Gemm (next, o) s = Sigmoid (k) total = Add (sum, s)
            on = Less (total, limit)""",
        w=normal(8, 8), o=normal(8, 1),
    )  # fmt: skip
    stays = {str(node.outputs[0].name) for node in kept(halting, segment(halting, gate="on"))}
    assert stays == {"k", "s", "total", "on"}


def test_an_exits_output_that_is_the_next_segments_input_stays_float() -> None:
    model, feeds = convolutions()
    model.graph.outputs.insert(0, next(node.outputs[0] for node in model.graph if node.op_type == "Relu"))
    stays = kept(model, segment(model, ["r", "r"]))
    assert {node.op_type for node in stays} == {"Conv", "Relu"}
    found = quantized(model, segment(model, ["r", "r"]), "static", feeds, Settings())
    np.testing.assert_allclose(run(found.model, feeds[0])["r"], run(model, feeds[0])["r"], atol=0.05)


def test_a_value_before_a_relu_that_others_read_keeps_what_is_below_zero() -> None:
    model, feeds = convolutions()
    model.graph.outputs.append(next(node.outputs[0] for node in model.graph if node.op_type == "Conv"))
    found, floats = made(model, "static", *feeds), run(model, feeds[0])
    assert floats["c"].min() < -1
    assert all(close(array, floats[name]) for name, array in run(found.model, feeds[0]).items())


def test_a_batch_norm_behind_a_convolution_is_folded_into_it() -> None:
    text = CONVOLUTIONS.replace("Relu (c)", "BatchNormalization <epsilon = 0.1> (c, s, o, m, u)")
    weights = {"w": normal(4, 4, 3, 3), "b": normal(4), "v": normal(4, 4, 3, 3)}
    norm = {"s": normal(4), "o": normal(4), "m": normal(4), "u": np.abs(normal(4))}
    for bias in ("(x, w, b)", "(x, w)"):
        model, feeds = graph(text.replace("(x, w, b)", bias), **weights, **norm), convolutions()[1]
        found = made(model, "static", *feeds)
        assert "BatchNormalization" not in kinds(found.model)
        assert close(run(found.model, feeds[0])["y"], run(model, feeds[0])["y"])


def test_infinite_and_constant_values_are_left_alone_and_nan_is_refused() -> None:
    model, feeds = convolutions()
    masked = graph(
        CONVOLUTIONS.replace("Relu (c)", "Softmax (g)").replace("(x, w, b)", "(x, w, b) g = Add (c, k)"),
        w=normal(4, 4, 3, 3), b=normal(4), v=normal(4, 4, 3, 3),
        k=np.where(normal(8, 8) > 1, -np.inf, 0).astype(np.float32),
    )  # fmt: skip
    found = made(masked, "static", *feeds)
    assert close(run(found.model, feeds[0])["y"], run(masked, feeds[0])["y"], 0.1)
    nothing = {"x": np.zeros((1, 4, 8, 8), np.float32)}
    found = made(model, "static", nothing)
    assert close(run(found.model, nothing)["y"], run(model, nothing)["y"])
    with pytest.raises(ExportError, match="NaN on every row"):
        made(model, "static", {"x": np.full((1, 4, 8, 8), np.nan, np.float32)})
    with pytest.raises(ExportError, match="there are none"):
        made(model, "static")


def test_a_weight_of_two_segments_stays_one() -> None:
    shared, table = normal(64, 64), normal(64, 64)
    one = graph("float[N,64] x) => (float[N,64] y) { y = MatMul (x, w)", w=shared)
    text = """int64[N] i) => (float[N,64] y) {
        e = Gather (t, i) g = Gemm <transB = 1> (e, u) r = Relu (g) h = MatMul (r, other) y = Add (h, h)"""
    two = graph(text, t=table, other=shared, u=normal(64, 64))
    three = graph("int64[N] i) => (float[N,64] y) { y = Gather (t, i)", t=table)
    for method in ("blockwise", "dynamic", "float16"):
        found = [weights_of(made(model, method).model) for model in (one, two, three)]
        assert all(len(tensors) > 0 for tensors in found)
        assert found[0] < found[1]
        assert found[2] < found[1]
    first = graph("float[N,8,9] x) => (float[N,64,7] y) { y = Conv (x, w)", w=(kernels := normal(64, 8, 3)))
    second = graph("float[N,8,9] x) => (float[N,64,7] y) { r = Relu (x) y = Conv (r, v)", v=kernels)
    feeds = [{"x": normal(1, 8, 9)} for _ in range(3)]
    assert weights_of(made(first, "static", *feeds).model) == weights_of(made(second, "static", *feeds).model)


def test_a_table_that_a_head_multiplies_with_stays_as_it_is() -> None:
    text = "int64[N,L] x) => (float[N,L,50] y) { h = Gather (t, x) u = Transpose <perm = [1, 0]> (t) y = MatMul (h, u)"
    model = graph(text, t=normal(50, 16))
    assert methods(model, segment(model, ["y", "y"])) == ()


def test_products_whose_bias_has_other_channels_than_their_scales_stay_float() -> None:
    model = graph(
        """float[N,8,9] x) => (float[N,5] y) {
            t = ConvTranspose <group = 2> (x, w, b) c = Conv (t, v) f = Flatten (c) y = Gemm (f, u, o)""",
        w=normal(8, 3, 4), b=normal(6), v=normal(4, 6, 3), u=normal(40, 5), o=normal(1),
    )  # fmt: skip
    feeds = [{"x": normal(1, 8, 9)} for _ in range(6)]
    found = made(model, "static", *feeds)
    assert found.left == ("ConvTranspose", "Gemm")
    assert close(run(found.model, feeds[0])["y"], run(model, feeds[0])["y"])
    alone = graph(
        "float[N,8,9] x) => (float[N,6,12] y) { y = ConvTranspose <group = 2> (x, w, b)", w=normal(8, 3, 4), b=normal(6)
    )
    with pytest.raises(ExportError, match="takes none of its products: ConvTranspose"):
        made(alone, "static", *feeds)


def test_weights_of_seven_bits_are_asked_for_by_reduce_range() -> None:
    model, feeds = convolutions()
    for reduce_range, highest in ((False, 127), (True, 64)):
        graph_ = made(model, "static", *feeds, reduce_range=reduce_range).model.graph
        weights = [value.const_value for value in graph_.initializers.values() if len(value.shape or ()) == 4]
        assert max(np.abs(each.numpy().astype(int)).max() for each in weights if each is not None) == highest


def test_nothing_is_printed_logged_or_left_on_disk(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    handlers, stream = list(logging.root.handlers), io.StringIO()
    model, feeds = convolutions()
    products = graph("float[N,40] x) => (float[N,40] y) { y = MatMul (x, w)", w=normal(40, 40))
    with contextlib.redirect_stdout(stream):
        made(model, "static", *feeds)
        made(products, "dynamic")
        made(products, "blockwise")
        with pytest.raises(ExportError):
            made(model, "static", {"wrong": feeds[0]["x"]})
    assert (stream.getvalue(), *capfd.readouterr()) == ("", "", "")
    assert logging.root.handlers == handlers
    assert logging.root.manager.disable == logging.NOTSET
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_not_a_graph_that_cannot_be_quantised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "model.onnx"))

    model, feeds = convolutions()
    with monkeypatch.context() as patch:
        patch.setattr(ir, "save", full)
        with pytest.raises(OSError, match="No space left"):
            made(model, "static", *feeds)
    monkeypatch.setattr(shutil, "copyfile", full)
    bundle = load(chain(0.5).save(tmp_path / "chain.ee"))
    with pytest.raises(ExportError, match=r"No space left on device; .* TMPDIR"):
        make_candidates(bundle, [], tmp_path / "folder", Settings(), lambda _name, all_: all_, lambda *_: None)


def test_another_process_makes_the_same_bytes() -> None:
    code = "import test_quantizing_methods; print(test_quantizing_methods.bytes_of_every_method())"
    env = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, cwd=Path(__file__).parent, env=env, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == bytes_of_every_method()


def bytes_of_every_method() -> str:
    random = np.random.default_rng(1)
    kernels, products, x = (random.normal(size=s).astype(np.float32) for s in ((4, 4, 3, 3), (40, 40), (1, 4, 8, 8)))
    convolutions = graph(CONVOLUTIONS, w=kernels, b=np.ones(4, np.float32), v=kernels)
    matrices = graph("float[N,40] x) => (float[N,40] y) { h = MatMul (x, w) y = Gemm (h, w)", w=products)
    found = [made(convolutions, "static", {"x": x}), made(matrices, "blockwise"), made(matrices, "dynamic")]
    return " ".join(digest(each.model) for each in found)


@pytest.mark.parametrize(("channels", "convolutions"), [(3, 1), (4, 2)])
def test_a_convolution_over_the_channels_of_a_picture_stays_float(channels: int, convolutions: int) -> None:
    text = f"float[N,{channels},8,8] x) => (float[N,4,8,8] y) {{" + CONVOLUTIONS.split("{")[1]
    model = graph(text, w=normal(4, channels, 3, 3), b=normal(4), v=normal(4, 4, 3, 3))
    found = made(model, "static", {"x": normal(1, channels, 8, 8)})
    stored = [value for value in found.model.graph.initializers.values() if value.dtype == ir.DataType.INT8]
    assert sum(len(value.shape or ()) == 4 for value in stored) == convolutions
    assert found.left == (("Conv",) if channels == 3 else ())

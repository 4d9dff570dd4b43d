"""By how much a device may differ: half precision, quantised values, and what a user asks for."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, parser
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import nn

import eetoolkit as ee
from eetoolkit_exporters.capturing.capture import capture
from eetoolkit_exporters.capturing.onnx_source import OnnxSource
from eetoolkit_exporters.emitting import tolerance as tolerances
from eetoolkit_exporters.emitting.tolerance import rounding
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.golden import read_golden
from eetoolkit_runtime.errors import ExportError
from eetoolkit_runtime.verify import difference, verify

ROWS = np.random.default_rng(0).normal(size=(12, 16)).astype(np.float32)


class Half(nn.Module):
    """Two exits, computed in half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, 256), nn.Linear(256, 256)
        self.h0, self.h1 = nn.Linear(256, 4), nn.Linear(256, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.relu(self.a(x))
        return 6 * self.h0(x), 6 * self.h1(torch.relu(self.b(x)))


def half(seed: int) -> Half:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Half().eval().half()


@pytest.mark.parametrize("seed", [1, 3])
def test_a_network_in_half_precision_exports_and_verifies_against_itself(seed: int, tmp_path: Path) -> None:
    network, x = half(seed), ROWS.astype(np.float16)
    bundle = ee.export(network, x[:1], tmp_path / "half.ee", golden_inputs=ROWS)
    assert bundle.manifest.golden is not None
    assert bundle.manifest.golden.tolerance == 10 * float(np.finfo(np.float16).eps)
    assert bundle.manifest.batch is None
    report = ee.verify(bundle, network)
    assert report.passed, report
    assert 1e-4 < max(each.output_difference for each in report.exits) < 1e-2
    with ee.Runner(bundle, threads=1) as runner, torch.no_grad():
        for row in x:
            exact = [z.double().softmax(1).max().item() for z in network(torch.from_numpy(row[None]))]
            found = [answer.confidence for answer in runner.run_all_exits(row[None])]
            np.testing.assert_allclose(found, exact, atol=1e-2)


HEADER = '<ir_version: 10, opset_import: ["" : 21]> net ({type}[batch,4] x) => ({type}[batch,4] y) {body}'
QUANTISED = "<float s = {{0.5}}, {} z = {{0}}> {{ q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z) }}"
DTYPES: dict[str, tuple[str, str, float]] = {
    "float32": ("float", "{ y = Sin (x) }", 1e-4),
    "float64": ("double", "{ y = Abs (x) }", 1e-4),
    "float16": ("float16", "{ y = Abs (x) }", 10 * 2**-10),
    "half inside": ("float", "{ h = Cast <to = 10> (x) a = Abs (h) y = Cast <to = 1> (a) }", 10 * 2**-10),
    "bfloat16 inside": ("float", "{ h = Cast <to = 16> (x) y = Cast <to = 1> (h) }", 10 * 2**-7),
    "half weights alone": (
        "float", "<float16[4] w = {1, 2, 3, 4}> { v = Cast <to = 1> (w) y = Mul (x, v) }", 1e-4,
    ),
    "half weights that are looked up": (
        "float", "<float16[4] w = {1, 2, 3, 4}> { i = Cast <to = 7> (x) h = Gather (w, i) y = Cast <to = 1> (h) }",
        1e-4,
    ),
    "bytes": ("float", QUANTISED.format("int8"), 4 * 2**-7),
    "16 bits": ("float", QUANTISED.format("int16"), 4 * 2**-15),
    "quantised weights alone": (
        "float", "<int8[4] w = {1, 2, 3, 4}, float s = {0.5}> { v = DequantizeLinear (w, s) y = Mul (x, v) }", 1e-4,
    ),
    "ranges of the data": (
        "float", "{ q, s, z = DynamicQuantizeLinear (x) y = DequantizeLinear (q, s, z) }", 4 * 2**-7,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DTYPES)
def test_the_tolerance_is_that_of_the_coarsest_arithmetic_of_the_network(name: str, tmp_path: Path) -> None:
    dtype, body, expected = DTYPES[name]
    onnx.save(parser.parse_model(HEADER.format(type=dtype, body=body)), tmp_path / "n.onnx")
    example = np.zeros((1, 4), {"float": np.float32, "double": np.float64, "float16": np.float16}[dtype])
    found = rounding(capture(OnnxSource(tmp_path / "n.onnx", example), {"y": {"logits": "y"}}).graph)
    assert found == pytest.approx(max(expected, 1e-4))


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self.rows = iter(ROWS)

    def get_next(self) -> dict[str, Array] | None:
        return next(({"x": row[None]} for row in self.rows), None)


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Returns a residual network of three exits, quantised in both of onnxruntime's forms with uint8 activations."""
    folder, draw = tmp_path_factory.mktemp("quantised"), np.random.default_rng(5)
    sizes = {"w0": (16, 16), "w1": (16, 16), "w2": (16, 16), "e0": (16, 4), "e1": (16, 4), "e2": (16, 4)}
    nodes, last = [], "x"
    for n in range(3):
        nodes += [
            helper.make_node("MatMul", [last, f"w{n}"], [f"p{n}"]), helper.make_node("Relu", [f"p{n}"], [f"r{n}"]),
            helper.make_node("Add", [last, f"r{n}"], [f"h{n}"]),
            helper.make_node("MatMul", [f"h{n}", f"e{n}"], [f"y{n}"]),
        ]  # fmt: skip
        last = f"h{n}"
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16])],
        [helper.make_tensor_value_info(f"y{n}", TensorProto.FLOAT, ["batch", 4]) for n in range(3)],
        [numpy_helper.from_array(draw.normal(0, 0.4, size).astype(np.float32), name) for name, size in sizes.items()],
    )  # fmt: skip
    plain = folder / "plain.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), plain)
    found = {}
    for form in (QuantFormat.QDQ, QuantFormat.QOperator):
        found[form.name] = folder / f"{form.name}.onnx"
        quantize_static(plain, found[form.name], Reader(), quant_format=form, activation_type=QuantType.QUInt8)
    return found


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_a_quantised_network_exports_and_verifies_on_other_rows(
    form: str, quantised: dict[str, Path], tmp_path: Path
) -> None:
    bundle = ee.export(quantised[form], {"x": ROWS[:1]}, tmp_path / "q.ee", golden_inputs={"x": ROWS})
    assert bundle.manifest.golden is not None
    assert bundle.manifest.golden.tolerance >= 4 * 2**-7
    assert bundle.manifest.batch is None
    session = ort.InferenceSession(quantised[form])
    other = np.random.default_rng(9).normal(size=(40, 16)).astype(np.float32)
    with ee.Runner(bundle, threads=1) as runner:
        for row in other:
            whole = session.run(None, {"x": row[None]})
            for answer, expected in zip(runner.run_all_exits(row[None]), whole, strict=True):
                assert difference(answer.outputs["logits"], expected) <= bundle.manifest.golden.tolerance
    assert ee.verify(bundle, quantised[form]).passed


def product(path: Path, step: float) -> Array:
    """Saves a product whose sums, multiples of 0.01, are quantised by `step`, and returns rows of it.

    By 0.02 they often lie in the middle between two steps, by 0.03 never.
    """
    draw = np.random.default_rng(0)
    weights: dict[str, Any] = {
        "s": np.float32(0.1), "z": np.uint8(128), "w": draw.integers(-3, 4, (8, 4)).astype(np.int8), "zw": np.int8(0),
        "step": np.float32(step),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "s", "zw"], ["dw"]), helper.make_node("MatMul", ["d", "dw"], ["m"]),
        helper.make_node("QuantizeLinear", ["m", "step", "z"], ["p"]),
        helper.make_node("DequantizeLinear", ["p", "step", "z"], ["y"]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return np.asarray(draw.integers(-9, 10, (16, 8)) * 0.1, np.float32)


def test_the_tolerance_of_a_quantised_network_is_four_times_what_optimisations_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "n.onnx"
    rows = product(path, 0.02)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain, fused = (ort.InferenceSession(path, each) for each in (options, ort.SessionOptions()))
    largest = max(difference(*(session.run(None, {"x": row[None]})[0] for session in (plain, fused))) for row in rows)
    monkeypatch.setattr(tolerances, "_step", lambda node: 0.0)  # else a step decides
    bundle = ee.export(path, {"x": rows[:1]}, tmp_path / "q.ee", golden_inputs={"x": rows})
    assert bundle.manifest.golden is not None
    # What kernels for integers make of a sum in the middle is a processor's own matter; it may be what floats give.
    assert bundle.manifest.golden.tolerance == pytest.approx(max(1e-4, 4 * largest), rel=1e-3)


@pytest.mark.parametrize(("change", "expected"), [(0.0, 1e-4), (2e-5, 1e-4), (0.05, 0.2), (0.1, 0.4)])
def test_the_largest_change_of_any_row_and_output_counts_relative_to_values_above_1(
    change: float, expected: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def both(model: Any, names: list[str], rows: list[Any]) -> list[list[list[Array]]]:
        plain = [[np.full((1, 4), 0.5 if name.endswith("confidence") else 20.0) for name in names] for _ in rows]
        fused = [[array.copy() for array in of_row] for of_row in plain]
        fused[-1][names.index("y_logits")][0, 2] += 20 * change
        return [plain, fused]

    path = tmp_path / "n.onnx"
    rows = product(path, 0.03)
    monkeypatch.setattr(tolerances, "_step", lambda node: 0.0)
    monkeypatch.setattr(tolerances, "_both", both)
    told: list[str] = []
    bundle = ee.export(path, {"x": rows[:1]}, tmp_path / "q.ee", golden_inputs={"x": rows}, warn=told.append)
    assert bundle.manifest.golden is not None
    assert bundle.manifest.golden.tolerance == pytest.approx(expected)
    loose = [note for note in told if note.startswith("the golden samples agree to")]
    assert len(loose) == (expected > 0.1)


def test_a_tolerance_that_is_asked_for_is_the_bundles(tmp_path: Path) -> None:
    onnx.save(parser.parse_model(HEADER.format(type="float", body="{ y = Sin (x) }")), tmp_path / "n.onnx")
    bundle = ee.export(tmp_path / "n.onnx", ROWS[:1, :4], tmp_path / "n.ee", tolerance=0.25)
    assert bundle.manifest.golden is not None
    assert bundle.manifest.golden.tolerance == 0.25
    assert verify(bundle).tolerance == 0.25


@pytest.mark.parametrize("tolerance", [0, -1e-3, float("nan"), float("inf"), "0.1", True])
def test_a_tolerance_that_is_no_size_is_refused(tolerance: Any, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"tolerance is .*, expected a finite number above 0"):
        ee.export(tmp_path / "n.onnx", ROWS, tmp_path / "n.ee", tolerance=tolerance)


def test_a_proof_that_fails_by_little_says_what_tolerance_would_do(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        ee.export(half(3), ROWS[:1].astype(np.float16), tmp_path / "half.ee", tolerance=1e-9)
    text = str(caught.value)
    assert "more than 1e-09; nothing was written; if that is rounding, allow it with tolerance=" in text
    enough = float(text.rsplit(" ", 1)[1].rstrip(")"))
    assert ee.export(half(3), ROWS[:1].astype(np.float16), tmp_path / "half.ee", tolerance=enough).exits


def test_a_gate_that_half_precision_may_turn_is_a_tie(tmp_path: Path) -> None:
    """In half precision a rounding is a thousand times that of float32: noise must be as large to turn the gate."""
    body = (
        "<float[1] one = {1}, int64[1] axis = {1}> { limit = Cast <to = 10> (one)"
        " first = ReduceMean <keepdims = 1> (x, axis) open = GreaterOrEqual (first, limit)"
        " n = Neg (x) y = Where (open, x, n) }"
    )
    onnx.save(parser.parse_model(HEADER.format(type="float16", body=body)), tmp_path / "n.onnx")
    row = np.full((1, 4), 1 - 2**-11, np.float16)
    bundle = ee.export(tmp_path / "n.onnx", row, tmp_path / "n.ee", lower_control_flow="always")
    (sample,) = read_golden(bundle)
    turned = dataclasses.replace(sample, visits=(dataclasses.replace(sample.visits[0], outputs={"logits": row}),))
    report = verify(bundle, [turned])
    assert report.passed, report
    assert report.exits[0].ties == 1

"""What `export` tries before it believes that rows may run together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser

import eetoolkit as ee
from eetoolkit_runtime.arrays import Array

NETWORK = '<ir_version: 10, opset_import: ["" : 20]>\nnet (float[batch,4] x{inputs}) => (float[batch,4] y) {body}'


def export(folder: Path, body: str, example: Any, inputs: str = "", **options: Any) -> ee.Bundle:
    """Returns a network of ONNX text as a bundle."""
    onnx.save(parser.parse_model(NETWORK.format(inputs=inputs, body=body)), folder / "n.onnx")
    return ee.export(folder / "n.onnx", example, folder / "n.ee", lower_control_flow="always", **options)


def together_and_alone(bundle: ee.Bundle, rows: Array, shared: dict[str, Array]) -> None:
    with ee.Runner(bundle) as runner:
        for row, answer in zip(rows, runner.run_batch({"x": rows, **shared}), strict=True):
            alone = runner.run({"x": row[None], **shared})
            np.testing.assert_allclose(answer.outputs["logits"], alone.outputs["logits"], atol=1e-5)


ROW = np.array([[0.5, -1.0, 2.0, 0.25]], np.float32)
ROWS = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)


@pytest.mark.parametrize("shape", ["float", "float[1,4]"])
def test_rows_beside_an_input_that_all_share_run_together(shape: str, tmp_path: Path) -> None:
    shared = np.full((1, 4) if "4" in shape else (), 0.5, np.float32)
    bundle = export(tmp_path, "{ a = Sin (x) y = Mul (a, s) }", (ROW, shared), f", {shape} s")
    assert bundle.manifest.batch is None
    together_and_alone(bundle, ROWS, {"s": shared})


def test_golden_rows_beside_an_input_that_all_share_are_taken(tmp_path: Path) -> None:
    shared = np.full((1, 4), 0.5, np.float32)
    body, golden = "{ a = Sin (x) y = Mul (a, s) }", (ROWS[:5], shared)
    bundle = export(tmp_path, body, (ROW, shared), ", float[1,4] s", golden_inputs=golden)
    assert ee.verify(bundle).samples == 5


def test_integers_that_are_indices_are_left_as_they_are(tmp_path: Path) -> None:
    body = (
        "<int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] axis = {1}> {"
        " first = Slice (c, zero, one, axis) second = Slice (c, one, two, axis)"
        " small = Constant <value = float[2,4] {0, 1, 2, 3, 4, 5, 6, 7}> () large = Constant <value = float[3,4]"
        " {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}> () e0 = Gather (small, first) e1 = Gather (large, second)"
        " e = Add (e0, e1) f = Squeeze (e, axis) y = Add (x, f) }"
    )
    columns = np.array([[1, 2]], np.int64)
    bundle = export(tmp_path, body, (ROW, columns), ", int64[batch,2] c")
    assert bundle.manifest.batch is None


MIXED = {
    "a maximum over the rows": "<int64[1] rows = {0}> { t = ReduceMax (x, rows)",
    "what is not zero": "{ n = NonZero (x) p = Transpose (n) v = GatherND (x, p) t = ReduceMean <keepdims = 0> (v)",
    "a softmax over the rows": "{ t = Softmax <axis = 0> (x)",
    "every row with every other": "{ r = Transpose (x) k = MatMul (x, r) t = MatMul (k, x)",
}
GATE = """ zero = Constant <value = int64 {0}> () limit = Constant <value = float {%s}> ()
    last = Constant <value = int64[1] {1}> () first = Gather <axis = 1> (x, zero) open = Greater (first, limit)
    g = Unsqueeze (open, last) s = Sin (x) a = Add (s, t) y = Where (g, a, x) }"""


@pytest.mark.parametrize("seen", [True, False], ids=["samples come there", "no sample comes there"])
@pytest.mark.parametrize("what", MIXED)
def test_rows_that_affect_each_other_behind_a_gate_run_one_by_one(what: str, seen: bool, tmp_path: Path) -> None:
    bundle = export(tmp_path, MIXED[what] + GATE % ("0.1" if not seen else "-9"), ROW * (1 if seen else -1))
    assert bundle.manifest.batch == 1
    assert any("rows run one by one" in note for note in bundle.manifest.notes)
    together_and_alone(bundle, ROWS, {})


def test_rows_that_do_not_affect_each_other_run_together_also_where_no_sample_comes(tmp_path: Path) -> None:
    body = "{ e = Exp (x) m = Constant <value = int64[1] {1}> () r = ReduceMax (e, m) t = Softmax (r)" + GATE % "0.1"
    bundle = export(tmp_path, body, -ROW)
    assert bundle.manifest.batch is None
    together_and_alone(bundle, ROWS, {})


def test_what_is_allowed_and_may_be_a_mistake_is_noted(tmp_path: Path) -> None:
    text = NETWORK.format(inputs="", body="{ y = Sin (x) }").replace("y) {", "y, float[batch,3] z) {")
    text = text.replace(
        "y = Sin (x)", "y = Sin (x) w = Constant <value = float[4,3] {1,2,3,4,5,6,7,8,9,0,1,2}> () z = MatMul (y, w)"
    )
    onnx.save(parser.parse_model(text), tmp_path / "n.onnx")
    bundle = ee.export(tmp_path / "n.onnx", ROW, tmp_path / "n.ee", threshold={"y": 2})
    assert bundle.manifest.notes == (
        "exit 'y' never fires: its threshold is 2, and max_prob is at most 0.711235",  # e^2 / (e^2 + 3)
        "'logits' of exit 'y' has the shape [batch,4], of the last [batch,3]",
    )

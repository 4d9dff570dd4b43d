"""Operators of other domains than ONNX's on both sides of a cut: what onnxruntime says of their values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import eetoolkit as ee
from eetoolkit_exporters.capturing.capture import Network, capture
from eetoolkit_exporters.capturing.onnx_source import OnnxSource
from eetoolkit_runtime.arrays import Array

DRAW = np.random.default_rng(0)
ROWS = DRAW.normal(size=(6, 4)).astype(np.float32)
WEIGHTS = {
    name: DRAW.normal(size=size).astype(np.float32) for name, size in {"A": (4, 4), "B": (4, 3), "C": (4, 3)}.items()
}


def microsoft(op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, outputs, domain="com.microsoft", **attributes)


def saved(
    folder: Path, nodes: list[onnx.NodeProto], more: dict[str, Array] | None = None, batch: str | int = "N"
) -> Path:
    """Returns a file of the nodes, from x (batch, 4) to the exits `early` and `late`, (batch, 3)."""
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 3]) for name in ("early", "late")],
        [numpy_helper.from_array(array, name) for name, array in (WEIGHTS | (more or {})).items()],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=9), folder / "net.onnx")
    return folder / "net.onnx"


def same_as_whole(path: Path, bundle: ee.Bundle, atol: float = 1e-5) -> None:
    """Every exit of the bundle gives what one session of the whole file gives, alone and in a batch."""
    outputs = dict(zip(("early", "late"), ort.InferenceSession(path).run(["early", "late"], {"x": ROWS}), strict=True))
    with ee.Runner(bundle, threads=1) as runner:
        for exit_, expected in outputs.items():
            for n, answer in enumerate(runner.run_batch(ROWS, exit_at=exit_)):
                np.testing.assert_allclose(answer.outputs["logits"], expected[n : n + 1], atol=atol)
                np.testing.assert_allclose(
                    runner.run(ROWS[n : n + 1], exit_at=exit_).outputs["logits"], expected[n : n + 1], atol=atol
                )


def values_of(path: Path) -> Network:
    names = ("early", "late")
    return capture(OnnxSource(path, ROWS[:1]), {name: {"logits": name} for name in names})


BEHIND = [helper.make_node("MatMul", ["g", "B"], ["early"]), helper.make_node("MatMul", ["g", "C"], ["late"])]
CUTS: dict[str, tuple[list[onnx.NodeProto], dict[str, Array]]] = {
    "a fused product": ([microsoft("FusedMatMul", ["x", "A"], ["h"]), helper.make_node("Relu", ["h"], ["g"])], {}),
    "what onnxruntime infers no shape of": (
        [microsoft("CDist", ["x", "A"], ["h"], metric="euclidean"), helper.make_node("Exp", ["h"], ["g"])], {},
    ),
    "a shape that is computed": (
        [
            microsoft("Gelu", ["x"], ["h"]), helper.make_node("Shape", ["h"], ["s"]),
            microsoft("CDist", ["h", "A"], ["d"], metric="sqeuclidean"), helper.make_node("Reshape", ["d", "s"], ["g"]),
        ],
        {},
    ),
    "bytes": (
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            microsoft("QLinearAdd", ["q", "scale", "zero", "q", "scale", "zero", "scale", "zero"], ["sum"]),
            helper.make_node("DequantizeLinear", ["sum", "scale", "zero"], ["g"]),
        ],
        {"scale": np.float32(0.05), "zero": np.uint8(128)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", CUTS)
def test_a_cut_behind_an_operator_of_onnxruntimes_own_is_as_the_whole_network(what: str, tmp_path: Path) -> None:
    nodes, more = CUTS[what]
    path = saved(tmp_path, [*nodes, *BEHIND], more)
    known = {str(value.name): value for node in values_of(path).graph for value in node.outputs}
    assert all(value.dtype is not None for value in known.values())
    assert [str(dim) for dim in known["g"].shape or ()] == ["batch", "4"]
    bundle = ee.export(path, ROWS[:1], tmp_path / "net.ee", golden_inputs=ROWS)
    crossing = bundle.manifest.slots["sum" if what == "bytes" else "g"]  # a cut lies before a DequantizeLinear
    assert crossing.shape == ("batch", 4)
    assert bundle.manifest.batch is None
    same_as_whole(path, bundle)


def test_bytes_that_cross_stay_bytes(tmp_path: Path) -> None:
    nodes, more = CUTS["bytes"]
    dequantised = [helper.make_node("DequantizeLinear", ["sum", "scale", "zero"], [name]) for name in ("g0", "g1")]
    heads = [helper.make_node("MatMul", ["g0", "B"], ["early"]), helper.make_node("MatMul", ["g1", "C"], ["late"])]
    path = saved(tmp_path, [*nodes[:2], *dequantised, *heads], more)
    bundle = ee.export(path, ROWS[:1], tmp_path / "net.ee", golden_inputs=ROWS)
    assert {slot.dtype for name, slot in bundle.manifest.slots.items() if name == "sum"} == {"uint8"}
    same_as_whole(path, bundle)


def test_a_branch_may_hold_operators_of_onnxruntimes_own(tmp_path: Path) -> None:
    def branch(name: str, weight: str) -> onnx.GraphProto:
        nodes = [
            microsoft("FusedMatMul", ["x", weight], [f"{name}_h"]), microsoft("Gelu", [f"{name}_h"], [f"{name}_y"]),
        ]  # fmt: skip
        return helper.make_graph(
            nodes, name, [], [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, ["N", 4])]
        )

    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        helper.make_node("Greater", ["mean", "zero"], ["open"]),
        helper.make_node("If", ["open"], ["g"], then_branch=branch("then", "A"), else_branch=branch("other", "A")),
        *BEHIND,
    ]
    path = saved(tmp_path, nodes, {"zero": np.float32(0)}, batch=1)
    known = {str(value.name): value for node in values_of(path).graph.all_nodes() for value in node.outputs}
    assert [str(dim) for dim in known["then_h"].shape or ()] == ["1", "4"]
    bundle = ee.export(path, ROWS[:1], tmp_path / "net.ee", golden_inputs=ROWS[:4], lower_control_flow="always")
    assert sum(segment.model is not None for segment in bundle.manifest.segments.values()) > 2
    session = ort.InferenceSession(path)
    with ee.Runner(bundle, threads=1) as runner:
        for row in ROWS:
            (late,) = session.run(["late"], {"x": row[None]})
            np.testing.assert_allclose(runner.run(row[None], exit_at="late").outputs["logits"], late, atol=1e-5)


def test_every_segment_imports_the_domains_of_its_operators(tmp_path: Path) -> None:
    nodes = [
        microsoft("FusedMatMul", ["x", "A"], ["h"]), helper.make_node("Relu", ["h"], ["g"]), BEHIND[0],
        microsoft("FusedMatMul", ["g", "C"], ["late"], alpha=2.0),
    ]  # fmt: skip
    bundle = ee.export(saved(tmp_path, nodes), ROWS[:1], tmp_path / "net.ee")
    for segment in bundle.manifest.segments.values():
        model = onnx.load(bundle.path / str(segment.model), load_external_data=False)
        assert {(each.domain, each.version) for each in model.opset_import} == {("", 17), ("com.microsoft", 1)}
        assert segment.work is not None
        assert segment.work.multiply_adds is None  # a product of another domain is not counted, and not 0

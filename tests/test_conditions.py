"""Conditions of one element and any number of dimensions decide like a single value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import eetoolkit as ee

WIDTH = 3


def branch(name: str, operator: str) -> onnx.GraphProto:
    """Returns a branch that applies an operator to x."""
    result = helper.make_tensor_value_info(f"of_{name}", TensorProto.FLOAT, [1, WIDTH])
    return helper.make_graph([helper.make_node(operator, ["x"], [f"of_{name}"])], name, [], [result])


def if_of(shape: list[int]) -> list[onnx.NodeProto]:
    """Returns y = exp(x) where the sum of x is above 0, else -x, by a condition of this shape."""
    node = helper.make_node
    return [
        node("ReduceSum", ["x"], ["sum"], keepdims=0),
        node("Greater", ["sum", "zero"], ["above"]),
        node("Reshape", ["above", "shape"], ["c"]),
        node("If", ["c"], ["y"], then_branch=branch("then", "Exp"), else_branch=branch("else", "Neg")),
    ]


def loop_of(shape: list[int]) -> list[onnx.NodeProto]:
    """Returns y = x, doubled until its sum is 10 or more, at most four times, by a condition of this shape."""
    node, info = helper.make_node, helper.make_tensor_value_info
    body = helper.make_graph(
        [
            node("Add", ["state", "state"], ["doubled"]),
            node("ReduceSum", ["doubled"], ["total"], keepdims=0),
            node("Less", ["total", "ten"], ["below"]),
            node("Reshape", ["below", "shape"], ["go_on"]),
        ],
        "body",
        [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, shape), info("state", TensorProto.FLOAT, None)],
        [info("go_on", TensorProto.BOOL, shape), info("doubled", TensorProto.FLOAT, [1, WIDTH])],
    )
    return [
        node("ReduceSum", ["x"], ["sum"], keepdims=0),
        node("Less", ["sum", "ten"], ["small"]),
        node("Reshape", ["small", "shape"], ["c"]),
        node("Loop", ["four", "c", "x"], ["y"], body=body),
    ]


@pytest.mark.parametrize("shape", [[1, 1], [1], [1, 1, 1]], ids=str)
@pytest.mark.parametrize("build", [if_of, loop_of])
def test_one_element_of_any_rank_decides(build: object, shape: list[int], tmp_path: Path) -> None:
    nodes = if_of(shape) if build is if_of else loop_of(shape)
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "network",
        [info("x", TensorProto.FLOAT, [1, WIDTH])],
        [info("y", TensorProto.FLOAT, [1, WIDTH])],
        [
            numpy_helper.from_array(np.array(value), name)
            for name, value in {
                "zero": np.float32(0), "ten": np.float32(10), "four": np.int64(4), "shape": np.int64(shape),
            }.items()
        ],
    )  # fmt: skip
    path = tmp_path / "network.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    whole = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    bundle = ee.export(path, np.ones((1, WIDTH), np.float32), tmp_path / "n.ee", lower_control_flow="always")
    assert any("is lowered" in note for note in bundle.manifest.notes)
    with ee.Runner(bundle) as runner:
        for scale in (-1.0, 0.3, 1.0, 20.0):
            x = np.full((1, WIDTH), scale, np.float32)
            np.testing.assert_allclose(runner.run(x).outputs["logits"], whole.run(["y"], {"x": x})[0], rtol=1e-6)

"""Dimensions of foreign files: whatever they are called, they are told apart, and the rows are `batch`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import eetoolkit as ee
from eetoolkit_exporters.capturing.file_symbols import name_symbols
from eetoolkit_exporters.capturing.onnx_source import OnnxSource
from eetoolkit_exporters.capturing.symbols import safe

Inputs = dict[str, tuple[list[Any], tuple[int, ...]]]
"""For each input its dimensions in the file, and the shape of the example."""


def symbols(folder: Path, nodes: list[onnx.NodeProto], inputs: Inputs, result: list[Any]) -> dict[str, list[Any]]:
    """Returns the shapes of a file's inputs after `name_symbols`."""
    source = OnnxSource(
        save(folder, nodes, inputs, result), {name: np.ones(e, "f4") for name, (_, e) in inputs.items()}
    )
    model = ir.load(source.path)
    name_symbols(model, source)
    return {str(value.name): list(value.shape or ()) for value in model.graph.inputs}


def save(folder: Path, nodes: list[onnx.NodeProto], inputs: Inputs, result: list[Any]) -> Path:
    """Writes a file that gives y."""
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, (dims, _) in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, result)],
        [numpy_helper.from_array(np.eye(4, 3, dtype=np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "m.onnx")
    return folder / "m.onnx"


MEAN = [
    helper.make_node("ReduceMean", ["x"], ["m"], axes=[1], keepdims=0),
    helper.make_node("MatMul", ["m", "w"], ["y"]),
]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("seq len", "seq_len"), ("N/2", "N_over_2"), ("a+b", "a_plus_b"), ("2*n", "size_2_times_n"),
        ("p2o.DynamicDimension.1", "p2o_DynamicDimension_1"), ("unk__12", "unk__12"), ("1st", "size_1st"),
        ("[B]", "B"), ("batch:0", "batch_0"), ("dim-1", "dim_1"), ("?x", "x"), ("\u6642\u9593", "\u6642\u9593"),
        ("floor(n / 2)", "floor_n_over_2"),
    ],
)  # fmt: skip
def test_names_are_safe_and_readable(name: str, expected: str) -> None:
    assert safe(name) == expected


@pytest.mark.parametrize("name", ["?", "-1", "None", "", "-", "*", "unk", -1, None])
def test_what_names_nothing_is_called_by_its_place(name: Any, tmp_path: Path) -> None:
    found = symbols(tmp_path, MEAN, {"x": ([name, name, 4], (1, 5, 4))}, [None, 3])
    assert found == {"x": ["batch", "x_1", 4]}


def test_names_that_become_alike_stay_apart(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceSum", ["z"], ["s"], keepdims=0),
        *MEAN[:1],
        helper.make_node("Add", ["m", "s"], ["y"]),
    ]
    inputs: Inputs = {"x": (["N", "seq len", 4], (1, 5, 4)), "z": (["seq_len", "seq.len"], (2, 3))}
    assert symbols(tmp_path, nodes, inputs, ["N", 4]) == {"x": ["batch", "seq_len", 4], "z": ["seq_len_2", "seq_len_3"]}


def test_a_file_of_any_such_name_answers_as_onnxruntime_does(tmp_path: Path) -> None:
    inputs: Inputs = {"x": (["batch:0", "N/2", 4], (1, 5, 4))}
    source = OnnxSource(save(tmp_path, MEAN, inputs, ["batch:0", 3]), np.ones((1, 5, 4), np.float32))
    bundle = ee.export(source.path, np.ones((1, 5, 4), np.float32), tmp_path / "m.ee")
    x = np.random.default_rng(0).standard_normal((3, 2, 4)).astype(np.float32)
    with ee.Runner(bundle) as runner:
        found = np.concatenate([answer.outputs["logits"] for answer in runner.run_batch(x)])
    np.testing.assert_allclose(found, source.run({"x": x})["y"], atol=1e-5)
    assert bundle.manifest.inputs[0].shape == ("batch", "N_over_2", 4)


_N = helper.make_node
STEPS_FIRST = [_N("ReduceMean", ["x"], ["m"], axes=[0], keepdims=0), MEAN[1]]
TABLE = [MEAN[0], _N("ReduceSum", ["h"], ["s"], keepdims=0), _N("Add", ["m", "s"], ["y"])]
STATE = [_N("Constant", [], ["k"], value_ints=[0]), MEAN[0], _N("ReduceSum", ["h", "k"], ["s"], keepdims=0), TABLE[2]]


@pytest.mark.parametrize(
    ("nodes", "inputs", "expected"),
    [
        (MEAN, {"x": (["batch", "T", 4], (1, 5, 4))}, {"x": ["batch", "T", 4]}),
        (STEPS_FIRST, {"x": (["T", "Batch_Size", 4], (5, 1, 4))}, {"x": ["T", "batch", 4]}),
        (STEPS_FIRST, {"x": (["T", "N", 4], (5, 1, 4))}, {"x": ["T", "batch", 4]}),
        (STATE, {"x": (["N", "T", 4], (1, 5, 4)), "h": (["layers", "N", 4], (2, 1, 4))},
         {"x": ["batch", "T", 4], "h": ["layers", "batch", 4]}),
        (TABLE, {"x": (["N", "T", 4], (1, 5, 4)), "h": (["entries", 2], (3, 2))},
         {"x": ["batch", "T", 4], "h": ["entries", 2]}),
    ],
    ids=["named", "named elsewhere", "seen elsewhere", "of a state", "not of a table"],
)  # fmt: skip
def test_rows_are_found(
    nodes: list[onnx.NodeProto], inputs: Inputs, expected: dict[str, list[Any]], tmp_path: Path
) -> None:
    assert symbols(tmp_path, nodes, inputs, [None, None]) == expected

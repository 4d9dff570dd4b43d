"""A network whose exits are its inputs, judged: in onnxruntime, and by the reference in numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import TensorProto, helper

from eetoolkit_exporters.capturing.capture import Network, capture
from eetoolkit_exporters.capturing.onnx_source import OnnxSource
from eetoolkit_exporters.criteria.confidences import add_confidences
from eetoolkit_exporters.criteria.reference import exit_answer
from eetoolkit_exporters.criteria.resolve import choose_criteria
from eetoolkit_exporters.emitting.graphs import whole_model
from networks.case import Array

Shape = tuple[int | str, ...]
Outputs = dict[str, Array]
Found = list[tuple[Outputs, Array]]
"""For each exit its outputs and its confidence."""

TOLERANCE = 1e-6

_TYPES = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE, "float16": TensorProto.FLOAT16}


def network_of(folder: Path, shapes: list[dict[str, Shape]], opset: int = 20, dtype: str = "float32") -> Network:
    """Returns a network whose exits have outputs of these shapes, each of them an input of its own."""
    names = [
        (f"exit{number}", output, shape) for number, outputs in enumerate(shapes) for output, shape in outputs.items()
    ]
    graph = helper.make_graph(
        [helper.make_node("Identity", [f"{exit_}_{output}_in"], [f"{exit_}.{output}"]) for exit_, output, _ in names],
        "given",
        [helper.make_tensor_value_info(f"{exit_}_{output}_in", _TYPES[dtype], shape) for exit_, output, shape in names],
        [helper.make_tensor_value_info(f"{exit_}.{output}", _TYPES[dtype], shape) for exit_, output, shape in names],
    )
    path = folder / "given.onnx"
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    example = {
        f"{exit_}_{output}_in": np.zeros([size if isinstance(size, int) else 2 for size in shape], dtype)
        for exit_, output, shape in names
    }
    exits = {
        f"exit{number}": {output: f"exit{number}.{output}" for output in outputs}
        for number, outputs in enumerate(shapes)
    }
    return capture(OnnxSource(path, example), exits)


def in_onnx(network: Network, given: list[Outputs], criterion: Any) -> Found:
    """Returns what the judged graph gives in onnxruntime, all rows of it in one batch."""
    chosen = choose_criteria(network.exits, criterion)
    add_confidences(network, chosen)
    model = whole_model(network)
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {f"exit{n}_{name}_in": array for n, outputs in enumerate(given) for name, array in outputs.items()}
    feeds = {value.name: feeds[value.name] for value in session.get_inputs()}
    names = [value.name for value in session.get_outputs()]
    found = dict(zip(names, session.run(names, feeds), strict=True))
    return [
        ({name: found[f"{exit_.name}_{name}"] for name in exit_.outputs}, found[f"{exit_.name}_confidence"])
        for exit_ in network.exits
    ]


def in_numpy(network: Network, given: list[Outputs], criterion: Any) -> Found:
    """Returns what the reference says; call it before `in_onnx`, which gives exits other outputs."""
    chosen = choose_criteria(network.exits, criterion)
    seen = [(outputs, chosen[exit_.name]) for exit_, outputs in zip(network.exits, given, strict=True)]
    answers = [exit_answer(seen[: count + 1]) for count in range(len(seen))]
    return [(answer.outputs, answer.confidence) for answer in answers]


def assert_alike(found: Found, expected: Found, tolerance: float = TOLERANCE) -> None:
    """Confidences and outputs agree, NaN with NaN."""
    for number, ((outputs, confidence), (answers, expected_confidence)) in enumerate(zip(found, expected, strict=True)):
        assert confidence.shape == expected_confidence.shape == (len(expected_confidence),)
        np.testing.assert_allclose(
            confidence, expected_confidence, rtol=0, atol=tolerance, equal_nan=True, err_msg=f"exit {number}"
        )
        assert set(outputs) == set(answers)
        for name, answer in answers.items():
            np.testing.assert_allclose(outputs[name], answer, rtol=2e-6, atol=5e-6, equal_nan=True, err_msg=name)

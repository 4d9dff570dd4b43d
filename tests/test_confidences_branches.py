"""Exits inside a branch: their criteria are computed where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from networks.judged import TOLERANCE, in_numpy

from eetoolkit_exporters.capturing.capture import Network, NetworkExit, capture
from eetoolkit_exporters.capturing.onnx_source import OnnxSource
from eetoolkit_exporters.criteria.confidences import add_confidences
from eetoolkit_exporters.criteria.resolve import choose_criteria
from eetoolkit_exporters.emitting.graphs import whole_model
from eetoolkit_runtime.errors import ExportError
from eetoolkit_runtime.plan.criteria import KINDS
from eetoolkit_runtime.plan.types import Criterion

_BRANCH = """
<ir_version: 8, opset_import: ["" : {opset}]>
given (float[batch, 5] x, bool go) => (float[batch] y) {{
    y = If (go) <
        then_branch = yes () => (float[batch] a) {{
            two = Constant <value = float {{2.0}}> ()
            z = Mul (x, two)
            a = ReduceMax <axes = [1], keepdims = 0> (z)
        }},
        else_branch = no () => (float[batch] b) {{ b = ReduceMin <axes = [1], keepdims = 0> (x) }}
    >
}}
"""


def branching(folder: Path, opset: int = 17) -> tuple[Network, ir.Node]:
    """Returns a network with an exit inside a branch, and the `If`."""
    path = folder / "branch.onnx"
    onnx.save_model(onnx.parser.parse_model(_BRANCH.format(opset=opset)), path)
    example = {"x": np.zeros((2, 5), np.float32), "go": np.array(True)}
    network = capture(OnnxSource(path, example), {"last": {"logits": "y"}})
    branch = next(node for node in network.graph if node.op_type == "If")
    product = next(node for node in branch.attributes["then_branch"].as_graph() if node.op_type == "Mul")
    product.outputs[0].type, product.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["batch", 5])
    network.exits[:] = [NetworkExit("inner", {"logits": product.outputs[0]})]
    return network, branch


def above_mean(logits: torch.Tensor) -> torch.Tensor:
    """Returns a custom confidence."""
    return torch.tanh(logits.amax(1) - logits.mean(1))


MEMBERS = (Criterion(kind="margin", threshold=0.1), Criterion(kind="custom", function=above_mean))


@pytest.mark.parametrize(
    "spec",
    ["max_prob", "entropy", "margin", above_mean, Criterion(kind="all_of", members=MEMBERS)],
    ids=["max_prob", "entropy", "margin", "custom", "all_of"],
)
def test_an_exit_inside_a_branch_is_judged_inside_it(spec: Any, tmp_path: Path) -> None:
    network, branch = branching(tmp_path)
    x = np.random.default_rng(0).normal(0, 1, (6, 5)).astype(np.float32)
    (_, expected), *_ = in_numpy(network, [{"logits": 2 * x}], spec)
    named = add_confidences(network, choose_criteria(network.exits, spec))
    inner = branch.attributes["then_branch"].as_graph()
    confidence = network.exits[0].confidence
    assert confidence is not None
    assert confidence.graph is inner
    assert not inner.initializers
    assert {str(value.name) for value in network.graph.inputs} >= {name for _, name in named["inner"].named_constants()}
    inner.outputs[:] = [confidence]  # to look at it from outside
    network.exits[:] = [NetworkExit("last", {"y": branch.outputs[0]})]
    session = ort.InferenceSession(ir.to_proto(whole_model(network)).SerializeToString())
    (found,) = session.run(None, {"x": x, "go": np.array(True)})
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


@pytest.mark.parametrize("kind", sorted(kind for kind, its in KINDS.items() if its.stateful))
def test_state_is_refused_inside_a_branch(kind: str, tmp_path: Path) -> None:
    network, _ = branching(tmp_path)
    with pytest.raises(ExportError, match=f"exit 'inner': {kind} runs over all exits so far, and it lies inside"):
        add_confidences(network, choose_criteria(network.exits, kind))


def test_state_is_refused_after_an_exit_inside_a_branch(tmp_path: Path) -> None:
    network, branch = branching(tmp_path)
    last = branch.outputs[0]
    last.shape = ir.Shape(["batch", 5])
    network.exits.append(NetworkExit("last", {"logits": last}))
    with pytest.raises(ExportError, match="exit 'last': vote runs over all exits so far, and 'inner' lies inside"):
        add_confidences(network, choose_criteria(network.exits, {"last": "vote"}))

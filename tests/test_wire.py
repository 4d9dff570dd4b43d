"""Outputs taken out of a graph: what only they need goes, and the rest computes what it did."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import parser

from eetoolkit_runtime.profiling.wire import without_outputs

MODEL = parser.parse_model("""<ir_version: 9, opset_import: ["" : 18]>
g (float[1,4] x, bool c) => (float[1,4] y, float[1,4] sure, float[1,4] label) {
    shared = Exp(x)
    captured = Neg(x)
    y = If(c) <then_branch = t () => (float[1,4] a) { b = Abs(captured)  a = Add(b, shared) },
               else_branch = e () => (float[1,4] shared2) { shared2 = Identity(shared) }>
    half = Tanh(shared)
    sure = Softmax<axis = 1>(half)
    label = Floor(half)
}""")


def run(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    feeds = {"x": np.arange(4, dtype=np.float32)[None], "c": np.array(True)}
    return dict(zip(names, session.run(None, feeds), strict=True))


@pytest.mark.parametrize(
    ("outputs", "left"),
    [
        ({"sure"}, ["Exp", "Neg", "If", "Tanh", "Floor"]),
        ({"sure", "label"}, ["Exp", "Neg", "If"]),
        ({"y"}, ["Exp", "Tanh", "Softmax", "Floor"]),
        ({"y", "label"}, ["Exp", "Tanh", "Softmax"]),
    ],
)
def test_what_only_the_outputs_need_goes(outputs: set[str], left: list[str]) -> None:
    text, removed = without_outputs(MODEL.SerializeToString(), outputs)
    model = onnx.load_model_from_string(text)
    assert [node.op_type for node in model.graph.node] == left
    assert removed == len(MODEL.graph.node) - len(left)
    onnx.checker.check_model(model)
    whole, found = run(MODEL), run(model)
    assert found.keys() == whole.keys() - outputs
    for name, array in found.items():
        np.testing.assert_array_equal(array, whole[name])


def test_without_outputs_to_take_out_the_model_stays_as_it_is() -> None:
    text = MODEL.SerializeToString()
    assert without_outputs(text, ()) == (text, 0)


@pytest.mark.parametrize("text", [b"\x07", b"\x3a\x05ab", b"\xff\xff\xff"])
def test_what_is_no_model_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="not an ONNX model"):
        without_outputs(text, ())

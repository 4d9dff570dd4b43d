"""Outputs taken out of a graph: what only they need goes, and the rest computes what it did."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from google.protobuf.message import Message
from onnx import helper, numpy_helper, parser

from eetoolkit_runtime.files.wire import external_files, without_outputs

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


# Which files a model maps


def outside(tensor: onnx.TensorProto, *entries: tuple[str, str]) -> onnx.TensorProto:
    """Returns the tensor, its bytes in a file."""
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in entries:
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor


def tensor(name: str, file: str) -> onnx.TensorProto:
    entries = (("offset", "0"), ("location", file), ("length", "4"))
    return outside(numpy_helper.from_array(np.zeros(1, np.float32), name), *entries)


def everywhere() -> onnx.ModelProto:
    """Returns a model with a tensor in a file of its own in every place where `onnx.proto` has one."""
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=tensor("", "of a constant in a branch"))],
        "branch", [], [], [tensor("w", "of a branch")],
    )  # fmt: skip
    sparse = onnx.SparseTensorProto(
        values=tensor("v", "sparse values"), indices=tensor("i", "sparse indices"), dims=[1]
    )
    nodes = [
        helper.make_node("If", ["x"], ["y"], then_branch=inner),
        helper.make_node("Custom", [], ["z"], tensors=[tensor("", "of a list")], graphs=[inner], sparse=sparse),
        helper.make_node("Custom", [], ["q"], name="location", doc="location"),
    ]
    graph = helper.make_graph(
        nodes, "location", [], [], [tensor("w", "w.bin"), tensor("v", "v.bin")], sparse_initializer=[sparse]
    )
    function = helper.make_function(
        "d", "f", [], [], [helper.make_node("C", [], ["y"], t=tensor("", "of a function"))], []
    )
    return helper.make_model(graph, functions=[function])


def test_files_are_found_wherever_a_model_has_a_tensor() -> None:
    expected: set[str] = set()

    def visit(message: Message) -> None:
        if isinstance(message, onnx.TensorProto):
            expected.update(entry.value for entry in message.external_data if entry.key == "location")
        for field, value in message.ListFields():
            if field.message_type is not None:
                for one in value if field.is_repeated else [value]:
                    visit(one)

    model = everywhere()
    visit(model)
    assert len(expected) == 8
    assert external_files(model.SerializeToString()) == expected


def test_a_model_of_one_file_maps_none() -> None:
    assert external_files(MODEL.SerializeToString()) == set()


def test_of_a_key_that_stands_twice_the_last_value_counts_as_for_protobuf() -> None:
    twice = b"\x0a\x08location\x12\x04good\x12\x04evil"
    assert onnx.StringStringEntryProto.FromString(twice).value == "evil"
    model = onnx.ModelProto()
    one = onnx.TensorProto(name="w", data_location=onnx.TensorProto.EXTERNAL)
    raw = one.SerializeToString() + b"\x6a" + bytes([len(twice)]) + twice
    model.graph.initializer.append(onnx.TensorProto.FromString(raw))
    text = model.SerializeToString()
    hand = b"\x3a" + bytes([2 + len(raw)]) + b"\x2a" + bytes([len(raw)]) + raw
    assert external_files(text) == external_files(hand) == {"evil"}


@pytest.mark.parametrize("text", [b"\xff", b"not a model", b"\x3a\x05abc", b"\x3a\xff\xff\xff\xff"])
def test_what_is_no_model_maps_nothing_that_could_be_told(text: bytes) -> None:
    with pytest.raises(ValueError, match="not an ONNX model"):
        external_files(text)


@pytest.mark.parametrize("size", [11, 100_000])
def test_a_number_without_end_is_no_model_and_is_not_read_to_its_end(size: int) -> None:
    with pytest.raises(ValueError, match="a number of over 10 bytes"):
        external_files(b"\xff" * size)

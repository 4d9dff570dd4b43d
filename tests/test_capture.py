"""What cannot become a bundle is refused in one line that says what, got, expected and the fix; nothing is written."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from networks.case import Array, seeded
from networks.files import scikit_learn
from networks.forms import AsDict, Detector, Layers, Mixed, Single
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

import eetoolkit as ee
from eetoolkit_runtime.plan.types import Criterion

Refuse = Callable[..., str]

LONGEST = 500

ROWS = np.random.default_rng(0).normal(0, 1, (2, 64)).astype(np.float32)
IMAGES = np.random.default_rng(0).normal(0, 1, (2, 1, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a bundle that is in place before the export that is refused."""
    return ee.export(module(Single), ROWS, tmp_path_factory.mktemp("kept") / "kept.ee").path


@pytest.fixture
def refuse(bundle: Path, tmp_path: Path) -> Refuse:
    """Returns what gives the text of the error of an export over an existing bundle, which must stay as it is."""

    def refused(model: Any, example: Any = ROWS, **options: Any) -> str:
        folder = tmp_path / "bundles"
        shutil.copytree(bundle, folder / "kept.ee")
        with pytest.raises(ee.ExportError) as caught:
            ee.export(model, example, folder / "kept.ee", overwrite=True, **options)
        assert _contents(folder) == {f"kept.ee/{name}": data for name, data in _contents(bundle).items()}
        text = str(caught.value).replace(str(tmp_path), "FOLDER")
        assert caught.type is ee.ExportError
        assert "\n" not in text
        assert len(text) <= LONGEST
        return text

    return refused


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def module(kind: type[nn.Module]) -> nn.Module:
    """Returns the module with seeded weights, in evaluation mode."""
    return seeded(kind)(Path())


def says(text: str, *parts: str) -> bool:
    """Returns whether a message has all the parts, in this order."""
    return re.search(".*".join(map(re.escape, parts)), text) is not None


def returning(forward: Callable[[Layers, Tensor], Any]) -> nn.Module:
    """Returns a network over x whose `forward` is the function."""

    class Network(Layers):
        def forward(self, x: Tensor) -> Any:
            return forward(self, x)

    return module(Network)


# What is not a network that can be exported.


def test_training_mode_is_refused(refuse: Refuse) -> None:
    assert refuse(module(AsDict).train()) == (
        "the network is in training mode (AsDict, layers, layers.0, ...): call model.eval() first (--weights does)"
    )


def test_a_part_in_training_mode_is_refused(refuse: Refuse) -> None:
    network = module(AsDict)
    network.layers[1].train()
    assert refuse(network) == "the network is in training mode (layers.1): call model.eval() first (--weights does)"


def test_a_program_of_torch_is_in_training_mode_where_its_operators_are(refuse: Refuse, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 3))
    rows = torch.rand(3, 6)
    program = torch.export.export(network, (rows,)).module()
    assert refuse(program) == (
        "the network is in training mode (batch_norm, dropout): call model.eval() before torch.export.export"
    )
    program = torch.export.export(network.eval(), (rows,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    assert program.training  # a flag that nothing reads, and that eval() does not change
    assert len(ee.export(program, rows[:1], tmp_path / "program.ee").exits) == 1


def test_a_thing_that_is_no_model_is_refused(refuse: Refuse) -> None:
    assert refuse(3) == "model is int, expected a torch.nn.Module, the path of an .onnx file, or a list"


def test_an_empty_cascade_is_refused(refuse: Refuse) -> None:
    assert refuse([]) == "the cascade is empty: pass at least one model"


def test_the_stage_of_a_cascade_that_is_at_fault_is_named(refuse: Refuse) -> None:
    assert refuse([module(AsDict), module(Single).train()]) == (
        "stage 1 of the cascade: the network is in training mode (Single, layers, layers.0, ...): call model.eval() "
        "first (--weights does)"
    )


# What is random.


def test_noise_that_is_left_in_evaluation_is_refused(refuse: Refuse) -> None:
    network = returning(lambda net, x: net.heads[0](net.layers[0](x + torch.rand_like(x))))
    assert refuse(network) == (
        "the network draws random numbers in evaluation (RandomUniformLike); an export must be deterministic: replace "
        "the sampling by its decision (argmax, p > 0.5)"
    )


def test_sampling_that_is_left_in_evaluation_is_refused(refuse: Refuse) -> None:
    network = returning(lambda net, x: net.heads[0](torch.bernoulli(net.layers[0](x).sigmoid())))
    assert refuse(network).startswith("the network draws random numbers in evaluation (Bernoulli); ")


def test_dropout_that_is_never_switched_off_is_refused(refuse: Refuse) -> None:
    network = returning(lambda net, x: net.heads[0](functional.dropout(net.layers[0](x))))
    assert says(refuse(network), "exit0", "random", "dropout", "deterministic")


@pytest.mark.parametrize("operator", ["RandomNormal", "RandomUniform"])
def test_a_random_operator_in_a_file_is_refused(operator: str, refuse: Refuse, tmp_path: Path) -> None:
    random = helper.make_node(operator, [], ["noise"], shape=[1, 5])
    path = save(tmp_path, [PRODUCT, random, helper.make_node("Add", ["product", "noise"], ["a"])])
    assert refuse(path).startswith(f"the network draws random numbers in evaluation ({operator}); ")


def test_a_dropout_in_training_mode_in_a_file_is_refused(refuse: Refuse, tmp_path: Path) -> None:
    yes = numpy_helper.from_array(np.array(True), "yes")
    path = save(tmp_path, [PRODUCT, helper.make_node("Dropout", ["product", "", "yes"], ["a"])], weights=[yes])
    assert says(refuse(path), "'a'", "random", "deterministic")


def test_a_state_that_changes_from_call_to_call_is_refused(refuse: Refuse) -> None:
    class Counting(Layers):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.logits(x)[0] * self.calls

    assert says(refuse(module(Counting)), "exit0", "state", "deterministic")


# What is not an exit.


@pytest.mark.parametrize("nothing", [(), [], {}, (None, None)], ids=str)
def test_a_network_without_an_exit_is_refused(nothing: Any, refuse: Refuse) -> None:
    assert refuse(returning(lambda net, x: nothing)) == (
        "the network has no exit: its outputs are its exits, and it returned no tensor"
    )


def test_a_forward_that_returns_nothing_is_refused(refuse: Refuse) -> None:
    assert refuse(returning(lambda net, x: None)) == (
        "forward returned NoneType, expected a tuple, list or dict of tensors"
    )


def test_an_exit_that_is_a_number_is_refused(refuse: Refuse) -> None:
    assert refuse(returning(lambda net, x: (net.logits(x)[0], 3.0))) == (
        "exit 'exit1' is float, expected a tensor or a dict of tensors: it is not a function of the input that can be "
        "exported; do not return it, or name the exits, exits=['exit0']"
    )


def test_an_exit_that_is_a_weight_is_refused(refuse: Refuse) -> None:
    assert refuse(returning(lambda net, x: (net.logits(x)[0], net.heads[1].weight))) == (
        "exit 'exit1' is not a function of the input: 'logits' is a constant"
    )


def test_an_exit_computed_from_weights_alone_is_refused(refuse: Refuse) -> None:
    network = returning(lambda net, x: (net.logits(x)[0], net.heads[1](net.layers[1].weight).tanh()))
    assert says(refuse(network), "exit 'exit1' is not a function of the input: ")


def test_an_exit_that_depends_on_the_number_of_rows_alone_is_refused(refuse: Refuse) -> None:
    network = returning(lambda net, x: (net.logits(x)[0], net.heads[1](torch.ones(len(x), 32))))
    assert says(refuse(network), "exit 'exit1' is not a function of the input: ")


def test_two_outputs_that_come_to_one_name_are_refused(refuse: Refuse) -> None:
    network = returning(lambda net, x: {"a": {"b": net.logits(x)[0]}, "a.b": net.logits(x)[1]})
    assert says(refuse(network, criterion={"a": Criterion(kind="max_prob", output="b")}), "two", "'a.b'")


def test_an_output_of_a_file_that_is_constant_is_refused(refuse: Refuse, tmp_path: Path) -> None:
    rename, double = helper.make_node("Identity", ["product"], ["a"]), helper.make_node("Add", ["k", "k"], ["b"])
    path = save(tmp_path, [PRODUCT, rename, double], ["a", "b"], [weight("k", 1, 5)])
    assert refuse(path) == "exit 'b' is not a function of the input: it is the same for every input"


def test_two_exits_of_one_name_are_refused(refuse: Refuse) -> None:
    assert refuse(module(AsDict), exits=["early", "early"]) == "two exits are called 'early'; give each its own name"


def test_an_unknown_exit_is_refused_with_those_there_are(refuse: Refuse) -> None:
    assert refuse(module(AsDict), exits=["earliest"]) == (
        "exit 'earliest': no output 'earliest'; the outputs are early, late, middle"
    )


def test_an_unknown_output_is_refused_with_those_there_are(refuse: Refuse) -> None:
    assert refuse(module(Detector), exits={"only": {"logits": "small.scores"}}) == (
        "exit 'only': no output 'small.scores'; the outputs are large.boxes, large.logits, small.boxes, small.logits"
    )


def test_no_exits_at_all_are_refused(refuse: Refuse) -> None:
    assert refuse(module(AsDict), exits=[]) == "exits is empty: name at least one output"


@pytest.mark.parametrize("exits", ["early", 3])
def test_exits_that_are_no_list_are_refused(exits: Any, refuse: Refuse) -> None:
    assert says(refuse(module(AsDict), exits=exits), f"{exits!r}", "expected a list of names or a mapping")


@pytest.mark.parametrize("wanted", [{}, ["early"], None, 1], ids=str)
def test_an_exit_that_names_no_output_is_refused(wanted: Any, refuse: Refuse) -> None:
    assert says(refuse(module(AsDict), exits={"first": wanted}), "exit 'first'", repr(wanted), "expected")


# What torch cannot export.


def test_a_python_if_on_a_tensor_is_refused_with_its_line(refuse: Refuse) -> None:
    def forward(net: Layers, x: Tensor) -> Tensor:
        if x.sum() > 0:
            x = -x
        return net.logits(x)[0]

    text = refuse(returning(forward))
    assert text.startswith(
        "torch cannot export the network: a Python `if`, loop or size depends on a tensor's values; write it with "
        "torch.cond, torch.where or torch.while_loop ("
    )
    assert re.search(r"test_capture\.py:\d+: if x\.sum\(\) > 0:\)$", text)


def test_an_operator_that_onnx_lacks_is_refused_by_name(refuse: Refuse) -> None:
    network = returning(lambda net, x: net.heads[0](torch.linalg.svd(net.layers[0](x)[:, :, None])[1].expand(-1, 32)))
    assert says(refuse(network), "torch cannot export the network: no ONNX operator for aten._linalg_svd")


def test_a_batch_size_that_is_written_into_the_network_is_refused(refuse: Refuse) -> None:
    class Fixed(Layers):
        def forward(self, x: Tensor) -> Tensor:
            return self.heads[0](self.layers[0](x).view(2, 32))

    assert says(
        refuse(module(Fixed)), "input 'x': the network fixes dimension 0 (batch) at 2; pass dynamic_batch=False", "or"
    )


def test_a_length_that_is_written_into_the_network_is_refused(refuse: Refuse) -> None:
    assert refuse(module(AsDict), dynamic_shapes={"x": {1: "length"}}) == (
        "input 'x': the network fixes dimension 1 (length) at 64; leave it out of dynamic_shapes, or do not write its "
        "size into the network"
    )


@pytest.mark.parametrize("rows", ["view", "plain"])
def test_a_fixed_batch_of_several_rows_is_refused(rows: str, refuse: Refuse) -> None:
    network = returning(lambda net, x: net.heads[0](net.layers[0](x).view(2, 32))) if rows == "view" else module(AsDict)
    assert says(refuse(network, dynamic_batch=False), "batch", "dynamic or 1")


def test_dynamic_shapes_of_an_unknown_input_are_refused(refuse: Refuse) -> None:
    assert refuse(module(AsDict), dynamic_shapes={"y": {1: "length"}}) == ("dynamic_shapes names 'y'; the inputs are x")


@pytest.mark.parametrize(
    "dynamic_shapes",
    [{"x": 1}, {"x": {5: "n"}}, {"x": {True: "n"}}, {"x": {1: 2.0}}, {"x": {1: ""}}, {"x": ("n",)}, (None, None), "n"],
    ids=str,
)
def test_dynamic_shapes_of_another_form_are_refused(dynamic_shapes: Any, refuse: Refuse) -> None:
    assert says(refuse(module(AsDict), dynamic_shapes=dynamic_shapes), "dynamic_shapes", "expected")


def test_a_network_that_differs_when_exported_is_refused(refuse: Refuse) -> None:
    network = returning(lambda net, x: net.logits(x)[0] * (2 if torch.compiler.is_exporting() else 1))
    assert re.fullmatch(
        r"the segments differ from the source network: sample 0: exit0: outputs off by \d\.\de[+-]\d\d, more than "
        r"1e-04; nothing was written",
        refuse(network),
    )


# What a file may not be.


PRODUCT = helper.make_node("MatMul", ["x", "w"], ["product"])
TWO = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Tanh", ["a"], ["b"])]


def weight(name: str, *shape: int) -> onnx.TensorProto:
    """Returns a float32 weight of ones."""
    return numpy_helper.from_array(np.ones(shape, np.float32), name)


def save(
    folder: Path, nodes: list[onnx.NodeProto] | None = None, exits: list[str] | None = None,
    weights: list[onnx.TensorProto] | None = None, opset: int = 17, rows: int | str = "N",
) -> Path:  # fmt: skip
    """Writes a file that reads x, float32 of (rows, 64), with the weight w of (64, 5)."""
    graph = helper.make_graph(
        nodes or [helper.make_node("MatMul", ["x", "w"], ["a"])],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, 64])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows, 5]) for name in exits or ["a"]],
        [weight("w", 64, 5), *(weights or [])],
    )
    path = folder / "model.onnx"
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def save_image_network(folder: Path) -> Path:
    """Writes a file that reads an image, float32 of (N, 1, 8, 8)."""
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["image"], ["x"]), helper.make_node("MatMul", ["x", "w"], ["a"])],
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, ["N", 5])],
        [weight("w", 64, 5)],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save_model(helper.make_model(graph, opset_imports=opsets, ir_version=8), folder / "image.onnx")
    return folder / "image.onnx"


@pytest.mark.parametrize("opset", [11, 12])
def test_an_opset_below_13_is_refused(opset: int, refuse: Refuse, tmp_path: Path) -> None:
    assert refuse(save(tmp_path, opset=opset)) == (
        f"FOLDER/model.onnx: opset {opset}, expected 13 or newer; convert it with onnx's converter"
    )


def test_a_path_that_does_not_exist_is_refused(refuse: Refuse, tmp_path: Path) -> None:
    assert refuse(tmp_path / "none.onnx") == (
        "FOLDER/none.onnx does not exist or is not a file; expected an .onnx file"
    )


@pytest.mark.parametrize("data", [b"", b"hello world", b"PK\x03\x04" + bytes(100)], ids=["empty", "text", "zip"])
def test_a_file_that_is_no_onnx_file_is_refused(data: bytes, refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "other.onnx").write_bytes(data)
    assert refuse(tmp_path / "other.onnx").startswith("FOLDER/other.onnx: onnxruntime cannot load it: ")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(share: float, refuse: Refuse, tmp_path: Path) -> None:
    path = save(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert refuse(path).startswith("FOLDER/model.onnx: onnxruntime cannot load it: ")


def test_a_file_whose_weights_are_missing_is_refused(refuse: Refuse, tmp_path: Path) -> None:
    onnx.save_model(
        onnx.load(save(tmp_path)),
        tmp_path / "model.onnx",
        save_as_external_data=True,
        location="w.bin",
        size_threshold=0,
    )
    (tmp_path / "w.bin").unlink()
    assert says(refuse(tmp_path / "model.onnx"), "FOLDER/model.onnx: onnxruntime cannot load it: ", "w.bin")


def test_an_operator_that_onnxruntime_lacks_is_refused(refuse: Refuse, tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Guess", ["x"], ["a"], domain="elsewhere")],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, ["N", 5])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("elsewhere", 1)]
    onnx.save_model(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "model.onnx")
    assert says(refuse(tmp_path / "model.onnx"), "FOLDER/model.onnx: onnxruntime cannot load it: ", "elsewhere:Guess")


def test_the_zipmap_of_scikit_learn_is_refused_with_the_option_that_turns_it_off(
    refuse: Refuse, tmp_path: Path
) -> None:
    assert refuse(scikit_learn(tmp_path, zipmap=True)) == (
        "FOLDER/regression.onnx: 'output_probability' is a seq(map(int64,tensor(float))), expected a tensor; for "
        "scikit-learn models convert with options={'zipmap': False}"
    )


def test_a_sequence_that_crosses_a_boundary_is_refused(refuse: Refuse, tmp_path: Path) -> None:
    node = helper.make_node
    nodes = [
        PRODUCT,
        node("SequenceConstruct", ["product", "product"], ["list"]),
        node("SequenceAt", ["list", "one"], ["a"]),
        node("SequenceAt", ["list", "zero"], ["first"]),
        node("Add", ["a", "first"], ["b"]),
    ]
    numbers = [numpy_helper.from_array(np.array(value), name) for name, value in (("zero", 0), ("one", 1))]
    assert says(
        refuse(save(tmp_path, nodes, ["a", "b"], numbers)), "the tensor 'list' crosses between segments as", "Sequence"
    )


def test_a_file_of_a_fixed_batch_is_refused(refuse: Refuse, tmp_path: Path) -> None:
    assert says(refuse(save(tmp_path, rows=4), np.ones((4, 64), np.float32)), "batch", "4")


def test_input_names_for_a_file_are_refused(refuse: Refuse, tmp_path: Path) -> None:
    assert says(refuse(save(tmp_path), input_names=["image"]), "input_names", "FOLDER/model.onnx")


def test_dynamic_shapes_for_a_file_are_refused(refuse: Refuse, tmp_path: Path) -> None:
    assert says(refuse(save(tmp_path), dynamic_shapes={"x": {1: "n"}}), "dynamic_shapes", "FOLDER/model.onnx")


# What the examples may not be.


def test_no_example_for_a_torch_network_is_refused(refuse: Refuse) -> None:
    assert refuse(module(AsDict), None) == ("example_inputs is None: a torch network needs one example of every input")


def test_no_example_for_integers_in_a_file_is_refused(refuse: Refuse, tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Gather", ["w", "i"], ["a"])],
        "network",
        [helper.make_tensor_value_info("i", TensorProto.INT64, ["N"])],
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, ["N", 5])],
        [weight("w", 64, 5)],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save_model(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "model.onnx")
    assert refuse(tmp_path / "model.onnx", None) == (
        "input 'i' is tensor(int64): pass example_inputs, random ones would mean nothing"
    )


def test_too_few_examples_are_refused(refuse: Refuse) -> None:
    assert refuse(module(Mixed), (ROWS,)) == (
        "the network fails on inputs of (2, 64) float32: Mixed.forward() missing 3 required positional "
        "arguments: 'kind', 'unread', and 'flags'"
    )


def test_too_many_examples_for_a_file_are_refused(refuse: Refuse, tmp_path: Path) -> None:
    assert refuse(save(tmp_path), (ROWS, ROWS)) == "got 2 example inputs, the file has 1: ['x']"


def test_an_example_by_a_wrong_name_is_refused(refuse: Refuse) -> None:
    assert refuse(module(AsDict), {"y": ROWS}) == (
        "the network fails on inputs of (2, 64) float32: AsDict.forward() got an unexpected keyword argument 'y'"
    )


def test_an_example_by_a_wrong_name_for_a_file_is_refused(refuse: Refuse, tmp_path: Path) -> None:
    assert refuse(save(tmp_path), {"y": ROWS}) == "example_inputs are ['y'], the file's inputs are ['x']"


def test_an_example_of_a_wrong_shape_is_refused(refuse: Refuse) -> None:
    assert refuse(module(AsDict), ROWS[:, :63]).startswith(
        "the network fails on inputs of (2, 63) float32: mat1 and mat2 shapes cannot be multiplied "
    )


def test_an_example_of_a_wrong_dtype_is_refused(refuse: Refuse) -> None:
    assert refuse(module(AsDict), ROWS.astype(np.float64)).startswith(
        "the network fails on inputs of (2, 64) float64: mat1 and mat2 must have the same dtype"
    )


def test_an_example_of_a_wrong_shape_for_a_file_is_refused_with_both_sizes(refuse: Refuse, tmp_path: Path) -> None:
    text = refuse(save(tmp_path), ROWS[:, :63])
    assert says(text, "FOLDER/model.onnx: fails on inputs: ", "x", "63", "64")


def test_an_example_of_a_wrong_dtype_for_a_file_is_refused_with_both(refuse: Refuse, tmp_path: Path) -> None:
    text = refuse(save(tmp_path), ROWS.astype(np.float64))
    assert says(text, "FOLDER/model.onnx: fails on inputs: ", "double", "float")


@pytest.mark.parametrize("example", ["hello", object(), ROWS.astype(np.complex64)], ids=["str", "object", "complex"])
def test_an_example_that_is_no_array_of_numbers_is_refused(example: Any, refuse: Refuse) -> None:
    assert says(refuse(module(AsDict), example), "an example input is", "expected a tensor or an array")


def test_an_example_of_no_rows_is_refused(refuse: Refuse) -> None:
    assert says(refuse(module(AsDict), ROWS[:0]), "no rows")


def test_an_error_of_several_lines_becomes_one(refuse: Refuse) -> None:
    def forward(net: Layers, x: Tensor) -> Tensor:
        raise ValueError("first\n  second")

    assert says(refuse(returning(forward)), "the network fails on inputs of (2, 64) float32: first", "second")


@pytest.mark.parametrize("names", [[], ["a", "b"], ["a", "a", "b", "c"]], ids=str)
def test_input_names_of_another_number_or_that_repeat_are_refused(names: list[str], refuse: Refuse) -> None:
    example = (ROWS, np.ones(2, np.int64), np.ones((2, 3), np.float32), ROWS > 0)
    assert refuse(module(Mixed), example, input_names=names) == (f"input_names are {names}, expected 4 different names")


def test_a_network_in_a_dtype_that_no_device_holds_is_refused(refuse: Refuse) -> None:
    network = returning(lambda net, x: net.logits(x)[0].to(torch.bfloat16))
    assert says(refuse(network), "exit 'exit0'", "bfloat16", "float32")


def test_golden_inputs_of_a_wrong_number_are_refused(refuse: Refuse) -> None:
    assert refuse(module(AsDict), golden_inputs=(ROWS, ROWS)) == "got 2 golden inputs, expected 1: x"


def test_golden_inputs_by_a_wrong_name_are_refused(refuse: Refuse) -> None:
    assert refuse(module(AsDict), golden_inputs={"y": ROWS}) == "golden inputs are ['y'], expected x"


def test_golden_inputs_of_no_rows_are_refused(refuse: Refuse) -> None:
    assert says(refuse(module(AsDict), golden_inputs=ROWS[:0]), "no rows")


def test_golden_inputs_of_different_numbers_of_rows_are_refused(refuse: Refuse) -> None:
    example = (ROWS, np.ones(2, np.int64), np.ones((2, 3), np.float32), ROWS > 0)
    text = refuse(module(Mixed), example, golden_inputs=(ROWS, np.ones(3, np.int64), *example[2:]))
    assert says(text, "number of rows", "x has 2", "kind has 3")


# What the criteria, thresholds and descriptions may not be.


@pytest.mark.parametrize("criterion", ["patience!", None, 3])
def test_an_unknown_criterion_is_refused_with_those_there_are(criterion: Any, refuse: Refuse, tmp_path: Path) -> None:
    text = refuse(save(tmp_path), criterion=criterion)
    assert says(text, f"exit 'a': criterion is {criterion!r}, expected one of max_prob, entropy, margin")


def test_a_criterion_for_an_unknown_exit_is_refused(refuse: Refuse) -> None:
    assert refuse(module(AsDict), criterion={"last": "entropy"}) == (
        "criterion names ['last']; the exits are early, middle, late; did you mean 'late'?"
    )


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"kind": "certainty"}, ("certainty", "max_prob")),
        ({"kind": "max_prob", "scale": "logit"}, ("logit", "log_probs")),
        ({"kind": "max_prob", "quantile": 2.0}, ("quantile",)),
    ],
    ids=["kind", "scale", "quantile"],
)
def test_an_option_of_a_criterion_that_does_not_fit_is_refused(
    options: dict[str, Any], parts: tuple[str, ...], refuse: Refuse, tmp_path: Path
) -> None:
    assert says(refuse(save(tmp_path), criterion=Criterion(**options)), "exit 'a': criterion: ", *parts)


def test_a_criterion_that_names_a_temperature_is_refused(refuse: Refuse, tmp_path: Path) -> None:
    text = refuse(save(tmp_path), criterion=Criterion(kind="max_prob", temperature="hot"))
    assert says(text, "exit 'a': criterion: ", "temperature")


def test_a_criterion_over_an_unknown_output_is_refused(refuse: Refuse) -> None:
    assert refuse(module(Detector), criterion=Criterion(kind="max_prob", output="scores")) == (
        "exit 'small': the criterion reads 'scores'; its outputs are boxes, logits"
    )


def test_an_exit_of_several_outputs_needs_one_called_logits(refuse: Refuse) -> None:
    exits = {"only": {"scores": "small.logits", "boxes": "small.boxes"}}
    assert refuse(module(Detector), exits=exits) == (
        "exit 'only' has the outputs scores, boxes and none called 'logits': say which one decides, "
        "Criterion(kind=..., output=...)"
    )


@pytest.mark.parametrize("axis", [0, 2, -3])
def test_a_class_axis_that_is_not_there_is_refused(axis: int, refuse: Refuse, tmp_path: Path) -> None:
    assert refuse(save(tmp_path), criterion=Criterion(kind="max_prob", axis=axis)) == (
        f"exit 'a': max_prob reads shape [batch,5], expected (batch, classes, ...) with the classes at axis {axis}"
    )


def test_a_dynamic_number_of_classes_is_refused(refuse: Refuse) -> None:
    class Growing(nn.Module):
        def forward(self, steps: Tensor) -> Tensor:
            return steps.sum(-1)

    example = np.ones((2, 5, 3), np.float32)
    assert refuse(module(Growing), example, dynamic_shapes={"steps": {1: "length"}}) == (
        "exit 'exit0': max_prob reads shape [batch,length]: the class dimension, axis 1, must be a fixed number; what "
        "is no exit, as a state, is returned beside the logits, {'logits': ..., 'state': ...}, or left out by exits="
    )


def test_the_label_of_scikit_learn_is_refused_as_an_exit(refuse: Refuse, tmp_path: Path) -> None:
    text = refuse(scikit_learn(tmp_path))
    assert says(text, "exit 'label': max_prob reads INT64, expected floating-point scores", "exits=")


@pytest.mark.parametrize("threshold", [float("nan"), float("inf"), "0.5", True, [0.5, 0.6]], ids=str)
def test_a_threshold_that_is_no_finite_number_is_refused(threshold: Any, refuse: Refuse, tmp_path: Path) -> None:
    exits = save(tmp_path, TWO, ["a", "b"])
    assert says(refuse(exits, threshold=threshold), f"exit 'a': threshold is {threshold!r}, expected a")


def test_a_threshold_for_an_unknown_exit_is_refused(refuse: Refuse) -> None:
    assert refuse(module(AsDict), threshold={"last": 0.5}) == (
        "threshold names ['last']; the exits are early, middle, late; did you mean 'late'?"
    )


def test_a_threshold_may_be_a_number_of_numpy(tmp_path: Path) -> None:
    exported = ee.export(save(tmp_path, TWO, ["a", "b"]), ROWS, tmp_path / "x.ee", threshold=np.float32(0.25))
    assert exported.exits["a"].threshold == 0.25


def test_preprocess_of_an_unknown_input_is_refused(refuse: Refuse, tmp_path: Path) -> None:
    assert refuse(
        save_image_network(tmp_path), IMAGES, preprocess={"picture": {"layout": "NCHW", "resize": [8, 8]}}
    ) == ("preprocess names 'picture'; the inputs are image")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"layout": "CHW", "resize": [8, 8]}, ("CHW", "layout")),
        ({"resize": [8, 8]}, ("layout",)),
        ({"layout": "NCHW", "resize": [0, 8]}, ("resize",)),
        ({"layout": "NCHW", "resize": [8, 8], "colour": 1}, ("colour",)),
        ({"layout": "NCHW", "resize": [8, 8], "mean": [0, 0, 0]}, ("mean has 3 values, expected 1",)),
        ({"layout": "NCHW", "resize": [8, 8], "std": [0]}, ("std is 0",)),
        ({"layout": "NCHW", "resize": [9, 8]}, ("resize", "9, 8", "8, 8")),
        (3, ("3", "expected")),
    ],
    ids=["layout", "no_layout", "no_size", "unknown", "mean", "std", "other_size", "no_mapping"],
)
def test_preprocess_that_does_not_fit_is_refused(
    options: Any, parts: tuple[str, ...], refuse: Refuse, tmp_path: Path
) -> None:
    text = refuse(save_image_network(tmp_path), IMAGES, preprocess={"image": options})
    assert says(text, "preprocess of 'image'", *parts)


def test_preprocess_of_an_input_that_is_no_image_is_refused(refuse: Refuse) -> None:
    text = refuse(module(AsDict), preprocess={"x": {"layout": "NCHW", "resize": [8, 8]}})
    assert says(text, "preprocess of 'x': its shape is [", ", 64], expected four dimensions")


@pytest.mark.parametrize("labels", [["zero", "one"], "abcde"], ids=["two", "string"])
def test_labels_that_do_not_fit_the_classes_are_refused(labels: Any, refuse: Refuse, tmp_path: Path) -> None:
    assert says(refuse(save(tmp_path), labels=labels), "labels")


# What is left behind.


@pytest.mark.parametrize(
    ("forward", "options"),
    [
        (lambda net, x: None, {}),
        (lambda net, x: net.logits(x)[0] if x.sum() > 0 else x, {}),
        (lambda net, x: net.logits(x)[0] + torch.rand_like(net.logits(x)[0]), {}),
        (lambda net, x: net.logits(x)[0], {"criterion": Criterion(kind="max_prob", axis=2)}),
        (lambda net, x: (net.logits(x)[0], net.heads[1].weight), {}),
        (lambda net, x: net.logits(x)[0], {"threshold": "high"}),
        (lambda net, x: net.logits(x)[0] * (2 if torch.compiler.is_exporting() else 1), {}),
    ],
    ids=["source", "capture", "random", "criterion", "cut", "thresholds", "proof"],
)
def test_a_refused_export_leaves_nothing_where_nothing_was(
    forward: Callable[[Layers, Tensor], Any], options: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ee.ExportError):
        ee.export(returning(forward), ROWS, tmp_path / "new.ee", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_not_replaced_unless_asked(bundle: Path, tmp_path: Path) -> None:
    target = tmp_path / "kept.ee"
    shutil.copytree(bundle, target)
    with pytest.raises(ee.BundleError, match=r"kept\.ee exists; pass overwrite=True \(--overwrite\) to replace it$"):
        ee.export(module(Single), ROWS, target)
    assert _contents(target) == _contents(bundle)


def test_an_export_leaves_the_network_as_it_was(tmp_path: Path) -> None:
    network = module(AsDict)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    first: Array = network(torch.from_numpy(ROWS))["late"].detach().numpy()
    ee.export(network, ROWS, tmp_path / "x.ee")
    assert not any(part.training for part in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    np.testing.assert_array_equal(network(torch.from_numpy(ROWS))["late"].detach().numpy(), first)


@pytest.mark.parametrize("by_name", [False, True])
def test_an_input_that_is_several_tensors_is_refused(by_name: bool, refuse: Refuse) -> None:
    state = (torch.zeros(1), torch.zeros(1))
    example: Any = {"x": ROWS, "state": state} if by_name else (ROWS, state)
    assert refuse(module(AsDict), example) == (
        f"input {'state' if by_name else 'number 1'} is a tuple of tensors; a bundle's inputs are tensors: let forward "
        "take them one by one, as in forward(self, x, h, c), and put them together inside"
    )


def test_a_state_that_is_returned_as_an_exit_is_refused(refuse: Refuse) -> None:
    class Kept(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, torch.stack([x, x])

    assert refuse(module(Kept), ROWS[:1], dynamic_batch=False) == (
        "exit 'exit1': one row of inputs gives 2 rows of outputs; what its criterion reads must be (batch, ...): "
        "transpose it where its rows are another dimension; what is no exit, as a state, is returned beside the "
        "logits, {'logits': ..., 'state': ...}"
    )

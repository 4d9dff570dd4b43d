"""Networks that are quantised before the export: bytes between segments, kernels for integers, equal answers."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, parser
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import Tensor, nn

import eetoolkit as ee
from eetoolkit.zoo import digits
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.plan.types import Switch
from eetoolkit_runtime.verify import difference

IMAGES = (digits.digits("test").images[:72] / 16).astype(np.float32)
CALIBRATION, ROWS = IMAGES[:32], IMAGES[32:]
CONVOLUTIONS = 6
EXITS = ["exit0", "exit1", "exit2"]


class Residual(nn.Module):
    """A stem and two residual blocks, an exit behind each; both sides of a sum read what crosses a cut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.first = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.second = nn.ModuleList((nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)))
        self.heads = nn.ModuleList(nn.Linear(32, 10) for _ in range(3))

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.stem(image).relu()
        y = (x + self.first[1](self.first[0](x).relu())).relu()
        z = (self.second[2](y) + self.second[1](self.second[0](y).relu())).relu()
        side = image.shape[-1] // 2
        return [
            head(nn.functional.avg_pool2d(features, side).flatten(1))
            for head, features in zip(self.heads, (x, y, z), strict=True)
        ]


class Reader(CalibrationDataReader):
    def __init__(self, name: str = "image", rows: Array = CALIBRATION) -> None:
        self._feeds = iter([{name: row[None]} for row in rows])

    def get_next(self) -> dict[str, Array] | None:
        return next(self._feeds, None)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    network = Residual().eval()
    for head in network.heads:
        head.weight.data *= 30  # an untrained network's exits are as sure of every row
    return network


def traced(network: nn.Module) -> torch.export.ExportedProgram:
    return torch.export.export(
        network, (torch.from_numpy(ROWS[:2]),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )  # fmt: skip


def to_onnx(program: torch.export.ExportedProgram, path: Path) -> Path:
    model = torch.onnx.export(program, dynamo=True, input_names=["image"], output_names=EXITS, verbose=False)
    assert model is not None
    model.save(path)
    return path


@pytest.fixture(scope="module")
def sources(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Path]]:
    """Returns what is exported, and the same as one .onnx file, by what quantised it."""
    folder = tmp_path_factory.mktemp("quantised")
    program = traced(network)
    plain = to_onnx(program, folder / "plain.onnx")
    found: dict[str, tuple[Any, Path]] = {}
    forms = {"QDQ": (QuantFormat.QDQ, True), "QOperator": (QuantFormat.QOperator, False)}
    logging.disable(logging.WARNING)  # it wants its own pre-processing, which changes nothing here
    for name, (form, per_channel) in forms.items():
        path = folder / f"{name}.onnx"
        quantize_static(
            plain, path, Reader(), quant_format=form, per_channel=per_channel, activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )  # fmt: skip
        found[name] = path, path
    logging.disable(logging.NOTSET)
    quantised = quantised_by_torchao(program.module())
    found["torchao"] = quantised, to_onnx(traced(quantised), folder / "torchao.onnx")
    return found


def quantised_by_torchao(program: nn.Module) -> nn.Module:
    """Returns a program of torch.export with uint8 activations and int8 weights per channel."""
    logging.disable(logging.WARNING)  # of CUDA kernels that it does not find
    from torchao.quantization.pt2e import MinMaxObserver, PerChannelMinMaxObserver
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer

    logging.disable(logging.NOTSET)
    activation = QuantizationSpec(torch.uint8, MinMaxObserver, 0, 255, torch.per_tensor_affine)
    weight = QuantizationSpec(torch.int8, PerChannelMinMaxObserver, -127, 127, torch.per_channel_symmetric, ch_axis=0)
    aten = torch.ops.aten

    class EveryOperator(Quantizer):
        """Everything but logits, a convolution that a ReLU follows with it."""

        def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
            for node in model.graph.nodes:
                if node.op != "call_function":
                    continue
                weighted = node.target in (aten.conv2d.default, aten.linear.default)
                follows = any(user.target in (aten.relu.default, "output") for user in node.users)
                specs = {each: activation for each in node.all_input_nodes if each.target is not aten.conv2d.default}
                if weighted:
                    specs = {node.args[0]: activation, node.args[1]: weight}
                elif node.target is aten.relu.default:
                    specs = {}
                node.meta["quantization_annotation"] = QuantizationAnnotation(
                    specs, None if follows else activation, _annotated=True
                )
            return model

        def validate(self, model: torch.fx.GraphModule) -> None:
            pass

    prepared = prepare_pt2e(program, EveryOperator())
    prepared(torch.from_numpy(CALIBRATION))
    converted: nn.Module = convert_pt2e(prepared)
    return converted


def kernels(path: Path, folder: Path) -> Counter[str]:
    """Returns what onnxruntime runs of a graph, by operator."""
    options = ort.SessionOptions()
    options.log_severity_level = 3  # such a file is for this machine alone, it warns
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    ort.InferenceSession(path, options)
    graph = onnx.load(folder / "optimized.onnx", load_external_data=False).graph
    return Counter(node.op_type for node in graph.node)


def crossing(bundle: ee.Bundle) -> list[str]:
    """Returns the dtypes of what graphs read that others made."""
    plan = bundle.manifest
    read = [slot for segment in plan.segments.values() for slot in segment.reads.values()]
    return [plan.slots[slot].dtype for slot in read if slot in plan.slots]


def opened(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(path, options)


@dataclass
class Quantised:
    """A network as a bundle and as its own one session, whose answers to `ROWS` are `logits`: (row, exit, class)."""

    path: Path
    bundle: ee.Bundle
    logits: Array
    confidences: Array
    thresholds: Array


@pytest.fixture(scope="module", params=["QDQ", "QOperator", "torchao"])
def quantised(
    request: pytest.FixtureRequest, sources: Mapping[str, tuple[Any, Path]], tmp_path_factory: pytest.TempPathFactory
) -> Quantised:
    """Returns the network with thresholds that half of the rows reach."""
    model, path = sources[request.param]
    whole = opened(path)
    logits = np.array([np.concatenate(whole.run(None, {"image": row[None]})) for row in ROWS])
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    confidences = powers.max(-1) / powers.sum(-1)
    thresholds = np.median(confidences, axis=0)
    bundle = ee.export(
        model, (ROWS[:1],), tmp_path_factory.mktemp(request.param) / "q.ee", golden_inputs=(ROWS[:8],),
        threshold=dict(zip(EXITS, thresholds.tolist(), strict=True)),
    )  # fmt: skip
    return Quantised(path, bundle, logits, confidences, thresholds)


def test_bytes_cross_and_every_convolution_behind_a_cut_fuses(quantised: Quantised, tmp_path: Path) -> None:
    plan = quantised.bundle.manifest
    assert crossing(quantised.bundle) == ["uint8", "uint8"]
    assert {plan.slots[slot].dtype for each in plan.exits.values() for slot in each.outputs.values()} == {"float32"}
    ran = Counter[str]()
    for segment in plan.segments.values():
        ran += kernels(quantised.bundle.path / str(segment.model), tmp_path)
    assert (ran["QLinearConv"], ran["Conv"]) == (CONVOLUTIONS, 0)
    assert kernels(quantised.path, tmp_path)["QLinearConv"] == CONVOLUTIONS


def test_every_exit_answers_as_one_session(quantised: Quantised) -> None:
    golden = quantised.bundle.manifest.golden
    assert golden is not None
    with ee.Runner(quantised.bundle, threads=1) as runner:
        for row, logits in zip(ROWS, quantised.logits, strict=True):
            found = np.concatenate([answer.outputs["logits"] for answer in runner.run_all_exits(row[None])])
            assert difference(found, logits) <= golden.tolerance


def test_rows_leave_the_bundle_and_its_single_file_where_one_session_is_sure(
    quantised: Quantised, tmp_path: Path
) -> None:
    single = opened(ee.write_single_file(quantised.bundle, tmp_path / "one.onnx"))
    left = set()
    with ee.Runner(quantised.bundle, threads=1) as runner:
        sure = quantised.confidences - quantised.thresholds
        for row, margins, logits in zip(ROWS, sure, quantised.logits, strict=True):
            if abs(margins[:2]).min() > 1e-3:
                place = next((number for number in range(2) if margins[number] > 0), 2)
                answer = runner.run(row[None])
                assert answer.exit == EXITS[place]
                assert answer.prediction == logits[place].argmax()
                index, found = single.run(["exit", "logits"], {"image": row[None]})
                assert index == place
                np.testing.assert_allclose(found, answer.outputs["logits"], atol=1e-5)
                left.add(place)
    assert left == {0, 1, 2}


BEHIND = """
<ir_version: 10, opset_import: ["": 21]>
net (float[{rows}, 4] x) => ({outputs})
<float[4] s = {{0.5, 0.25, 0.5, 0.125}}, int8[4] points = {{0, 1, 0, 2}}, float zero = {{0}},
 float[4, 2] a = {{1, 2, 3, 4, 5, 6, 7, 8}}, float[4, 2] b = {{-1, 2, 0, 4, 1, -6, 7, 3}}, int64 trips = {{3}},
 bool true = {{1}}>
{{
    o = Cast <to = {dtype}> (points)
    q = QuantizeLinear <axis = 1> (x, s, o)
    y = DequantizeLinear <axis = 1> (q, s, o)
    {nodes}
}}
"""
TWO_EXITS = "float[{rows}, 2] early, float[{rows}, 2] late"
SMALL = np.random.default_rng(3).uniform(-1, 0.5, (12, 4)).astype(np.float32)


def exported(folder: Path, nodes: str, outputs: str = TWO_EXITS, dtype: str = "int8", rows: str = "batch") -> ee.Bundle:
    """Returns a network that quantises its input along an axis, as a bundle that answers as one session."""
    number = TensorProto.DataType.Value(dtype.upper())
    text = BEHIND.format(nodes=nodes, outputs=outputs.format(rows=rows), dtype=number, rows=rows)
    model = parser.parse_model(text)
    onnx.save(model, folder / "net.onnx")
    bundle = ee.export(
        folder / "net.onnx", SMALL[:1], folder / "net.ee", golden_inputs=SMALL[:4], lower_control_flow="always"
    )
    whole = opened(folder / "net.onnx")
    with ee.Runner(bundle, threads=1) as runner:
        for row in SMALL:
            for answer in runner.run_all_exits(row[None]):
                (expected,) = whole.run([answer.exit], {"x": row[None]})
                np.testing.assert_allclose(answer.outputs["logits"], expected, atol=1e-5)
    return bundle


def operators(bundle: ee.Bundle) -> list[Counter[str]]:
    models = [segment.model for segment in bundle.manifest.segments.values() if segment.model]
    graphs = [onnx.load(bundle.path / model, load_external_data=False).graph for model in models]
    return [Counter(node.op_type for node in graph.node) for graph in graphs]


@pytest.mark.parametrize(
    ("dtype", "crosses"),
    {"uint8": "uint8", "int8": "int8", "uint16": "uint16", "int16": "int16", "int4": "float32"}.items(),
)
def test_what_numpy_can_hold_crosses_as_it_is(dtype: str, crosses: str, tmp_path: Path) -> None:
    bundle = exported(tmp_path, "early = MatMul (y, a) late = MatMul (y, b)", dtype=dtype)
    assert crossing(bundle) == [crosses]


def test_an_exit_that_is_dequantised_stays_the_one_float_tensor_and_bytes_go_on(tmp_path: Path) -> None:
    bundle = exported(tmp_path, "late = MatMul (y, b)", "float[{rows}, 4] y, float[{rows}, 2] late")
    assert bundle.manifest.slots[bundle.exits["y"].outputs["logits"]].dtype == "float32"
    assert crossing(bundle) == ["int8"]
    assert [each["DequantizeLinear"] for each in operators(bundle)] == [1, 1]  # its criterion reads what it answers


BRANCHES = """
    early = MatMul (y, a)
    mean = ReduceMean <keepdims = 0> (x)
    open = Greater (mean, zero)
    g = If (open) <
        then_branch = then () => (float[1, 4] t) { t = Mul (y, y) },
        else_branch = other () => (float[1, 4] n) { n = Neg (y) }
    >
    late = MatMul (g, b)
"""


def test_a_branch_dequantises_what_it_reads_once(tmp_path: Path) -> None:
    bundle = exported(tmp_path, BRANCHES, rows="1")
    readers = [each for each in operators(bundle) if each["Mul"] or each["Neg"]]
    assert [each["DequantizeLinear"] for each in readers] == [1, 1]
    assert bundle.manifest.slots["q"].dtype == "int8"
    assert "y" not in bundle.manifest.slots


CASES = """
    early = MatMul (y, a)
    mean = ReduceMean <keepdims = 0> (y)
    low = Constant <value = float {-0.5}> ()
    step = Constant <value = float {0.01}> ()
    quantised = QuantizeLinear (mean, step)
    level = DequantizeLinear (quantised, step)
    high = Greater (level, zero)
    g = If (high) <
        then_branch = then () => (float[1, 4] t) { t = Mul (y, y) },
        else_branch = other () => (float[1, 4] n) {
            middle = Greater (level, low)
            n = If (middle) <
                then_branch = inner () => (float[1, 4] i) { i = Neg (y) },
                else_branch = last () => (float[1, 4] l) { l = Abs (y) }
            >
        }
    >
    late = MatMul (g, b)
"""


def test_gates_on_a_quantised_number_are_one_switch(tmp_path: Path) -> None:
    bundle = exported(tmp_path, CASES, rows="1")
    ways = [segment.next for segment in bundle.manifest.segments.values() if isinstance(segment.next, Switch)]
    assert [len(way.cases) for way in ways] == [3]


LOOP = """
    early = MatMul (y, a)
    sum = Loop (trips, true, early) <
        body = round (int64 number, bool go, float[batch, 2] before) => (bool again, float[batch, 2] after) {
            again = Identity (go)
            product = MatMul (y, b)
            after = Add (before, product)
        }
    >
    late = Neg (sum)
"""


def test_every_round_of_a_loop_reads_the_bytes(tmp_path: Path) -> None:
    bundle = exported(tmp_path, LOOP)
    (body,) = (segment for segment in bundle.manifest.segments.values() if segment.max_visits)
    assert "q" in body.reads
    assert bundle.manifest.slots["q"].dtype == "int8"


def test_each_stage_of_a_cascade_has_bytes_between_its_segments(tmp_path: Path) -> None:
    exported(tmp_path, "early = MatMul (y, a) late = MatMul (y, b)")
    path = tmp_path / "net.onnx"
    cascade = ee.export([path, path], SMALL[:1], tmp_path / "cascade.ee", golden_inputs=SMALL[:4])
    assert crossing(cascade) == ["int8", "int8"]

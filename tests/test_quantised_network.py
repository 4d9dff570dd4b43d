"""Networks that are quantised before the export: slots of bytes, kernels for integers behind every cut, equal answers."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import Tensor, nn

import eetoolkit as ee
from eetoolkit.zoo import digits
from eetoolkit_runtime.arrays import Array

IMAGES = (digits.digits("test").images[:72] / 16).astype(np.float32)
CALIBRATION, ROWS = IMAGES[:32], IMAGES[32:]
CONVOLUTIONS = 6


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
    return Residual().eval()


def to_onnx(network: nn.Module, path: Path) -> Path:
    program = torch.onnx.export(
        network, (torch.from_numpy(ROWS[:2]),), dynamo=True, dynamic_shapes=({0: "batch"},), input_names=["image"],
        verbose=False,
    )  # fmt: skip
    program.save(path)
    return path


@pytest.fixture(scope="module")
def sources(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Path]]:
    """Returns what is exported, and the same as one .onnx file, by what quantised it."""
    folder = tmp_path_factory.mktemp("quantised")
    plain = to_onnx(network, folder / "plain.onnx")
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
    quantised = quantised_by_torchao(network)
    found["torchao"] = quantised, to_onnx(quantised, folder / "torchao.onnx")
    return found


def quantised_by_torchao(network: nn.Module) -> nn.Module:
    """Returns the network with uint8 activations and int8 weights per channel, as a program of torch.export."""
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

    program = torch.export.export(
        network, (torch.from_numpy(ROWS[:2]),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    prepared = prepare_pt2e(program.module(), EveryOperator())
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


def crossing(bundle: ee.Bundle) -> dict[str, str]:
    """Returns the dtypes of the slots that one segment writes and another one's graph reads."""
    manifest = bundle.manifest
    return {
        slot: manifest.slots[slot].dtype
        for segment in manifest.segments.values()
        for slot in segment.reads.values()
        if slot in manifest.slots
    }


def sessions(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(path, options)


@pytest.mark.parametrize("form", ["QDQ", "QOperator", "torchao"])
def test_bytes_cross_convolutions_fuse_and_answers_are_those_of_one_session(
    form: str, sources: Mapping[str, tuple[Any, Path]], tmp_path: Path
) -> None:
    model, path = sources[form]
    bundle = ee.export(model, (ROWS[:1],), tmp_path / "q.ee", golden_inputs=(ROWS[:8],))
    assert list(crossing(bundle).values()) == ["uint8", "uint8"]
    graphs = [bundle.path / str(segment.model) for segment in bundle.manifest.segments.values()]
    ran = sum((kernels(graph, tmp_path) for graph in graphs), Counter())
    assert (ran["QLinearConv"], ran["Conv"]) == (CONVOLUTIONS, 0)
    assert kernels(path, tmp_path)["QLinearConv"] == CONVOLUTIONS
    names, tolerance = list(bundle.exits), bundle.manifest.golden.tolerance  # type: ignore[union-attr]
    whole, packed = sessions(path), sessions(ee.pack(bundle, tmp_path / "one.onnx", single_file=True))

"""A source as one ONNX graph with named exits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from eetoolkit_exporters.capturing.cascade import CascadeSource
from eetoolkit_exporters.capturing.dynamic_shapes import DynamicShapes
from eetoolkit_exporters.capturing.file_symbols import name_symbols
from eetoolkit_exporters.capturing.foreign import ask_onnxruntime
from eetoolkit_exporters.capturing.marker import Mark, take_marks
from eetoolkit_exporters.capturing.onnx_source import OnnxSource, read_onnx
from eetoolkit_exporters.capturing.shapes import mend_shapes
from eetoolkit_exporters.capturing.side_by_side import Captured, put_side_by_side
from eetoolkit_exporters.capturing.source import LOGITS, GraphSource, ModelSource
from eetoolkit_exporters.capturing.tidy import flatten_conditions, tidy
from eetoolkit_exporters.capturing.torch_export import export_torch
from eetoolkit_exporters.capturing.torch_source import TorchSource
from eetoolkit_runtime.errors import ExportError
from eetoolkit_runtime.plan.types import Limit
from eetoolkit_runtime.verify import difference

__all__ = [
    "DynamicShapes", "Network", "NetworkExit", "capture", "check_deterministic", "check_repeatable",
]  # fmt: skip


@dataclass
class NetworkExit:
    """An exit of a network: its outputs by name; `confidence` is set by `add_confidences`.

    A marked exit (`ee.exit`) may lie in a subgraph, and one name may stand in several places.
    """

    name: str
    outputs: dict[str, ir.Value]
    confidence: ir.Value | None = None


@dataclass
class Network:
    """One ONNX graph whose exits are values in it. Every node carries the opset that it was written for."""

    graph: ir.Graph
    exits: list[NetworkExit]
    """The marked ones in the graph's order, then those that the network returns."""
    ordered: bool
    """Whether the exits' order is known (a cascade, attached heads); else it follows their depth."""
    constants: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    """Graph inputs that are constants in the manifest, and their values."""
    limits: dict[str, Limit] = field(default_factory=dict)
    """Bounds on the sizes of dynamic dimensions, by symbol."""


def capture(
    source: ModelSource,
    exits: Mapping[str, Mapping[str, str]],
    *,
    dynamic_batch: bool = True,
    dynamic_shapes: DynamicShapes = None,
) -> Network:
    """Returns the source as one graph.

    At every level: functions inlined, no Constant nodes and no initializers but those of the top graph, nothing
    unused, names unique over all levels, every node with its opset, values with dtype and shape where they are known.

    Args:
        source: The network.
        exits: What `choose_exits` returned: for each exit, its outputs' names in the answer and in the source.
        dynamic_batch: Whether the leading dimension of every input is dynamic (torch; an ONNX file says so itself).
        dynamic_shapes: Further dynamic dimensions (torch).

    Raises:
        ExportError: A module that torch cannot export, an opset below 13, a random operator, a marked exit that PyTorch
            dropped.
    """
    if isinstance(source, CascadeSource):
        found = _capture_cascade(source, dynamic_batch=dynamic_batch, dynamic_shapes=dynamic_shapes)
    elif isinstance(source, GraphSource):
        if dynamic_shapes or not dynamic_batch:
            raise ExportError("the network was captured by attach_exits: say there which sizes vary")
        found = source.captured()
    elif isinstance(source, TorchSource | OnnxSource):
        found = _capture_single(source, dynamic_batch=dynamic_batch, dynamic_shapes=dynamic_shapes)
    else:
        raise ExportError(f"cannot capture a {type(source).__name__}")
    flatten_conditions(found.graph)
    named = [NetworkExit(mark.name, mark.outputs) for mark in found.marks if mark.name in exits]
    for name in exits:
        if name in source.marked and all(mark.name != name for mark in found.marks):
            raise ExportError(
                f"exit {name!r} is marked, but nothing depends on what ee.exit returned, and PyTorch leaves it out: "
                f"write `t = ee.exit(t, {name!r})` and go on with t"
            )
    for name, wanted in exits.items():
        returned = {key: found.outputs[flat] for key, flat in wanted.items() if flat in found.outputs}
        if returned:
            named.append(NetworkExit(name, returned))
    ordered = isinstance(source, CascadeSource | GraphSource)
    return Network(found.graph, named, ordered=ordered, limits=found.limits)


def _capture_single(
    source: TorchSource | OnnxSource, *, dynamic_batch: bool, dynamic_shapes: DynamicShapes
) -> Captured:
    marks: list[Mark] = []
    limits: dict[str, Limit] = {}
    if isinstance(source, TorchSource):
        model, limits = export_torch(source, dynamic_batch=dynamic_batch, dynamic_shapes=dynamic_shapes)
        names = source.returned
        model = tidy(model, infer_shapes=False)
        marks = take_marks(model.graph)
        mend_shapes(model)
    else:
        if dynamic_shapes:
            raise ExportError(f"dynamic_shapes is for torch networks; {source.path} says itself which sizes vary")
        model, folder = read_onnx(source)
        name_symbols(model, source)
        model = tidy(model, infer_shapes=True)
        ask_onnxruntime(model, source.inputs, folder)
        inputs = [str(value.name) for value in model.graph.inputs]
        if inputs != list(source.inputs):
            raise ExportError(f"{source.path}: onnxruntime says its inputs are {list(source.inputs)}, onnx {inputs}")
        names = [str(value.name) for value in model.graph.outputs]
    return Captured(model.graph, dict(zip(names, model.graph.outputs, strict=True)), marks, limits)


def _capture_cascade(source: CascadeSource, *, dynamic_batch: bool, dynamic_shapes: DynamicShapes) -> Captured:
    shapes = source.by_input(dynamic_shapes)
    stages = []
    for number, stage in enumerate(source.stages):
        own = {name: shapes[shared] for name, shared in stage.inputs.items() if shared in shapes}
        given = own if isinstance(stage.source, TorchSource) else None
        try:
            stages.append(_capture_single(stage.source, dynamic_batch=dynamic_batch, dynamic_shapes=given))
        except ExportError as error:
            raise ExportError(f"stage {number} of the cascade: {error}") from error
    return put_side_by_side(stages, [stage.inputs for stage in source.stages])


def check_deterministic(graph: ir.Graph) -> None:
    """Refuses operators that draw random numbers.

    Raises:
        ExportError: Names them.
    """
    random = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
    found = sorted({node.op_type for node in graph.all_nodes() if node.domain == "" and node.op_type in random})
    if found:
        raise ExportError(
            f"the network draws random numbers in evaluation ({', '.join(found)}); an export must be deterministic: "
            "replace the sampling by its decision (argmax, p > 0.5)"
        )


def check_repeatable(source: ModelSource, tolerance: float) -> None:
    """Refuses a network that answers the same inputs differently when it is called twice.

    Args:
        source: The network.
        tolerance: By how much its arithmetic may differ: reductions on several threads round otherwise.

    Raises:
        ExportError: Names the output.
    """
    first, second = source.run_visits(source.inputs), source.run_visits(source.inputs)
    for number, (exit_, outputs) in enumerate(first):
        name, again = second[number] if number < len(second) else ("", {})
        for output, array in outputs.items():
            if name == exit_ and difference(again[output], array) <= tolerance:
                continue
            shown = exit_ if output == LOGITS else f"{exit_}.{output}"
            raise ExportError(
                f"the network gives another {shown!r} when it is called twice with the same inputs: it draws random "
                "numbers (functional.dropout without training=False?) or keeps state; an export must be deterministic"
            )

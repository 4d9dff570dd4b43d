"""A user's own criterion: a torch function from an exit's outputs to one number a row."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch

from eetoolkit_exporters.capturing.capture import Network, capture, check_deterministic
from eetoolkit_exporters.capturing.tidy import tidy
from eetoolkit_exporters.capturing.torch_source import TorchSource, to_tensor
from eetoolkit_exporters.criteria.builder import Builder
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import ExportError
from eetoolkit_runtime.plan.types import Function

_ROWS = 2  # torch takes a size of 1 for a constant
_SIZE = 5  # of a dynamic dimension in the example
_RESULT = "confidence"
_CONVERTIBLE = 14  # onnx converts no further back; what opset 14 added to 13 are types and attributes


def name_of(function: Function | None) -> str:
    """Returns what a bundle calls a function: its module and qualified name."""
    if callable(function):
        named = function if hasattr(function, "__qualname__") else type(function)
        return f"{named.__module__}.{named.__qualname__}"
    return str(function)


def evaluate(function: Function | None, outputs: Mapping[str, Array]) -> Array:
    """Returns what the function gives for an exit's outputs, float64 of shape (batch,), in eager PyTorch.

    Raises:
        ExportError: There is only its name, it fails, or it does not give one number a row.
    """
    if not callable(function):
        raise ExportError(f"the custom criterion {function} is known by name only: pass `criterion` as to the export")
    rows = len(next(iter(outputs.values())))
    with torch.no_grad():
        given = {name: to_tensor(array) for name, array in outputs.items()}
        try:
            found = function(given if len(given) > 1 else next(iter(given.values())))
        except Exception as error:
            raise ExportError(f"the criterion {name_of(function)} fails: {' '.join(str(error).split())}") from error
    if not isinstance(found, torch.Tensor):
        raise ExportError(f"the criterion {name_of(function)} returned {type(found).__name__}, expected a tensor")
    if found.numel() != rows or tuple(found.shape[:1]) != (rows,):
        raise ExportError(
            f"the criterion {name_of(function)} gave the shape {list(found.shape)} for {rows} rows, expected [{rows}], "
            "one number a row"
        )
    return np.asarray(found.detach().cpu().to(torch.float64).numpy()).reshape(-1)


def append(build: Builder, outputs: Mapping[str, ir.Value], function: Callable[..., Any]) -> ir.Value:
    """Appends the nodes of the function that torch exports, and returns its result, float32 of shape (batch,).

    Raises:
        ExportError: A function that torch cannot export, that gives no number per row, or that has branches or loops.
    """
    example = {name: _example(value) for name, value in outputs.items()}
    evaluate(function, example)
    part = _export(function, outputs, example)
    graph, result = part.graph, part.exits[0].outputs["logits"]
    if any(attribute.type == ir.AttributeType.GRAPH for node in graph for attribute in node.attributes.values()):
        raise ExportError("it has branches or loops; write them with torch.where")
    part_opset = graph.opset_imports.get("", build.opset)
    if part_opset != build.opset:
        graph, result = _converted(graph, result, build.opset)
    return _move(build, graph, list(outputs.values()), result)


class _Whole(torch.nn.Module):
    """The function with an exit's outputs as its arguments."""

    def __init__(self, function: Callable[..., Any], names: tuple[str, ...]) -> None:
        super().__init__()
        self._function = function
        self._names = names

    def forward(self, *outputs: torch.Tensor) -> torch.Tensor:
        """Returns float32 of shape (batch,)."""
        given = dict(zip(self._names, outputs, strict=True))
        found = self._function(given if len(given) > 1 else outputs[0])
        return torch.Tensor(found.reshape(-1).to(torch.float32))


def _export(function: Callable[..., Any], outputs: Mapping[str, ir.Value], example: Mapping[str, Array]) -> Network:
    names = {name: f"output{number}" for number, name in enumerate(outputs)}
    dynamic: dict[str, dict[int, str]] = {}
    symbols: dict[str, str] = {}
    for name, value in outputs.items():
        for axis, dim in enumerate(value.shape or ()):
            if not isinstance(dim, int) and axis > 0:
                symbol = symbols.setdefault(str(dim.value), re.sub(r"\W", "_", f"size_{dim.value}"))
                dynamic.setdefault(names[name], {})[axis] = symbol
    batched = any(value.shape is not None and not isinstance(value.shape[0], int) for value in outputs.values())
    source = TorchSource(_Whole(function, tuple(outputs)).eval(), tuple(example.values()), list(names.values()))
    part = capture(source, {_RESULT: {"logits": "exit0"}}, dynamic_batch=batched, dynamic_shapes=dynamic)
    check_deterministic(part.graph)
    return part


def _example(value: ir.Value) -> Array:
    if value.shape is None or value.dtype is None:
        raise ExportError(f"the shape of the output {value.name!r} is not known")
    sizes = [dim if isinstance(dim, int) else _SIZE if axis else _ROWS for axis, dim in enumerate(value.shape)]
    drawn = np.random.default_rng(0).standard_normal(sizes)
    return drawn.astype(value.dtype.numpy())


def _converted(graph: ir.Graph, result: ir.Value, opset: int) -> tuple[ir.Graph, ir.Value]:
    """Writes the function's graph for the opset of the network that it is put into."""
    graph.outputs[:] = [result]
    proto = ir.to_proto(ir.Model(graph, ir_version=10))
    try:
        converted = onnx.version_converter.convert_version(proto, max(opset, _CONVERTIBLE))
        _forget_newer(converted, opset)
        onnx.checker.check_model(converted)
        model = tidy(ir.from_proto(converted), infer_shapes=True)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ExportError(f"it cannot be written for the network's opset {opset}: {reason}") from error
    return model.graph, model.graph.outputs[0]


def _forget_newer(model: onnx.ModelProto, opset: int) -> None:
    """Calls the model's opset an older one, and drops the attributes that it does not know and that say nothing."""
    for imported in model.opset_import:
        if imported.domain == "":
            imported.version = opset
    sizes = {weight.name: onnx.numpy_helper.to_array(weight) for weight in model.graph.initializer}
    for node in model.graph.node:
        known = onnx.defs.get_schema(node.op_type, opset, node.domain).attributes
        idle = {attribute.name for attribute in node.attribute if not attribute.i}
        if node.op_type == "Reshape" and 0 not in sizes.get(node.input[1], [0]):
            idle.add("allowzero")  # which torch always writes
        kept = [attribute for attribute in node.attribute if attribute.name in known or attribute.name not in idle]
        del node.attribute[:]
        node.attribute.extend(kept)


def _move(build: Builder, graph: ir.Graph, values: list[ir.Value], result: ir.Value) -> ir.Value:
    """Takes the nodes and weights out of the function's graph and puts them where `build` appends."""
    graph.outputs.clear()
    for argument, value in zip(list(graph.inputs), values, strict=True):
        argument.replace_all_uses_with(value)
    for weight in list(graph.initializers.values()):
        graph.initializers.pop(str(weight.name))
        weight.name = build.name("constant")
        build.top.register_initializer(weight)
    for node in list(graph):
        graph.remove(node)
        for made in node.outputs:
            made.name = build.name(f"custom_{node.op_type.lower()}")
        node.name = f"node_{node.outputs[0].name}"
        node.version = build.opset
        build.graph.append(node)
    if result in graph.inputs:  # the function is the identity
        return build("Identity", values[list(graph.inputs).index(result)])
    return result

"""A torch module grafted onto a network's graph: exported, written for its opset, and put where its inputs are made."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import torch

from eetoolkit_exporters.capturing.capture import Network, capture, check_deterministic
from eetoolkit_exporters.capturing.source import choose_exits
from eetoolkit_exporters.capturing.tidy import tidy
from eetoolkit_exporters.capturing.torch_source import TorchSource
from eetoolkit_exporters.criteria.builder import Builder
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import ExportError
from eetoolkit_runtime.running.inputs import BATCH

_ROWS = 2  # torch takes a size of 1 for a constant
_SIZE = 5  # of a dynamic dimension in the example
_CONVERTIBLE = 14  # onnx converts no further back; what opset 14 added to 13 are types and attributes


def graft(build: Builder, module: torch.nn.Module, values: Mapping[str, ir.Value], stem: str) -> list[ir.Value]:
    """Appends the nodes of a module that torch exports, and returns its outputs, in order.

    Args:
        build: Where they go; its opset is theirs.
        module: Takes what `values` hold, in their order, and returns a tensor or a tuple of tensors.
        values: What it takes, by names for messages.
        stem: What new values are called.

    Raises:
        ExportError: A module that torch cannot export, or that has branches or loops; a shape that is not known.
    """
    part = _export(module.eval(), values)
    graph = part.graph
    if any(attribute.type == ir.AttributeType.GRAPH for node in graph for attribute in node.attributes.values()):
        raise ExportError("it has branches or loops; write them with torch.where")
    graph.outputs[:] = [value for exit_ in part.exits for value in exit_.outputs.values()]
    if graph.opset_imports.get("", build.opset) != build.opset:
        graph = _converted(graph, build.opset)
    return _move(build, graph, list(values.values()), stem)


def example_of(value: ir.Value) -> Array:
    """Returns random numbers of a value's dtype and shape, two rows of them.

    Raises:
        ExportError: Its shape is not known.
    """
    if value.shape is None or value.dtype is None:
        raise ExportError(f"the shape of the output {value.name!r} is not known")
    rows = _row_axis(value)
    sizes = [dim if isinstance(dim, int) else _ROWS if axis == rows else _SIZE for axis, dim in enumerate(value.shape)]
    return np.random.default_rng(0).standard_normal(sizes).astype(value.dtype.numpy())


def _row_axis(value: ir.Value) -> int:
    """Returns the dimension called `batch`; where none is, the first."""
    dims = [None if isinstance(dim, int) else dim.value for dim in value.shape or ()]
    return dims.index(BATCH) if BATCH in dims else 0


def _export(module: torch.nn.Module, values: Mapping[str, ir.Value]) -> Network:
    names = [f"value{number}" for number in range(len(values))]
    dynamic: dict[str, dict[int, str]] = {}
    symbols: dict[str, str] = {}
    for name, value in zip(names, values.values(), strict=True):
        rows = _row_axis(value)
        for axis, dim in enumerate(value.shape or ()):
            if not isinstance(dim, int):
                symbol = symbols.setdefault(str(dim.value), re.sub(r"\W", "_", f"size_{dim.value}"))
                dynamic.setdefault(name, {})[axis] = BATCH if axis == rows else symbol
    batched = any(BATCH in axes.values() for axes in dynamic.values())
    example = tuple(example_of(value) for value in values.values())
    source = TorchSource(_Given(module), example, names)
    part = capture(source, choose_exits(source, None), dynamic_batch=batched, dynamic_shapes=dynamic)
    check_deterministic(part.graph)
    return part


class _Given(torch.nn.Module):
    """A module that is called by place, whatever its `forward` calls its parameters."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.inner = module
        self.eval()

    def forward(self, *values: torch.Tensor) -> object:
        """Returns what the module does."""
        return self.inner(*values)


def _converted(graph: ir.Graph, opset: int) -> ir.Graph:
    """Writes the graph for another opset."""
    for node in [node for node in graph if node.op_type == "Identity"]:  # which onnx does not write for an older one
        if (value := node.inputs[0]) is not None:
            node.outputs[0].replace_all_uses_with(value, replace_graph_outputs=True)
            graph.remove(node, safe=True)
    proto = ir.to_proto(ir.Model(graph, ir_version=10))
    try:
        converted = onnx.version_converter.convert_version(proto, max(opset, _CONVERTIBLE))
        _forget_newer(converted, opset)
        onnx.checker.check_model(converted)
        return tidy(ir.from_proto(converted), infer_shapes=True).graph
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ExportError(f"it cannot be written for the network's opset {opset}: {reason}") from error


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


def _move(build: Builder, graph: ir.Graph, values: Sequence[ir.Value], stem: str) -> list[ir.Value]:
    """Moves nodes and weights of a graph to where `build` appends, and returns the graph's outputs there."""
    arguments = dict(zip(graph.inputs, values, strict=True))
    results = list(graph.outputs)
    graph.outputs.clear()
    for argument, value in arguments.items():
        argument.replace_all_uses_with(value)
    for weight in list(graph.initializers.values()):
        graph.initializers.pop(str(weight.name))
        weight.name = build.name("constant")
        build.top.register_initializer(weight)
    for node in list(graph):
        graph.remove(node)
        for made in node.outputs:
            made.name = build.name(f"{stem}_{node.op_type.lower()}")
        node.name = f"node_{node.outputs[0].name}"
        node.version = build.opset
        build.graph.append(node)
    return [build("Identity", arguments[value]) if value in arguments else value for value in results]

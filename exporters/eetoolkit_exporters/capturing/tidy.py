"""A graph in the form that the passes expect, at every level of its control flow."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from eetoolkit_exporters.capturing.shapes import infer_shapes as infer
from eetoolkit_exporters.graph import constant, copy_of, fresh, names_of, subgraphs, values_of
from eetoolkit_runtime.errors import ExportError

_SEQUENCES = {
    "SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SequenceErase", "SequenceMap", "SplitToSequence",
    "Optional",
}  # fmt: skip


def tidy(model: ir.Model, *, infer_shapes: bool) -> ir.Model:
    """Returns the model with functions inlined, constants and weights as initializers of the top graph, unused nodes
    gone, every node's opset written on it, nodes in topological order, and names unique over all levels.

    Raises:
        ExportError: A graph that has no valid order, or functions that call each other for ever.
    """  # noqa: D205 - one sentence
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        steps = [passes.RemoveInitializersFromInputsPass(), passes.InlinePass(), passes.TopologicalSortPass()]
        model = ir.passes.Sequential(*steps)(model).model
        _copy_constant_outputs(model)
        _detach_unused(model.graph)
        steps = [
            passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            passes.LiftSubgraphInitializersToMainGraphPass(),
            passes.RemoveUnusedNodesPass(),
            passes.NameFixPass(),
        ]
        model = ir.passes.Sequential(*steps)(model).model
        _name(model.graph)
        if infer_shapes:
            infer(model)
    except Exception as error:
        raise ExportError(f"the graph cannot be read: {error}") from error
    finally:
        logger.setLevel(level)
    for node in model.graph.all_nodes():
        if node.op_type in _SEQUENCES:
            for value in node.outputs:  # onnx_ir reads the inferred type as a tensor's
                value.type, value.shape = None, None
        node.version = model.opset_imports.get(node.domain, 1)
    return model


def _copy_constant_outputs(model: ir.Model) -> None:
    """Puts an Identity between a constant or an initializer and a graph's output that it is.

    A branch may return a constant; as an initializer of the top graph it would not be the branch's own.
    """
    for graph in model.graphs():
        for index, value in enumerate(graph.outputs):
            producer = value.producer()
            constant = producer is not None and producer.op_type == "Constant" and producer.domain == ""
            if constant or (graph is not model.graph and value.is_initializer()):
                graph.append(node := copy_of(value, f"{value.name}_copy"))
                graph.outputs[index] = node.outputs[0]


def _detach_unused(graph: ir.Graph) -> None:
    """Makes nodes that nothing uses let go of what their subgraphs capture: the pass that removes them does not."""
    outputs = set(graph.outputs)
    for node in reversed(graph):
        inner = subgraphs(node)
        if any(value.uses() or value in outputs for value in node.outputs):
            for subgraph in inner:
                _detach_unused(subgraph)
            continue
        for unused in (unused for subgraph in inner for unused in subgraph.all_nodes()):
            for index in range(len(unused.inputs)):
                unused.replace_input_with(index, None)
        graph.remove(node, safe=True)


def _name(graph: ir.Graph) -> None:
    """Makes the names of values, and of nodes, unique over all levels; `NameFixPass` lets two branches share one."""
    first = (*graph.inputs, *graph.outputs, *graph.initializers.values())
    _make_unique(dict.fromkeys((*first, *values_of(graph))))
    _make_unique(graph.all_nodes())


def _make_unique(named: Iterable[ir.Value | ir.Node]) -> None:
    numbers: dict[str, int] = {}
    taken: set[str] = set()
    for thing in named:
        if not thing.name:
            continue
        base = name = thing.name
        while name in taken:
            numbers[base] = numbers.get(base, 1) + 1
            name = f"{base}_{numbers[base]}"
        if name != base:
            thing.name = name
        taken.add(name)


def flatten_conditions(graph: ir.Graph) -> None:
    """Gives every condition of two or more dimensions, at every level, the shape of a single value.

    What decides in `If` and `Loop` is one value; ONNX lets it have any number of dimensions, a plan none or one.
    """
    used = names_of(graph) | {str(node.name) for node in graph.all_nodes()}
    for node in list(graph.all_nodes()):
        if node.domain != "" or node.op_type not in ("If", "Loop"):
            continue
        place = 0 if node.op_type == "If" else 1
        condition = node.inputs[place] if len(node.inputs) > place else None
        if condition is not None and _is_deep(condition):
            flat = _flat(graph, condition, node.version, used)
            node.prepend(flat)
            node.replace_input_with(place, flat.outputs[0])
        if node.op_type == "Loop":
            body = subgraphs(node)[0]
            if _is_deep(body.outputs[0]):
                flat = _flat(graph, body.outputs[0], node.version, used)
                body.append(flat)
                body.outputs[0] = flat.outputs[0]


def _is_deep(value: ir.Value) -> bool:
    return value.shape is not None and len(value.shape) > 1


def _flat(graph: ir.Graph, value: ir.Value, version: int | None, used: set[str]) -> ir.Node:
    name = fresh(f"{value.name}_flat", used)
    node = ir.Node("", "Reshape", [value, constant(graph, np.array([], np.int64))], name=name, version=version)
    made = node.outputs[0]
    made.name, made.type, made.shape = name, ir.TensorType(ir.DataType.BOOL), ir.Shape([])
    return node

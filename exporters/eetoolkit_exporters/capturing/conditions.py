"""What decides in `If` and `Loop` is one value; ONNX lets it have any number of dimensions, a plan none or one."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from eetoolkit_exporters.graph import constant, fresh, names_of, subgraphs


def flatten_conditions(graph: ir.Graph) -> None:
    """Gives every condition of two or more dimensions, at every level, the shape of a single value."""
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

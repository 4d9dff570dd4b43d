"""Small patterns of gates and heads in fewer nodes, where onnxruntime runs one node after the other.

A gate is a handful of operators on a few numbers, each of which costs about a microsecond whatever it computes, and
seventeen gates of a SkipNet are a tenth of its time (`benchmarks/README.md`). An average over a whole map, besides,
is an operator of the blocked convolution layout, so that the map is converted for it and back.

    AveragePool of the whole map, Reshape to (N, C)    ReduceMean without the kept dimensions
    Slice of a column, compared, Reshape to (N,)       Gather of the column, compared
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from eetoolkit_exporters.graph import constant

_FLATTENING = {"Reshape", "Flatten", "Squeeze"}
_COMPARISONS = {"Greater", "GreaterOrEqual", "Less", "LessOrEqual"}
_AXES_AS_INPUT = 18  # opset from which ReduceMean has its axes as an input


def simplify(model: ir.Model) -> None:
    """Rewrites the patterns in the model's top-level graph; its inputs and outputs keep their names and shapes."""
    graph = model.graph
    found = False
    for node in list(graph):
        if node.graph is graph and not node.domain:
            found |= _average(node, graph) or _column(node, graph)
    if found:
        RemoveUnusedNodesPass()(model)


def _average(node: ir.Node, graph: ir.Graph) -> bool:
    """Makes one `ReduceMean` of an average over a whole map and what flattens it."""
    if not _averages_maps(node):
        return False
    x, flat = node.inputs[0], _only_reader(node)
    channels = x.shape[1] if x is not None and x.shape is not None else None
    if flat is None or flat.domain or flat.op_type not in _FLATTENING or not isinstance(channels, int):
        return False
    shape = flat.outputs[0].shape
    if shape is None or len(shape) != 2 or shape[1] != channels:
        return False
    version, keep = node.version or graph.opset_imports[""], ir.AttrInt64("keepdims", 0)
    if version < _AXES_AS_INPUT:
        mean = ir.Node("", "ReduceMean", [x], [ir.AttrInt64s("axes", [2, 3]), keep], version=version)
    else:
        mean = ir.Node("", "ReduceMean", [x, constant(graph, [2, 3])], [keep], version=version)
    _replace(flat, mean, graph)
    return True


def _averages_maps(node: ir.Node) -> bool:
    x = node.inputs[0] if node.inputs else None
    if x is None or x.shape is None or len(x.shape) != 4:
        return False
    attributes = node.attributes
    match node.op_type:
        case "GlobalAveragePool":
            return True
        case "AveragePool":
            whole = list(attributes.get_ints("kernel_shape", ())) == list(x.shape[2:])
            padded = any(attributes.get_ints("pads", ())) or attributes.get_string("auto_pad", "NOTSET") != "NOTSET"
            return whole and not padded
        case "ReduceMean":
            axes = node.inputs[1].const_value if len(node.inputs) > 1 and node.inputs[1] is not None else None
            given = list(attributes.get_ints("axes", ())) if axes is None else axes.numpy().tolist()
            return sorted(axis % 4 for axis in given) == [2, 3] and attributes.get_int("keepdims", 1) == 1
    return False


def _column(node: ir.Node, graph: ir.Graph) -> bool:
    """Compares a column picked as (N,) instead of one picked as (N, 1) and reshaped."""
    place = _only_column(node)
    test = _only_reader(node)
    if place is None or test is None or test.op_type not in _COMPARISONS or test.inputs[0] is not node.outputs[0]:
        return False
    limit, flat = test.inputs[1], _only_reader(test)
    if limit is None or limit.const_value is None or limit.const_value.size != 1 or len(limit.const_value.shape) > 1:
        return False
    if flat is None or flat.op_type not in _FLATTENING or flat.outputs[0].shape is None:
        return False
    if len(flat.outputs[0].shape) != 1 or test.domain or flat.domain:
        return False
    index, rows = constant(graph, place), flat.outputs[0].shape
    column = ir.Node("", "Gather", [node.inputs[0], index], [ir.AttrInt64("axis", 1)], version=node.version)
    column.outputs[0].type, column.outputs[0].shape = node.outputs[0].type, rows
    compared = ir.Node("", test.op_type, [column.outputs[0], limit], version=test.version)
    graph.insert_before(flat, column)
    _replace(flat, compared, graph)
    return True


def _only_column(node: ir.Node) -> int | None:
    """Returns the column that a `Slice` of a matrix picks, if it is one."""
    x, y = node.inputs[0] if node.inputs else None, node.outputs[0]
    if node.op_type != "Slice" or x is None or x.shape is None or len(x.shape) != 2 or len(node.inputs) < 4:
        return None
    starts, axes = (value.const_value if value is not None else None for value in (node.inputs[1], node.inputs[3]))
    columns = x.shape[1]
    if y.shape is None or y.shape[1] != 1 or not isinstance(columns, int) or starts is None or axes is None:
        return None
    if starts.size != 1 or axes.numpy().tolist() not in ([1], [-1]):
        return None
    start = int(starts.numpy().item())
    return start % columns if -columns <= start < columns else None


def _only_reader(node: ir.Node) -> ir.Node | None:
    """Returns the only node that reads what a node makes, if it stands beside it and not in a branch."""
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or node.outputs[0].is_graph_output():
        return None
    return uses[0][0] if uses[0][0].graph is node.graph else None


def _replace(node: ir.Node, by: ir.Node, graph: ir.Graph) -> None:
    """Puts one node in the place of another; its output takes the other's name."""
    old, new = node.outputs[0], by.outputs[0]
    new.type, new.shape = old.type, old.shape
    graph.insert_before(node, by)
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    new.name = old.name

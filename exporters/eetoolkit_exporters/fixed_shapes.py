"""Which tensors have the same shape in every call with the same input shapes.

A runner binds buffers for these once; the others it binds afresh each time. Two facts are carried through the graph: a
value's shape is fixed, and a value's *contents* are fixed (made of shapes and constants alone, such as the target shape
of a Reshape). An operator gives fixed shapes if its inputs' shapes are fixed and those of its operands that say a shape
are fixed in content.
"""

from __future__ import annotations

import onnx_ir as ir

_SHAPE_OPERANDS = {
    "Reshape": (1,), "Expand": (1,), "Tile": (1,), "Slice": (1, 2, 3, 4), "Pad": (1, 3), "Resize": (2, 3),
    "Upsample": (1,), "ConstantOfShape": (0,), "Range": (0, 1, 2), "OneHot": (1,), "TopK": (1,), "Split": (1,),
    "Squeeze": (1,), "Unsqueeze": (1,), "ReduceSum": (1,), "ReduceMean": (1,), "ReduceMax": (1,), "ReduceMin": (1,),
    "ReduceProd": (1,), "ReduceL1": (1,), "ReduceL2": (1,), "ReduceLogSum": (1,), "ReduceLogSumExp": (1,),
    "ReduceSumSquare": (1,), "CenterCropPad": (1,), "AffineGrid": (1,), "BlackmanWindow": (0,), "HannWindow": (0,),
    "HammingWindow": (0,), "DFT": (1, 2), "STFT": (1, 3), "MelWeightMatrix": (0, 1), "MaxUnpool": (2,),
    "Col2Im": (1, 2),
}  # fmt: skip
_DATA_SHAPES = {"NonZero", "Unique", "Compress", "NonMaxSuppression", "StringSplit"}
_KNOWN_DOMAINS = {"", "ai.onnx.ml"}


def fixed_shapes(graph: ir.Graph) -> set[ir.Value]:
    """Returns the values whose shape depends on the input shapes alone; nodes must be in topological order."""
    shapes: set[ir.Value] = {*graph.inputs, *graph.initializers.values()}
    contents: set[ir.Value] = set(graph.initializers.values())
    symbols = {dim.value for value in graph.inputs for dim in value.shape or () if not isinstance(dim, int)} - {None}
    for node in graph:
        inputs = [value for value in node.inputs if value is not None]
        if (node.op_type in {"Shape", "Size"} and inputs[0] in shapes) or (
            inputs and all(value in contents for value in inputs) and not _has_subgraph(node)
        ):
            contents.update(node.outputs)
        for output in node.outputs:
            static = output.shape is not None and all(
                isinstance(dim, int) or dim.value in symbols for dim in output.shape
            )
            if static or _keeps_fixed(node, shapes, contents):
                shapes.add(output)
    return shapes


def _keeps_fixed(node: ir.Node, shapes: set[ir.Value], contents: set[ir.Value]) -> bool:
    if node.domain not in _KNOWN_DOMAINS or node.op_type in _DATA_SHAPES or _has_subgraph(node):
        return False
    if node.op_type.startswith(("Sequence", "Optional", "SplitToSequence", "ConcatFromSequence")):
        return False
    if any(value is not None and value not in shapes for value in node.inputs):
        return False
    operands = _SHAPE_OPERANDS.get(node.op_type, ())
    return all(node.inputs[i] is None or node.inputs[i] in contents for i in operands if i < len(node.inputs))


def _has_subgraph(node: ir.Node) -> bool:
    return any(attr.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attr in node.attributes.values())

"""Which tensors have the same shape in every call with the same input shapes.

A runner binds buffers for these once; the others it binds afresh each time. Two facts are carried through the graph: a
value's shape is fixed, and a value's *contents* are fixed (made of shapes and constants alone, such as the target shape
of a Reshape). An operator gives fixed shapes if its inputs' shapes are fixed and those of its operands that say a shape
are fixed in content.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from eetoolkit_exporters.cutting.segments import CutSegment
from eetoolkit_exporters.graph import subgraphs

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


@dataclass(frozen=True)
class Fixed:
    """Values whose shape, and values whose contents depend on the input shapes alone."""

    shapes: set[ir.Value]
    contents: set[ir.Value]


def fixed_shapes(graph: ir.Graph, segments: Sequence[CutSegment]) -> Fixed:
    """Returns what is fixed in a network cut into segments.

    A slot that takes different tensors on different ways has a fixed shape only if its own shape names no size but
    numbers and the inputs' symbols, and if all these tensors have fixed shapes.
    """
    symbols = {dim.value for value in graph.inputs for dim in value.shape or () if not isinstance(dim, int)} - {None}
    sources: dict[ir.Value, set[ir.Value]] = {}
    for segment in segments:
        for slot, source in segment.writes.items():
            if slot is not source:
                sources.setdefault(slot, set()).add(source)
    moved = {slot for slot in sources if _static(slot, symbols)}
    while True:
        found = _fixed(graph, segments, moved, set(sources), symbols)
        kept = {
            slot
            for slot in moved
            if all(source in found.shapes and _same_shape(source, slot) for source in sources[slot])
        }
        if kept == moved:
            return found
        moved = kept


def _fixed(
    graph: ir.Graph,
    segments: Sequence[CutSegment],
    moved: set[ir.Value],
    slots: set[ir.Value],
    symbols: set[str | None],
) -> Fixed:
    """Goes through the nodes once, with the shapes of `moved` slots taken as fixed and those of other `slots` not."""
    shapes: set[ir.Value] = {*graph.inputs, *graph.initializers.values(), *moved}
    contents: set[ir.Value] = set(graph.initializers.values())
    for node in (node for segment in segments for node in segment.nodes):
        inputs = [value for value in node.inputs if value is not None]
        if (node.op_type in {"Shape", "Size"} and inputs[0] in shapes) or (
            inputs and all(value in contents for value in inputs) and not subgraphs(node)
        ):
            contents.update(node.outputs)
        for output in node.outputs:
            if output not in slots and (_static(output, symbols) or _keeps_fixed(node, shapes, contents)):
                shapes.add(output)
    return Fixed(shapes, contents)


def _same_shape(source: ir.Value, slot: ir.Value) -> bool:
    """Whether two shapes are the same in every call; a constant's 1 may stand for the one row of a run."""
    if source.shape is None or slot.shape is None or len(source.shape) != len(slot.shape):
        return False
    return all(
        a == b or (source.is_initializer() and a == 1 and not isinstance(b, int))
        for a, b in zip(source.shape, slot.shape, strict=True)
    )


def _static(value: ir.Value, symbols: set[str | None]) -> bool:
    return value.shape is not None and all(isinstance(dim, int) or dim.value in symbols for dim in value.shape)


def shape_nodes(graph: ir.Graph) -> set[ir.Node]:
    """Returns the nodes that make a few numbers of the sizes of the network's inputs, such as the target of a Reshape.

    They cost next to nothing and depend on how many rows run together, so no segment hands them to another.
    """
    found: set[ir.Node] = set()
    inputs = set(graph.inputs)
    for node in graph:
        if subgraphs(node) or not all(map(_few_integers, node.outputs)):
            continue
        sources = [value for value in node.inputs if value is not None]
        if node.op_type in {"Shape", "Size"}:
            known = sources[0] in inputs
        else:
            made = [value for value in sources if not value.is_initializer()]
            known = bool(made) and all(value.producer() in found for value in made)
        if known and node.domain == "":
            found.add(node)
    return found


def _few_integers(value: ir.Value) -> bool:
    return (
        value.dtype in (ir.DataType.INT64, ir.DataType.INT32)
        and value.shape is not None
        and len(value.shape) <= 1
        and all(isinstance(dim, int) for dim in value.shape)
    )


def _keeps_fixed(node: ir.Node, shapes: set[ir.Value], contents: set[ir.Value]) -> bool:
    if node.domain not in _KNOWN_DOMAINS or node.op_type in _DATA_SHAPES or subgraphs(node):
        return False
    if node.op_type.startswith(("Sequence", "Optional", "SplitToSequence", "ConcatFromSequence")):
        return False
    if any(value is not None and value not in shapes for value in node.inputs):
        return False
    operands = _SHAPE_OPERANDS.get(node.op_type, ())
    return all(node.inputs[i] is None or node.inputs[i] in contents for i in operands if i < len(node.inputs))

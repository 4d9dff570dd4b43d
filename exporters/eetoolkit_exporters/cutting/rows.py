"""Whether the rows of a batch may run together until their exits or gates differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx_ir as ir

from eetoolkit_exporters.capturing.shapes import dims_of
from eetoolkit_exporters.cutting.blocks import exit_values
from eetoolkit_exporters.cutting.fixed_shapes import Fixed, fixed_shapes
from eetoolkit_exporters.cutting.segments import CutSegment
from eetoolkit_exporters.graph import subgraphs
from eetoolkit_runtime.running.inputs import BATCH


def against_rows(graph: ir.Graph, segments: Sequence[CutSegment]) -> str | None:
    """Returns why the rows of a batch must run one by one; None where they may run together.

    A gate must decide for each row, nothing inside a segment may decide once for all rows, and every tensor between
    segments must have its rows along one dimension, or nothing of them.

    Args:
        graph: The network.
        segments: What it was cut into.
    """
    fixed = fixed_shapes(graph, segments)
    for segment in segments:
        if segment.on is not None and not _per_row(segment.on):
            return f"{str(segment.on.name)!r} decides once per call"
        for node in segment.nodes:
            if subgraphs(node):
                return f"{node.op_type} {str(node.outputs[0].name)!r} decides once per call"
        for slot in (*segment.writes, *(exit_values(segment.exit) if segment.exit else ())):
            reason = _against(slot, fixed)
            if reason is not None:
                return f"the tensor {str(slot.name)!r} {reason}"
    return None


_ALONG_AN_AXIS = {
    "ArgMax": 0, "ArgMin": 0, "Softmax": -1, "LogSoftmax": -1, "Hardmax": -1, "TopK": -1, "Gather": 0,
    "GatherElements": 0, "ScatterElements": 0, "Concat": 0, "Split": 0, "LayerNormalization": -1,
}  # fmt: skip
"""Operators that look at several elements along an axis and may keep its size, with their default axis."""
_ALL_ROWS = {"CumSum", "ReverseSequence", "Scatter", "ScatterND", "Einsum", "LSTM", "GRU", "RNN"}

_ANYWHERE = {
    "Add", "Sub", "Mul", "Div", "Where", "Cast", "Identity", "Relu", "Sigmoid", "Tanh", "MatMul", "Transpose",
    "Squeeze", "Unsqueeze",
}  # fmt: skip
"""Operators that keep rows apart along any dimension; the others are known to do so along the first alone."""


def mixing(nodes: Iterable[ir.Node]) -> str | None:
    """Returns what may let the rows of a batch affect each other; None where nothing can.

    A node cannot that gives as many rows as it gets, in their order, and looks along other axes only.
    """
    for node in nodes:
        if node.op_type in {"Shape", "Size"} or not any(value is not None and _batched(value) for value in node.inputs):
            continue
        kept = all(_batched(value) and not _wide(value) for value in node.outputs if value.name)
        elsewhere = node.op_type not in _ANYWHERE and _places(node) != {0}
        if node.domain or node.op_type in _ALL_ROWS or _along_rows(node) or elsewhere or not kept:
            return f"{node.op_type} {str(node.outputs[0].name)!r} may mix rows"
    return None


def _along_rows(node: ir.Node) -> bool:
    x = node.inputs[0]
    if node.op_type not in _ALONG_AN_AXIS or x is None or x.shape is None or not _batched(x):
        return False
    return node.attributes.get_int("axis", _ALONG_AN_AXIS[node.op_type]) % len(x.shape) == 0


def _places(node: ir.Node) -> set[int]:
    """Returns along which dimensions of what a node gets and gives rows lie."""
    values = [value for value in (*node.inputs, *node.outputs) if value is not None and value.shape is not None]
    return {axis for value in values for axis, dim in enumerate(value.shape or ()) if str(dim) == BATCH}


def _batched(value: ir.Value) -> bool:
    return value.shape is not None and any(str(dim) == BATCH for dim in value.shape)


def _wide(value: ir.Value) -> bool:
    """Whether rows lie along several dimensions, as in a comparison of all pairs."""
    return value.shape is not None and sum(BATCH in str(dim) for dim in value.shape) > 1


def _per_row(value: ir.Value) -> bool:
    return value.shape is not None and len(value.shape) == 1 and str(value.shape[0]) == BATCH


def _against(value: ir.Value, fixed: Fixed) -> str | None:
    shape = value.shape
    if shape is None:
        return "has an unknown shape"
    if value not in fixed.shapes:
        return f"has the shape {shape}, which depends on data"
    dims = dims_of(shape)
    if None in dims:
        return f"has an unknown number of rows: {shape}"
    hang = [str(dim) for dim in dims if BATCH in str(dim)]
    if hang not in ([], [BATCH]):
        return f"does not have its rows along one dimension: {shape}"
    if value in fixed.contents and BATCH not in dims:
        return "may hold the number of rows"
    return None

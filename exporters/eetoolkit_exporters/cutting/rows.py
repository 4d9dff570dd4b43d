"""Whether rows of a batch may run together and part where their exits or gates do."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from eetoolkit_exporters.capturing.scopes import subgraphs
from eetoolkit_exporters.cutting.blocks import exit_values
from eetoolkit_exporters.cutting.fixed_shapes import Fixed, fixed_shapes
from eetoolkit_exporters.cutting.segments import CutSegment
from eetoolkit_runtime.inputs import BATCH


def against_rows(graph: ir.Graph, segments: Sequence[CutSegment]) -> str | None:
    """Returns why the rows of a batch must run one by one; None where they may run together.

    A gate must decide for each row, nothing inside a segment may decide once for all rows, and every tensor between
    segments must have its rows along its leading dimension, or nothing of them.

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


def _per_row(value: ir.Value) -> bool:
    return value.shape is not None and len(value.shape) == 1 and str(value.shape[0]) == BATCH


def _against(value: ir.Value, fixed: Fixed) -> str | None:
    shape = value.shape
    if shape is None:
        return "has an unknown shape"
    if value not in fixed.shapes:
        return f"has the shape {shape}, which depends on data"
    leading, *others = [dim if isinstance(dim, int) else dim.value for dim in shape] or [1]
    if any(dim is None or BATCH in str(dim) for dim in others) or (leading != BATCH and BATCH in str(leading)):
        return f"has its rows elsewhere than along its leading dimension: {shape}"
    if leading is None:
        return f"has an unknown number of rows: {shape}"
    if value in fixed.contents and leading != BATCH:
        return "may hold the number of rows"
    return None

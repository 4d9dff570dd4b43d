"""Another name for the batch in what a segment is given, where that keeps onnxruntime's fusions.

A runner of one row tells onnxruntime that the dimension `batch` of a graph's inputs is 1, so that shapes are worked out
while loading. What the graph says of its inner tensors keeps the name, and a residual whose one side is an input then
adds a shape with `batch` to one with 1, which no fusion takes for equal: a layer norm, a bias or an activation runs as
nodes of its own. So `batch` stays the name only where a shape can be worked out by it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import onnx_ir as ir

from eetoolkit_exporters.graph import values_of
from eetoolkit_runtime.running.inputs import BATCH

_OWN = "eetoolkit_batch"
NAMES = (BATCH, _OWN)
"""What the batch may be called in a segment's graph."""


def loosen(model: ir.Model, inputs: Collection[str]) -> None:
    """Renames the batch of all but the network's inputs, unless it is all that a `Shape` node does not know.

    Args:
        model: A segment.
        inputs: The graph's inputs that are the network's.
    """
    given = {value for value in model.graph.inputs if value.name in inputs}
    asked = (node.inputs[0] for node in model.graph.all_nodes() if node.op_type == "Shape")
    if not any(value is not None and value not in given and _is_known(value) for value in asked):
        _rename((value for value in values_of(model.graph) if value not in given), BATCH, _OWN)


def tighten(model: ir.Model, size: int | str = BATCH) -> None:
    """Gives the batch of all tensors its name back, or its size."""
    for name in NAMES:
        _rename(values_of(model.graph), name, size)


def _rename(values: Iterable[ir.Value], old: str, new: int | str) -> None:
    for value in values:
        if value.shape is not None and any(_is(dim, old) for dim in value.shape):
            value.shape = ir.Shape([new if _is(dim, old) else dim for dim in value.shape])


def _is(dim: int | ir.SymbolicDim, name: str) -> bool:
    return not isinstance(dim, int) and dim.value == name


def _is_known(value: ir.Value) -> bool:
    return value.shape is not None and all(isinstance(dim, int) or dim.value == BATCH for dim in value.shape)

"""Along which axes of a value the rows of a batch and the channels lie, as the operators that made it tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from eetoolkit_exporters.capturing.shapes import dims_of
from eetoolkit_runtime.running.inputs import BATCH, axes_of_rows

_FIRST_CHANNELS = {"BatchNormalization", "InstanceNormalization", "GroupNormalization", "DepthToSpace", "SpaceToDepth"}
_LAST_CHANNELS = {"Gemm", "GRU", "LSTM", "RNN"}
_RECURRENT = {"GRU", "LSTM", "RNN"}
_PER_CHANNEL = {"Add", "Mul", "Sub", "Div", "PRelu"}
_PRIMES = (104729, 104723, 104717, 104711, 104707, 104701, 104693, 104683, 104681, 104677)
"""Sizes that stand for symbols in products of dimensions; no network's own are multiples of these."""


@dataclass(frozen=True)
class Layout:
    """The axes of rows and of channels, two different ones."""

    rows: int
    channels: int


_Axes = tuple[int | None, int | None]
"""Of rows and of channels; None where one is not known."""


def layouts(graph: ir.Graph) -> dict[ir.Value, Layout]:
    """Returns the layouts of what the nodes make, where they are known."""
    rows = axes_of_rows([tuple(dims_of(value.shape)) for value in graph.inputs])
    found: dict[ir.Value, _Axes] = {value: (axis, None) for value, axis in zip(graph.inputs, rows, strict=True)}
    symbols = {dim.value for value in graph.inputs for dim in value.shape or () if not isinstance(dim, int)} - {None}
    sizes = dict(zip(sorted(map(str, symbols)), _PRIMES, strict=False))
    for node in graph:
        for value in node.outputs:
            if value.shape is not None and len(value.shape) > 1:
                found[value] = _follow(node, value, found, sizes)
    return {
        value: Layout(rows, channels)
        for value, (rows, channels) in found.items()
        if rows is not None and channels is not None and rows != channels
    }


def _follow(node: ir.Node, value: ir.Value, found: Mapping[ir.Value, _Axes], sizes: Mapping[str, int]) -> _Axes:
    """Returns the axes of what a node makes: rows where the shape says `batch`, else where its inputs have them."""
    dims = dims_of(value.shape)
    rows = dims.index(BATCH) if dims.count(BATCH) == 1 else None
    told = _told(node, len(dims))
    channels = told if told is not None and 0 < told < len(dims) else None
    for source in node.inputs:
        if source is not None and source in found:
            their_rows, their_channels = found[source]
            rows = _moved(node, source, their_rows, value, sizes) if rows is None else rows
            channels = _moved(node, source, their_channels, value, sizes) if channels is None else channels
    if len(dims) == 2 and rows is not None:
        channels = 1 - rows
    return rows, channels


def _told(node: ir.Node, rank: int) -> int | None:
    """Returns the axis of channels that an operator or its weights tell."""
    kind = node.op_type
    if "Conv" in kind or "Pool" in kind or kind in _FIRST_CHANNELS:
        return 1
    if "MatMul" in kind or kind in _LAST_CHANNELS:
        return rank - 1
    if kind.endswith("LayerNormalization"):
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
        return rank - 1 if axis % rank == rank - 1 else None
    if kind == "Gather" and (table := node.inputs[0]) is not None and table.is_initializer():
        return rank - 1 if len(_constant_dims(table)) == 2 else None
    if kind in _PER_CHANNEL:
        for value in node.inputs:
            dims = _constant_dims(value) if value is not None else []
            wide = [axis - len(dims) for axis, dim in enumerate(dims) if dim != 1]
            if len(wide) == 1:
                return rank + wide[0]
    return None


def _constant_dims(value: ir.Value) -> list[int]:
    return [] if value.const_value is None else [int(dim) for dim in value.const_value.shape.numpy()]


def _moved(node: ir.Node, source: ir.Value, axis: int | None, value: ir.Value, sizes: Mapping[str, int]) -> int | None:
    """Returns where an axis of a node's input lies in its output; None where it is gone or cannot be told."""
    if axis is None or source.shape is None or value.shape is None:
        return None
    if node.op_type in {"Reshape", "Flatten"}:
        return _reshaped(_sizes(source, sizes), _sizes(value, sizes), axis)
    origins = _origins(node, source is node.inputs[0], len(source.shape), len(value.shape))
    return origins.index(axis) if axis in origins else None


def _origins(node: ir.Node, is_first: bool, before: int, after: int) -> Sequence[int]:
    """Returns for each axis of an output which one of an input it was; -1 where it is new or contracted.

    Args:
        node: The node.
        is_first: Whether the input is the node's first.
        before: The rank of the input.
        after: That of the output.
    """
    kind = node.op_type
    if kind == "Transpose":
        return node.attributes["perm"].as_ints() if "perm" in node.attributes else range(before)[::-1]
    if kind in _RECURRENT:  # (steps, rows, width) to (steps, directions, rows, width) or (directions, rows, width)
        return [*[-1] * (after - 2), 1 if is_first else -1, -1]
    if kind == "Unsqueeze":
        new, old = {axis % after for axis in _axes(node)}, iter(range(before))
        return [-1 if axis in new else next(old) for axis in range(after)]
    if after < before and "MatMul" not in kind:  # Squeeze, reductions, Gather of one position
        gone = {axis % before for axis in _axes(node)}
        return [axis for axis in range(before) if axis not in gone]
    aligned = list(range(before - after, before))  # shapes are broadcast from the right
    return [*aligned[:-1], -1] if "MatMul" in kind else aligned


def _axes(node: ir.Node) -> Sequence[int]:
    """Returns the axes on which an operator works, from its attribute or its second input."""
    for name in ("axes", "axis"):
        if name in node.attributes:
            attribute = node.attributes[name]
            return attribute.as_ints() if attribute.type == ir.AttributeType.INTS else [attribute.as_int()]
    second = node.inputs[1] if len(node.inputs) > 1 and node.op_type != "Gather" else None
    if second is not None and second.const_value is not None:
        return [int(axis) for axis in second.const_value.numpy().reshape(-1)]
    if node.op_type == "Gather":
        return [0]
    return [axis for axis, dim in enumerate(node.inputs[0].shape or ()) if dim == 1] if node.inputs[0] else []


def _reshaped(before: Sequence[int | None], after: Sequence[int | None], axis: int) -> int | None:
    """Returns the axis of the new shape that has as many numbers before it and the same size."""
    before, after = _filled(before, after)
    size, ahead = before[axis], before[:axis]
    for place, other in enumerate(after):
        if other == size and None not in (*ahead, *after[:place], size) and _product(ahead) == _product(after[:place]):
            return place
    return None


def _filled(
    before: Sequence[int | None], after: Sequence[int | None]
) -> tuple[Sequence[int | None], Sequence[int | None]]:
    """Returns two shapes of as many numbers with the only unknown size of one of them."""
    for known, other in ((before, after), (after, before)):
        if None not in known and list(other).count(None) == 1:
            missing = _product(known) // max(1, _product([size for size in other if size is not None]))
            filled = [missing if size is None else size for size in other]
            return (known, filled) if known is before else (filled, known)
    return before, after


def _product(sizes: Sequence[int | None]) -> int:
    return math.prod(size for size in sizes if size is not None)


def _sizes(value: ir.Value, symbols: Mapping[str, int]) -> list[int | None]:
    sizes: list[int | None] = []
    for dim in value.shape or ():
        size = dim if isinstance(dim, int) else dim.evaluate(symbols) if dim.value is not None else None
        sizes.append(size if isinstance(size, int) else None)
    return sizes

"""Which values are one-hot along an axis, and how their columns are taken."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from eetoolkit_exporters.gating.hardness import Ranges, contents


def one_hot(value: ir.Value, axis: int, ranges: Ranges) -> bool | None:
    """Returns whether exactly one (True) or at most one (False) element along `axis` is 1; None if it is not known."""
    node = value.producer()
    if node is None or node.domain or value.shape is None or node.op_type not in _FORMS:
        return None
    return _FORMS[node.op_type](node, value.shape, axis, ranges)


def column(value: ir.Value) -> tuple[ir.Value, int, int] | None:
    """Returns (whole, axis, index) of a value that is one column of another; None if it is none."""
    node = value.producer()
    before = node.inputs[0] if node is not None and not node.domain and node.inputs else None
    if node is None or before is None or before.shape is None:
        return None
    axis, index = _place(node, value)
    rank = len(before.shape)
    if axis is None or index is None or not -rank <= axis < rank:
        return None
    size = before.shape[axis]
    if index < 0:
        if not isinstance(size, int):
            return None
        index += size
    return before, axis % rank, index


def _place(node: ir.Node, value: ir.Value) -> tuple[int | None, int | None]:
    if node.op_type == "Gather":
        return _axis(node, 0), _only(node.inputs[1])
    if node.op_type == "Slice" and len(node.inputs) >= 4:
        start, end, axis = (_only(operand) for operand in node.inputs[1:4])
        step = _only(node.inputs[4]) if len(node.inputs) > 4 else 1
        single = start is not None and end == start + 1 and step == 1 and end != 0
        return axis, start if single else None
    if node.op_type == "Split":
        axis = _axis(node, 0)
        single = all(output.shape is not None and output.shape[axis] == 1 for output in node.outputs)
        return axis, value.index() if single else None
    return None, None


def _hardmax(node: ir.Node, shape: ir.Shape, axis: int, _: Ranges) -> bool | None:
    return True if _axis(node, -1) % len(shape) == axis else None


def _onnx_one_hot(node: ir.Node, shape: ir.Shape, axis: int, ranges: Ranges) -> bool | None:
    indices, depth, values = node.inputs
    on_off, size = contents(values), _only(depth)
    if indices is None or on_off is None or size is None or on_off.tolist() != [0, 1]:
        return None
    found = ranges[indices]
    inside = found.whole and found.low >= -size and found.high < size
    return inside if _axis(node, -1) % len(shape) == axis else None


def _scattered(node: ir.Node, shape: ir.Shape, axis: int, ranges: Ranges) -> bool | None:
    """A single 1 in every row of zeros, torch's `zeros.scatter(axis, index, 1.0)`."""
    data, indices, updates = node.inputs
    if data is None or indices is None or updates is None or indices.shape is None:
        return None
    if ranges[data][:2] != (0, 0) or ranges[updates][:2] != (1, 1) or _axis(node, 0) % len(shape) != axis:
        return None
    expected = [1 if position == axis else dim for position, dim in enumerate(shape)]
    return True if list(indices.shape) == expected else None


def _compared(node: ir.Node, shape: ir.Shape, axis: int, ranges: Ranges) -> bool | None:
    """An index compared with different numbers along the axis, torch's `one_hot`."""
    rank = len(shape)
    for index, numbers in (node.inputs, (node.inputs[1], node.inputs[0])):
        array = contents(numbers)
        if array is None or index is None or index.shape is None or len(index.shape) != rank or array.ndim > rank:
            continue
        flat = [float(number) for number in array.reshape(-1).tolist()]
        along = ((1,) * (rank - array.ndim) + array.shape)[axis]
        if index.shape[axis] != 1 or along != len(flat) or len(set(flat)) != len(flat):
            continue
        found = ranges[index]
        if not found.whole or not np.isfinite(found.high - found.low):
            return False
        return set(range(int(found.low), int(found.high) + 1)) <= set(flat)
    return None


_FORMS = {"Hardmax": _hardmax, "OneHot": _onnx_one_hot, "ScatterElements": _scattered, "Equal": _compared}


def _axis(node: ir.Node, default: int) -> int:
    return node.attributes["axis"].as_int() if "axis" in node.attributes else default


def _only(value: ir.Value | None) -> int | None:
    """Returns the one number of a constant."""
    array = contents(value)
    return int(array.item()) if array is not None and array.size == 1 else None

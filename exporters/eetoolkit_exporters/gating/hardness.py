"""Which tensors are provably 0 or 1 in every element.

A forward dataflow over intervals: for every value, the least and the greatest that an element can be, and whether all
are whole numbers. Whole and within [0, 1] is hard. Rounding leaves no interval, because it is monotone and rounds the
interval's ends alike. NaN and infinities are outside of what is claimed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from eetoolkit_exporters.gating.ranges import HARD, RULES, UNKNOWN, Range, join

_CONSTANT_SIZE = 4096  # larger initializers are weights: nobody writes a gate with them, and reading them costs time

Ranges = dict[ir.Value, Range]


def hard_values(graph: ir.Graph) -> set[ir.Value]:
    """Returns the values, also those inside subgraphs, whose elements are provably all 0 or 1 (False or True).

    The straight-through form `(hard - p) + p` with p in [0, 1] counts: in floating point it is exactly 0 or 1, since
    1 - p is off by at most half a unit in the last place below 1, which the sum rounds away. `(hard + p) - p` counts
    too, and may be off by one rounding.
    """
    return {value for value, found in value_ranges(graph).items() if found.hard}


def value_ranges(graph: ir.Graph) -> Ranges:
    """Returns what is known of the elements of every value; nodes must be in topological order."""
    ranges: Ranges = {}
    _scan(graph, ranges)
    return ranges


def contents(value: ir.Value | None) -> npt.NDArray[np.generic] | None:
    """Returns the contents of a small initializer of numbers or booleans, None of anything else."""
    tensor = value.const_value if value is not None and not value.is_graph_input() else None
    if tensor is None or tensor.dtype == ir.DataType.STRING or tensor.size > _CONSTANT_SIZE:
        return None
    return np.asarray(tensor.numpy())


def straight_through(node: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """Returns (hard, p) of `(hard - p) + p`, `(hard + p) - p` or `hard + (p - p)`; the caller knows if hard is hard."""
    if node.op_type not in {"Add", "Sub"} or node.domain:
        return None
    x, y = node.inputs
    for inner, other in ((x, y), (y, x)) if node.op_type == "Add" else ((x, y),):
        producer = inner.producer() if inner is not None else None
        if producer is None or other is None or producer.domain or producer.op_type not in {"Add", "Sub"}:
            continue
        first, second = producer.inputs
        if first is None or second is None or producer.op_type == node.op_type:
            continue
        if node.op_type == "Add" and first is second:
            return other, first
        if second is other:
            return first, second
        if node.op_type == "Sub" and first is other:
            return second, first
    return None


def masked_assignment(node: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value] | None:
    """Returns (mask, new, old) of `Where(mask, new, old)` and of torch's `old[mask] = new`, a ScatterND at NonZero."""
    if node.op_type == "Where":
        mask, new, old = node.inputs
    elif node.op_type == "ScatterND":
        old, indices, new = node.inputs
        nonzero = _input_of(_input_of(indices, "Transpose"), "NonZero")
        mask = nonzero if nonzero is not None and old is not None and nonzero.shape == old.shape else None
    else:
        return None
    return None if mask is None or new is None or old is None else (mask, new, old)


def _input_of(value: ir.Value | None, op_type: str) -> ir.Value | None:
    producer = value.producer() if value is not None else None
    return producer.inputs[0] if producer is not None and producer.op_type == op_type else None


def _scan(graph: ir.Graph, ranges: Ranges) -> None:
    for value in (*graph.inputs, *graph.initializers.values()):
        ranges[value] = _with_dtype(value, _of_constant(value))
    for node in graph:
        for value, found in zip(node.outputs, _of_outputs(node, ranges), strict=True):
            ranges[value] = _with_dtype(value, found)


def _of_outputs(node: ir.Node, ranges: Ranges) -> list[Range]:
    unknown = [UNKNOWN] * len(node.outputs)
    graphs = {name: attr.as_graph() for name, attr in node.attributes.items() if attr.type == ir.AttributeType.GRAPH}
    for graph in graphs.values():
        _scan(graph, ranges)
    if node.domain:
        return unknown
    if node.op_type == "If":
        pairs = zip(graphs["then_branch"].outputs, graphs["else_branch"].outputs, strict=True)
        return [join(ranges[one], ranges[other]) for one, other in pairs]
    if node.op_type not in RULES:
        return unknown
    found = RULES[node.op_type](node, [UNKNOWN if value is None else ranges[value] for value in node.inputs])
    if not found[0].hard and (shown := _by_form(node, ranges)) is not None:
        found = [shown]
    return [*found, *unknown][: len(unknown)]


def _of_constant(value: ir.Value) -> Range:
    array = contents(value)
    if array is None or not array.size or array.dtype.kind not in "biuf" or not np.isfinite(array).all():
        return UNKNOWN
    return Range(float(array.min()), float(array.max()), bool((array == np.floor(array)).all()))


def _with_dtype(value: ir.Value, found: Range) -> Range:
    """Adds what the dtype says: a boolean is hard, an integer whole, one that may have wrapped around any it holds."""
    dtype = value.dtype
    if dtype == ir.DataType.BOOL:
        return found if found.hard else HARD
    if dtype is None or not dtype.is_integer():
        return found
    signed, bits = dtype.is_signed(), int(dtype.itemsize * 8)
    low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
    fits = low <= found.low and found.high <= high
    return Range(found.low, found.high, whole=True) if fits else Range(low, high, whole=True)


def _by_form(node: ir.Node, ranges: Ranges) -> Range | None:
    """Returns what several nodes together say, None where they say nothing."""
    parts = straight_through(node)
    if parts is not None and ranges[parts[0]].hard and ranges[parts[1]].unit:
        return ranges[parts[0]]
    if masked_assignment(node) is not None:
        return join(*_pieces(node.outputs[0], ranges, depth=3))
    return None


def _pieces(value: ir.Value, ranges: Ranges, depth: int) -> list[Range]:
    """Returns ranges that together hold all elements: `p[p < 0.5] = 0` leaves {0} and [0.5, 1], and not [0, 1].

    BlockDrop's own code binarizes its policy by two such assignments (Wu et al. 2018, `test.py`).
    """
    producer = value.producer()
    parts = masked_assignment(producer) if producer is not None and depth else None
    if parts is None:
        return [ranges[value]]
    mask, new, old = parts
    kept = _pieces(old, ranges, depth - 1)
    test = mask.producer()
    if test is not None and test.op_type in _REST and test.inputs[0] is old:
        limit = contents(test.inputs[1])
        if limit is not None and limit.size == 1:
            kept = [rest for piece in kept if (rest := _where_false(test.op_type, piece, float(limit.item())))]
    return [ranges[new], *kept]


_REST = {"Less", "LessOrEqual", "Greater", "GreaterOrEqual"}


def _where_false(test: str, found: Range, limit: float) -> Range | None:
    """Returns the part of a range where the comparison with `limit` does not hold, None if there is none."""
    if test.startswith("Less"):
        empty = found.high < limit or (found.high == limit and test == "LessOrEqual")
        return None if empty else Range(max(found.low, limit), found.high, found.whole)
    empty = found.low > limit or (found.low == limit and test == "GreaterOrEqual")
    return None if empty else Range(found.low, min(found.high, limit), found.whole)

"""Which decision a gate's value carries: where it was made, whether it is turned around, and for which rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, replace

import onnx_ir as ir

from eetoolkit_exporters.gating.hardness import Ranges, contents, straight_through, value_ranges
from eetoolkit_exporters.gating.one_hot import column, one_hot
from eetoolkit_runtime.running.inputs import BATCH

_RESHAPES = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Expand"}
_OPPOSITES = {"Greater": (">", False), "LessOrEqual": (">", True), "Less": ("<", False), "GreaterOrEqual": ("<", True)}


@dataclass(frozen=True)
class Decision:
    """A hard value traced back to where it was decided.

    Attributes:
        source: The earliest value with one element per row (or one in all) that carries it: where the predicate starts.
        inverted: Whether the gate is open where `source` is 0.
        per_row: Whether there is one element per row; else there is one for the whole call.
        key: What was decided.
        opposite: Whether the gate is open where `key` does not hold.
        column: The column of a one-hot value that it is, (value, axis, index): two are never 1 in the same row.
    """

    source: ir.Value
    inverted: bool
    per_row: bool
    key: Hashable
    opposite: bool
    column: tuple[ir.Value, int, int] | None = None

    def turned(self) -> Decision:
        """Returns the decision for the other side."""
        return replace(self, inverted=not self.inverted, opposite=not self.opposite, column=None)

    def complements(self, other: Decision) -> bool:
        """Returns whether exactly one of the two is open, always."""
        return self.key == other.key and self.opposite != other.opposite and self.per_row == other.per_row

    def excludes(self, other: Decision) -> bool:
        """Returns whether the two are never open at once."""
        if self.complements(other):
            return True
        return (
            self.column is not None
            and other.column is not None
            and self.column[:2] == other.column[:2]
            and self.column[2] != other.column[2]
        )


class Decisions:
    """Traces gates back in one graph."""

    def __init__(self, graph: ir.Graph, hard: Collection[ir.Value]) -> None:
        self.hard = hard
        self.ranges: Ranges = value_ranges(graph)
        self.batch = batch_of(graph)

    def per_row(self, value: ir.Value, shape: ir.Shape | None = None) -> bool:
        """Returns whether `value` has one element per row: (batch, 1, ..., 1), of the rank of `shape` if given."""
        own = value.shape
        if own is None or not len(own) or self.batch is None or own[0] != self.batch:
            return False
        aligned = shape is None or (len(own) == len(shape) and shape[0] == own[0])
        return aligned and all(dim == 1 for dim in own[1:])

    def of(self, value: ir.Value, shape: ir.Shape | None) -> Decision | None:
        """Returns the decision of a gate that is broadcast to `shape`, (batch, ...); None if it is none.

        It is none if it is not hard, a constant, or has more than one element per row.
        """
        if shape is None or value not in self.hard:
            return None
        found: tuple[ir.Value, bool, bool] | None = None
        inverted = False
        while True:
            if self.per_row(value, None if found else shape):
                found = value, inverted, True
            elif _is_single(value):
                found = value, inverted, False
            step = self._elementwise(value) or self._reshaped(value, loose=found is not None)
            if step is None:
                break
            value, inverted = step[0], inverted != step[1]
        if found is None or found[0].const_value is not None:
            return None
        return self._column(*found, value, inverted) or self._whole(*found, value, inverted)

    def against(self, value: ir.Value, shape: ir.Shape | None) -> str | None:
        """Returns why a value cannot gate a result of this shape; None where it may."""
        if shape is None or value.shape is None:
            return "its shape is not known"
        if value not in self.hard:
            return "it is not provably 0 or 1 in every element"
        if self.batch is None and list(value.shape) == [*shape[:1], *(1 for _ in shape[1:])]:
            return f"the batch is fixed at {shape[0]} rows"
        if not (self.per_row(value, shape) or _is_single(value)):
            return f"its shape is {value.shape}, which is not one value per row"
        return None

    def _whole(self, source: ir.Value, turned: bool, per_row: bool, root: ir.Value, inverted: bool) -> Decision:
        producer = root.producer()
        if producer is not None and producer.op_type in _OPPOSITES:
            relation, opposite = _OPPOSITES[producer.op_type]
            return Decision(source, turned, per_row, (relation, *map(_identity, producer.inputs)), inverted != opposite)
        return Decision(source, turned, per_row, root, inverted)

    def _column(self, source: ir.Value, turned: bool, per_row: bool, root: ir.Value, inverted: bool) -> Decision | None:
        """Returns the decision as a column of a value with several decisions, traced on behind it."""
        place = column(root)
        if place is None or place[0] not in self.hard:
            return None
        whole, axis, index = place
        while (step := self._elementwise(whole)) is not None:
            whole, inverted = step[0], inverted != step[1]
        exactly = one_hot(whole, axis, self.ranges) if not inverted else None
        if exactly and whole.shape is not None and whole.shape[axis] == 2:
            return Decision(source, turned, per_row, (whole, axis), index == 0, (whole, axis, index))
        among = (whole, axis, index)
        return Decision(source, turned, per_row, among, inverted, None if exactly is None else among)

    def _reshaped(self, value: ir.Value, *, loose: bool) -> tuple[ir.Value, bool] | None:
        """Returns the value before a change of shape that keeps the rows' order.

        Before one element per row is reached (not `loose`), only an `Expand` of the same rank may stand between.
        """
        node = value.producer()
        if node is None or node.domain or node.op_type not in _RESHAPES or node.inputs[0] not in self.hard:
            return None
        before = node.inputs[0]
        if before is None or before.shape is None or value.shape is None:
            return None
        if node.op_type == "Expand":
            return (before, False) if _is_single(before) or len(before.shape) == len(value.shape) else None
        return (before, False) if loose and (self.per_row(before) or _is_single(before)) else None

    def _elementwise(self, value: ir.Value) -> tuple[ir.Value, bool] | None:
        """Returns the hard value of the same shape of which this is a copy (False) or one minus it (True)."""
        node = value.producer()
        found = None if node is None or node.domain or not node.inputs else self._copied(node)
        if found is None or found[0] not in self.hard or found[0].shape is None or found[0].shape != value.shape:
            return None
        return found

    def _copied(self, node: ir.Node) -> tuple[ir.Value, bool] | None:
        before = node.inputs[0]
        if (complement := one_minus(node)) is not None:
            return complement, True
        parts = straight_through(node)
        if parts is not None and self.ranges[parts[1]].unit:
            return parts[0], False
        if before is None or node.op_type not in _COPIES or not _COPIES[node.op_type](node, before):
            return None
        zero = _filled_with(node.inputs[1]) == 0 if node.op_type in {"Equal", "Where"} else node.op_type == "Not"
        return before, zero


def _keeps_truth(node: ir.Node, before: ir.Value) -> bool:
    # a float that is 1 up to rounding would become 0 or True: there the trace ends
    to = ir.DataType(node.attributes["to"].as_int())
    return before.dtype is not None and (to.is_floating_point() or not before.dtype.is_floating_point())


def _is_test(node: ir.Node, before: ir.Value) -> bool:
    return before.dtype is not None and before.dtype.is_integer() and _filled_with(node.inputs[1]) in (0, 1)


def _is_cast(node: ir.Node, _: ir.Value) -> bool:
    return {_filled_with(node.inputs[1]), _filled_with(node.inputs[2])} == {0, 1}


_COPIES: dict[str, Callable[[ir.Node, ir.Value], bool]] = {
    "Identity": lambda *_: True,
    "Not": lambda *_: True,
    "Cast": _keeps_truth,
    "Equal": _is_test,
    "Where": _is_cast,
}


def batch_of(graph: ir.Graph) -> int | ir.SymbolicDim | None:
    """Returns the dimension that counts the rows: the symbol, or 1; None if the batch is fixed at another size."""
    shapes = [value.shape for value in graph.inputs if value.const_value is None and value.shape]
    for dim in (dim for shape in shapes for dim in shape):
        if not isinstance(dim, int) and dim.value == BATCH:
            return dim
    leading = [shape[0] for shape in shapes]
    return 1 if leading and all(dim == 1 for dim in leading) else None


def one_minus(node: ir.Node) -> ir.Value | None:
    """Returns x of `1 - x` or `1 + (-x)`."""
    if node.op_type == "Sub":
        return node.inputs[1] if _filled_with(node.inputs[0]) == 1 else None
    if node.op_type == "Add":
        for one, negated in (node.inputs, (node.inputs[1], node.inputs[0])):
            producer = negated.producer() if negated is not None else None
            if producer is not None and producer.op_type == "Neg" and _filled_with(one) == 1:
                return producer.inputs[0]
    return None


def _is_single(value: ir.Value) -> bool:
    return value.shape is not None and all(dim == 1 for dim in value.shape)


def _filled_with(value: ir.Value | None) -> float | None:
    """Returns the number that every element of a constant is."""
    array = contents(value)
    if array is None or not array.size or array.dtype.kind not in "biuf":
        return None
    low, high = float(array.min()), float(array.max())
    return low if low == high else None


def _identity(value: ir.Value | None) -> Hashable:
    """Returns what is equal for two operands that hold the same: the value, or a constant's contents."""
    array = contents(value)
    return value if array is None else (str(array.dtype), array.shape, array.tobytes())

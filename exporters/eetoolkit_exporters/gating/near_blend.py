"""Notes on what looks like a blended gate and is none, for the one who wrote the network."""

from __future__ import annotations

import onnx_ir as ir

from eetoolkit_exporters.gating.decisions import Decisions, one_minus
from eetoolkit_exporters.graph import OURS

_PICKS = {"Gather", "GatherElements", "GatherND"}
_CARRY = {"Expand", "Reshape", "Squeeze", "Unsqueeze", "Identity"}


def note_near_blend(node: ir.Node, decisions: Decisions) -> str | None:
    """Returns which value looks like a blend by a gate, and why it was left; None for all that does not.

    A look-alike is `g * a + (1 - g) * b` whose g is hard or has one value per row; `g * a + b` whose g is in [0, 1] and
    has one value per row; `Where` between two computed values whose condition has fewer elements than they; and a
    computed index that picks one of several stacked values.
    """
    if OURS in node.meta:
        return None
    if not node.domain and node.op_type in _PICKS:
        return _note_pick(node)
    if node.domain or node.op_type not in {"Add", "Where"}:
        return None
    result = node.outputs[0]
    if result.shape is not None and (len(result.shape) < 2 or all(dim == 1 for dim in result.shape[1:])):
        return None
    gate = _condition(node) if node.op_type == "Where" else _multiplier(node, decisions)
    if gate is None:
        return None
    return (
        f"{result.name}: looks like a gate by {gate.name}, but {_fault(gate, result, decisions)}; both sides always run"
    )


def _note_pick(node: ir.Node) -> str | None:
    """Returns a note where a computed index picks one of several values that are computed side by side."""
    data, index = node.inputs[:2]
    stack = data.producer() if data is not None else None
    if stack is None or stack.op_type != "Concat" or stack.domain or index is None or index.const_value is not None:
        return None
    computed = [value for value in stack.inputs if value is not None and value.producer() is not None]
    if len(computed) < 2 or any(value.dtype is None or not value.dtype.is_floating_point() for value in computed):
        return None
    return (
        f"{node.outputs[0].name}: {index.name} picks one of {len(computed)} values, all of which always run; as a sum "
        "of (index == k) * value_k, or with torch.cond, it becomes a switch"
    )


def _fault(gate: ir.Value, result: ir.Value, decisions: Decisions) -> str:
    if result.shape is None or gate.shape is None:
        return "its shape is not known"
    if gate not in decisions.hard:
        return "it is not provably 0 or 1 in every element"
    fixed = result.shape[0] if len(result.shape) else None
    if decisions.batch is None and list(gate.shape) == [fixed, *(1 for _ in result.shape[1:])]:
        return f"the batch is fixed at {fixed} rows"
    if not (decisions.per_row(gate, result.shape) or all(dim == 1 for dim in gate.shape)):
        return f"its shape is {gate.shape}, which is not one value per row"
    return "its two sides are not of the result's shape and dtype"


def _condition(node: ir.Node) -> ir.Value | None:
    condition, x, y = node.inputs
    result = node.outputs[0]
    if condition is None or condition.const_value is not None or result.shape is None or condition.shape is None:
        return None
    if any(value is None or value.const_value is not None or value.shape != result.shape for value in (x, y)):
        return None
    floating = result.dtype is not None and result.dtype.is_floating_point()
    return condition if floating and condition.shape != result.shape else None


def _multiplier(node: ir.Node, decisions: Decisions) -> ir.Value | None:
    products = [_factors(value) for value in node.inputs]
    shape = node.outputs[0].shape
    roots = [{root: value for value in factors for root in [_root(value)]} for factors in products]
    for (root, turned), value in roots[0].items():
        if (root, not turned) in roots[1]:
            carrier = roots[1][root, not turned] if turned else value
            gate = _small(carrier)
            if gate in decisions.hard or gate.shape is None or decisions.per_row(gate, shape):
                return gate
    for factors in products:
        for gate in map(_small, factors):
            if decisions.per_row(gate, shape) and gate not in decisions.hard and decisions.ranges[gate].unit:
                return gate
    return None


def _factors(value: ir.Value | None) -> list[ir.Value]:
    producer = value.producer() if value is not None else None
    if producer is None or producer.op_type != "Mul" or producer.domain:
        return []
    return [factor for factor in producer.inputs if factor is not None and factor.const_value is None]


def _small(value: ir.Value) -> ir.Value:
    """Returns the value before it was expanded."""
    producer = value.producer()
    while producer is not None and producer.op_type == "Expand" and producer.inputs[0] is not None:
        value, producer = producer.inputs[0], producer.inputs[0].producer()
    return value


def _root(value: ir.Value) -> tuple[ir.Value, bool]:
    """Returns what a factor carries, and whether it is one minus that."""
    turned = False
    while (producer := value.producer()) is not None and not producer.domain:
        before = one_minus(producer)
        if before is not None:
            turned = not turned
        elif producer.op_type in _CARRY:
            before = producer.inputs[0]
        if before is None:
            break
        value = before
    return value, turned

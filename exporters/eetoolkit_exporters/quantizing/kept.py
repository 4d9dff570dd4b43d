"""What stays float in every quantised segment: heads' last products, criteria, gates."""

from __future__ import annotations

import onnx_ir as ir

from eetoolkit_exporters.graph import needs
from eetoolkit_runtime.plan.types import Gate, Segment, Switch

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "LSTM", "GRU", "RNN")
"""The operators that multiply with weights."""


def kept(model: ir.Model, segment: Segment) -> frozenset[ir.Node]:
    """Returns what stays float: from an exit's outputs, its confidence and what a gate reads back to the products with
    weights that they depend on directly, these included.

    Args:
        model: The segment's graph.
        segment: What the plan says of it.
    """  # noqa: D205 - one sentence
    slots = [] if segment.exit is None else [*segment.exit.outputs.values(), segment.exit.confidence]
    if isinstance(segment.next, Gate | Switch):
        slots.append(segment.next.on)
    names = {segment.writes[slot].output for slot in slots if slot in segment.writes}
    found: set[ir.Node] = set()
    waiting = [value.producer() for value in model.graph.outputs if value.name in names]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            if weights_of(node) is None:
                waiting.extend(value.producer() for value in needs(node))
    return frozenset(found)


def weights_of(node: ir.Node) -> ir.Value | None:
    """Returns the constant that a node multiplies its input with; None where there is none."""
    if node.domain or node.op_type not in PRODUCTS:
        return None
    return next((value for value in node.inputs[:2] if value is not None and _is_constant(value)), None)


def _is_constant(value: ir.Value) -> bool:
    node = value.producer()
    if node is None:
        return value.is_initializer()
    return all(each is not None and _is_constant(each) for each in node.inputs if each is not None)

"""Fewer and larger blocks: what need not be a segment of its own becomes part of its neighbour.

- A block that does nothing is left out; a block that always follows another is appended to it.
- A branch that only hands tensors on is hoisted: its slots get these tensors before the gate, and the other branch
  overwrites them.
- A chain of gates whose predicates are cheap becomes one switch.
- Tail duplication: a small block where control flow joins (the next gate, a head) is copied into each block before
  it, so that the common path runs fewer segments.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from eetoolkit_exporters.cutting.blocks import (
    Block,
    copy_nodes,
    exit_values,
    live_before,
    opset_of,
    predecessors,
    reachable,
)
from eetoolkit_exporters.graph import constant, needs, subgraphs

TAIL_BYTES = 64 * 1024  # of weights: a copy of a tail is read from the same file, but each session prepares its own
TAIL_NODES = 64
_FEW = 8

_CHEAP = {
    "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Not", "Cast", "Reshape", "Squeeze",
    "Unsqueeze", "Identity", "Add", "Sub", "DequantizeLinear",
}  # fmt: skip
"""Operators of counters and predicates, which cost next to nothing and cannot fail: they may run before it is sure that
their results are needed."""


def merge(start: Block, graph: ir.Graph, *, duplicate_tails: bool = True) -> tuple[Block, int]:
    """Returns the first block of an equal, simpler plan, and how many copies of tails it has.

    Args:
        start: The first block; its blocks are used up.
        graph: Where new constants go.
        duplicate_tails: Whether small joins are copied.
    """
    start = _settle(start)
    _form_switches(start, graph)
    start = _settle(start)
    copies = 0
    while duplicate_tails and _duplicate_tail(start):
        copies += 1
    return _settle(start), copies


def _settle(start: Block) -> Block:
    """Applies the rules that only ever take blocks away, until none applies."""
    while True:
        blocks = reachable(start)
        before = predecessors(blocks)
        live = live_before(blocks)
        if not any(
            _leave_out(block, before, live)
            or _append(block, before)
            or _absorb(block, before)
            or _hoist(block, before, live)
            for block in blocks
            if block is not start
        ):
            break
    while not start.nodes and not start.writes and start.exit is None and start.on is None and start.to:
        start = start.to[0]
    return start


def _only_goes_on(block: Block) -> bool:
    return not block.nodes and block.exit is None and block.on is None and len(block.to) == 1


def _leave_out(block: Block, before: dict[Block, list[Block]], live: dict[Block, frozenset[ir.Value]]) -> bool:
    """Redirects what leads to a block that does nothing."""
    following = block.to[0] if _only_goes_on(block) else block
    if following is block or any(slot in live[following] for slot in block.writes):
        return False
    following.header |= block.header
    for other in before[block]:
        other.to = tuple(following if target is block else target for target in other.to)
        if len(set(other.to)) == 1:  # both ways are one
            other.on, other.to = None, other.to[:1]
    return True


def _append(block: Block, before: dict[Block, list[Block]]) -> bool:
    """Appends a block to the only one before it, which leads nowhere else."""
    first = before[block][0]
    if len(before[block]) > 1 or block.header or first is block or not _leads_only_to(first, block):
        return False
    _join(first, block, copy=any(value in first.writes for node in block.nodes for value in needs(node)))
    return True


def _absorb(block: Block, before: dict[Block, list[Block]]) -> bool:
    """Computes the few cheap numbers that follow an exit, such as a loop's count, before the exit is asked."""
    first = before[block][0]
    if first.exit is None or block.exit is not None or len(before[block]) > 1 or block.header or first.to != (block,):
        return False
    if len(block.nodes) > _FEW or not all(node.domain == "" and node.op_type in _CHEAP for node in block.nodes):
        return False
    if not block.to or not block.writes.keys().isdisjoint(exit_values(first.exit)):
        return False
    exit_ = first.exit
    _join(first, block, copy=True)
    first.exit = exit_
    return True


def _hoist(block: Block, before: dict[Block, list[Block]], live: dict[Block, frozenset[ir.Value]]) -> bool:
    """Sets the slots of a branch that only hands tensors on before the gate that leads to it."""
    gate = before[block][0]
    if not _only_goes_on(block) or not block.writes or len(before[block]) > 1 or gate is block or gate.on is None:
        return False
    if not gate.observed.isdisjoint(block.writes) or _needed_elsewhere(block, gate, live):
        return False
    gate.writes |= {slot: gate.writes.get(source, source) for slot, source in block.writes.items()}
    block.writes = {}
    return True


def _needed_elsewhere(block: Block, gate: Block, live: dict[Block, frozenset[ir.Value]]) -> bool:
    """Whether a slot that `block` sets is looked at on another way from `gate`."""
    return any(slot in live[other] for other in gate.to if other is not block for slot in block.writes)


def _leads_only_to(first: Block, block: Block) -> bool:
    return first.exit is None and first.on is None and first.to == (block,)


def _join(first: Block, second: Block, *, copy: bool) -> None:
    """Appends `second`, or a copy of it, to `first`, and leads on as `second` does."""
    renamed = dict(first.writes)  # what `second` finds in a slot is what `first` put there
    nodes = copy_nodes(second.nodes, renamed) if copy else second.nodes
    made = {value: renamed[value] for value in second.made} if copy else {}
    kept = {slot: source for slot, source in first.writes.items() if slot not in second.made}
    first.nodes = [*first.nodes, *nodes]
    first.writes = kept | made | {slot: renamed.get(source, source) for slot, source in second.writes.items()}
    first.exit, first.on, first.to = second.exit, second.on, second.to
    first.max_visits = max((n for n in (first.max_visits, second.max_visits) if n is not None), default=None)


def _form_switches(start: Block, graph: ir.Graph) -> None:
    """Turns gates whose `else` is a gate with a cheap predicate into one switch."""
    for block in reachable(start):
        while block.on is not None and block.exit is None and _is_bool(block.on):
            blocks = reachable(start)
            predicates, cases, inner = [block.writes.get(block.on, block.on)], [block.to[0]], block.to[1]
            before, live = predecessors(blocks), live_before(blocks)
            while before.get(inner) == [block] or (len(predicates) > 1 and len(before[inner]) == 1):
                if not _is_elif(inner) or any(slot in live[case] for case in cases for slot in inner.writes):
                    break
                if _rows(inner.on) != _rows(block.on):  # one decides for each row, the other for all of them at once
                    break
                _join_predicate(block, inner)
                predicates.append(block.writes.get(inner.on, inner.on))  # type: ignore[arg-type]
                cases.append(inner.to[0])
                inner = inner.to[1]
            if len(predicates) == 1:
                break
            block.to = (*cases, inner)
            block.on = _index(block, predicates, graph)


def _rows(value: ir.Value | None) -> list[ir.SymbolicDim]:
    return [dim for dim in (value.shape if value is not None else None) or () if not isinstance(dim, int)]


def _is_bool(value: ir.Value) -> bool:
    return value.dtype == ir.DataType.BOOL


def _is_elif(block: Block) -> bool:
    return (
        block.on is not None
        and _is_bool(block.on)
        and block.exit is None
        and not block.header
        and block.max_visits is None
        and all(node.domain == "" and node.op_type in _CHEAP for node in block.nodes)
    )


def _join_predicate(block: Block, inner: Block) -> None:
    """Computes an inner gate's predicate before the outer gate."""
    on, to, exit_ = block.on, block.to, block.exit
    _join(block, inner, copy=True)
    block.on, block.to, block.exit = on, to, exit_


def _index(block: Block, predicates: Sequence[ir.Value], graph: ir.Graph) -> ir.Value:
    """Appends what computes which predicate is the first to hold; their number where none does."""
    version = opset_of(block.nodes, graph.opset_imports.get("", 20))
    index = constant(graph, np.int64(len(predicates)))
    for case, predicate in reversed(list(enumerate(predicates))):
        node = ir.Node("", "Where", [predicate, constant(graph, np.int64(case)), index], version=version)
        index = node.outputs[0]
        index.name = f"{predicate.name}_case_{case}"
        index.type = ir.TensorType(ir.DataType.INT64)
        index.shape = predicate.shape if predicate.shape is not None else ir.Shape([])
        block.nodes.append(node)
    return index


def _duplicate_tail(start: Block) -> bool:
    """Copies one small join into one block before it; returns whether there was any."""
    blocks = reachable(start)
    for block, before in predecessors(blocks).items():
        if len(before) < 2 or block.header or not _small(block):
            continue
        for first in before:
            if first.nodes and _leads_only_to(first, block):
                _join(first, block, copy=True)
                return True
    return False


def _small(block: Block) -> bool:
    if len(block.nodes) > TAIL_NODES or any(subgraphs(node) for node in block.nodes):
        return False
    weights = {value for node in block.nodes for value in needs(node) if value.const_value is not None}
    return sum(value.const_value.nbytes for value in weights if value.const_value is not None) <= TAIL_BYTES

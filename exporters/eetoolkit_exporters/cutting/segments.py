"""Blocks as segments: what each reads and writes, and the nodes that it really needs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir

from eetoolkit_exporters.capturing.capture import NetworkExit
from eetoolkit_exporters.cutting.blocks import Block, live_before, opset_of, reachable
from eetoolkit_exporters.cutting.constants import Room, constant_nodes, take_constants
from eetoolkit_exporters.graph import ancestors, copy_of, needs


@dataclass(frozen=True)
class CutSegment:
    """A stretch of the network that becomes one ONNX graph, or only moves.

    Attributes:
        name: What the plan calls it.
        nodes: Its nodes, in topological order.
        initializers: The weights and constants that they use.
        reads: Values that they use and earlier segments or the caller make.
        outputs: Values that they make and slots take.
        writes: For each slot that is set, the output, slot or initializer that it takes.
        exit: The exit at its end.
        on: The value that decides which of `to` is next.
        to: The segments that may be next.
        max_visits: How often it may run in one call.
    """

    name: str
    nodes: tuple[ir.Node, ...]
    initializers: tuple[ir.Value, ...]
    reads: tuple[ir.Value, ...]
    outputs: tuple[ir.Value, ...]
    writes: dict[ir.Value, ir.Value]
    exit: NetworkExit | None
    on: ir.Value | None
    to: tuple[str, ...]
    max_visits: int | None


def segments_of(start: Block, graph: ir.Graph, shapes: Collection[ir.Node] = ()) -> list[CutSegment]:
    """Returns the blocks as segments, in the order in which they run, the first one first.

    Args:
        start: The first block.
        graph: The network's, which takes new constants.
        shapes: Nodes that only look at the inputs' shapes; every segment computes for itself what it needs of these, so
            that no tensor between segments depends on the number of rows.
    """
    blocks = reachable(start)
    constants = constant_nodes(blocks)
    own = {*shapes, *constants}
    for block in blocks:
        _add_own(block, own)
    room = Room()
    take_constants(blocks, constants, graph, room)
    for block in blocks:
        _name_constants(block, room)
    live = live_before(blocks)
    names = {block: f"segment{number}" for number, block in enumerate(blocks)}
    return [_segment(block, names, live) for block in blocks]


def _segment(block: Block, names: dict[Block, str], live: dict[Block, frozenset[ir.Value]]) -> CutSegment:
    after = block.observed.union(*(live[other] for other in block.to))
    writes = {slot: source for slot, source in block.writes.items() if slot in after and slot is not source}
    made = block.made
    writes |= {value: value for value in after if value in made and value not in writes}
    outputs = list(dict.fromkeys(source for source in writes.values() if source in made))
    needed = ancestors(outputs, set(block.nodes).__contains__)
    nodes = [node for node in block.nodes if node in needed]
    own = {value for node in nodes for value in node.outputs}
    used = dict.fromkeys(value for node in nodes for value in needs(node) if value not in own)
    order = {value: index for index, value in enumerate(value for node in nodes for value in node.outputs)}
    outputs.sort(key=order.__getitem__)
    return CutSegment(
        names[block],
        tuple(nodes),
        tuple(value for value in used if value.is_initializer()),
        tuple(value for value in used if not value.is_initializer()),
        tuple(outputs),
        dict(sorted(writes.items(), key=lambda item: (order.get(item[1], -1), str(item[0].name)))),
        block.exit,
        block.on,
        tuple(names[other] for other in block.to),
        block.max_visits,
    )


def _name_constants(block: Block, room: Room) -> None:
    """Makes a node's output of every initializer that the manifest cannot hold, and a slot of one that decides."""
    for slot, source in list(block.writes.items()):
        tensor = source.const_value if source.is_initializer() else None
        if tensor is not None and not room.takes(source, tensor.numpy()):
            block.writes[slot] = _copy(block, source)
    if block.on is not None and block.on.is_initializer():
        slot = ir.Value(name=f"{block.on.name}_slot", type=block.on.type, shape=block.on.shape)
        block.writes[slot] = block.on
        block.on = slot


def _copy(block: Block, value: ir.Value) -> ir.Value:
    node = copy_of(value, f"{value.name}_copy", opset_of(block.nodes))
    block.nodes = [*block.nodes, node]
    return node.outputs[0]


def _add_own(block: Block, shared: Collection[ir.Node]) -> None:
    """Adds the nodes that every block has for itself, as far as the block's nodes need them, in front."""
    own = set(block.nodes)
    needed: dict[ir.Node, None] = {}

    def add(node: ir.Node) -> None:
        for value in needs(node):
            producer = value.producer()
            if producer is not None and producer in shared and producer not in own and producer not in needed:
                add(producer)
                needed[producer] = None

    for node in block.nodes:
        add(node)
    block.nodes = [*needed, *(node for node in block.nodes)]

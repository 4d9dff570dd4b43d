"""Basic blocks: stretches of nodes that always run together, and what runs after them.

A block's variables are the graph's own values: what one block makes and another reads is a slot. At its end a block
may also set slots that it does not compute (`writes`): the result of a branch, the next state of a loop. All sources
are read before any slot is set, so that a loop may swap its states.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from eetoolkit_exporters.capturing.capture import NetworkExit
from eetoolkit_exporters.graph import needs
from eetoolkit_runtime.plan.flow import backward


@dataclass(eq=False)
class Block:
    """A stretch of the network.

    Attributes:
        nodes: In topological order; a node may stand in several blocks only as a copy.
        writes: Slots set at the end, all at once, each from a value of this block, another slot, or an initializer.
        exit: An exit that may answer when the block has run.
        on: What decides between several blocks to follow: a bool (then, otherwise) or an integer (cases).
        to: The blocks to follow; none: the end.
        max_visits: How often the block may run in one call, where it lies on a cycle.
        header: Whether a cycle enters here, so that the block is not copied into those before it.
    """

    nodes: list[ir.Node] = field(default_factory=list)
    writes: dict[ir.Value, ir.Value] = field(default_factory=dict)
    exit: NetworkExit | None = None
    on: ir.Value | None = None
    to: tuple[Block, ...] = ()
    max_visits: int | None = None
    header: bool = False

    @property
    def made(self) -> set[ir.Value]:
        """The values that the block's nodes make."""
        return {value for node in self.nodes for value in node.outputs}

    @property
    def observed(self) -> set[ir.Value]:
        """The values looked at when the block has run: its exit's, and what decides."""
        return {*(exit_values(self.exit) if self.exit else ()), *((self.on,) if self.on is not None else ())}


def opset_of(nodes: Iterable[ir.Node], default: int = 20) -> int:
    """Returns the version of ONNX's own operators among nodes, whatever other domains stand beside them."""
    return next((node.version for node in nodes if not node.domain and node.version), default)


def exit_values(exit_: NetworkExit) -> tuple[ir.Value, ...]:
    """Returns the values that an exit consists of."""
    return (*exit_.outputs.values(), *((exit_.confidence,) if exit_.confidence is not None else ()))


def reachable(start: Block) -> list[Block]:
    """Returns the blocks that may run, each before those that follow it, but for the edges that close a cycle."""
    order: list[Block] = []
    seen = {start}
    stack = [(start, iter(reversed(start.to)))]
    while stack:
        block, following = stack[-1]
        for other in following:
            if other not in seen:
                seen.add(other)
                stack.append((other, iter(reversed(other.to))))
                break
        else:
            order.append(block)
            stack.pop()
    return order[::-1]


def predecessors(blocks: Iterable[Block]) -> dict[Block, list[Block]]:
    """Returns the blocks that each block may run after."""
    found: dict[Block, list[Block]] = {block: [] for block in blocks}
    for block in found:
        for other in dict.fromkeys(block.to):
            found[other].append(block)
    return found


def live_before(blocks: list[Block]) -> dict[Block, frozenset[ir.Value]]:
    """Returns the slots that each block or a later one may look at."""
    read = {block: _read(block) for block in blocks}
    made = {block: block.made for block in blocks}

    def before(block: Block, beyond: frozenset[ir.Value]) -> frozenset[ir.Value]:
        after = beyond | block.observed
        moved = {source for slot, source in block.writes.items() if slot in after}
        now = read[block] | ((moved | (after - block.writes.keys())) - made[block])
        return frozenset(value for value in now if not value.is_initializer())

    return backward({block: block.to for block in blocks}, before, frozenset())


def _read(block: Block) -> set[ir.Value]:
    """Returns what the nodes read and none of them makes."""
    made: set[ir.Value] = set()
    found: set[ir.Value] = set()
    for node in block.nodes:
        found.update(value for value in needs(node) if value not in made)
        made.update(node.outputs)
    return found


def copy_nodes(nodes: Iterable[ir.Node], renamed: dict[ir.Value, ir.Value]) -> list[ir.Node]:
    """Returns copies of nodes that read what `renamed` says, to which the copies' own outputs are added."""
    copies = []
    for node in nodes:
        attributes = [_copy_attribute(attr, renamed) for attr in node.attributes.values()]
        copy = ir.Node(
            node.domain, node.op_type,
            [renamed.get(value, value) if value is not None else None for value in node.inputs],
            attributes, overload=node.overload, num_outputs=len(node.outputs), version=node.version, name=node.name,
        )  # fmt: skip
        copy.metadata_props.update(node.metadata_props)
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.name, new.type, new.shape = old.name, old.type, old.shape
            renamed[old] = new
        copies.append(copy)
    return copies


def _copy_attribute(attr: ir.Attr, renamed: Mapping[ir.Value, ir.Value]) -> ir.Attr:
    if attr.type == ir.AttributeType.GRAPH:
        return ir.AttrGraph(attr.name, _copy_graph(attr.as_graph(), renamed))
    if attr.type == ir.AttributeType.GRAPHS:
        return ir.AttrGraphs(attr.name, [_copy_graph(graph, renamed) for graph in attr.as_graphs()])
    return attr


def _copy_graph(graph: ir.Graph, renamed: Mapping[ir.Value, ir.Value]) -> ir.Graph:
    inner = dict(renamed)
    for value in graph.inputs:
        inner[value] = ir.Value(name=value.name, type=value.type, shape=value.shape)
    nodes = copy_nodes(graph, inner)
    return ir.Graph(
        [inner[value] for value in graph.inputs],
        [inner.get(value, value) for value in graph.outputs],
        nodes=nodes,
        opset_imports=dict(graph.opset_imports),
        name=graph.name,
    )

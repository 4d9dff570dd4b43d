"""The network cut into basic blocks: at every exit, and at every `If` and `Loop` that is lowered.

The cut is by dataflow. A place to cut (an exit, a gate, the end of a branch) gets the nodes that it needs and no
earlier place has; nodes that nobody needs are in no block. A branch and a loop's body are cut like the whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from eetoolkit_exporters.capturing.capture import Network, NetworkExit
from eetoolkit_exporters.cutting.blocks import Block, exit_values
from eetoolkit_exporters.graph import ancestors, constant, needs
from eetoolkit_runtime.errors import ExportError


def cut(network: Network, lowered: Mapping[ir.Node, int | None] | None = None) -> Block:
    """Returns the first block of the network, which leads to all others.

    Args:
        network: Its exits in the order in which they are met.
        lowered: The `If` and `Loop` nodes that become gates, and how often a loop's body may run in one call; the
            others are nodes like any other.
    """
    start = Block()
    _Cutter(network, lowered or {}).whole(start)
    return start


def graph_of(exit_: NetworkExit, network: Network) -> ir.Graph:
    """Returns the graph in which an exit stands: the network's own, or a branch's or body's."""
    for value in exit_.outputs.values():
        producer = value.producer()
        if producer is not None and isinstance(producer.graph, ir.Graph):
            return producer.graph
    return network.graph


def sort_exits(network: Network) -> None:
    """Puts the exits into the order in which they are met.

    Exits that share work are ordered by how much they need; exits that share none stay in the caller's order, and so
    do those whose order is known.

    Raises:
        ExportError: An exit that is not a function of the input.
    """
    needs_of = needed_by(network)
    inputs = set(network.graph.inputs) - {v for v in network.graph.inputs if v.name in network.constants}
    fed = 0  # the exits to which something of the input leads
    for node, exits in needs_of.items():
        if node.op_type not in {"Shape", "Size"} and not inputs.isdisjoint(needs(node)):
            fed |= exits
    for index, exit_ in enumerate(network.exits):
        if not fed >> index & 1 and graph_of(exit_, network) is network.graph:
            raise ExportError(f"exit {exit_.name!r} is not a function of the input: it is the same for every input")
    if network.ordered:
        return
    groups = Counter(needs_of.values())
    sizes = [sum(count for exits, count in groups.items() if exits >> i & 1) for i in range(len(network.exits))]
    order: list[int] = []
    for index, size in enumerate(sizes):
        shared = {other for other in order if any(exits >> index & 1 and exits >> other & 1 for exits in groups)}
        deeper = (place for place, other in enumerate(order) if sizes[other] > size and other in shared)
        order.insert(next(deeper, len(order)), index)
    network.exits[:] = [network.exits[index] for index in order]


def needed_by(network: Network) -> dict[ir.Node, int]:
    """Returns for each node the exits that need its results, one bit an exit, in one pass from the end."""
    waiting: dict[ir.Node, int] = {}
    for index, exit_ in enumerate(network.exits):
        for value in exit_.outputs.values():
            producer = value.producer()
            if producer is not None:
                waiting[producer] = waiting.get(producer, 0) | 1 << index
    found = {}
    for node in reversed(list(network.graph.all_nodes())):
        exits = waiting.get(node, 0)
        if exits:
            found[node] = exits
            for value in needs(node):
                producer = value.producer()
                if producer is not None:
                    waiting[producer] = waiting.get(producer, 0) | exits
    return found


class _Cutter:
    """Appends nodes to blocks, place by place."""

    def __init__(self, network: Network, lowered: Mapping[ir.Node, int | None]) -> None:
        self._graph = network.graph
        self._lowered = lowered
        self._exits: dict[ir.Graph, list[NetworkExit]] = {}
        for exit_ in network.exits:
            self._exits.setdefault(graph_of(exit_, network), []).append(exit_)

    def whole(self, start: Block) -> None:
        """Cuts the network itself; its last exit is the end."""
        region = _Region(self._graph, start)
        exits = self._exits[self._graph]
        for exit_ in exits:
            self._place(region, exit_values(exit_))
            region.blocks[-1].exit = exit_
            if exit_ is not exits[-1]:
                region.follow(Block())

    def _inner(self, graph: ir.Graph, start: Block) -> tuple[list[Block], list[ir.Value]]:
        """Cuts a branch or body; returns the blocks that always run in it, the last of which has all its outputs."""
        outputs = self._pass_on(graph)
        region = _Region(graph, start)
        for exit_ in self._exits.get(graph, ()):
            self._place(region, exit_values(exit_))
            region.blocks[-1].exit = exit_
            region.follow(Block())
        self._place(region, outputs)
        return region.blocks, outputs

    def _place(self, region: _Region, values: Iterable[ir.Value]) -> None:
        """Appends what `values` need and no earlier place has."""
        left = ancestors(values, lambda node: node.graph is region.graph and node not in region.placed)
        region.placed |= left
        for control in region.sorted(node for node in left if node in self._lowered):
            before = ancestors(needs(control), (left - {control}).__contains__)
            region.blocks[-1].nodes += region.sorted(before)
            left -= before | {control}
            lower = self._branch if control.op_type == "If" else self._repeat
            region.blocks.append(lower(control, region.blocks[-1]))
        region.blocks[-1].nodes += region.sorted(left)

    def _branch(self, node: ir.Node, block: Block) -> Block:
        """Goes one of two ways after `block` and returns the block where they meet."""
        join = Block()
        firsts = []
        for key in ("then_branch", "else_branch"):
            graph = node.attributes[key].as_graph()
            first = Block()
            (*_, last), outputs = self._inner(graph, first)
            last.writes = dict(zip(node.outputs, outputs, strict=True))
            last.to = (join,)
            firsts.append(first)
        block.on, block.to = node.inputs[0], tuple(firsts)
        return join

    def _repeat(self, node: ir.Node, block: Block) -> Block:
        """Repeats a body after `block` and returns the block behind it.

        ONNX operator `Loop`: for n = 0, 1, ... while n < trips and condition, either of which may be absent.
        """
        body = node.attributes["body"].as_graph()
        trips, condition, *states = (*node.inputs, None)[: max(2, len(node.inputs))]
        number, condition_in, *states_in = body.inputs
        for value, dtype in ((number, ir.DataType.INT64), (condition_in, ir.DataType.BOOL)):
            value.type, value.shape = ir.TensorType(dtype), ir.Shape([])
        build = _Nodes(node)
        zero, one, true = (constant(self._graph, value) for value in (np.int64(0), np.int64(1), np.bool_(True)))
        header, after = Block(header=True), Block()

        enters = [] if condition is None or holds(condition) else [condition]
        if trips is not None and not holds(trips):
            enters.append(build(block, "Greater", trips, zero, dtype=ir.DataType.BOOL))
        block.writes = {number: zero, condition_in: true if condition is None else condition}
        block.writes |= _paired((*states_in, *node.outputs), (*states, *states))
        block.on = build.all(block, enters)
        block.to = (header,) if block.on is None else (header, after)

        blocks, (condition_out, *states_out) = self._inner(body, header)
        last = blocks[-1]
        again = [] if holds(condition_out) else [condition_out]
        last.writes = {condition_in: condition_out, **_paired((*states_in, *node.outputs), (*states_out, *states_out))}
        if trips is not None or number.uses() or number in states_out:
            last.writes[number] = build(last, "Add", number, one, dtype=ir.DataType.INT64)
        if trips is not None:
            again.append(build(last, "Less", last.writes[number], trips, dtype=ir.DataType.BOOL))
        last.on, last.to = build.all(last, again), (header, after)
        deciding = next((round_ for round_ in blocks if last.on in round_.made), None)
        if deciding is None:  # a state that this round overwrites, or nothing: every round needs a model that decides
            last.on, deciding = build(last, "Identity", last.on or true, dtype=ir.DataType.BOOL), last
        deciding.max_visits = self._lowered[node]
        return after

    def _pass_on(self, graph: ir.Graph) -> list[ir.Value]:
        """Takes copies out of a branch or body, since a slot may take the tensor itself, and returns its outputs."""
        kept = {value for exit_ in self._exits.get(graph, ()) for value in exit_values(exit_)}
        sources: dict[ir.Value, ir.Value] = {}
        for node in graph:
            source, copy = node.inputs[0] if node.inputs else None, node.outputs[0]
            if node.op_type == "Identity" and node.domain == "" and source is not None and copy not in kept:
                sources[copy] = sources.get(source, source)
                for user, index in list(copy.uses()):
                    user.replace_input_with(index, sources[copy])
        return [sources.get(value, value) for value in graph.outputs]


class _Region:
    """A graph that is being cut: its blocks so far that always run, and the nodes in them or in those between."""

    def __init__(self, graph: ir.Graph, start: Block) -> None:
        self.graph = graph
        self.blocks = [start]
        self.placed: set[ir.Node] = set()
        self._order = {node: index for index, node in enumerate(graph)}

    def follow(self, block: Block) -> None:
        """Goes on in another block."""
        self.blocks[-1].to = (block,)
        self.blocks.append(block)

    def sorted(self, nodes: Iterable[ir.Node]) -> list[ir.Node]:
        """Returns nodes in the graph's order, which is topological."""
        return sorted(nodes, key=self._order.__getitem__)


class _Nodes:
    """Makes the nodes that count a loop's rounds, in the loop's opset."""

    def __init__(self, node: ir.Node) -> None:
        self._version = node.version
        self._name = node.outputs[0].name if node.outputs else node.name

    def __call__(self, block: Block, op: str, *inputs: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Appends a node and returns its output, of as many dimensions as its inputs have at most."""
        node = ir.Node("", op, inputs, version=self._version)
        value = node.outputs[0]
        value.name = f"{self._name}_{op.lower()}_{len(block.nodes)}"
        value.type = ir.TensorType(dtype)
        value.shape = ir.Shape([1] * max(len(given.shape) if given.shape is not None else 0 for given in inputs))
        block.nodes.append(node)
        return value

    def all(self, block: Block, conditions: Sequence[ir.Value]) -> ir.Value | None:
        """Returns whether all hold; None where there are none."""
        if len(conditions) < 2:
            return conditions[0] if conditions else None
        return self(block, "And", *conditions, dtype=ir.DataType.BOOL)


def holds(value: ir.Value) -> bool:
    """Returns whether a trip count is a constant above 0, or a condition the constant True."""
    return value.const_value is not None and bool((value.const_value.numpy() > 0).all())


def _paired(slots: Iterable[ir.Value], sources: Iterable[ir.Value | None]) -> dict[ir.Value, ir.Value]:
    return {slot: source for slot, source in zip(slots, sources, strict=True) if source is not None}

"""The graph cut at its exits, by dataflow.

Segment k holds the nodes that exit k needs and no earlier segment has; nodes that no exit needs are in none. What
crosses a boundary follows from liveness: any number of tensors, of any dtype, from any earlier segment or input.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir import analysis

from eetoolkit_exporters.capture import Network, NetworkExit
from eetoolkit_runtime.errors import ExportError


@dataclass(frozen=True)
class CutSegment:
    """A stretch of the network that ends at an exit.

    Attributes:
        exit: The exit.
        nodes: Its nodes, in topological order.
        initializers: The weights and constants that they use.
        reads: Values that they use and earlier segments or the caller make.
        writes: Values that they make and this exit, or later segments or exits, look at.
    """

    exit: NetworkExit
    nodes: tuple[ir.Node, ...]
    initializers: tuple[ir.Value, ...]
    reads: tuple[ir.Value, ...]
    writes: tuple[ir.Value, ...]


def cut(network: Network) -> list[CutSegment]:
    """Returns the segments, shallow to deep. Linear in the number of nodes for each exit.

    Raises:
        ExportError: An exit that is not a function of the input.
    """
    needs = _Needs(network.graph)
    outputs = [needs.closure(exit_.outputs.values()) for exit_ in network.exits]
    closures = [needs.closure(exit_values(exit_), known) for exit_, known in zip(network.exits, outputs, strict=True)]
    for exit_, closure in zip(network.exits, closures, strict=True):
        if not needs.reads_input(closure, set(network.temperatures)):
            raise ExportError(f"exit {exit_.name!r} is not a function of the input: it is the same for every input")
    order = list(range(len(closures)))
    if not network.ordered:
        order = _by_depth(outputs)
    owner: dict[ir.Node, int] = {}
    for position, index in enumerate(order):
        for node in closures[index]:
            owner.setdefault(node, position)
    nodes: list[list[ir.Node]] = [[] for _ in network.exits]
    for node in network.graph:
        if node in owner:
            nodes[owner[node]].append(node)
    exits = [network.exits[index] for index in order]
    return _liveness(needs, nodes, exits, owner)


def exit_values(exit_: NetworkExit) -> tuple[ir.Value, ...]:
    """Returns the values that an exit consists of."""
    return (*exit_.outputs.values(), *((exit_.confidence,) if exit_.confidence is not None else ()))


class _Needs:
    """What each top-level node needs, the values captured by its subgraphs included."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._captured = analysis.analyze_implicit_usage(graph)

    def of(self, node: ir.Node) -> Iterable[ir.Value]:
        """Yields the values that a node reads, each once and in order."""
        values = dict.fromkeys(value for value in node.inputs if value is not None)
        for attr in node.attributes.values():
            subgraphs: Sequence[ir.Graph] = ()
            if attr.type == ir.AttributeType.GRAPH:
                subgraphs = (attr.as_graph(),)
            elif attr.type == ir.AttributeType.GRAPHS:
                subgraphs = attr.as_graphs()
            for subgraph in subgraphs:
                captured = (value for value in self._captured[subgraph] if value.graph is self._graph)
                values.update(dict.fromkeys(sorted(captured, key=lambda value: str(value.name))))
        return values

    def closure(self, values: Iterable[ir.Value], known: Iterable[ir.Node] = ()) -> set[ir.Node]:
        """Returns every node that `values` depend on, and `known` ones, whose own needs are among them."""
        found = set(known)
        waiting = [producer for value in values if (producer := value.producer()) is not None]
        while waiting:
            node = waiting.pop()
            if node in found:
                continue
            found.add(node)
            waiting.extend(producer for value in self.of(node) if (producer := value.producer()) is not None)
        return found

    def reads_input(self, nodes: Iterable[ir.Node], constants: set[str]) -> bool:
        """Returns whether any node reads a graph input other than `constants`."""
        return any(
            value.is_graph_input() and value.name not in constants
            for node in nodes
            if node.op_type not in {"Shape", "Size"}  # an input's shape says nothing about what is in it
            for value in self.of(node)
        )


def _by_depth(closures: Sequence[set[ir.Node]]) -> list[int]:
    """Orders exits that share work by how much they need; exits that share none stay in the caller's order."""
    order: list[int] = []
    for index, closure in enumerate(closures):
        place = next(
            (
                i for i, other in enumerate(order)
                if len(closures[other]) > len(closure) and not closures[other].isdisjoint(closure)
            ),
            len(order),
        )  # fmt: skip
        order.insert(place, index)
    return order


def _liveness(
    needs: _Needs, nodes: list[list[ir.Node]], exits: list[NetworkExit], owner: dict[ir.Node, int]
) -> list[CutSegment]:
    reads: list[dict[ir.Value, None]] = [{} for _ in exits]
    weights: list[dict[ir.Value, None]] = [{} for _ in exits]
    wanted: set[ir.Value] = {value for exit_ in exits for value in exit_values(exit_)}
    for position, own in enumerate(nodes):
        for node in own:
            for value in needs.of(node):
                producer = value.producer()
                if value.is_initializer():
                    weights[position][value] = None
                elif producer is None or owner[producer] != position:
                    reads[position][value] = None
                    wanted.add(value)
    return [
        CutSegment(
            exits[position],
            tuple(own),
            tuple(weights[position]),
            tuple(reads[position]),
            tuple(value for node in own for value in node.outputs if value in wanted),
        )
        for position, own in enumerate(nodes)
    ]

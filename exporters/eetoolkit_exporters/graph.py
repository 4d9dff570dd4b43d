"""Reading graphs at every level: inner graphs, all values, what nodes need; and names and constants that are new.

onnx_ir's `all_nodes` and `subgraphs` serve where the order of an `If`'s branches does not matter: theirs is the file's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

OURS = "eetoolkit.ours"
"""In a node's `meta`: it is not the network's own, so that nothing is to be said about it."""
_CONTENT = "eetoolkit.constant"


def subgraphs(node: ir.Node) -> tuple[ir.Graph, ...]:
    """Returns the graphs in a node's attributes, `then_branch` before `else_branch`."""
    found: list[ir.Graph] = []
    for name in sorted(node.attributes, reverse=True):
        attribute = node.attributes[name]
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found.extend(attribute.as_graphs())
    return tuple(found)


def values_of(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yields every value of a graph and of the graphs in it: inputs, initializers, what nodes make."""
    yield from dict.fromkeys((*graph.inputs, *graph.initializers.values()))
    for node in graph:
        yield from node.outputs
        for inner in subgraphs(node):
            yield from values_of(inner)


def needs(node: ir.Node) -> list[ir.Value]:
    """Returns the values that a node reads, those captured by its subgraphs included, initializers too."""
    values = dict.fromkeys(value for value in node.inputs if value is not None)
    for graph in subgraphs(node):
        values.update(dict.fromkeys(captured(graph)))
    return list(values)


def captured(graph: ir.Graph) -> list[ir.Value]:
    """Returns the values from outside that a subgraph reads or hands on as its outputs, in the order of their use.

    `onnx_ir.analysis.analyze_implicit_usage` has no order, and does not count what is handed on.
    """
    own = {*graph.inputs, *graph.initializers.values()}
    found: dict[ir.Value, None] = {}
    for node in graph:
        found.update(dict.fromkeys(value for value in needs(node) if value not in own))
        own.update(node.outputs)
    found.update(dict.fromkeys(value for value in graph.outputs if value not in own))
    return list(found)


def ancestors(values: Iterable[ir.Value], among: Callable[[ir.Node], bool]) -> set[ir.Node]:
    """Returns the nodes that values depend on, directly or through each other, as long as `among` holds."""
    found: set[ir.Node] = set()
    waiting = [value.producer() for value in values]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found and among(node):
            found.add(node)
            waiting.extend(value.producer() for value in needs(node))
    return found


def in_order(reads: dict[ir.Node, list[ir.Value]]) -> list[ir.Node]:
    """Returns nodes, by what each reads, each after those it reads."""
    ordered: dict[ir.Node, None] = {}
    for last in reversed(reads):
        waiting = [(last, iter(reads[last]))]
        while waiting:
            node, rest = waiting[-1]
            value = next(rest, None)
            if value is None:
                waiting.pop()
                ordered[node] = None
            elif (before := value.producer()) is not None and before in reads and before not in ordered:
                waiting.append((before, iter(reads[before])))
    return list(ordered)


def names_of(graph: ir.Graph) -> set[str]:
    """Returns the names of all values, at every level."""
    return {str(value.name) for value in values_of(graph)}


def fresh(stem: str, used: set[str]) -> str:
    """Returns `stem`, numbered where it is taken, and takes it."""
    name, number = stem, 1
    while name in used:
        number += 1
        name = f"{stem}_{number}"
    used.add(name)
    return name


def constant(graph: ir.Graph, content: npt.ArrayLike) -> ir.Value:
    """Returns the initializer that an earlier call made of the same numbers, else a new one."""
    array = np.asarray(content)
    key = f"{array.dtype}{array.shape}{array.tolist()}"
    for value in graph.initializers.values():
        if value.meta.get(_CONTENT) == key:
            return value
    name = fresh(f"constant_{len(graph.initializers)}", names_of(graph))
    value = ir.val(name, const_value=ir.tensor(array, name=name))
    value.meta[_CONTENT] = key
    graph.register_initializer(value)
    return value


def copy_of(value: ir.Value, name: str, version: int | None = None) -> ir.Node:
    """Returns a new `Identity` of a value, in no graph yet; its output has the value's dtype and shape."""
    node = ir.Node("", "Identity", [value], version=version)
    copy = node.outputs[0]
    copy.name, copy.type, copy.shape = name, value.type, value.shape
    return node

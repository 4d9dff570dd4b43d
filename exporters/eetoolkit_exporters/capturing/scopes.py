"""Graphs inside nodes: the branches of an `If`, the body of a `Loop`, and what they look at outside of themselves."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir


def subgraphs(node: ir.Node) -> tuple[ir.Graph, ...]:
    """Returns the graphs in a node's attributes, `then_branch` before `else_branch`."""
    if not node.attributes:
        return ()
    found: dict[str, tuple[ir.Graph, ...]] = {}
    for name, attr in node.attributes.items():
        if attr.type == ir.AttributeType.GRAPH:
            found[name] = (attr.as_graph(),)
        elif attr.type == ir.AttributeType.GRAPHS:
            found[name] = tuple(attr.as_graphs())
    return tuple(graph for name in sorted(found, reverse=True) for graph in found[name])


def levels(graph: ir.Graph) -> Iterator[ir.Graph]:
    """Yields a graph and those in it, each before what lies in it."""
    yield graph
    for node in graph:
        for inner in subgraphs(node):
            yield from levels(inner)


def needs(node: ir.Node) -> list[ir.Value]:
    """Returns the values that a node reads, those captured by its subgraphs included, initializers too."""
    values = dict.fromkeys(value for value in node.inputs if value is not None)
    for graph in subgraphs(node):
        values.update(dict.fromkeys(captured(graph)))
    return list(values)


def captured(graph: ir.Graph) -> list[ir.Value]:
    """Returns the values from outside that a subgraph reads or hands on as its outputs, in the order of their use."""
    own = {*graph.inputs, *graph.initializers.values()}
    found: dict[ir.Value, None] = {}
    for node in graph:
        found.update(dict.fromkeys(value for value in needs(node) if value not in own))
        own.update(node.outputs)
    found.update(dict.fromkeys(value for value in graph.outputs if value not in own))
    return list(found)

"""What every captured graph keeps to, at every level of its control flow."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir


def subgraphs(graph: ir.Graph) -> Iterator[ir.Graph]:
    """Yields the graphs in a graph, at every level."""
    for node in graph:
        for attribute in node.attributes.values():
            inner: list[ir.Graph] = []
            if attribute.type == ir.AttributeType.GRAPH:
                inner = [attribute.as_graph()]
            elif attribute.type == ir.AttributeType.GRAPHS:
                inner = list(attribute.as_graphs())
            for subgraph in inner:
                yield subgraph
                yield from subgraphs(subgraph)


def broken_invariants(graph: ir.Graph, *, ranks: bool = True) -> list[str]:
    """Returns what is wrong with a captured graph; `ranks`: whether every value must have a shape."""
    graphs = [graph, *subgraphs(graph)]
    nodes = [node for part in graphs for node in part]
    made = [value for node in nodes for value in node.outputs]
    values = dict.fromkeys(
        [*made, *(value for part in graphs for value in (*part.inputs, *part.initializers.values()))]
    )
    names = [value.name for value in values]
    wrong = [f"{node.name} is a Constant" for node in nodes if node.op_type == "Constant"]
    wrong += [f"{part.name} has initializers" for part in graphs[1:] if part.initializers]
    wrong += [f"{node.name} has no version" for node in nodes if node.version is None]
    wrong += [f"{node.name} is of the domain {node.domain}" for node in nodes if node.domain]
    wrong += [f"{name} stands twice" for name in set(names) if names.count(name) > 1]
    wrong += [f"{value.name} has no dtype" for value in values if value.dtype is None]
    wrong += [f"{value.name} has no shape" for value in values if ranks and value.shape is None]
    outputs = {value for part in graphs for value in part.outputs}
    for node in nodes:
        if not any(value in outputs or value.uses() for value in node.outputs):
            wrong.append(f"{node.name} is unused")
    for value in values:
        if any(user.graph not in graphs for user, _ in value.uses()):
            wrong.append(f"{value.name} is used by a node that is gone")
    return wrong

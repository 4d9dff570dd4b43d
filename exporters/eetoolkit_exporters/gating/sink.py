"""Work that only one branch of an `If` needs, moved into that branch."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import onnx_ir as ir

from eetoolkit_exporters.graph import captured, in_order, needs, subgraphs


def exclusive(values: Iterable[ir.Value], by: Collection[ir.Node], keep: Collection[ir.Value] = ()) -> list[ir.Node]:
    """Returns the nodes that only `by` need, directly or through each other, in topological order; nothing is moved.

    Args:
        values: Values that `by` read, where the search starts.
        by: Nodes of one graph; only nodes of the same graph are returned, none of `by` among them.
        keep: Values that are needed whatever happens: the exits' outputs and confidences.
    """
    graph = next(iter(by)).graph
    return _only_inside(values, graph, set(by), _inner(by), set(keep))


def sink(if_node: ir.Node, keep: Collection[ir.Value] = ()) -> int:
    """Moves into each branch of an `If` what nothing else in the enclosing graph needs; returns how many nodes moved.

    A node that both branches use, or one of them and other nodes, stays: nothing is copied. A branch that only handed
    on a value which is now its own hands it on without the `Identity`.

    Args:
        if_node: The `If`.
        keep: Values that are needed whatever happens: the exits' outputs and confidences.
    """
    kept, moved = set(keep), 0
    graph = if_node.graph
    if graph is None:
        raise ValueError(f"{if_node.name} stands in no graph")
    for branch in subgraphs(if_node):
        nodes = _only_inside(captured(branch), graph, set(), {branch, *branch.subgraphs()}, kept)
        graph.remove(nodes)
        if len(branch):
            branch.insert_before(branch[0], nodes)
        else:
            branch.extend(nodes)
        moved += len(nodes)
        _drop_identities(branch)
    return moved


def _inner(nodes: Iterable[ir.Node]) -> set[ir.Graph]:
    """Returns the graphs in nodes, at every level."""
    graphs = {graph for node in nodes for graph in subgraphs(node)}
    return graphs.union(*(graph.subgraphs() for graph in graphs))


def _only_inside(
    values: Iterable[ir.Value],
    graph: ir.Graph | None,
    nodes: set[ir.Node],
    graphs: set[ir.Graph],
    keep: set[ir.Value],
) -> list[ir.Node]:
    """Returns the nodes of `graph` that are used by nothing but `nodes`, what stands in `graphs`, and each other."""
    inside, inside_graphs = set(nodes), set(graphs)
    found: dict[ir.Node, list[ir.Value]] = {}
    waiting = list(values)
    while waiting:
        node = waiting.pop().producer()
        if node is None or node.graph is not graph or node in inside:
            continue
        if any(value in keep or value.is_graph_output() for value in node.outputs):
            continue
        users = (user for value in node.outputs for user, _ in value.uses())
        if all(user in inside or user.graph in inside_graphs for user in users):
            inside.add(node)
            inside_graphs |= _inner([node])
            found[node] = needs(node)
            waiting.extend(found[node])
    return in_order(found)


def _drop_identities(branch: ir.Graph) -> None:
    for position, output in enumerate(branch.outputs):
        node = output.producer()
        if node is None or node.op_type != "Identity" or node.domain or output.uses():
            continue
        value = node.inputs[0]
        producer = value.producer() if value is not None else None
        if value is None or producer is None or producer.graph is not branch or value.is_graph_output():
            continue
        branch.outputs[position] = value
        branch.remove(node, safe=True)

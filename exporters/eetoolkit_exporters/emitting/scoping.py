"""Moving weights into the branch or loop body that reads them, and back where graphs are taken apart.

onnxruntime's blocked convolution layout, and some of its fusions, look among the initializers of a (sub)graph's own: a
convolution inside an `If` whose weights lie outside of it runs up to twice as long (`benchmarks/README.md`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import onnx_ir as ir
from onnx_ir.passes.common import LiftSubgraphInitializersToMainGraphPass

from eetoolkit_exporters.emitting.files import INLINE_BYTES
from eetoolkit_exporters.graph import fresh, names_of, subgraphs


def localize(model: ir.Model, keep: Collection[ir.Value] = (), single: Collection[ir.Value] = ()) -> None:
    """Moves the initializers of the outermost graph into the graphs that read them.

    What is so small that it stands in the graph itself has a copy in each; what is larger lies in the innermost graph
    that holds them all.

    Args:
        model: All its initializers are in the outermost graph.
        keep: Those that stay there.
        single: Those of which there must be one, however small, as somebody will look for their names.
    """
    top = model.graph
    at = {(): top} | dict(_inner(top, ()))
    if len(at) == 1:
        return
    ways = {graph: way for way, graph in at.items()}
    readers: dict[ir.Value, dict[ir.Graph, None]] = {}
    for graph in at.values():
        values = [*(value for node in graph for value in node.inputs), *graph.outputs]
        for value in values:
            if value is not None and value.is_initializer() and value.graph is top and not value.is_graph_input():
                readers.setdefault(value, {})[graph] = None
    used = names_of(top)
    for value, graphs in readers.items():
        if value in keep or value.const_value is None:
            continue
        if value.const_value.nbytes < INLINE_BYTES and value not in single:
            for graph in graphs:
                if graph is not top:
                    _copy(value, graph, used)
            if top not in graphs:
                top.initializers.pop(str(value.name))
        elif (home := at[_shared([ways[graph] for graph in graphs])]) is not top:
            top.initializers.pop(str(value.name))
            home.register_initializer(value)


def lift(model: ir.Model) -> ir.Model:
    """Moves the initializers of all inner graphs to the outermost one."""
    LiftSubgraphInitializersToMainGraphPass()(model)
    return model


def _inner(graph: ir.Graph, way: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], ir.Graph]]:
    """Yields each graph inside, with the way to it: which of its parent's, at every level."""
    inner = [found for node in graph for found in subgraphs(node)]
    for place, found in enumerate(inner):
        yield (*way, place), found
        yield from _inner(found, (*way, place))


def _shared(ways: list[tuple[int, ...]]) -> tuple[int, ...]:
    low, high = min(ways), max(ways)
    same = next((place for place, pair in enumerate(zip(low, high, strict=False)) if pair[0] != pair[1]), None)
    return low[: min(len(low), len(high)) if same is None else same]


def _copy(value: ir.Value, graph: ir.Graph, used: set[str]) -> None:
    copy = ir.Value(
        name=fresh(str(value.name), used), type=value.type, shape=value.shape, const_value=value.const_value
    )
    graph.register_initializer(copy)
    for node, place in list(value.uses()):
        if node.graph is graph:
            node.replace_input_with(place, copy)
    graph.outputs[:] = [copy if output is value else output for output in graph.outputs]

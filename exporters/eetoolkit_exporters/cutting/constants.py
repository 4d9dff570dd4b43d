"""Numbers that hang on no input: none leaves a graph as its output, which several execution providers cannot compile.

What slots take of them stands in the manifest; what nodes read of them, each segment computes for itself, so that
whoever loads it folds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from eetoolkit_exporters.cutting.blocks import Block
from eetoolkit_exporters.graph import ancestors, constant, in_order, needs, subgraphs
from eetoolkit_runtime.arrays import Array

_MOST_VALUES = 1 << 14  # of a constant in the manifest, which is text: some 300 KB
_MOST_IN_ALL = 1 << 17  # of all of them: some 3 MB
_PLAIN = "?bhilqBHILQefd"  # numpy's letters of what JSON holds exactly
_IR_VERSION = 10


def constant_nodes(blocks: Iterable[Block]) -> set[ir.Node]:
    """Returns the nodes that compute from constants alone."""
    found: set[ir.Node] = set()
    for node in (node for block in blocks for node in block.nodes):
        sources = needs(node)
        if not subgraphs(node) and all(value.is_initializer() or value.producer() in found for value in sources):
            found.add(node)
    return found


class Room:
    """What the manifest holds of constants: small and plain ones, for as long as there is room."""

    def __init__(self) -> None:
        self._left = _MOST_IN_ALL
        self._known: dict[ir.Value, bool] = {}

    def takes(self, value: ir.Value, array: Array) -> bool:
        """Whether the manifest holds a value that is this array."""
        if value not in self._known:
            self._known[value] = _plain(array) and array.size <= self._left
            self._left -= array.size if self._known[value] else 0
        return self._known[value]

    def taken(self, value: ir.Value) -> ir.Value:
        """Returns a value that stands for one that the manifest holds already."""
        self._known[value] = True
        return value


def take_constants(blocks: Sequence[Block], nodes: set[ir.Node], graph: ir.Graph, room: Room) -> None:
    """Makes initializers of what blocks write, answer or decide by, as far as the manifest holds them.

    Args:
        blocks: Of one plan.
        nodes: Those that compute from constants alone.
        graph: Takes the initializers.
        room: In the manifest.
    """
    wanted = dict.fromkeys(value for block in blocks for value in _looked_at(block) if value.producer() in nodes)
    arrays = {value: _computed(value, nodes) for value in wanted}
    made = {value: room.taken(constant(graph, array)) for value, array in arrays.items() if room.takes(value, array)}
    for block in blocks:
        if block.max_visits is not None and nodes.issuperset(block.nodes):
            continue  # a bound is a graph's
        block.writes = {slot: made.get(source, source) for slot, source in block.writes.items()}
        block.writes |= {value: made[value] for value in block.observed if value in made and value not in block.writes}


def _plain(array: Array) -> bool:
    """Returns whether an array is small and plain enough to stand in the manifest."""
    return array.size <= _MOST_VALUES and array.dtype.char in _PLAIN and bool(np.isfinite(array).all())


def _looked_at(block: Block) -> Iterator[ir.Value]:
    yield from block.writes.values()
    yield from block.observed


def _computed(value: ir.Value, among: set[ir.Node]) -> Array:
    """Returns what nodes without inputs make of constants."""
    nodes = in_order({node: needs(node) for node in ancestors([value], among.__contains__)})
    weights = dict.fromkeys(source for node in nodes for source in needs(node) if source.is_initializer())
    copy = ir.GraphView([], [value], nodes=nodes, initializers=list(weights), name="constant").clone()
    copy.opset_imports.update({node.domain: node.version or 1 for node in nodes})
    options = ort.SessionOptions()
    options.graph_optimization_level, options.log_severity_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL, 3
    proto = ir.to_proto(ir.Model(copy, ir_version=_IR_VERSION))
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {})[0])

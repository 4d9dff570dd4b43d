"""The part of a network that depends on its inputs and its weights: what each value needs, and what is alive beside it.

Sets of nodes are whole numbers, a bit for each node, so that a graph of thousands of nodes takes one pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from eetoolkit_exporters.capturing.capture import Network
from eetoolkit_exporters.cutting.work import count_work
from eetoolkit_exporters.emitting.emit import dimensions
from eetoolkit_exporters.graph import ancestors, needs
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.log import log

_SIZES = {"Shape", "Size"}
_EIGHT_BITS = {ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT4, ir.DataType.UINT4}
_LOOKED_AT = 4096  # numbers of a constant
_OF_A_MASK = 2  # different numbers, as 0 and minus infinity


@dataclass(frozen=True)
class Weighted:
    """The nodes whose results depend on a graph input and on weights, in order, and how they hang together.

    Attributes:
        nodes: The nodes.
        readers: For each of their values that depends on both, the set of nodes that read it. The network's last
            outputs are read by one node more, which stands behind all.
        before: For each node the set of those it needs, itself too.
        after: For each node the set of those that need it.
        beside: For each node the set of those that read what the nodes made that it needs.
        work: Each node's multiply-adds; where they are unknown of one with weights, 1 for each that multiplies with
            weights.
        lookups: The set of nodes that look up rows of a table (embeddings).
    """

    nodes: tuple[ir.Node, ...]
    readers: Mapping[ir.Value, int]
    before: tuple[int, ...]
    after: tuple[int, ...]
    beside: tuple[int, ...]
    work: npt.NDArray[np.int64]
    lookups: int

    def work_of(self, nodes: int) -> int:
        """Returns the multiply-adds of a set of nodes."""
        octets = np.frombuffer(nodes.to_bytes(len(self.nodes) // 8 + 1, "little"), np.uint8)
        return int(self.work @ np.unpackbits(octets, count=len(self.nodes), bitorder="little"))

    def made(self, number: int) -> list[ir.Value]:
        """Returns what a node makes that depends on inputs and weights."""
        return [value for value in self.nodes[number].outputs if value in self.readers]

    def readers_of(self, value: ir.Value) -> list[ir.Node]:
        """Returns the nodes that read a value."""
        readers, left = [], self.readers[value] & ~(1 << len(self.nodes))
        while left:
            readers.append(self.nodes[left.bit_length() - 1])
            left &= ~(1 << left.bit_length() - 1)
        return readers

    def returned(self, value: ir.Value) -> bool:
        """Whether a value is an output of the network's last exit."""
        return bool(self.readers[value] >> len(self.nodes))

    def alone(self, number: int, value: ir.Value) -> bool:
        """Whether of all that a node and those it needs made, the nodes behind it read this value of it alone."""
        others = any(self.readers[other] for other in self.made(number) if other is not value)
        return not others and not self.beside[number] & ~self.before[number]

    def alive_halfway(self) -> list[ir.Value]:
        """Returns the values that are alive where half of the work is done, in the graph's order."""
        done = int(np.searchsorted(self.work.cumsum(), self.work.sum() / 2))
        return [value for n in range(done + 1) for value in self.made(n) if self.readers[value] >> done + 1]


def weigh(network: Network, example: Mapping[str, Array]) -> Weighted:
    """Returns what the network's last exit needs of the nodes that depend on inputs and weights.

    A weight is a floating-point or 8-bit initializer of several numbers, more than two of them different: those of a
    mask are not. What depends on a tensor's shape alone does not depend on the tensor.

    Args:
        network: The network.
        example: Its example inputs, for the sizes of dynamic dimensions.
    """
    graph = network.graph
    outputs = _last_outputs(network)
    needed = ancestors(outputs, lambda _: True)
    reads = {node: needs(node) for node in graph if node in needed}
    weights = {value for value in graph.initializers.values() if _is_weight(value)}
    given, learnt = set(graph.inputs), set(weights)
    for node, read in reads.items():
        for kind in () if node.op_type in _SIZES else (given, learnt):
            if not kind.isdisjoint(read):
                kind.update(node.outputs)
    nodes = tuple(node for node in reads if not given.isdisjoint(node.outputs) and not learnt.isdisjoint(node.outputs))
    number = {node: place for place, node in enumerate(nodes)}
    readers = {value: 1 << len(nodes) if value in outputs else 0 for node in nodes for value in node.outputs}
    makers: list[set[int]] = []
    for node in nodes:
        read = [value for value in reads[node] if value in readers]
        makers.append({number[maker] for value in read if (maker := value.producer()) is not None})
        for value in read:
            readers[value] |= 1 << number[node]
    return Weighted(
        nodes,
        readers,
        *_closures(makers, [_union(readers[value] for value in node.outputs) for node in nodes]),
        _work(nodes, reads, weights, dimensions(network, example)),
        _union(1 << number[node] for node in nodes if node.op_type == "Gather" and node.inputs[0] not in given),
    )


def _closures(
    makers: Sequence[set[int]], read_by: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Returns for each node those it needs, those that need it, and those that read what the ones it needs made.

    Args:
        makers: For each node those whose values it reads.
        read_by: For each node those that read its values.
    """
    before: list[int] = []
    beside: list[int] = []
    after = [0] * len(makers)
    for number, needed in enumerate(makers):
        before.append(_union(before[maker] for maker in needed) | 1 << number)
        beside.append(_union(beside[maker] | read_by[maker] for maker in needed))
    for number in reversed(range(len(makers))):
        for maker in makers[number]:
            after[maker] |= after[number] | 1 << number
    return tuple(before), tuple(after), tuple(beside)


def _last_outputs(network: Network) -> set[ir.Value]:
    """Returns the outputs of the exit that comes last; all that the network returns, where that is inside a branch."""
    last = network.exits[-1].name
    found = {value for exit_ in network.exits if exit_.name == last for value in exit_.outputs.values()}
    top = set(network.graph.outputs)
    return found if found.issubset(top) else top


def _is_weight(value: ir.Value) -> bool:
    tensor = value.const_value
    if tensor is None or tensor.size < 2 or not (tensor.dtype.is_floating_point() or tensor.dtype in _EIGHT_BITS):
        return False
    numbers = tensor.numpy().reshape(-1)
    return len(np.unique(numbers[:: max(1, numbers.size // _LOOKED_AT)])) > _OF_A_MASK


def _work(
    nodes: Sequence[ir.Node],
    reads: Mapping[ir.Node, list[ir.Value]],
    weights: set[ir.Value],
    symbols: Mapping[str, int],
) -> npt.NDArray[np.int64]:
    """Returns each node's multiply-adds; unknown ones of products without weights (attention's) count as none."""
    counted = [count_work([node], (), symbols).multiply_adds for node in nodes]
    learnt = [not weights.isdisjoint(reads[node]) for node in nodes]
    unknown = [node for node, adds, own in zip(nodes, counted, learnt, strict=True) if adds is None and own]
    if not unknown:
        return np.array([adds or 0 for adds in counted], np.int64)
    log("info", "shares of work are counted in nodes: the multiply-adds of %s are unknown", unknown[0].name)
    return np.array([own and adds != 0 for adds, own in zip(counted, learnt, strict=True)], np.int64)


def _union(sets: Iterable[int]) -> int:
    union = 0
    for each in sets:
        union |= each
    return union

"""Nodes appended to a network's graph or to a subgraph of it, of one opset and with names that nothing else has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from eetoolkit_exporters.capturing.capture import Network
from eetoolkit_exporters.graph import OURS, fresh


class Builder:
    """Appends nodes where an exit's values are made; constants are initializers of the top graph.

    Args:
        network: The network.
        values: What the nodes will read; they go into the innermost graph that one of these is made in.
        prefix: What the names of new values begin with.
        used: The names that are taken; grows.
    """

    def __init__(self, network: Network, values: Sequence[ir.Value], prefix: str, used: set[str]) -> None:
        self.top = network.graph
        self.graph = next((value.graph for value in values if inside(value, network)), None) or network.graph
        self.opset = opset_of(values, network)
        self._prefix = prefix
        self._used = used

    def __call__(self, op: str, *inputs: ir.Value, **attributes: int | Sequence[int]) -> ir.Value:
        """Returns the output of a new node."""
        found = self._append(op, inputs, attributes, [op.lower()])[0]
        found.type = _type(op, inputs, attributes)
        found.shape = _broadcast(inputs) if op in _ELEMENTWISE else None
        return found

    def constant(self, value: npt.ArrayLike, dtype: type[np.generic] = np.float32) -> ir.Value:
        """Returns a new initializer."""
        name = self.name("constant")
        found = ir.val(name, const_value=ir.tensor(np.array(value, dtype), name=name))
        self.top.register_initializer(found)
        return found

    def reduce(self, op: str, value: ir.Value, axis: int, keepdims: int = 0) -> ir.Value:
        """Reduces one axis away; its axes became an input in opset 18."""
        if self.opset < 18:
            found = self(op, value, axes=[axis], keepdims=keepdims)
        else:
            found = self(op, value, self.constant([axis], np.int64), keepdims=keepdims)
        if value.shape is not None:
            dims: list[int | ir.SymbolicDim | None] = list(value.shape)
            dims[axis : axis % len(dims) + 1] = [1] if keepdims else []
            found.shape = ir.Shape(dims)
        return found

    def top_values(self, value: ir.Value, count: ir.Value, largest: int = 1) -> ir.Value:
        """Returns the `count` largest or smallest values of the last axis, sorted."""
        attributes = {"axis": -1, "largest": largest, "sorted": 1}
        found, indices = self._append("TopK", (value, count), attributes, ["topk", "topk_indices"])
        found.type, indices.type = value.type, ir.TensorType(ir.DataType.INT64)
        return found

    def called(self, stem: str, value: ir.Value) -> ir.Value:
        """Gives a value that may cross to another segment a name that says what it is."""
        value.name = self.name(stem)
        return value

    def name(self, stem: str) -> str:
        """Returns a name that nothing in the graph has yet."""
        return fresh(self._prefix + stem, self._used)

    def _append(
        self,
        op: str,
        inputs: Sequence[ir.Value],
        attributes: Mapping[str, int | Sequence[int]],
        stems: list[str],
    ) -> Sequence[ir.Value]:
        outputs = [ir.Value(name=self.name(stem)) for stem in stems]
        title = f"node_{outputs[0].name}"
        node = ir.node(op, inputs, dict(attributes), outputs=outputs, version=self.opset, name=title)
        node.meta[OURS] = True
        self.graph.append(node)
        return node.outputs


_BOOLEAN = {"And", "Equal", "GreaterOrEqual", "IsNaN", "Less", "Not"}
_ELEMENTWISE = _BOOLEAN | {
    "Abs", "Add", "Cast", "Div", "Exp", "Identity", "Log", "LogSoftmax", "Max", "Min", "Mul", "Neg", "Softmax",
    "Softplus", "Sub", "Tanh", "Where",
}  # fmt: skip


def _type(op: str, inputs: Sequence[ir.Value], attributes: Mapping[str, int | Sequence[int]]) -> ir.TypeProtocol | None:
    if op == "Cast" and isinstance(to := attributes["to"], int):
        return ir.TensorType(ir.DataType(to))
    if op in _BOOLEAN:
        return ir.TensorType(ir.DataType.BOOL)
    if op in {"ArgMax", "Shape"}:
        return ir.TensorType(ir.DataType.INT64)
    return inputs[1 if op == "Where" else 0].type


def _broadcast(inputs: Sequence[ir.Value]) -> ir.Shape | None:
    """Returns the shape of an elementwise operator's result; None where an input's is not known."""
    found: list[int | ir.SymbolicDim] = []
    for value in inputs:
        if value.shape is None:
            return None
        dims = list(value.shape)
        found = [*[1] * (len(dims) - len(found)), *found]
        offset = len(found) - len(dims)
        found = [*found[:offset], *(b if a == 1 else a for a, b in zip(found[offset:], dims, strict=True))]
    return ir.Shape(found)


def inside(value: ir.Value, network: Network) -> bool:
    """Whether a value is made in a branch or a loop."""
    return value.graph is not None and value.graph is not network.graph


def opset_of(values: Sequence[ir.Value], network: Network) -> int:
    """Returns the opset of the stage that makes `values`: that of the nearest standard operator before them."""
    waiting, seen = list(values), set(values)
    while waiting:
        producer = waiting.pop(0).producer()
        if producer is not None and producer.domain == "" and producer.version is not None:
            return producer.version
        for source in producer.inputs if producer is not None else ():
            if source is not None and source not in seen:
                seen.add(source)
                waiting.append(source)
    return network.graph.opset_imports.get("", 20)

"""One ONNX graph in the making: its levels, its shared constants, and segments copied into it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from eetoolkit_exporters.graph import subgraphs
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import ExportError

_FOLDED: dict[str, Callable[..., Any]] = {
    "Add": np.add, "And": np.logical_and, "Cast": np.asarray, "Clip": np.clip, "Equal": np.equal,
    "Gather": lambda table, index: table[index], "Greater": np.greater, "GreaterOrEqual": np.greater_equal,
    "IsNaN": np.isnan, "Not": np.logical_not, "Reshape": np.reshape, "Where": np.where,
}  # fmt: skip
"""What the operators of decisions compute."""


@dataclass
class Shared:
    """What all levels of the graph share: unique names, and the initializers of the top level.

    Attributes:
        names: Every name that is taken.
        initializers: The initializers, by what they hold.
        opsets: The opset of each domain.
        ir_version: The newest of the segments', at least what onnxruntime 1.21, the oldest that we run on, reads.
        settled: Values that onnxruntime may find out to be constant.
        true: A true value that it cannot.
        fixed: Exits of which a constant decides somewhere, whatever the threshold that the file holds.
    """

    names: set[str] = field(default_factory=set)
    initializers: dict[object, ir.Value] = field(default_factory=dict)
    opsets: dict[str, int] = field(default_factory=dict)
    ir_version: int = 10
    settled: set[ir.Value] = field(default_factory=set)
    true: ir.Value | None = None
    fixed: set[str] = field(default_factory=set)
    _counts: Counter[str] = field(default_factory=Counter)

    def fresh(self, name: str) -> str:
        """Returns `name`, or with a number behind it where it is taken, and takes it."""
        found = name
        while found in self.names:
            self._counts[name] += 1
            found = f"{name}_{self._counts[name]}"
        self.names.add(found)
        return found

    def constant(self, array: Array, name: str, key: object = None) -> ir.Value:
        """Returns an initializer that holds `array`; equal ones are one, unless they have a `key` of their own."""
        key = (array.dtype.str, array.shape, array.tobytes()) if key is None else key
        if key not in self.initializers:
            self.initializers[key] = ir.val(self.fresh(name), const_value=ir.tensor(array))
        return self.initializers[key]

    def named(self, what: str) -> dict[str, ir.Value]:
        """Returns the initializers whose keys begin with `what`, by what follows there."""
        return {key[1]: value for key, value in self.initializers.items() if isinstance(key, tuple) and key[0] == what}

    def integer(self, number: int) -> ir.Value:
        """Returns an int64 scalar."""
        return self.constant(np.array(number, np.int64), f"int_{number}")

    def empty(self, dtype: ir.DataType, rank: int) -> ir.Value:
        """Returns a tensor that stands where there is none: no elements, or 0 where it has no dimensions."""
        return self.constant(np.zeros((0,) * rank, dtype.numpy()), f"empty_{dtype.name.lower()}_{rank}")

    def settle(self, node: ir.Node) -> None:
        """Notes whether the outputs of a node may be constant."""
        known = all(value is None or value.const_value is not None or value in self.settled for value in node.inputs)
        if node.op_type == "Shape" or (known and not subgraphs(node)):
            self.settled.update(node.outputs)

    def guard(self, test: ir.Value) -> ir.Node | None:
        """Returns a node whose output is `test` and cannot be found out to be constant; None where `test` cannot."""
        if self.true is None or (test.const_value is None and test not in self.settled):
            return None
        output = ir.val(self.fresh("decided"), ir.DataType.BOOL)
        return ir.node("And", [test, self.true], outputs=[output], name=self.fresh("And_node"))

    def weight(self, value: ir.Value, name: str) -> ir.Value:
        """Returns an initializer that holds a segment's; those that lie at the same place of a file are one."""
        tensor = value.const_value
        if tensor is None:
            raise ExportError(f"the initializer {name!r} has no value")
        key: object = object()
        if isinstance(tensor, ir.ExternalTensor):
            shape = tuple(tensor.shape.numpy())
            key = (tensor.path, tensor.offset, tensor.length, tensor.dtype, shape)
        if key not in self.initializers:
            self.initializers[key] = ir.val(self.fresh(name), const_value=tensor)
        return self.initializers[key]


class GraphLevel:
    """One level of the graph: the top, a branch, or the body of a loop."""

    def __init__(self, shared: Shared, depth: int = 0) -> None:
        self.shared = shared
        self.depth = depth
        self.inputs: list[ir.Value] = []
        self.outputs: list[ir.Value] = []
        self._nodes: list[ir.Node] = []
        self._made: set[ir.Value] = set()

    def below(self) -> GraphLevel:
        """Returns an empty level inside this one."""
        return GraphLevel(self.shared, self.depth + 1)

    def input(self, name: str, dtype: ir.DataType) -> ir.Value:
        """Adds an input of this level."""
        self.inputs.append(ir.val(self.shared.fresh(name), dtype))
        return self.inputs[-1]

    def nodes(
        self,
        operator: str,
        inputs: Iterable[ir.Value | None],
        outputs: Mapping[str, ir.DataType],
        **attributes: Any,
    ) -> list[ir.Value]:
        """Adds a node and returns its outputs, which are called and typed as `outputs` say, in order."""
        values = [ir.val(self.shared.fresh(name), dtype) for name, dtype in outputs.items()]
        name = self.shared.fresh(f"{operator}_node")
        self._add(ir.node(operator, list(inputs), attributes, outputs=values, name=name))
        return values

    def compute(self, operator: str, name: str, dtype: ir.DataType, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        """Adds a node with one output and returns that, or a constant where the inputs are constants already.

        The rest of the graph gets smaller so; that onnxruntime would fold them as well is not enough (`decide`).
        """
        arrays = [value.const_value.numpy() for value in inputs if value.const_value is not None]
        if operator in _FOLDED and len(arrays) == len(inputs):
            return self.shared.constant(np.asarray(_FOLDED[operator](*arrays), dtype.numpy()), name)
        return self.nodes(operator, inputs, {name: dtype}, **attributes)[0]

    def scalar(self, value: ir.Value, name: str) -> ir.Value:
        """Returns the one element of `value` as a scalar."""
        if value.dtype is None:
            raise ExportError(f"the tensor {value.name!r} has no dtype")
        shape = self.shared.constant(np.zeros(0, np.int64), "no_dimensions")
        return self.compute("Reshape", name, value.dtype, value, shape)

    def decide(self, test: ir.Value) -> ir.Value:
        """Returns `test` as the condition of an `If`: nothing that onnxruntime can find out to be constant.

        It would put a branch in place of the `If`, and 1.32 crashes where that lies in another `If` or `Loop`.
        """
        guard = self.shared.guard(test)
        if guard is None:
            return test
        self._add(guard)
        return guard.outputs[0]

    def give(self, value: ir.Value, name: str) -> None:
        """Makes `value` this level's next output, by an `Identity` where a node of this level has not just made it."""
        if value not in self._made or value in self.outputs:
            if value.dtype is None:
                raise ExportError(f"the tensor {value.name!r} has no dtype")
            value = self.compute("Identity", name, value.dtype, value)
        self.outputs.append(value)

    def inline(self, model: ir.Model, feeds: Mapping[str, ir.Value], prefix: str) -> dict[str, ir.Value]:
        """Moves a segment's nodes to this level and returns its outputs by name; `model` is used up.

        Args:
            model: The segment.
            feeds: A value for each of its inputs.
            prefix: What all its names are put behind.

        Raises:
            ExportError: Functions, which one graph of several segments cannot hold, or another opset than before.
        """
        if model.functions:
            raise ExportError(f"{prefix}: the segment holds functions of its own; export it with them inlined")
        graph = model.graph
        self.shared.ir_version = max(self.shared.ir_version, model.ir_version)
        for domain, version in graph.opset_imports.items():
            if self.shared.opsets.setdefault(domain, version) != version:
                raise ExportError(
                    f"{prefix}: operators of opset {version} and {self.shared.opsets[domain]} cannot be in one graph; "
                    "export the stages with one opset"
                )
        named = {str(value.name): value for value in graph.outputs}
        graph.outputs.clear()
        stand_ins = {value: feeds[str(value.name)] for value in graph.inputs}
        for value in graph.initializers.values():
            stand_ins[value] = self.shared.weight(value, f"{prefix}/{value.name}")
        for value, other in stand_ins.items():
            value.replace_all_uses_with(other)
        nodes = list(graph)
        graph.remove(nodes)
        for node in nodes:
            self._rename(node, prefix)
            if node.op_type == "If" and node.inputs[0] is not None:
                node.replace_input_with(0, self.decide(node.inputs[0]))
            self._add(node)
        return {name: stand_ins.get(value, value) for name, value in named.items()}

    def graph(self, name: str) -> ir.Graph:
        """Returns this level as a graph."""
        return ir.Graph(self.inputs, self.outputs, nodes=self._nodes, name=name)

    def _add(self, node: ir.Node) -> None:
        self._nodes.append(node)
        self.shared.settle(node)
        self._made.update(node.outputs)

    def _rename(self, node: ir.Node, prefix: str) -> None:
        node.name = self.shared.fresh(f"{prefix}/{node.name or node.op_type}")
        for value in node.outputs:
            if value.name:
                value.name = self.shared.fresh(f"{prefix}/{value.name}")
        for graph in subgraphs(node):
            for value in (*graph.inputs, *graph.initializers.values()):
                value.name = self.shared.fresh(f"{prefix}/{value.name}")
            for inner in list(graph):
                self._rename(inner, prefix)
                if inner.op_type == "If" and inner.inputs[0] is not None:
                    guard = self.shared.guard(inner.inputs[0])
                    if guard is not None:
                        graph.insert_before(inner, guard)
                        inner.replace_input_with(0, guard.outputs[0])
                self.shared.settle(inner)

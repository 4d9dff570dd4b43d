"""The nodes that a blend needs as an `If`: its predicate and its two branches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from eetoolkit_exporters.gating.decisions import Decision, batch_of
from eetoolkit_exporters.graph import fresh, names_of


def known_shape(value: ir.Value) -> ir.Shape | None:
    """Returns the shape if every dimension has a size or a name."""
    shape = value.shape
    if shape is None or any(not isinstance(dim, int) and dim.value is None for dim in shape):
        return None
    return shape


def same_shape(value: ir.Value, other: ir.Value) -> bool:
    """Returns whether two values have the same shape, for every input."""
    shape = known_shape(value)
    return shape is not None and shape == known_shape(other)


class GateBuilder:
    """Makes nodes, with names that no other has; constants are initializers of the whole graph.

    Attributes:
        replaced: What `to_if` has put in the place of a blend's result.
        version: The graph's operator set.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.replaced: dict[ir.Value, ir.Value] = {}
        self.version = graph.opset_imports[""]
        self._graph = graph
        self._batch = batch_of(graph)
        counted = (value for value in graph.inputs if self._batch is not None and self._batch in (value.shape or ()))
        self._rows = next(counted, None)
        self._used = names_of(graph) | {str(node.name) for node in graph.all_nodes()}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._predicates: dict[tuple[ir.Value, bool, bool], ir.Value] = {}

    def current(self, value: ir.Value) -> ir.Value:
        """Returns what stands for a value now that other blends have been rewritten."""
        while value in self.replaced:
            value = self.replaced[value]
        return value

    def name(self, stem: str) -> str:
        """Returns a name that nothing in the graph has yet."""
        return fresh(stem, self._used)

    def predicate(self, decision: Decision, like: ir.Node) -> ir.Value:
        """Returns the decision as a bool value of shape (batch,), or () for the call, made where its source is made."""
        source = self.current(decision.source)
        key = (source, decision.inverted, decision.per_row)
        made = self._predicates.get(key)
        if made is not None and made.graph is source.graph:
            return made
        nodes: list[ir.Node] = []
        stem, shape = f"{source.name}_gate", source.shape
        value = source
        if source.dtype is not None and source.dtype.is_floating_point():  # 1 - g may be off by a rounding
            half = self.constant(np.array(0.5, source.dtype.numpy()))
            value = self.node(nodes, like, "Greater", (value, half), stem, ir.DataType.BOOL, shape)
        elif source.dtype != ir.DataType.BOOL:
            to = {"to": int(ir.DataType.BOOL)}
            value = self.node(nodes, like, "Cast", (value,), stem, ir.DataType.BOOL, shape, to)
        if decision.inverted:
            value = self.node(nodes, like, "Not", (value,), stem, ir.DataType.BOOL, shape)
        wanted = ir.Shape([shape[0]] if decision.per_row and shape is not None else [])
        if shape != wanted:
            target = self.constant(np.array([-1] if decision.per_row else [], np.int64))
            value = self.node(nodes, like, "Reshape", (value, target), stem, ir.DataType.BOOL, wanted)
        _insert_after(source, nodes)
        self._predicates[key] = value
        return value

    def take_over(self, result: ir.Value) -> ir.Value:
        """Returns a value that stands for a blend's result from now on, with its name, dtype and shape."""
        output = ir.Value(type=result.type, shape=result.shape)
        output.name, result.name = result.name, self.name(f"{result.name}_blended")
        self.replaced[result] = output
        return output

    def can_expand(self, result: ir.Value) -> bool:
        """Returns whether a smaller value can be expanded to the shape of `result` without computing `result`."""
        shape = result.shape
        if shape is None or result.dtype is None or any(not isinstance(dim, int) for dim in shape[1:]):
            return False
        return not len(shape) or isinstance(shape[0], int) or (shape[0] == self._batch and self._rows is not None)

    def expand(self, nodes: list[ir.Node], like: ir.Node, value: ir.Value, result: ir.Value, name: str) -> ir.Value:
        """Returns a value expanded to the shape of `result`; the nodes that this takes are appended."""
        dims = list(result.shape or ())
        fixed = [dim for dim in dims if isinstance(dim, int)]
        target = self.constant(np.array(fixed, np.int64))
        if len(fixed) < len(dims) and self._rows is not None and self._rows.shape is not None:
            axis = [str(dim) for dim in self._rows.shape].index(str(self._batch))
            int64, first = ir.DataType.INT64, self.constant(np.array([axis], np.int64))
            sizes = ir.Shape([len(self._rows.shape)])
            rows = self.node(nodes, like, "Shape", (self._rows,), name, int64, sizes)
            rows = self.node(nodes, like, "Gather", (rows, first), name, int64, ir.Shape([1]), {"axis": 0})
            target = self.node(nodes, like, "Concat", (rows, target), name, int64, ir.Shape([len(dims)]), {"axis": 0})
        return self.node(nodes, like, "Expand", (value, target), name, result.dtype, result.shape)

    def node(
        self,
        nodes: list[ir.Node],
        like: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value],
        stem: str,
        dtype: ir.DataType | None,
        shape: ir.Shape | None,
        attributes: dict[str, int] | None = None,
    ) -> ir.Value:
        """Returns the output of a new node, which is appended."""
        output = ir.Value(
            name=self.name(stem), type=None if dtype is None else ir.TensorType(dtype), shape=ir.Shape(shape or ())
        )
        made = [ir.AttrInt64(name, value) for name, value in (attributes or {}).items()]
        name = self.name(f"node_{output.name}")
        nodes.append(ir.Node("", op_type, inputs, made, outputs=[output], version=like.version, name=name))
        return output

    def constant(self, array: npt.NDArray[np.generic]) -> ir.Value:
        """Returns an initializer of the whole graph."""
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            name = self.name("gate_constant")
            self._constants[key] = ir.val(name, const_value=ir.tensor(array, name=name))
            self._graph.register_initializer(self._constants[key])
        return self._constants[key]


class BranchBuilder:
    """Makes one branch of an `If`, result by result.

    Args:
        build: The builder of the whole graph.
        like: A node whose operator set version the new ones have.
    """

    def __init__(self, build: GateBuilder, like: ir.Node) -> None:
        self._build = build
        self._like = like
        self._nodes: list[ir.Node] = []
        self._results: list[ir.Value] = []

    def add(self, name: str, result: ir.Value, combine: str, operands: Sequence[ir.Value]) -> None:
        """Adds the operand, or the sum or product of two, in the shape of `result`."""
        if combine != "Identity" or same_shape(operands[0], result):
            value = self._build.node(self._nodes, self._like, combine, operands, name, result.dtype, result.shape)
        else:
            value = self._build.expand(self._nodes, self._like, operands[0], result, name)
        self._results.append(value)

    def add_zeros(self, name: str, result: ir.Value) -> None:
        """Adds zeros in the shape and dtype of `result`."""
        if result.dtype is None:
            raise ValueError(f"{result.name} has no dtype")
        zero = self._build.constant(np.zeros((), result.dtype.numpy()))
        self._results.append(self._build.expand(self._nodes, self._like, zero, result, name))

    def graph(self, name: str) -> ir.Graph:
        """Returns the branch."""
        version = self._like.version or self._build.version
        return ir.Graph([], self._results, nodes=self._nodes, opset_imports={"": version}, name=name)


def _insert_after(source: ir.Value, nodes: list[ir.Node]) -> None:
    producer, graph = source.producer(), source.graph
    if graph is None:
        raise ValueError(f"{source.name} is in the graph no more")
    if producer is not None:
        graph.insert_after(producer, nodes)
    elif len(graph):
        graph.insert_before(graph[0], nodes)
    else:
        graph.extend(nodes)

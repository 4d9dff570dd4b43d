"""Weights made smaller by hand: embeddings as int8 with a scale per column, and weights stored as float16."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from eetoolkit_exporters.emitting.files import INLINE_BYTES
from eetoolkit_exporters.graph import fresh, names_of
from eetoolkit_runtime.arrays import Array

_HIGHEST = 127
"""The same on both sides of 0, so that no zero point is needed."""
_FLOAT16_STEP = 2.0**-11
"""What a normal number loses at most, relative to itself; weights of less than 1e-5 lose more."""


def is_matrix(value: ir.Value | None) -> bool:
    """Whether a value is a matrix of float32 weights."""
    if value is None or not value.is_initializer() or value.const_value is None:
        return False
    return value.const_value.dtype == ir.DataType.FLOAT and len(value.const_value.shape) == 2


def is_table(value: ir.Value | None) -> bool:
    """Whether a value is a matrix of weights so large that it has its own place in a file."""
    large = value is not None and value.const_value is not None and value.const_value.nbytes >= INLINE_BYTES
    return large and is_matrix(value)


def is_lookup(node: ir.Node) -> bool:
    """Whether a node looks up rows of a table (embeddings)."""
    rows = node.op_type == "Gather" and not node.domain and node.attributes.get_int("axis", 0) == 0
    return rows and is_table(node.inputs[0])


def quantize_embeddings(model: ir.Model, lookups: Collection[ir.Node]) -> None:
    """Has these nodes look up int8 rows, which are multiplied with a scale for each column afterwards."""
    used = names_of(model.graph)
    tables: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
    for node in lookups:
        table = node.inputs[0]
        if table is None or table.const_value is None:
            continue
        if table not in tables:
            numbers, scales = per_column(table.const_value.numpy())
            tables[table] = (
                new_weight(model, numbers, f"{table.name}_int8", used),
                new_weight(model, scales, f"{table.name}_scales", used),
            )
        small, scale = tables[table]
        node.replace_input_with(0, small)
        _behind(node, "DequantizeLinear", [scale], [ir.AttrInt64("axis", -1)], ir.DataType.INT8, used)
    drop_unused(model)


def per_column(table: Array) -> tuple[Array, Array]:
    """Returns a matrix as int8 and the float32 scales of its columns."""
    scales = (np.abs(table).max(axis=0, initial=0) / _HIGHEST).astype(np.float32)
    scales[scales == 0] = 1
    return np.clip(np.rint(table / scales), -_HIGHEST, _HIGHEST).astype(np.int8), scales


def store_as_float16(model: ir.Model) -> bool:
    """Stores float32 weights as float16 where they keep its precision, and returns whether there were such.

    What computes with them gets float32: rows of a table are cast after they are looked up; in an inner graph the cast
    lies there, beside what reads it.
    """
    used, found = names_of(model.graph), False
    for value in list(model.graph.initializers.values()):
        half = _half(value)
        if half is None:
            continue
        found = True
        small = new_weight(model, half, f"{value.name}_float16", used)
        cast: dict[ir.Graph, ir.Value] = {}
        for node, place in list(value.uses()):
            if is_lookup(node) and place == 0:
                node.replace_input_with(0, small)
                _behind(node, "Cast", [], [ir.AttrInt64("to", ir.DataType.FLOAT)], ir.DataType.FLOAT16, used)
                continue
            graph = node.graph
            if not isinstance(graph, ir.Graph):
                continue
            if graph not in cast:
                made = ir.node("Cast", [small], {"to": ir.DataType.FLOAT}, name=fresh(f"{value.name}_cast", used))
                wide = made.outputs[0]
                wide.name, wide.type, wide.shape = fresh(f"{value.name}_float32", used), value.type, value.shape
                graph.insert_before(graph[0], made)
                cast[graph] = wide
            node.replace_input_with(place, cast[graph])
    drop_unused(model)
    return found


def load_weights(model: ir.Model) -> None:
    """Reads what lies in files into memory."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            value.const_value = ir.tensor(tensor.numpy().copy(), dtype=tensor.dtype, name=value.name)


def drop_unused(model: ir.Model) -> None:
    """Removes the weights that nothing reads."""
    for name, value in list(model.graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del model.graph.initializers[name]


def products_of_matrices(model: ir.Model, gemms: Collection[ir.Node]) -> list[ir.Node]:
    """Puts a `MatMul` and an `Add` in the place of each of these `Gemm`s; returns the products."""
    used = names_of(model.graph)
    turned: dict[ir.Value, ir.Value] = {}
    found = []
    for node in gemms:
        weights, result, graph = node.inputs[1], node.outputs[0], node.graph
        if weights is None or weights.const_value is None or not isinstance(graph, ir.Graph):
            continue
        if node.attributes.get_int("transB", 0):
            if weights not in turned:
                array = np.ascontiguousarray(weights.const_value.numpy().T)
                turned[weights] = new_weight(model, array, f"{weights.name}_transposed", used)
            weights = turned[weights]
        product = ir.node("MatMul", [node.inputs[0], weights], name=f"{node.name}_product", version=node.version)
        found.append(product)
        made = [product]
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            inner = product.outputs[0]
            inner.name, inner.type, inner.shape = fresh(f"{result.name}_product", used), result.type, result.shape
            made.append(ir.node("Add", [inner, node.inputs[2]], name=f"{node.name}_sum", version=node.version))
        graph.insert_before(node, made)
        last = made[-1].outputs[0]
        last.type, last.shape = result.type, result.shape
        result.replace_all_uses_with(last, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        last.name = result.name
    drop_unused(model)
    return found


def is_plain(gemm: ir.Node) -> bool:
    """Whether a `Gemm` is nothing but a product with a matrix and a sum."""
    given = gemm.attributes
    return given.get_float("alpha", 1.0) == given.get_float("beta", 1.0) == 1 and not given.get_int("transA", 0)


def _half(value: ir.Value) -> Array | None:
    tensor = value.const_value
    if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.nbytes < INLINE_BYTES or value.is_graph_output():
        return None
    wide = tensor.numpy()
    with np.errstate(over="ignore"):
        half = wide.astype(np.float16)
    if not np.array_equal(np.isfinite(half), np.isfinite(wide)):
        return None
    finite = np.isfinite(wide)
    lost = np.linalg.norm((wide - half)[finite].astype(np.float64))
    return half if lost <= _FLOAT16_STEP * np.linalg.norm(wide[finite].astype(np.float64)) else None


def new_weight(model: ir.Model, array: Array, name: str, used: set[str]) -> ir.Value:
    """Returns a new initializer, called `name` or, where that is taken, nearly so."""
    name = fresh(name, used)
    value = ir.val(name, const_value=ir.tensor(array, name=name))
    model.graph.register_initializer(value)
    return value


def _behind(
    node: ir.Node,
    operator: str,
    inputs: list[ir.Value],
    attributes: list[ir.Attr],
    dtype: ir.DataType,
    used: set[str],
) -> None:
    """Puts a node behind another, whose output is of `dtype` from now on; the new one's takes its name."""
    value = node.outputs[0]
    made = ir.Node("", operator, [value, *inputs], attributes, name=f"{node.name}_{operator}", version=node.version)
    wide = made.outputs[0]
    value.replace_all_uses_with(wide, replace_graph_outputs=True)
    made.replace_input_with(0, value)
    wide.type, wide.shape, wide.name = value.type, value.shape, value.name
    value.name, value.type = fresh(f"{value.name}_{dtype.name.lower()}", used), ir.TensorType(dtype)
    node.append(made)

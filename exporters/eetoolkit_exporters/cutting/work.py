"""The static cost of a segment: nodes, parameters, multiply-adds."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping

import onnx_ir as ir

from eetoolkit_exporters.graph import subgraphs
from eetoolkit_runtime.plan.types import Work


def count_work(nodes: Iterable[ir.Node], initializers: Iterable[ir.Value], symbols: Mapping[str, int]) -> Work:
    """Returns the work of `nodes`.

    Multiply-adds are those of convolutions, matrix products and recurrent layers, as is usual in the field; other
    operators count nothing, and of an `If` the larger branch counts. They are None where a shape is unknown, and for a
    loop.

    Args:
        nodes: The nodes.
        initializers: The weights they use; floating-point ones count as parameters.
        symbols: The sizes of dynamic dimensions: one row at the example's sizes.
    """
    total: int | None = 0
    count = 0
    for node in nodes:
        count += 1
        adds = _multiply_adds(node, symbols)
        total = None if total is None or adds is None else total + adds
    parameters = sum(
        math.prod(value.const_value.shape.numpy())
        for value in initializers
        if value.const_value is not None and value.const_value.dtype.is_floating_point()
    )
    return Work(nodes=count, parameters=parameters, multiply_adds=total)


def _multiply_adds(node: ir.Node, symbols: Mapping[str, int]) -> int | None:
    if node.op_type == "MatMul" and not node.domain:
        return _product(node, symbols)
    if node.op_type == "If" and not node.domain:
        branches = [count_work(branch, (), symbols).multiply_adds for branch in subgraphs(node)]
        return None if None in branches else max(adds for adds in branches if adds is not None)
    formula = None if node.domain else _FORMULAS.get(node.op_type)
    if formula is None:
        return None if _MULTIPLYING.search(node.op_type) else 0
    shapes = [_dims(value, symbols) for value in (*node.inputs[:3], node.outputs[0])]
    count = 3 if node.op_type in {"LSTM", "GRU", "RNN"} else 2
    used = [*shapes[:count], shapes[-1]]
    if any(shape is None for shape in used):
        return None
    return formula(node, [shape for shape in used if shape is not None])


def _product(node: ir.Node, symbols: Mapping[str, int]) -> int | None:
    """Returns the multiply-adds of a `MatMul`, also where shape inference lost the batch of one operand on its way.

    What is multiplied with a batch, and fits it whatever its size, is one for all of its rows or has as many.
    """
    (x, y), result = node.inputs[:2], node.outputs[0]
    if x is None or y is None or result.shape is None or x.shape is None:
        return None
    dims: list[int] = []
    for place, dim in enumerate(reversed(result.shape)):
        known = _size(dim, symbols)
        if known is None and place >= 2:
            theirs = [v.shape[-1 - place] for v in (x, y) if v.shape is not None and len(v.shape) > place]
            known = next((_size(d, symbols) for d in theirs if d != 1 and _size(d, symbols) is not None), None)
        if known is None:
            return None
        dims.append(known)
    inner = _size(x.shape[-1], symbols)
    return None if inner is None else math.prod(dims) * inner


def _gemm(node: ir.Node, shapes: list[list[int]]) -> int:
    transposed = "transA" in node.attributes and node.attributes["transA"].as_int()
    return math.prod(shapes[-1]) * shapes[0][0 if transposed else -1]


def _recurrent(_: ir.Node, shapes: list[list[int]]) -> int:
    steps, weights, recurrence = shapes[0][0] * shapes[0][1], shapes[1], shapes[2]
    return steps * (math.prod(weights) + math.prod(recurrence))


_MULTIPLYING = re.compile("^If$|^Loop$|^Scan$|Einsum|Conv|MatMul|Gemm|Attention|LSTM|GRU|RNN")
"""Operators that multiply and add in ways that are not counted here: quantised ones, those of other domains."""
_FORMULAS: dict[str, Callable[[ir.Node, list[list[int]]], int]] = {
    "Conv": lambda _, shapes: math.prod(shapes[-1]) * math.prod(shapes[1][1:]),
    "ConvTranspose": lambda _, shapes: math.prod(shapes[0]) * math.prod(shapes[1][1:]),
    "Gemm": _gemm,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
}


def _dims(value: ir.Value | None, symbols: Mapping[str, int]) -> list[int] | None:
    if value is None:
        return None
    shape = value.shape
    if shape is None and value.const_value is not None:
        return [int(dim) for dim in value.const_value.shape.numpy()]
    if shape is None:
        return None
    dims = [_size(dim, symbols) for dim in shape]
    return None if None in dims else [dim for dim in dims if dim is not None]


def _size(dim: int | ir.SymbolicDim, symbols: Mapping[str, int]) -> int | None:
    if not isinstance(dim, int):
        if dim.value is None:
            return None
        dim = dim.evaluate(symbols)
    return dim if isinstance(dim, int) else None

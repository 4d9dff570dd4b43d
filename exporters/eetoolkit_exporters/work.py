"""What a segment costs on paper: nodes, parameters, multiply-adds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import onnx_ir as ir

from eetoolkit_runtime.plan import Work


def count_work(nodes: Iterable[ir.Node], initializers: Iterable[ir.Value], symbols: Mapping[str, int]) -> Work:
    """Returns the work of `nodes`.

    Multiply-adds are those of convolutions, matrix products and recurrent layers, as is usual in the field; other
    operators count nothing. They are None where a shape is unknown.

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
    if node.op_type in {"If", "Loop", "Scan", "Einsum", "DeformConv", "ConvInteger", "MatMulInteger", "QLinearConv"}:
        return None
    if node.op_type not in {"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "Attention"}:
        return 0
    if node.op_type == "Attention":
        return None
    inputs = [_dims(value, symbols) for value in node.inputs[:3]]
    outputs = _dims(node.outputs[0], symbols) if node.outputs else None
    if node.op_type in {"LSTM", "GRU", "RNN"}:
        x, w, r = inputs
        if x is None or w is None or r is None:
            return None
        return x[0] * x[1] * (math.prod(w) + math.prod(r))
    weight = inputs[1]
    if weight is None or inputs[0] is None or outputs is None:
        return None
    if node.op_type == "Conv":
        return math.prod(outputs) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(inputs[0]) * math.prod(weight[1:])
    inner = inputs[0][-1]
    if node.op_type == "Gemm" and "transA" in node.attributes and node.attributes["transA"].as_int():
        inner = inputs[0][0]
    return math.prod(outputs) * inner


def _dims(value: ir.Value | None, symbols: Mapping[str, int]) -> list[int] | None:
    if value is None:
        return None
    shape = value.shape
    if shape is None and value.const_value is not None:
        return [int(dim) for dim in value.const_value.shape.numpy()]
    if shape is None:
        return None
    dims: list[int] = []
    for dim in shape:
        if not isinstance(dim, int):
            if dim.value is None:
                return None
            dim = dim.evaluate(symbols)  # noqa: PLW2901
        if not isinstance(dim, int):
            return None
        dims.append(dim)
    return dims

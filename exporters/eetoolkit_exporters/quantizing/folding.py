"""Batch norms taken into the convolutions before them, and weights transposed: what onnxruntime's quantiser expects."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx_ir as ir

from eetoolkit_exporters.graph import names_of
from eetoolkit_exporters.quantizing.weights import drop_unused, is_matrix, new_weight
from eetoolkit_runtime.arrays import Array

_EPSILON = 1e-5
"""What ONNX takes where a node says nothing."""


def fold_norms(model: ir.Model) -> None:
    """Gives each convolution that a norm alone reads weights and a bias that do the norm's work.

    torch's exporter does it where a convolution stands beside its norm, not where both come from branches.
    """
    used = names_of(model.graph)
    for norm in list(model.graph):
        conv = _convolution(norm)
        constants = None if conv is None else _constants([*conv.inputs[1:], *norm.inputs[1:]])
        if conv is None or constants is None:
            continue
        weights, *bias, scale, shift, mean, variance = constants
        factor = scale / np.sqrt(variance + norm.attributes.get_float("epsilon", _EPSILON))
        folded = {
            "weights": weights * factor.reshape(-1, *[1] * (weights.ndim - 1)),
            "bias": shift + (sum(bias) - mean) * factor,
        }
        values = [
            new_weight(model, array.astype(np.float32), f"{norm.name}_{what}", used) for what, array in folded.items()
        ]
        made = ir.node("Conv", [conv.inputs[0], *values], name=conv.name, version=conv.version)
        made.attributes.update(conv.attributes)
        old, new = norm.outputs[0], made.outputs[0]
        new.type, new.shape = old.type, old.shape
        model.graph.insert_before(norm, made)
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        model.graph.remove([norm, conv], safe=True)
        new.name = old.name
    drop_unused(model)


def fold_transposes(model: ir.Model, stays: Collection[ir.Node]) -> None:
    """Gives products of matrices, but for those that stay float, weights instead of a `Transpose` of weights."""
    used = names_of(model.graph)
    for node in list(model.graph):
        if node.op_type != "Transpose" or node.domain or not is_matrix(table := node.inputs[0]):
            continue
        uses = list(node.outputs[0].uses())
        products = all(use.node.op_type == "MatMul" and use.idx == 1 and use.node not in stays for use in uses)
        if not uses or not products or node.outputs[0].is_graph_output() or table is None or table.const_value is None:
            continue
        turned = np.ascontiguousarray(table.const_value.numpy().T)
        weights = new_weight(model, turned, f"{table.name}_transposed", used)
        node.outputs[0].replace_all_uses_with(weights)
        model.graph.remove(node, safe=True)
    drop_unused(model)


def _convolution(norm: ir.Node) -> ir.Node | None:
    """Returns the convolution of the same graph whose output a batch norm alone reads."""
    if norm.op_type != "BatchNormalization" or norm.domain or norm.attributes.get_int("training_mode", 0) > 0:
        return None
    value = norm.inputs[0]
    conv = None if value is None or value.is_graph_output() or len(value.uses()) > 1 else value.producer()
    return conv if conv is not None and conv.op_type == "Conv" and conv.graph is norm.graph else None


def _constants(values: Sequence[ir.Value | None]) -> list[Array] | None:
    """Returns what float32 constants hold; None where a value is none."""
    tensors = [None if value is None else value.const_value for value in values]
    floats = [tensor for tensor in tensors if tensor is not None and tensor.dtype == ir.DataType.FLOAT]
    return [tensor.numpy().astype(np.float64) for tensor in floats] if len(floats) == len(tensors) else None

"""Which segments should read their weights as they lie, and not pack them for every session anew.

onnxruntime packs the weights of a matrix product when a session is opened, into memory of the session's own. What
several segments share is then there several times and falls out of the processor's cache, where for one row of features
a packed product is hardly faster than a plain one (`benchmarks/README.md` has the ratios).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import onnx_ir as ir

from eetoolkit_exporters.emitting.batch_names import NAMES

LEAST_BYTES = 128 * 1024
"""The least size of shared weights that matters: a cache holds some copies of less."""
_PRODUCTS = {"MatMul", "Gemm"}
_UNPACKED = {"Add", "Div", "Gather", "Mul", "Sub"}
"""Operators that read a weight as it lies."""


def one_row(model: ir.Model, least_bytes: int) -> bool:
    """Whether every weight of at least so many bytes meets one row of features, where the batch is one row."""
    return all(
        node.op_type in _UNPACKED or (node.op_type in _PRODUCTS and (place == 2 or _is_row(node)))
        for node in model.graph.all_nodes()
        for place, value in enumerate(node.inputs)
        if value is not None and value.const_value is not None and value.const_value.nbytes >= least_bytes
    )


def _is_row(node: ir.Node) -> bool:
    features = node.inputs[0]
    if features is None or features.shape is None or node.attributes.get_int("transA", 0) != 0:
        return False
    dims = [dim if isinstance(dim, int) else dim.value for dim in features.shape]
    return all(dim in (1, *NAMES) for dim in dims[:-1])


def mostly_shared(weights: Mapping[str, Mapping[bytes, int]]) -> set[str]:
    """Returns the segments at least half of whose weights others have too, and enough of them to matter.

    Args:
        weights: Of each segment the size in bytes of each weight, by its content.
    """
    users = Counter(key for found in weights.values() for key in found)
    shared = {name: sum(size for key, size in found.items() if users[key] > 1) for name, found in weights.items()}
    return {name for name, size in shared.items() if size >= LEAST_BYTES and 2 * size >= sum(weights[name].values())}

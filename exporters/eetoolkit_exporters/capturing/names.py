"""Names that nothing in a graph has yet, and constants under such names."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from eetoolkit_exporters.capturing.scopes import subgraphs

_CONTENT = "eetoolkit.constant"
OURS = "eetoolkit.ours"
"""In a node's `meta`: it is not the network's own, so that nothing is to be said about it."""


def names_of(graph: ir.Graph) -> set[str]:
    """Returns the names of all values, at every level."""
    names = {str(value.name) for value in (*graph.inputs, *graph.initializers.values())}
    for node in graph.all_nodes():
        names.update(str(value.name) for value in node.outputs)
        for inner in subgraphs(node):
            names.update(str(value.name) for value in (*inner.inputs, *inner.initializers.values()))
    return names


def fresh(stem: str, used: set[str]) -> str:
    """Returns `stem`, numbered where it is taken, and takes it."""
    name, number = stem, 1
    while name in used:
        number += 1
        name = f"{stem}_{number}"
    used.add(name)
    return name


def constant(graph: ir.Graph, content: npt.ArrayLike) -> ir.Value:
    """Returns the initializer that an earlier call made of the same numbers, else a new one."""
    array = np.asarray(content)
    key = f"{array.dtype}{array.tolist()}"
    for value in graph.initializers.values():
        if value.meta.get(_CONTENT) == key:
            return value
    name = fresh(f"constant_{len(graph.initializers)}", names_of(graph))
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
    value.meta[_CONTENT] = key
    graph.register_initializer(value)
    return value

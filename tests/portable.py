"""What execution providers of other machines cannot take in the graphs of a bundle."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

import eetoolkit as ee

_POOLS = {"AveragePool", "MaxPool"}


def faults(bundle: ee.Bundle) -> list[str]:
    """Returns what in a bundle's graphs is there for one processor, or is no function of their inputs."""
    found = []
    for name, segment in bundle.manifest.segments.items():
        if segment.model is not None:
            graph = onnx.load(bundle.path / segment.model).graph
            found += [f"{name}: {fault}" for fault in (*_identities(graph), *_outputs(graph))]
    return found


def _identities(graph: onnx.GraphProto) -> Iterator[str]:
    """Yields what computes a tensor from itself, and operators of layouts that only some processors have."""
    weights = {each.name: each for each in graph.initializer}
    for node in graph.node:
        lists = {each.name: list(each.ints) for each in node.attribute}
        if "nchwc" in node.domain:
            yield f"{node.op_type} of {node.domain}"
        if node.op_type in _POOLS and set(lists["kernel_shape"]) == {1} and set(lists.get("strides", [1])) == {1}:
            yield f"{node.op_type} of windows of one element"
        if node.op_type == "Conv" and len(node.input) == 2 and node.input[1] in weights:
            weight = onnx.numpy_helper.to_array(weights[node.input[1]])
            if weight.shape[2:] == (1, 1) and np.array_equal(weight[:, :, 0, 0], np.eye(*weight.shape[:2])):
                yield "Conv with the unit matrix"


def _outputs(graph: onnx.GraphProto) -> Iterator[str]:
    """Yields the outputs that are an input, a constant, or computed from constants alone."""
    inputs = {each.name for each in graph.input}
    constant = {each.name for each in graph.initializer} - inputs
    for node in graph.node:
        nested = any(each.g.node or each.graphs for each in node.attribute)
        if not nested and all(name in constant for name in node.input if name):
            constant.update(node.output)
    for output in graph.output:
        if output.name in inputs:
            yield f"the output {output.name} is an input"
        if output.name in constant:
            yield f"the output {output.name} is constant"

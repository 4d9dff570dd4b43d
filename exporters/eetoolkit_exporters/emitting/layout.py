"""Keeping onnxruntime's blocked convolution layout where a segment starts inside a residual network.

On x86 onnxruntime runs convolutions in a blocked layout (NCHWc) and fuses `Conv, Add, Relu` there, but only if the
shortcut that is added is in that layout too. A shortcut that enters a segment as an input is not, and then neither is
its sum, nor the next one: every residual block of the segment converts back and forth. An operator of that layout that
changes no value keeps the whole chain behind it blocked. Where the channels fill whole blocks it is an average over
windows of one element (a maximum would turn NaN into a number). Else onnxruntime blocks only convolutions, which pad,
and it is a 1x1 convolution with the unit matrix, where that costs little of the segment's work; an infinity or a NaN
then takes the other channels with it, as the convolution behind it would have done. `benchmarks/README.md` has the
ratios with and without.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from eetoolkit_exporters.graph import constant, fresh, names_of

_SHORTCUTS = {"Add", "Sum", "Mul", "Concat", "Relu", "Clip", "Sigmoid", "HardSigmoid", "Tanh"}
_BLOCK = 16  # channels; AVX-512 blocks by 16, AVX2 by 8
_MAX_SHARE = 0.05  # of the segment's multiply-adds, for a convolution with the unit matrix
_MARK = "eetoolkit/keep_blocked/"  # what the identities' names begin with


def keep_blocked(model: ir.Model, multiply_adds: int | None, symbols: Mapping[str, int]) -> None:
    """Puts an identity behind every input that a convolution and a shortcut of the model read.

    Args:
        model: A segment.
        multiply_adds: Its own.
        symbols: The sizes of dynamic dimensions: one row at the example's sizes.
    """
    graph = model.graph
    used = names_of(graph)
    for value in graph.inputs:
        readers = {node.op_type for node in value.consumers()}
        dims = _image(value, symbols)
        if dims is None or "Conv" not in readers or not readers & _SHORTCUTS:
            continue
        grouped = any(node.attributes.get_int("group", 1) != 1 for node in value.consumers())
        channels, attributes = dims[1], [ir.AttrInt64s("kernel_shape", [1, 1])]
        uses, version = list(value.uses()), graph.opset_imports[""]
        if channels % _BLOCK == 0:
            same = ir.Node("", "AveragePool", [value], attributes, version=version)
        elif not grouped and math.prod(dims) * channels <= _MAX_SHARE * (multiply_adds or 0):
            unit = constant(graph, np.eye(channels, dtype=np.float32).reshape(channels, channels, 1, 1))
            same = ir.Node("", "Conv", [value, unit], attributes, version=version)
        else:
            continue
        output = same.outputs[0]
        same.name = f"{_MARK}{value.name}"
        output.name, output.type, output.shape = fresh(f"{value.name}_blocked", used), value.type, value.shape
        graph.insert_before(graph[0], same)
        for node, index in uses:
            node.replace_input_with(index, output)


def drop_blocked(model: ir.Model) -> None:
    """Takes out what `keep_blocked` has put in."""
    for node in list(model.graph):
        if (node.name or "").startswith(_MARK) and node.inputs[0] is not None:
            node.outputs[0].replace_all_uses_with(node.inputs[0])
            model.graph.remove(node, safe=True)
            for unit in node.inputs[1:]:
                if unit is not None and not unit.uses():
                    model.graph.initializers.pop(str(unit.name))


def _image(value: ir.Value, symbols: Mapping[str, int]) -> list[int] | None:
    """Returns the dimensions of an image-like float tensor; None for any other, and where one is not known."""
    if value.dtype != ir.DataType.FLOAT or value.shape is None or len(value.shape) != 4:
        return None
    dims = [dim if isinstance(dim, int) else symbols.get(str(dim.value)) for dim in value.shape]
    found = [dim for dim in dims if dim is not None]
    return found if len(found) == 4 else None

"""Keeping onnxruntime's blocked convolution layout where a segment starts inside a residual network.

On x86 onnxruntime runs convolutions in a blocked layout (NCHWc) and fuses `Conv, Add, Relu` there, but only if the
shortcut that is added is in that layout too. A shortcut that enters a segment as an input is not, and then neither is
its sum, nor the next one: every residual block of the segment converts back and forth. An average over windows of one
element changes no value (a maximum would turn NaN into a number) but is an operator of the blocked layout, so behind it
the whole chain stays blocked. `benchmarks/README.md` has the ratios with and without.
"""

from __future__ import annotations

import onnx_ir as ir

_SHORTCUTS = {"Add", "Sum", "Mul", "Concat", "Relu", "Clip", "Sigmoid", "HardSigmoid", "Tanh"}
_BLOCK = 8  # channels; AVX2 blocks by 8, AVX-512 by 16, and where a width does not fit the pool is a small copy


def keep_blocked(model: ir.Model) -> None:
    """Puts an identity pool behind every input that a convolution and a shortcut of the model read."""
    graph = model.graph
    first = graph[0] if len(graph) else None
    for value in graph.inputs:
        readers = {node.op_type for node in value.consumers()}
        if first is None or not _blockable(value) or "Conv" not in readers or not readers & _SHORTCUTS:
            continue
        uses = list(value.uses())
        version = graph.opset_imports[""]
        pool = ir.Node("", "AveragePool", [value], [ir.AttrInt64s("kernel_shape", [1, 1])], version=version)
        output = pool.outputs[0]
        output.name, output.type, output.shape = f"{value.name}_blocked", value.type, value.shape
        graph.insert_before(first, pool)
        for node, index in uses:
            node.replace_input_with(index, output)


def _blockable(value: ir.Value) -> bool:
    """Whether the value is an image-like float tensor whose channels fill whole blocks."""
    if value.dtype != ir.DataType.FLOAT or value.shape is None or len(value.shape) != 4:
        return False
    channels = value.shape[1]
    return isinstance(channels, int) and channels % _BLOCK == 0

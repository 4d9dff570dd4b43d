"""Quantised tensors between segments: whatever reads one as floats dequantises it for itself.

So a cut by dataflow lies before a DequantizeLinear, not behind it. The slot holds bytes, a quarter of the floats, and
onnxruntime fuses an operator behind the cut with the DequantizeLinear before it, as in the whole graph.
"""

from __future__ import annotations

import onnx_ir as ir

from eetoolkit_exporters.capturing.capture import Network
from eetoolkit_exporters.cutting.blocks import copy_nodes, exit_values
from eetoolkit_exporters.graph import OURS, fresh, names_of

_CROSSING = {ir.DataType.UINT8, ir.DataType.INT8, ir.DataType.UINT16, ir.DataType.INT16}
"""Quantised dtypes that numpy has and a slot holds; 4 bits and float8 are dequantised before a cut."""


def dequantize_apart(network: Network) -> None:
    """Gives every reader of a dequantised tensor, at every level of the graph, a DequantizeLinear of its own.

    What exits answer, and our criteria read, stays the one float tensor that it is; so do weights.
    """
    answers = {value for exit_ in network.exits for value in exit_values(exit_)}
    used = names_of(network.graph)
    for node in [node for node in network.graph.all_nodes() if _dequantizes(node)]:
        value = node.outputs[0]
        kept = value in answers or value.is_graph_output()
        readers = dict.fromkeys(reader for reader, _ in value.uses() if OURS not in reader.meta)
        for reader in readers:
            if len(readers) > 1 or kept or reader.graph is not node.graph:
                _dequantize_before(reader, node, used)


def _dequantizes(node: ir.Node) -> bool:
    """Whether a node dequantises what the network computes, and a slot can hold that."""
    if node.op_type != "DequantizeLinear" or node.inputs[0] is None:
        return False
    return node.inputs[0].dtype in _CROSSING and not node.inputs[0].is_initializer()


def _dequantize_before(reader: ir.Node, node: ir.Node, used: set[str]) -> None:
    (copy,) = copy_nodes([node], {})
    value = copy.outputs[0]
    value.name = copy.name = fresh(f"{node.outputs[0].name}_apart", used)
    reader.prepend(copy)
    for index, read in enumerate(reader.inputs):
        if read is node.outputs[0]:
            reader.replace_input_with(index, value)

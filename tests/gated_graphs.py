"""What the tests of gates share: graphs from text or torch, rewritten, and run by onnxruntime at one row."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch

from eetoolkit_exporters.capturing.capture import Network, capture
from eetoolkit_exporters.capturing.cascade import open_single
from eetoolkit_exporters.capturing.source import choose_exits
from eetoolkit_exporters.capturing.tidy import tidy
from eetoolkit_exporters.gating.blend import GATE, find_blends, to_if
from eetoolkit_exporters.gating.hardness import hard_values
from eetoolkit_exporters.gating.sink import sink
from eetoolkit_runtime.arrays import Array


def from_text(body: str, inputs: str = "float[batch,6] x", outputs: str = "float[batch,6] y") -> ir.Graph:
    """Returns the graph of some lines of ONNX text, in the form that `capture` gives."""
    text = f'<ir_version: 10, opset_import: ["" : 20]> graph ({inputs}) => ({outputs}) {{ {body} }}'
    return tidy(ir.from_onnx_text(text), infer_shapes=True).graph


def from_torch(module: torch.nn.Module, example: torch.Tensor, *, dynamic_batch: bool = True) -> Network:
    """Returns a torch network as one graph."""
    source = open_single(module.eval(), (example,))
    return capture(source, choose_exits(source, None), dynamic_batch=dynamic_batch)


def open_all_gates(graph: ir.Graph, keep: Collection[ir.Value] = ()) -> list[ir.Node]:
    """Rewrites every blend, last to first, and sinks until nothing moves; returns the `If` nodes, first to last."""
    blends, _ = find_blends(graph, hard_values(graph))
    gates = [to_if([blend], keep) for blend in reversed(blends)][::-1]
    while sum(sink(gate, keep) for gate in gates):
        pass
    return gates


def run(graph: ir.Graph, feeds: Mapping[str, Array]) -> list[Array]:
    """Returns the graph's outputs; a gate's predicate, bool (1,) at one row, is reshaped to () for onnxruntime."""
    return session(graph).run(None, dict(feeds))  # type: ignore[no-any-return]


def session(graph: ir.Graph) -> ort.InferenceSession:
    """Returns a session of a copy of the graph."""
    copy = graph.clone()
    empty = ir.tensor(np.array([], np.int64), name="no_dimensions")
    shape = ir.Value(name=empty.name, type=ir.TensorType(empty.dtype), shape=ir.Shape([0]), const_value=empty)
    copy.register_initializer(shape)
    for node in list(copy.all_nodes()):
        if node.op_type == "If" and node.metadata_props.get(GATE) == "row":
            output = ir.Value(name=f"{node.name}_predicate")
            scalar = ir.Node("", "Reshape", [node.inputs[0], shape], version=node.version, outputs=[output])
            assert node.graph is not None
            node.graph.insert_before(node, scalar)
            node.replace_input_with(0, output)
    copy.opset_imports[""] = next(node.version for node in graph if node.version is not None)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    proto = ir.to_proto(ir.Model(copy, ir_version=10))
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])

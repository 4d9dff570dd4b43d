"""Parts of a network as ONNX models of their own."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec
import onnx_ir as ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveUnusedNodesPass

from eetoolkit_exporters.capturing.capture import Network
from eetoolkit_exporters.cutting.segments import CutSegment
from eetoolkit_exporters.emitting.batch_names import loosen, tighten
from eetoolkit_exporters.emitting.files import SegmentFiles
from eetoolkit_exporters.emitting.scoping import lift, localize
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.errors import ExportError
from eetoolkit_runtime.plan.types import Manifest, Segment

IR_VERSION = 10  # onnxruntime 1.21, the oldest that we run on, reads up to this


def segment_model(segment: CutSegment, inputs: Mapping[ir.Value, str], outputs: Mapping[ir.Value, str]) -> ir.Model:
    """Returns a segment as a model whose inputs and outputs are called as these say; the network is not changed."""
    view = ir.GraphView(
        list(segment.reads),
        list(segment.outputs),
        nodes=segment.nodes,
        initializers=segment.initializers,
        name=segment.name,
    )
    graph = view.clone()
    taken = {inputs[value] for value in segment.reads} | {outputs[value] for value in segment.outputs}
    for node in graph.all_nodes():
        for value in node.outputs:
            if value.name in taken:
                value.name = f"{value.name}__inner"
    for value in graph.initializers.values():
        if value.name in taken:
            raise ExportError(f"segment {segment.name!r}: a weight and a tensor are both called {value.name!r}")
    for originals, copies, names in ((segment.reads, graph.inputs, inputs), (segment.outputs, graph.outputs, outputs)):
        for original, copy in zip(originals, copies, strict=True):
            copy.name = names[original]
    return _model(graph)


def read_model(bundle: Bundle, file: str) -> ir.Model:
    """Returns a segment's graph as it was cut, all its weights in the outermost graph and in the bundle's files."""
    model = lift(ir.load(bundle.path / file))
    tighten(model)
    return model


def fit(model: ir.Model, inputs: Collection[str]) -> None:
    """Fits a segment to onnxruntime, answers unchanged; `read_model` gives it back as it was cut.

    Args:
        model: A segment, all its weights in the outermost graph.
        inputs: The graph's inputs that are the network's.
    """
    localize(model)
    loosen(model, inputs)


def write_segment(written: SegmentFiles, plan: Manifest, name: str, segment: Segment, model: ir.Model) -> Segment:
    """Writes a graph that was read and changed, fitted again, and returns the segment with its new files.

    Args:
        written: The files of the bundle that it is written to.
        plan: The bundle's, for what its inputs are called.
        name: The segment's.
        segment: What the plan says of it.
        model: Its graph, all weights in the outermost one.
    """
    given = {spec.name for spec in plan.inputs}
    fit(model, [read for read, source in segment.reads.items() if source in given])
    file, weights = written.write(model, name)
    return msgspec.structs.replace(segment, model=file, weights=weights)


def whole_model(network: Network, exits: Sequence[str] | None = None, *, confidences: bool = True) -> ir.Model:
    """Returns the network as one model that computes `exits` (None: all), every one of them always.

    Its outputs are called `{exit}_{output}`, and `{exit}_confidence` where `confidences` are asked for.

    Raises:
        ExportError: A cascade whose stages were written for different opsets, which no single graph can hold.
    """
    names: dict[ir.Value, str] = {}
    outputs: list[ir.Value] = []
    for exit_ in network.exits:
        if exits is not None and exit_.name not in exits:
            continue
        chosen = {f"{exit_.name}_{name}": value for name, value in exit_.outputs.items()}
        if confidences and exit_.confidence is not None:
            chosen[f"{exit_.name}_confidence"] = exit_.confidence
        for name, value in chosen.items():
            if value not in names:
                names[value] = name
                outputs.append(value)
    inputs = [value for value in network.graph.inputs if value.name not in network.constants]
    constants = [value for value in network.graph.inputs if value.name in network.constants]
    view = ir.GraphView(
        [*inputs, *constants],
        outputs,
        nodes=tuple(network.graph),
        initializers=tuple(network.graph.initializers.values()),
        name="whole",
    )
    graph = view.clone()
    for value in list(graph.inputs)[len(inputs) :]:
        value.const_value = ir.tensor(network.constants[str(value.name)], name=value.name)
        graph.inputs.remove(value)
        graph.register_initializer(value)
    for original, copy in zip(outputs, graph.outputs, strict=True):
        copy.name = names[original]
    model = _model(graph)
    RemoveUnusedNodesPass()(model)
    return model


def _model(graph: ir.Graph) -> ir.Model:
    graph.opset_imports.clear()
    graph.opset_imports.update(_opsets(graph.all_nodes()))
    for value in (value for node in graph.all_nodes() for value in node.outputs):
        value.metadata_props.clear()
    model = ir.Model(graph, ir_version=IR_VERSION, producer_name="eetoolkit")
    return ClearMetadataAndDocStringPass()(model).model


def _opsets(nodes: Iterable[ir.Node]) -> dict[str, int]:
    opsets: dict[str, int] = {}
    for node in nodes:
        version = node.version if node.version is not None else 1
        if opsets.setdefault(node.domain, version) != version:
            raise ExportError(
                f"operators of opset {opsets[node.domain]} and {version} in one graph; export the stages with one opset"
            )
    opsets.setdefault("", 20)
    return opsets

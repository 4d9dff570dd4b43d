"""A bundle's plan written back as one ONNX file, for places that can only load one.

It answers one row as the runner does. Its outputs are those of the exits, and

- `exit`: int64 scalar, the index of the exit that answered in `eetoolkit.exits`, a JSON list in the file's metadata;
  -1 where the runner raises an error: a segment exceeds its `max_visits`, or a switch has no such case. The other
  outputs mean nothing then, and may be empty.
- `confidence`: float32 scalar, that of the exit that answered, NaN where `exit` is -1.

Thresholds are initializers of the outermost graph called `{exit}_threshold`, float32 and rounded up, so that they can
be changed; so are the manifest's constants, under their own names, in the branch that reads them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from eetoolkit_exporters.emitting.batch_names import tighten
from eetoolkit_exporters.emitting.graphs import read_model
from eetoolkit_exporters.emitting.scoping import localize
from eetoolkit_exporters.single_file.describe import check_beside, describe
from eetoolkit_exporters.single_file.graph_builder import GraphLevel, Shared
from eetoolkit_exporters.single_file.nesting import Nesting, State, to
from eetoolkit_exporters.single_file.steps import (
    CONFIDENCE,
    END,
    INDEX,
    START,
    VALID,
    Key,
    Spec,
    answer_key,
    plan_steps,
    slot_key,
)
from eetoolkit_exporters.single_file.structure import structure
from eetoolkit_runtime.arguments import checked
from eetoolkit_runtime.bundle.archive import EXITS
from eetoolkit_runtime.bundle.bundle import Bundle, load
from eetoolkit_runtime.bundle.integrity import check_full
from eetoolkit_runtime.errors import ExportError
from eetoolkit_runtime.files.outfile import check_file, writing_together
from eetoolkit_runtime.plan.types import Dim, Manifest, Slot, TensorSpec
from eetoolkit_runtime.running.inputs import BATCH
from eetoolkit_runtime.single_file.description import description_path, golden_path

_RESERVED = ("exit", "confidence")
_LIMIT_BYTES = 2**31 - 2**26  # protobuf's own for a message, less 64 MiB for the graph


@checked(ExportError)
def write_single_file(
    bundle: str | os.PathLike[str] | Bundle, target: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Writes the bundle as one ONNX file to `target`, every hash checked, and returns its path.

    Any ONNX runtime answers one row a call with it, as the `Runner` does. NAME.json, written beside NAME.onnx,
    describes it to other languages and holds golden samples, by which `verify` checks it on any machine; large ones
    lie in NAME.golden.safetensors. The files are written together or not at all.

    Raises:
        ExportError: The exits' outputs differ in name, dtype or dimensions, or the file would be over 2 GiB.
        BundleError: The bundle cannot be opened.
        EEToolkitError: A file exists and `overwrite` is not set, is another's, or cannot be written.
    """
    target, opened = check_file(target, overwrite=overwrite), load(bundle)
    check_beside(target, overwrite=overwrite)
    check_full(opened.path, opened.manifest)
    model, thresholds = single_model(opened)
    size = sum(t.nbytes for g in model.graphs() for v in g.initializers.values() if (t := v.const_value) is not None)
    if size > _LIMIT_BYTES:
        raise ExportError(
            f"{target} would hold {size / 1e9:.1f} GB of weights; one ONNX file takes 2 GiB: ship the bundle"
        )
    ir.external_data.load_to_model(model)
    content = ir.to_proto(model).SerializeToString(deterministic=True)
    description, tensors = describe(opened, model, content, thresholds)
    written = {description_path(target): description, target: content}
    if tensors is not None:
        written = {golden_path(target): tensors, **written}
    with writing_together(list(written), overwrite=overwrite) as files:
        for file, part in zip(files, written.values(), strict=True):
            file.write(part)
    return target


def single_model(bundle: Bundle) -> tuple[ir.Model, dict[str, str]]:
    """Returns the bundle as one model, its weights still in the bundle's files, and the thresholds that can be changed.

    Raises:
        ExportError: The exits' outputs differ in name, dtype or dimensions, a name that stands for two tensors, or
            segments that one graph cannot hold.
    """
    plan, shared = bundle.manifest, Shared()
    top = GraphLevel(shared)
    values: dict[Key, ir.Value] = {}
    for spec in plan.inputs:
        values[slot_key(spec.name)] = top.input(spec.name, _dtype(spec))
        top.inputs[-1].shape = _shape(spec.shape)
    outputs = _outputs(plan)
    shared.names.update(outputs, _RESERVED)
    size = top.compute("Size", "size", ir.DataType.INT64, top.inputs[0])
    shared.true = top.compute("GreaterOrEqual", "true", ir.DataType.BOOL, size, shared.integer(0))
    for name, constant in plan.constants.items():
        array = np.array(constant.data, constant.dtype).reshape(constant.shape)
        values[slot_key(name)] = shared.constant(array, name, ("constant", name))
    steps = plan_steps(plan, _specs(plan, outputs), lambda level, name, feeds: _inline(bundle, level, name, feeds))
    region = structure({label: step.targets for label, step in steps.steps.items()}, [START])
    end = Nesting(steps).write(top, region, State(values, to(START)))
    for name, slot in outputs.items():
        _give(top, name, end.values[answer_key(name)], slot.shape)
    index, confidence = end.values[INDEX], end.values[CONFIDENCE]
    for test in _tests(top, end):
        index = top.compute("Where", "exit_index", ir.DataType.INT64, test, index, shared.integer(-1))
        unknown = shared.constant(np.array(np.nan, np.float32), "no_confidence")
        confidence = top.compute("Where", "exit_confidence", ir.DataType.FLOAT, test, confidence, unknown)
    _give(top, "exit", index, ())
    _give(top, "confidence", confidence, ())
    graph = top.graph(plan.name)
    for value in shared.initializers.values():
        graph.register_initializer(value)
    graph.opset_imports.update(shared.opsets or {"": 20})
    metadata = {EXITS: json.dumps(list(plan.exits))}
    if plan.labels is not None:
        metadata["eetoolkit.labels"] = json.dumps(plan.labels)
    if plan.preprocess:
        metadata["eetoolkit.preprocess"] = msgspec.json.encode(plan.preprocess).decode()
    model = ir.Model(graph, ir_version=shared.ir_version, producer_name="eetoolkit", metadata_props=metadata)
    RemoveUnusedNodesPass()(model)
    tighten(model, 1)
    thresholds, constants = (shared.named(what) for what in ("threshold", "constant"))
    localize(model, list(thresholds.values()), list(constants.values()))
    return model, {exit_: str(value.name) for exit_, value in thresholds.items() if exit_ not in shared.fixed}


def _inline(bundle: Bundle, level: GraphLevel, name: str, feeds: Mapping[str, ir.Value]) -> dict[str, ir.Value]:
    segment = bundle.manifest.segments[name]
    model = read_model(bundle, str(segment.model))
    wanted = {source.output for source in segment.writes.values() if source.output is not None}
    if missing := wanted - {str(value.name) for value in model.graph.outputs}:
        raise ExportError(f"segment {name!r}: its graph has no output {min(missing)!r}")
    if missing := {str(value.name) for value in model.graph.inputs} - feeds.keys():
        raise ExportError(f"segment {name!r}: its graph needs an input {min(missing)!r} that the plan does not give")
    return level.inline(model, feeds, name)


def _give(top: GraphLevel, name: str, value: ir.Value, shape: tuple[Dim, ...]) -> None:
    top.give(value, name)
    top.outputs[-1].name = name
    top.outputs[-1].shape = _shape(shape)


def _tests(top: GraphLevel, end: State) -> list[ir.Value]:
    """Returns the bools that are all true where the answer is one."""
    tests = [end.values[VALID]] if VALID in end.values else []
    if end.route.value is not None:
        value = top.scalar(end.route.value, "reached")
        tests.append(value if end.route.targets[1] == END else top.compute("Not", "in_bounds", ir.DataType.BOOL, value))
    return tests


def _outputs(plan: Manifest) -> dict[str, Slot]:
    """Returns dtype and shape of each output of the answer: what all exits agree on.

    Raises:
        ExportError: They do not agree on names, dtypes or numbers of dimensions.
    """
    slots = {spec.name: Slot(dtype=spec.dtype, shape=spec.shape) for spec in plan.inputs} | plan.slots
    outputs: dict[str, Slot] = {}
    first = None
    for segment in plan.segments.values():
        if (exit_ := segment.exit) is None or not exit_.enabled:
            continue
        if first is None:
            first, outputs = exit_, {name: slots[slot] for name, slot in exit_.outputs.items()}
        if exit_.outputs.keys() != outputs.keys():
            raise ExportError(
                f"one file has the same outputs at every exit: {first.name!r} has {sorted(outputs)}, "
                f"{exit_.name!r} has {sorted(exit_.outputs)}"
            )
        for name, slot in exit_.outputs.items():
            known, found = outputs[name], slots[slot]
            if known.dtype != found.dtype or len(known.shape) != len(found.shape):
                raise ExportError(
                    f"one file has the same outputs at every exit: {name!r} is {_spell(known)} at {first.name!r}, "
                    f"{_spell(found)} at {exit_.name!r}"
                )
            agreed = tuple(a if a == b else None for a, b in zip(known.shape, found.shape, strict=True))
            outputs[name] = Slot(dtype=known.dtype, shape=agreed)
    for name in outputs:
        if name in _RESERVED or name in {spec.name for spec in plan.inputs}:
            what = "an input" if name not in _RESERVED else "an output that one file has beside those of the exits"
            raise ExportError(f"the exits' output {name!r} has the name of {what}; name it otherwise at export")
    if taken := [spec.name for spec in plan.inputs if spec.name in _RESERVED]:
        raise ExportError(f"the input {taken[0]!r} has the name of an output that one file has; name it otherwise")
    return outputs


def _specs(plan: Manifest, outputs: Mapping[str, Slot]) -> dict[Key, Spec]:
    named = {slot_key(spec.name): Spec(_dtype(spec), len(spec.shape)) for spec in plan.inputs}
    named |= {slot_key(name): Spec(_dtype(slot), len(slot.shape)) for name, slot in plan.slots.items()}
    return named | {answer_key(name): Spec(_dtype(slot), len(slot.shape)) for name, slot in outputs.items()}


def _dtype(spec: TensorSpec | Slot) -> ir.DataType:
    return ir.DataType.from_numpy(np.dtype(spec.dtype))


def _shape(dims: tuple[Dim, ...]) -> ir.Shape:
    """Returns the shape for one row."""
    return ir.Shape([1 if dim == BATCH else dim for dim in dims])


def _spell(slot: Slot) -> str:
    return f"{slot.dtype} of {len(slot.shape)} dimensions"

"""Segments, weights, golden samples and the manifest, written to a staging folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from eetoolkit_exporters.capturing.capture import Network
from eetoolkit_exporters.capturing.shapes import dims_of
from eetoolkit_exporters.criteria.reference import scores_of
from eetoolkit_exporters.cutting.blocks import exit_values, opset_of
from eetoolkit_exporters.cutting.fixed_shapes import Fixed, fixed_shapes
from eetoolkit_exporters.cutting.segments import CutSegment
from eetoolkit_exporters.cutting.work import count_work
from eetoolkit_exporters.emitting.files import SegmentFiles
from eetoolkit_exporters.emitting.graphs import fit, segment_model
from eetoolkit_exporters.emitting.peephole import simplify
from eetoolkit_exporters.graph import copy_of, fresh
from eetoolkit_exporters.naming import plain, plain_names, renamed_criterion, renamed_sample
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.golden import Sample, store_golden
from eetoolkit_runtime.errors import ExportError
from eetoolkit_runtime.plan.types import (
    FORMAT,
    MOST_EXACT,
    VERSION,
    Constant,
    Criterion,
    Dim,
    DType,
    Exit,
    Fallback,
    Gate,
    Goto,
    Manifest,
    Next,
    Preprocess,
    Segment,
    Slot,
    Source,
    Stop,
    Switch,
    TensorSpec,
    Threshold,
    Work,
)
from eetoolkit_runtime.running.inputs import BATCH
from eetoolkit_runtime.running.scores import LABEL

_DTYPES: dict[ir.DataType, DType] = {
    ir.DataType.FLOAT: "float32", ir.DataType.DOUBLE: "float64", ir.DataType.FLOAT16: "float16",
    ir.DataType.INT64: "int64", ir.DataType.INT32: "int32", ir.DataType.INT16: "int16", ir.DataType.INT8: "int8",
    ir.DataType.UINT64: "uint64", ir.DataType.UINT32: "uint32", ir.DataType.UINT16: "uint16",
    ir.DataType.UINT8: "uint8", ir.DataType.BOOL: "bool",
}  # fmt: skip


@dataclass(frozen=True)
class Details:
    """What the manifest says beside the plan."""

    name: str
    created_with: Mapping[str, str | int]
    criteria: Mapping[str, Criterion]
    thresholds: Mapping[str, Threshold]
    tolerance: float
    fallback: Fallback = "last"
    rows_together: bool = True
    notes: Sequence[str] = ()
    labels: tuple[str, ...] | None = None
    preprocess: Mapping[str, Preprocess] | None = None


def emit(
    network: Network,
    segments: Sequence[CutSegment],
    samples: Sequence[Sample],
    example: Mapping[str, Array],
    details: Details,
    folder: Path,
) -> Manifest:
    """Writes every file of the bundle but its manifest to `folder`, and returns the manifest.

    Raises:
        ExportError: A tensor that a device cannot hold, or a batch dimension that is neither dynamic nor 1.
    """
    fixed = fixed_shapes(network.graph, segments)
    segments = [_part_twins(segment, fixed) for segment in segments]
    ours = _plan_names(network)
    names = slot_names(network, segments, ours)
    symbols = dimensions(network, example)
    written = SegmentFiles(folder)
    planned: dict[str, Segment] = {}
    slots: dict[str, Slot] = {}
    given = [names[value] for value in _inputs(network)]
    for segment in segments:
        title = segment.name
        outputs = _output_names(segment, names)
        file: str | None = None
        mapped: tuple[str, ...] = ()
        work: Work | None = None
        if segment.nodes:
            model = segment_model(segment, names, outputs)
            _forget_sizes(model, segment, fixed)
            simplify(model)
            work = count_work(segment.nodes, segment.initializers, symbols)
            fit(model, given)
            file, mapped = written.write(model, title)
        slots.update({names[value]: _slot(value, fixed) for value in segment.writes})
        planned[title] = Segment(
            model=file,
            weights=mapped,
            reads={names[value]: names[value] for value in segment.reads},
            writes={names[slot]: _source(value, names, outputs) for slot, value in segment.writes.items()},
            exit=_exit(segment, names, ours, fixed, details),
            next=_next(segment, names),
            max_visits=segment.max_visits,
            work=work,
        )
    golden, stored = store_golden(folder, [renamed_sample(sample, ours) for sample in samples], details.tolerance)
    inputs = tuple(_spec(names[value], value) for value in _inputs(network))
    last = next(segment.exit for segment in segments if not segment.to and segment.exit is not None)
    return Manifest(
        format=FORMAT,
        version=VERSION,
        name=details.name,
        created_with=dict(details.created_with),
        onnxruntime="{}.{}".format(*written.onnxruntime),
        inputs=inputs,
        limits=network.limits,
        outputs=tuple(_spec(ours[name], value) for name, value in last.outputs.items()),
        preprocess={ours[name]: value for name, value in (details.preprocess or {}).items()},
        labels=details.labels,
        titles={name: theirs for theirs, name in ours.items() if name != theirs},
        slots=slots,
        constants=_constants(network, segments, names),
        batch=None if details.rows_together and any(BATCH in spec.shape for spec in inputs) else 1,
        start=segments[0].name,
        fallback=details.fallback,
        segments=written.settle(planned),
        files={**written.files, **stored},
        golden=golden,
        notes=tuple(details.notes),
    )


def _part_twins(segment: CutSegment, fixed: Fixed) -> CutSegment:
    """Gives slots that one output feeds but whose shapes are declared otherwise an output each."""
    first: dict[ir.Value, Slot] = {}
    nodes, writes = list(segment.nodes), dict(segment.writes)
    for slot, source in segment.writes.items():
        if source in segment.outputs and first.setdefault(source, _slot(slot, fixed)) != _slot(slot, fixed):
            nodes.append(node := copy_of(source, f"{slot.name}_twin", opset_of(segment.nodes)))
            writes[slot] = node.outputs[0]
    outputs = dict.fromkeys([*segment.outputs, *(v for v in writes.values() if v not in segment.writes.values())])
    return dataclasses.replace(segment, nodes=tuple(nodes), outputs=tuple(outputs), writes=writes)


def _source(value: ir.Value, names: Mapping[ir.Value, str], outputs: Mapping[ir.Value, str]) -> Source:
    if value in outputs:
        return Source(output=outputs[value])
    return Source(constant=names[value]) if value.is_initializer() else Source(slot=names[value])


def _output_names(segment: CutSegment, names: Mapping[ir.Value, str]) -> dict[ir.Value, str]:
    """Names the graph's outputs by the first slot that takes each, unless an input has that name."""
    taken = {names[value] for value in segment.reads}
    found: dict[ir.Value, str] = {}
    for slot, source in segment.writes.items():
        if source in segment.outputs and source not in found:
            name = names[slot]
            while name in taken:
                name = f"{name}_next"
            taken.add(name)
            found[source] = name
    return found


def _next(segment: CutSegment, names: Mapping[ir.Value, str]) -> Next:
    match segment.to, segment.on:
        case (), _:
            return Stop()
        case (name,), None:
            return Goto(segment=name)
        case (then, otherwise), ir.Value() as on if on.dtype == ir.DataType.BOOL:
            return Gate(on=names[on], then=then, otherwise=otherwise)
        case cases, ir.Value() as on:
            return Switch(on=names[on], cases=cases)
        case _:
            raise ExportError(f"segment {segment.name!r}: nothing decides between {', '.join(segment.to)}")


def _constants(network: Network, segments: Sequence[CutSegment], names: Mapping[ir.Value, str]) -> dict[str, Constant]:
    """Returns what tuning may change, and the constants that slots take."""
    found = {name: _constant(array) for name, array in network.constants.items()}
    for segment in segments:
        for value in segment.writes.values():
            if value.is_initializer() and value.const_value is not None:
                found[names[value]] = _constant(value.const_value.numpy())
    return found


def _constant(array: Array) -> Constant:
    values = array.ravel().tolist()
    data = tuple(str(each) if isinstance(each, int) and abs(each) > MOST_EXACT else each for each in values)
    return Constant(dtype=_DTYPES[ir.DataType.from_numpy(array.dtype)], shape=array.shape, data=data)


def input_specs(network: Network) -> tuple[TensorSpec, ...]:
    """Returns the network's inputs under its own names, without those that are constants in a manifest."""
    return tuple(_spec(str(value.name), value) for value in _inputs(network))


def _inputs(network: Network) -> list[ir.Value]:
    return [value for value in network.graph.inputs if value.name not in network.constants]


def _exit(
    segment: CutSegment, names: Mapping[ir.Value, str], ours: Mapping[str, str], fixed: Fixed, details: Details
) -> Exit | None:
    exit_ = segment.exit
    if exit_ is None:
        return None
    if exit_.confidence is None:
        raise ExportError(f"exit {exit_.name!r} has no confidence")
    if None in _slot(exit_.confidence, fixed).shape:
        shapes = ", ".join(str(value.shape) for value in exit_.outputs.values())
        raise ExportError(
            f"exit {exit_.name!r}: how many rows it has cannot be known from its shape, {shapes}; every way to it must "
            "give (batch, ...)"
        )
    rows = exit_.confidence.shape
    if rows is not None and any(dim != 1 if isinstance(dim, int) else dim.value not in (BATCH, None) for dim in rows):
        shapes = ", ".join(f"{name} {value.shape}" for name, value in exit_.outputs.items())
        raise ExportError(
            f"exit {exit_.name!r} has the outputs {shapes}; the leading dimension of what its criterion reads must be "
            "the batch, dynamic or 1: transpose it to the front"
        )
    criterion = renamed_criterion(details.criteria[exit_.name], ours)
    outputs = {ours[name]: names[value] for name, value in exit_.outputs.items()}
    return Exit(
        name=ours[exit_.name],
        outputs=outputs,
        scores=scores_of(criterion, [name for name in outputs if name != LABEL]),
        criterion=criterion,
        confidence=names[exit_.confidence],
        threshold=details.thresholds[exit_.name] if segment.to else "always",
    )


def _plan_names(network: Network) -> dict[str, str]:
    """Returns what the plan calls the network's inputs, exits and outputs."""
    theirs = [str(value.name) for value in _inputs(network)]
    for exit_ in network.exits:
        theirs += [exit_.name, *exit_.outputs]
    return plain_names(theirs, {*network.constants, *map(str, network.graph.initializers)})


def slot_names(network: Network, segments: Sequence[CutSegment], ours: Mapping[str, str]) -> dict[ir.Value, str]:
    """Names every value that crosses a boundary: an exit's by the exit, others as the graph calls them.

    Args:
        network: The network.
        segments: Its segments.
        ours: What the plan calls the network's inputs, exits and outputs.
    """
    names = {value: ours.get(str(value.name), str(value.name)) for value in network.graph.inputs}
    taken = set(names.values()) | set(network.graph.initializers)

    def add(value: ir.Value, stem: str) -> None:
        if value not in names:
            names[value] = fresh(plain(stem), taken)

    for segment in segments:
        if segment.exit is not None:
            for output, value in segment.exit.outputs.items():
                add(value, f"{ours[segment.exit.name]}_{ours[output]}")
            for value in exit_values(segment.exit):
                add(value, f"{ours[segment.exit.name]}_confidence")
    for segment in segments:
        for slot, source in segment.writes.items():
            add(slot, str(slot.name))
            if source.is_initializer():
                add(source, f"{source.name}_constant")
    return names


def _forget_sizes(model: ir.Model, segment: CutSegment, fixed: Fixed) -> None:
    """Takes the names off dimensions that data decides: a runner may fix the size of what is called `batch`."""
    for value, copy in zip(segment.reads, model.graph.inputs, strict=True):
        if value not in fixed.shapes and copy.shape is not None:
            copy.shape = ir.Shape([dim if isinstance(dim, int) else None for dim in _slot(value, fixed).shape])


def _slot(value: ir.Value, fixed: Fixed) -> Slot:
    spec = _spec(str(value.name), value)
    if value in fixed.shapes:
        shape: tuple[Dim, ...] = tuple(
            dim if dim is not None else f"{value.name}_{axis}" for axis, dim in enumerate(spec.shape)
        )
    else:
        shape = tuple(dim if isinstance(dim, int) else None for dim in spec.shape)
        if None not in shape:  # it takes tensors whose shapes depend on data
            shape = (None,) * len(shape)
    return Slot(dtype=spec.dtype, shape=shape)


def _spec(name: str, value: ir.Value) -> TensorSpec:
    if value.dtype not in _DTYPES or not isinstance(value.type, ir.TensorType):
        what = value.type if value.type is not None else "a Sequence, an Optional or something of no known type"
        raise ExportError(
            f"the tensor {value.name!r} crosses between segments as {what}, which numpy and a device cannot hold"
        )
    if value.shape is None:
        raise ExportError(f"the tensor {value.name!r} crosses between segments without a known number of dimensions")
    dims: list[Dim] = dims_of(value.shape)
    return TensorSpec(name=name, dtype=_DTYPES[value.dtype], shape=tuple(dims))


def dimensions(network: Network, example: Mapping[str, Array]) -> dict[str, int]:
    """Returns the sizes of the dynamic dimensions in the example, one row of it."""
    symbols: dict[str, int] = {}
    for value in _inputs(network):
        if value.shape is not None:
            sizes = np.shape(example[str(value.name)])
            if len(sizes) != len(value.shape):
                raise ExportError(f"input {value.name!r}: the example has shape {list(sizes)}, expected {value.shape}")
            for dim, size in zip(value.shape, sizes, strict=True):
                if not isinstance(dim, int) and dim.value is not None:
                    symbols[dim.value] = size
    return symbols | ({BATCH: 1} if BATCH in symbols else {})

"""Segments, weights, golden samples and the manifest, written to a staging folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from eetoolkit_exporters.capture import Network
from eetoolkit_exporters.cut import CutSegment, exit_values
from eetoolkit_exporters.fixed_shapes import fixed_shapes
from eetoolkit_exporters.graphs import segment_model
from eetoolkit_exporters.layout import keep_blocked
from eetoolkit_exporters.source import Array
from eetoolkit_exporters.weights import WeightFiles
from eetoolkit_exporters.work import count_work
from eetoolkit_runtime.errors import ExportError
from eetoolkit_runtime.golden import Sample, write_golden
from eetoolkit_runtime.inputs import BATCH
from eetoolkit_runtime.plan import (
    FORMAT,
    VERSION,
    Constant,
    Criterion,
    Dim,
    DType,
    Exit,
    File,
    Golden,
    Goto,
    Manifest,
    Next,
    Preprocess,
    Segment,
    Slot,
    Source,
    Stop,
    TensorSpec,
)
from eetoolkit_runtime.store import named_by_content

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
    thresholds: Mapping[str, float]
    tolerance: float
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
    names = _slot_names(network, segments)
    fixed = fixed_shapes(network.graph)
    symbols = _symbols(network, example)
    weights = WeightFiles(folder)
    files: dict[str, File] = {}
    planned: dict[str, Segment] = {}
    slots: dict[str, Slot] = {}
    for number, segment in enumerate(segments):
        title = f"segment{number}"
        model = segment_model(segment, names, title)
        keep_blocked(model)
        mapped = weights.externalize(model, title)
        (folder / f"{title}.onnx").write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))
        file, files_entry = named_by_content(folder / f"{title}.onnx", title)
        files[file] = files_entry
        slots.update({names[value]: _slot(value, fixed) for value in segment.writes})
        following: Next = Stop() if number == len(segments) - 1 else Goto(segment=f"segment{number + 1}")
        planned[title] = Segment(
            model=file,
            weights=mapped,
            reads={names[value]: names[value] for value in segment.reads},
            writes={names[value]: Source(output=names[value]) for value in segment.writes},
            exit=_exit(segment, names, details, last=isinstance(following, Stop)),
            next=following,
            work=count_work(segment.nodes, segment.initializers, symbols),
        )
    write_golden(folder / "golden.npz", samples)
    golden, files[golden] = named_by_content(folder / "golden.npz", "golden")
    inputs = tuple(_spec(str(value.name), value) for value in _inputs(network))
    return Manifest(
        format=FORMAT,
        version=VERSION,
        name=details.name,
        created_with=dict(details.created_with),
        inputs=inputs,
        outputs=tuple(_spec(name, value) for name, value in segments[-1].exit.outputs.items()),
        preprocess=dict(details.preprocess or {}),
        labels=details.labels,
        slots=slots,
        constants={
            name: Constant(dtype="float32", shape=(), data=(value,)) for name, value in network.temperatures.items()
        },
        batch=None if any(BATCH in spec.shape for spec in inputs) else 1,
        start="segment0",
        segments=planned,
        files={**files, **weights.files},
        golden=Golden(file=golden, tolerance=details.tolerance),
    )


def _inputs(network: Network) -> list[ir.Value]:
    return [value for value in network.graph.inputs if value.name not in network.temperatures]


def _exit(segment: CutSegment, names: Mapping[ir.Value, str], details: Details, *, last: bool) -> Exit:
    exit_ = segment.exit
    for name, value in exit_.outputs.items():
        leading = value.shape[0] if value.shape is not None and len(value.shape) else None
        if isinstance(leading, int) and leading != 1:
            raise ExportError(
                f"exit {exit_.name!r}: output {name!r} has shape {value.shape}; its leading dimension must be "
                "the batch, dynamic or 1"
            )
    if exit_.confidence is None:
        raise ExportError(f"exit {exit_.name!r} has no confidence")
    return Exit(
        name=exit_.name,
        outputs={name: names[value] for name, value in exit_.outputs.items()},
        criterion=details.criteria[exit_.name],
        confidence=names[exit_.confidence],
        threshold=None if last else details.thresholds[exit_.name],
    )


def _slot_names(network: Network, segments: Sequence[CutSegment]) -> dict[ir.Value, str]:
    """Names every value that crosses a boundary: an exit's by the exit, others as the graph calls them."""
    names: dict[ir.Value, str] = {value: str(value.name) for value in network.graph.inputs}
    taken = set(names.values())

    def add(value: ir.Value, stem: str) -> None:
        if value in names:
            return
        name, number = stem, 1
        while name in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name)
        names[value] = name

    for segment in segments:
        for output, value in segment.exit.outputs.items():
            add(value, f"{segment.exit.name}_{output}")
        for value in exit_values(segment.exit):
            add(value, f"{segment.exit.name}_confidence")
    for segment in segments:
        for value in segment.writes:
            add(value, str(value.name))
    return names


def _slot(value: ir.Value, fixed: set[ir.Value]) -> Slot:
    spec = _spec(str(value.name), value)
    if value in fixed:
        shape: tuple[Dim, ...] = tuple(
            dim if dim is not None else f"{value.name}_{axis}" for axis, dim in enumerate(spec.shape)
        )
    else:
        shape = tuple(dim if isinstance(dim, int) else None for dim in spec.shape)
    return Slot(dtype=spec.dtype, shape=shape)


def _spec(name: str, value: ir.Value) -> TensorSpec:
    if value.dtype not in _DTYPES or not isinstance(value.type, ir.TensorType):
        what = value.type if value.type is not None else "a Sequence or Optional"
        raise ExportError(
            f"the tensor {value.name!r} crosses between segments as {what}, which numpy and a device cannot hold"
        )
    if value.shape is None:
        raise ExportError(f"the tensor {value.name!r} crosses between segments without a known number of dimensions")
    dims: list[Dim] = [dim if isinstance(dim, int) else dim.value for dim in value.shape]
    return TensorSpec(name=name, dtype=_DTYPES[value.dtype], shape=tuple(dims))


def _symbols(network: Network, example: Mapping[str, Array]) -> dict[str, int]:
    """Returns the sizes of the dynamic dimensions in the example, one row of it."""
    symbols: dict[str, int] = {}
    for value in _inputs(network):
        if value.shape is not None:
            for dim, size in zip(value.shape, np.shape(example[str(value.name)]), strict=True):
                if not isinstance(dim, int) and dim.value is not None:
                    symbols[dim.value] = size
    return symbols | ({BATCH: 1} if BATCH in symbols else {})

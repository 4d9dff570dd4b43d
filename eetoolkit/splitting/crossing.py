"""What crosses from a device to its server in fewer bytes: float32 tensors as float16 or uint8, and back.

The device's handover gets a graph that makes the tensors smaller, and the server's half begins with one that undoes it,
so that no runtime and no server has mathematics of its own. The same in numpy finds out what it changes before anything
is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.plan.halves import Halves, agreed, fresh, split_in
from eetoolkit_runtime.plan.types import DType, Goto, Manifest, Segment, Slot, Source, TensorSpec

Smaller = Literal["float16", "uint8"]
NARROW, WIDEN = "narrow", "widen"
_LARGEST = 65504.0  # of float16 (IEEE 754)
OPSET = 18
"""Of the graphs between the halves, where no graph of the bundle says another."""
_LEAST_OPSET, _IR_VERSION = 13, 8
_AXES = (None, 1, -1)


@dataclass(frozen=True, eq=False)
class Coding:
    """How one tensor becomes smaller.

    Attributes:
        dtype: What it becomes.
        scale: Of uint8: for the whole tensor, (), or for each place along `axis`, float32.
        zero: Of uint8: what 0 becomes, of the scale's shape.
        axis: Of scales; None: one for all.
    """

    dtype: Smaller
    scale: Array | None = None
    zero: Array | None = None
    axis: int | None = None

    def encoded(self, array: Array) -> Array:
        """Returns what crosses: as ONNX's Clip and Cast, or QuantizeLinear, which rounds halves to even; NaN as 0."""
        if self.scale is None or self.zero is None:
            return np.asarray(np.clip(array, -_LARGEST, _LARGEST), np.float16)
        scale, zero = self._along(self.scale, array), self._along(self.zero, array)
        with np.errstate(invalid="ignore"):
            return np.asarray(np.clip(np.nan_to_num(np.rint(array / scale)) + zero, 0, 255), np.uint8)

    def decoded(self, array: Array) -> Array:
        """Returns what the server goes on with, float32."""
        if self.scale is None or self.zero is None:
            return array.astype(np.float32)
        scale, zero = self._along(self.scale, array), self._along(self.zero, array)
        return np.asarray((array.astype(np.float32) - zero.astype(np.float32)) * scale)

    def _along(self, values: Array, array: Array) -> Array:
        shape = [1] * array.ndim
        if self.axis is not None:
            shape[self.axis] = -1
        return values.reshape(shape)


def coding_of(spec: TensorSpec, smaller: Smaller, arrays: Sequence[Array]) -> Coding | None:
    """Returns how a tensor becomes smaller; None where it is none of float32 and crosses as it is.

    Of uint8 there are scales for the whole tensor or along a dimension: what loses least of the rows that are given.
    """
    if spec.dtype != "float32":
        return None
    if smaller == "float16" or not arrays:
        return Coding("float16")
    axes = {_axis(spec, axis) for axis in _AXES}
    codings = [_scaled(arrays, axis) for axis in sorted(axes, key=lambda axis: -1 if axis is None else axis)]
    return min(codings, key=lambda coding: loss(coding, arrays))


def loss(coding: Coding, arrays: Sequence[Array]) -> float:
    """Returns the L2 norm of what is lost over that of the tensors, of finite numbers; 0 where all are 0."""
    lost = total = 0.0
    for array in arrays:
        finite = np.isfinite(array)
        given = array[finite].astype(np.float64)
        error = coding.decoded(coding.encoded(array))[finite].astype(np.float64) - given
        lost, total = lost + float(error @ error), total + float(given @ given)
    return float(np.sqrt(lost / total)) if total else 0.0


def _axis(spec: TensorSpec, axis: int | None) -> int | None:
    """Returns a dimension along which scales can differ, from the first; None where it has no fixed size."""
    rank = len(spec.shape)
    if axis is None or rank < 2 or (axis == 1 and rank < 3):
        return None
    place = axis % rank
    return place if isinstance(spec.shape[place], int) else None


def _scaled(arrays: Sequence[Array], axis: int | None) -> Coding:
    """Returns a coding as uint8 by the least and the largest value of some rows; 0 is always among them, exactly.

    Where all are whole numbers, as counts and masks are, a step is 1: criteria that count exits decide by them, and
    other rows may count further.
    """
    rows, whole = [], True
    for array in arrays:
        kept = np.where(np.isfinite(array), array, np.float32(0))
        whole = whole and bool((kept == np.rint(kept)).all())
        flat = kept.reshape(1, -1) if axis is None else np.moveaxis(kept, axis, 0).reshape(kept.shape[axis], -1)
        rows.append((flat.min(axis=1), flat.max(axis=1)))
    low = np.minimum(np.min([row[0] for row in rows], axis=0), 0).astype(np.float64)
    high = np.maximum(np.max([row[1] for row in rows], axis=0), 0).astype(np.float64)
    scale = ((high - low) / 255).astype(np.float32)
    scale[(scale < np.finfo(np.float32).tiny) | (whole & (high - low <= 255))] = 1
    zero = np.clip(np.rint(-low / scale), 0, 255).astype(np.uint8)
    shape: tuple[int, ...] = () if axis is None else scale.shape
    return Coding("uint8", scale.reshape(shape), zero.reshape(shape), axis)


@dataclass(frozen=True, eq=False)
class Narrowed:
    """Both halves with smaller tensors between them.

    Attributes:
        halves: The plans; the graphs are among their files once they are written.
        device: The graph that stands in the handover, (segment, ONNX).
        server: The graph that undoes it.
        codings: By input of the server's half as it is now.
    """

    halves: Halves
    device: tuple[str, bytes] | None
    server: tuple[str, bytes] | None
    codings: Mapping[str, Coding]


def narrowed(found: Halves, codings: Mapping[str, Coding], opset: int = OPSET) -> Narrowed:
    """Returns both halves with some of the server's inputs made smaller on the way; without the graphs among the files.

    Args:
        found: As `halves` gives them.
        codings: By input of the server's half; none: they are as they were.
        opset: Of the graphs; one ONNX file of several graphs has but one.
    """
    split = split_in(found.device)
    if not codings:
        return Narrowed(found, None, None, {})
    at = next(name for name, each in found.device.segments.items() if each.exit and each.exit.name == split.exit)
    segment, exit_ = found.device.segments[at], found.device.exits[split.exit]
    outputs, slots, sends = dict(exit_.outputs), dict(found.device.slots), dict[str, str]()
    taken = {*slots, *found.device.constants, *(spec.name for spec in found.device.inputs)}
    widened = {*found.server.slots, *found.server.constants, *(spec.name for spec in found.server.inputs)}
    down, up = _Graph(NARROW, opset), _Graph(WIDEN, opset)
    reads, writes, inputs, server_slots = {}, {}, [], dict(found.server.slots)
    server_reads, server_writes, renamed = {}, {}, {}
    for spec in found.server.inputs:
        output, coding = split.sends[spec.name], codings.get(spec.name)
        if coding is None:
            sends[spec.name] = output
            inputs.append(spec)
            continue
        slot = exit_.outputs[output]
        small = fresh(f"{slot}_{coding.dtype}", taken)
        taken.add(small)
        slots[small] = Slot(dtype=coding.dtype, shape=spec.shape)
        if output not in split.answers:
            del outputs[output]
        name = fresh(f"{spec.name}_{coding.dtype}", widened)
        widened.add(name)
        crossing = fresh(name, outputs)
        outputs[crossing] = small
        sends[name] = crossing
        inputs.append(TensorSpec(name=name, dtype=coding.dtype, shape=spec.shape))
        server_slots[spec.name] = Slot(dtype="float32", shape=spec.shape)
        reads[slot], writes[small] = slot, Source(output=down.narrow(slot, small, spec.shape, coding))
        server_reads[name], server_writes[spec.name] = (
            name,
            Source(output=up.widen(name, spec.name, spec.shape, coding)),
        )
        renamed[name] = coding
    handover = msgspec.structs.replace(exit_, outputs=outputs)
    segments: dict[str, Segment] = dict(found.device.segments)
    segments[at] = msgspec.structs.replace(segment, reads=reads, writes=writes, exit=handover)
    device = msgspec.structs.replace(found.device, segments=segments, slots=slots)
    device = msgspec.structs.replace(device, split=msgspec.structs.replace(split, sends=sends))
    first = fresh(WIDEN, found.server.segments)
    start = Segment(reads=server_reads, writes=server_writes, next=Goto(segment=found.server.start))
    gone = {spec.name for spec in found.server.inputs} - {spec.name for spec in inputs}
    server = msgspec.structs.replace(
        found.server,
        inputs=tuple(inputs),
        preprocess={name: how for name, how in found.server.preprocess.items() if name not in gone},
        slots=server_slots,
        start=first,
        segments={first: start, **found.server.segments},
    )
    return Narrowed(Halves(device, server), (at, down.model()), (first, up.model()), renamed)


def with_graphs(narrow: Narrowed, files: Mapping[str, tuple[str, Any]]) -> Halves:
    """Returns both halves with their graphs among the files, and what the device's says of the server's renewed.

    Args:
        narrow: The halves.
        files: By `device` and `server`, the graph's file and what the manifest says of it.
    """

    def added(plan: Manifest, half: str, graph: tuple[str, bytes] | None) -> Manifest:
        if graph is None:
            return plan
        name, entry = files[half]
        segment = msgspec.structs.replace(plan.segments[graph[0]], model=name)
        return msgspec.structs.replace(
            plan, segments={**plan.segments, graph[0]: segment}, files={**plan.files, name: entry}
        )

    return agreed(
        added(narrow.halves.device, "device", narrow.device), added(narrow.halves.server, "server", narrow.server)
    )


def opset_of(folder: Path, plan: Manifest) -> int:
    """Returns the opset of most of a plan's graphs, in which what `split` adds can be one graph with them.

    It is 13 at least, since before that scales were not along a dimension.
    """
    import onnx

    models = {segment.model for segment in plan.segments.values() if segment.model is not None}
    imports = (onnx.load(folder / name, load_external_data=False).opset_import for name in sorted(models))
    found = [each.version for graph in imports for each in graph if each.domain in ("", "ai.onnx")]
    return max(_LEAST_OPSET, max(set(found), key=found.count)) if found else OPSET


class _Graph:
    """An ONNX graph of a few nodes for each tensor."""

    def __init__(self, name: str, opset: int) -> None:
        self._name, self._opset = name, opset
        self._nodes: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._constants: list[Any] = []

    def narrow(self, source: str, target: str, shape: Sequence[Any], coding: Coding) -> str:
        """Adds what makes a tensor smaller, and returns the output's name."""
        from onnx import TensorProto, helper

        self._tensors((source, "float32"), (target, coding.dtype), shape)
        if coding.scale is None:
            bounds = [self._constant(f"{target}_{k}", np.array(v, np.float32)) for k, v in _bounds()]
            self._nodes.append(helper.make_node("Clip", [source, *bounds], [f"{target}_clipped"]))
            self._nodes.append(helper.make_node("Cast", [f"{target}_clipped"], [target], to=TensorProto.FLOAT16))
        else:  # onnxruntime rounds NaN to the least value on x86, and to 0 on Arm
            names = [f"{target}_{kind}" for kind in ("nan", "0", "number")]
            self._nodes.append(helper.make_node("IsNaN", [source], names[:1]))
            zero = self._constant(names[1], np.array(0, np.float32))
            self._nodes.append(helper.make_node("Where", [names[0], zero, source], names[2:]))
            self._nodes.append(self._linear("QuantizeLinear", names[2], target, target, coding))
        return target

    def widen(self, source: str, target: str, shape: Sequence[Any], coding: Coding) -> str:
        """Adds what undoes it, and returns the output's name."""
        from onnx import TensorProto, helper

        self._tensors((source, coding.dtype), (target, "float32"), shape)
        if coding.scale is None:
            self._nodes.append(helper.make_node("Cast", [source], [target], to=TensorProto.FLOAT))
        else:
            self._nodes.append(self._linear("DequantizeLinear", source, target, source, coding))
        return target

    def model(self) -> bytes:
        """Returns the whole file."""
        from onnx import helper

        graph = helper.make_graph(self._nodes, self._name, self._inputs, self._outputs, self._constants)
        opset = helper.make_opsetid("", self._opset)
        version = max(_IR_VERSION, helper.find_min_ir_version_for([opset]))
        return bytes(helper.make_model(graph, opset_imports=[opset], ir_version=version).SerializeToString())

    def _linear(self, kind: str, source: str, target: str, stem: str, coding: Coding) -> Any:
        from onnx import helper

        named = [self._constant(f"{stem}_scale", coding.scale), self._constant(f"{stem}_zero", coding.zero)]
        axis: dict[str, Any] = {} if coding.axis is None else {"axis": coding.axis}
        return helper.make_node(kind, [source, *named], [target], **axis)

    def _tensors(self, source: tuple[str, DType], target: tuple[str, DType], shape: Sequence[Any]) -> None:
        from onnx import helper

        dims = [dim if isinstance(dim, int) or (isinstance(dim, str) and dim.isidentifier()) else None for dim in shape]
        for (name, dtype), values in ((source, self._inputs), (target, self._outputs)):
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
            values.append(helper.make_tensor_value_info(name, kind, dims))

    def _constant(self, name: str, array: Array | None) -> str:
        from onnx import numpy_helper

        self._constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name


def _bounds() -> Iterator[tuple[str, float]]:
    yield "least", -_LARGEST
    yield "most", _LARGEST

"""What a bundle holds, segment by segment, for people and for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from msgspec import structs

from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.plan.types import (
    Criterion,
    Dim,
    Gate,
    Goto,
    Manifest,
    Quantization,
    Segment,
    Stop,
    Switch,
)

_TOLD = (
    "name", "inputs", "outputs", "batch", "fallback", "labels", "titles", "preprocess", "golden", "created_with",
    "onnxruntime", "notes",
)  # fmt: skip
"""What of a manifest is told as it is."""


def summarize(bundle: Bundle) -> dict[str, Any]:
    """Returns what the manifest of `bundle` says, with sizes added up, in bytes; those of files without the manifest.

    A segment's size is that of its graph and weights; a weights file that two segments map counts for both.
    `multiply_adds` are for one row at the example's shapes, `threshold` is when the segment's exit fires.
    """
    plan = bundle.manifest
    return {name: getattr(plan, name) for name in _TOLD} | {
        "path": str(bundle.place),
        "exits": list(plan.exits),
        "size_bytes": bundle.size_bytes,
        "files": len(plan.files),
        "constants": list(plan.constants),
        "quantization": None if plan.quantization is None else structs.asdict(plan.quantization),
        "segments": [_segment(plan, name, segment) for name, segment in plan.segments.items()],
    }


def _segment(plan: Manifest, name: str, segment: Segment) -> dict[str, Any]:
    work, exit_ = segment.work, segment.exit
    return {
        "name": name,
        "reads": list(segment.reads.values()),
        "writes": list(segment.writes),
        "moves": moves(segment),
        "nodes": None if work is None else work.nodes,
        "parameters": None if work is None else work.parameters,
        "quantized": None if plan.quantization is None else plan.quantization.segments.get(name),
        "multiply_adds": None if work is None else work.multiply_adds,
        "size_bytes": size_of(plan, segment),
        "exit": None if exit_ is None else exit_.name,
        "criterion": None if exit_ is None else exit_.criterion,
        "threshold": None if exit_ is None else exit_.threshold,
        "next": segment.next,
        "max_visits": segment.max_visits,
    }


def moves(segment: Segment) -> dict[str, str]:
    """Returns the slots that take another slot's tensor or a constant, and which."""
    return {slot: source.slot or source.constant or "" for slot, source in segment.writes.items() if not source.output}


def size_of(plan: Manifest, segment: Segment) -> int:
    """Returns the bytes of a segment's graph and weights."""
    return sum(plan.files[file].size for file in {segment.model, *segment.weights} if file is not None)


def spell_shape(shape: Sequence[Dim]) -> str:
    """Returns a shape as `[batch, 1, ?]`; `?` depends on the data."""
    return f"[{', '.join('?' if dim is None else str(dim) for dim in shape)}]"


def spell_criterion(criterion: Criterion) -> str:
    """Returns a criterion with the options that are not the usual ones."""
    options = []
    if criterion.output not in (None, "logits"):
        options.append(f"of {criterion.output}")
    if criterion.quantile is not None:
        options.append(f"quantile {criterion.quantile:g}")
    if criterion.invert:
        options.append("inverted")
    if criterion.n is not None:
        options.append(f"{criterion.n} of {len(criterion.members)}")
    members = [
        spell_criterion(member) + ("" if member.threshold is None else f" >= {member.threshold:g}")
        for member in criterion.members
    ]
    if members:
        options.append(f"({'; '.join(members)})")
    if criterion.function is not None:
        options.append(str(criterion.function))
    return ", ".join([criterion.kind, *options])


def spell_quantization(quantization: Quantization) -> str:
    """Returns how many segments each method has, what static ones compute with, and what made them."""
    counts = Counter(quantization.segments.values())
    told = [f"{count} {method}" for method, count in counts.items()]
    if quantization.activations is not None:
        told.append(f"{quantization.activations} activations, calibrated on {quantization.rows} rows")
    made = ", ".join(f"{key} {value}" for key, value in quantization.created_with.items())
    return ", ".join(told) + (f"; {made}" if made else "")


def spell_next(segment: Segment) -> str:
    """Returns which segments may follow, and what decides."""
    visits = "" if segment.max_visits is None else f" (at most {segment.max_visits} visits)"
    match segment.next:
        case Goto(segment=name):
            way = name
        case Gate(on=on, then=then, otherwise=otherwise):
            way = f"if {on}: {then}, else {otherwise}"
        case Switch(on=on, cases=cases):
            way = f"by {on}: {', '.join(cases)}"
        case Stop():
            way = "stop"
    return way + visits

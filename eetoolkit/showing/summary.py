"""What a bundle holds, segment by segment, for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.plan.types import (
    Criterion,
    Dim,
    Gate,
    Golden,
    Goto,
    Manifest,
    Next,
    Preprocess,
    Segment,
    Stop,
    Switch,
    TensorSpec,
    Threshold,
)
from eetoolkit_runtime.running.decision import spell_threshold


@dataclass(frozen=True)
class SegmentSummary:
    """One segment.

    Attributes:
        reads: The slots, inputs and constants that its graph reads.
        writes: The slots that it writes.
        moves: Those of them that take another slot's tensor or a constant, and which.
        multiply_adds: For one row at the example's shapes; None where unknown.
        size_bytes: Its graph and its weights on disk; a weights file that two segments map counts for both.
        threshold: When its exit fires; None where it has no exit.
        next: The names of the segments that may follow, with what decides.
    """

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    moves: Mapping[str, str]
    nodes: int | None
    parameters: int | None
    multiply_adds: int | None
    size_bytes: int
    exit: str | None
    criterion: Criterion | None
    threshold: Threshold | None
    next: Next
    max_visits: int | None


@dataclass(frozen=True)
class BundleSummary:
    """A whole bundle; `size_bytes` is that of its files without the manifest, `onnxruntime` the least that opens it."""

    name: str
    path: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    exits: tuple[str, ...]
    size_bytes: int
    files: int
    batch: int | None
    fallback: str
    labels: tuple[str, ...] | None
    titles: Mapping[str, str]
    preprocess: Mapping[str, Preprocess]
    golden: Golden | None
    created_with: Mapping[str, str | int]
    onnxruntime: str | None
    notes: tuple[str, ...]
    constants: tuple[str, ...]
    segments: tuple[SegmentSummary, ...]


def summarize(bundle: Bundle) -> BundleSummary:
    """Returns what the manifest of `bundle` says, with sizes added up."""
    plan = bundle.manifest
    return BundleSummary(
        name=plan.name,
        path=str(bundle.place),
        inputs=plan.inputs,
        outputs=plan.outputs,
        exits=tuple(plan.exits),
        size_bytes=bundle.size_bytes,
        files=len(plan.files),
        batch=plan.batch,
        fallback=plan.fallback,
        labels=plan.labels,
        titles=plan.titles,
        preprocess=plan.preprocess,
        golden=plan.golden,
        created_with=plan.created_with,
        onnxruntime=plan.onnxruntime,
        notes=plan.notes,
        constants=tuple(plan.constants),
        segments=tuple(_segment(plan, name, segment) for name, segment in plan.segments.items()),
    )


def _segment(plan: Manifest, name: str, segment: Segment) -> SegmentSummary:
    files = {file for file in (segment.model, *segment.weights) if file is not None}
    work, exit_ = segment.work, segment.exit
    return SegmentSummary(
        name=name,
        reads=tuple(segment.reads.values()),
        writes=tuple(segment.writes),
        moves={
            slot: source.slot or source.constant or "" for slot, source in segment.writes.items() if not source.output
        },
        nodes=work.nodes if work is not None else None,
        parameters=work.parameters if work is not None else None,
        multiply_adds=work.multiply_adds if work is not None else None,
        size_bytes=sum(plan.files[file].size for file in files),
        exit=exit_.name if exit_ is not None else None,
        criterion=exit_.criterion if exit_ is not None else None,
        threshold=exit_.threshold if exit_ is not None else None,
        next=segment.next,
        max_visits=segment.max_visits,
    )


def spell_shape(shape: Sequence[Dim]) -> str:
    """Returns a shape as `[batch, 1, ?]`; `?` depends on the data."""
    return f"[{', '.join('?' if dim is None else str(dim) for dim in shape)}]"


def spell_rule(segment: SegmentSummary) -> str:
    """Returns when the segment's exit answers, as `>= 0.9`, `always` or `never`; empty where it has none."""
    return "" if segment.threshold is None else spell_threshold(segment.threshold)


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


def spell_writes(segment: SegmentSummary) -> str:
    """Returns the slots that the segment writes; `a = b` where it takes the tensor of b."""
    return ", ".join(f"{name} = {segment.moves[name]}" if name in segment.moves else name for name in segment.writes)


def spell_next(segment: SegmentSummary) -> str:
    """Returns which segments may follow, and what decides."""
    visits = "" if segment.max_visits is None else f" (at most {segment.max_visits} visits)"
    return f"{_spell_way(segment.next)}{visits}"


def _spell_way(way: Next) -> str:
    match way:
        case Goto(segment=name):
            return name
        case Gate(on=on, then=then, otherwise=otherwise):
            return f"if {on}: {then}, else {otherwise}"
        case Switch(on=on, cases=cases):
            return f"by {on}: {', '.join(cases)}"
        case Stop():
            return "stop"

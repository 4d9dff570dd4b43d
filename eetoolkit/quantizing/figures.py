"""The report's figures: what each segment became, what each exit answers by now, and what a call takes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from eetoolkit.quantizing.agreement import answers, compare
from eetoolkit.quantizing.deciding import TURNS_ROWS, Decided, Task, evenly
from eetoolkit.quantizing.report import ExitChange, QuantizationReport, SegmentChoice
from eetoolkit.tuning.intervals import Interval, mean_of, ratio_in_turns
from eetoolkit.tuning.pruning import latencies
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.plan.types import Manifest

_SEED = 0


def describe(task: Task, decided: Decided, written: Bundle | None) -> QuantizationReport:
    """Returns what was found, on the held-out rows."""
    source, part = task.source, task.parts.report
    now = source if written is None else written
    exits: tuple[ExitChange, ...] = ()
    if len(part):
        before, after = (answers(each, part.rows, task.threads) for each in (source, now))
        found = compare(source.manifest, before, after, part.labels)
        exits = tuple(each.exit_change(task.max_disagreement) for each in found.values())
    taken: dict[str, Interval] = {}
    if written is not None and decided.costs is not None and decided.costs.here:
        taken = _in_turns(source, written, task)
    return QuantizationReport(
        bundle=source.manifest.name,
        path=None if written is None else str(written.place),
        verdict="",
        weights=task.weights,
        activations=None if written is None else task.quantization(decided.choice).activations,
        max_disagreement=task.max_disagreement,
        costs="" if decided.costs is None else decided.costs.source,
        rows=task.parts.counts,
        segments=tuple(_segments(task, decided, now)),
        exits=exits,
        before_bytes=source.size_bytes,
        after_bytes=now.size_bytes,
        before_ms=taken.get("before"),
        after_ms=taken.get("after"),
        ratio=taken.get("ratio"),
        notes=task.parts.notes,
    )


def _segments(task: Task, decided: Decided, now: Bundle) -> Iterator[SegmentChoice]:
    costs, candidates = decided.costs, task.candidates
    ms = {} if costs is None else costs.ms
    before, after = _sizes(task.source.manifest), _sizes(now.manifest)
    for name, segment in task.source.manifest.segments.items():
        if segment.model is None:
            continue
        method = decided.choice.get(name)
        tried = [taken for each in candidates.by_method.get(name, ()) if (taken := ms.get((name, each))) is not None]
        yield SegmentChoice(
            name=name,
            method=method or "float",
            why=None if method else decided.why.get(name, "nothing in it can be quantised"),
            before_bytes=before[name],
            after_bytes=after[name],
            before_ms=ms.get((name, "float")),
            after_ms=ms.get((name, method)) if method else min(tried, default=None),
            float_operators=candidates.left.get((name, method), ()) if method else (),
        )


def _sizes(plan: Manifest) -> dict[str, int]:
    """Returns the bytes of each segment's graph and of the weights that it is the first to map."""
    seen: set[str] = set()
    sizes = {}
    for name, segment in plan.segments.items():
        files = {file for file in (segment.model, *segment.weights) if file is not None} - seen
        seen |= files
        sizes[name] = sum(plan.files[file].size for file in files)
    return sizes


def _in_turns(source: Bundle, written: Bundle, task: Task) -> dict[str, Interval]:
    """Returns the mean latency of a call of both bundles in milliseconds, and the new one's over the other's."""
    times = 1e3 * latencies((source, written), evenly(task.parts.report, TURNS_ROWS), task.threads)
    rows: list[Array] = [np.median(each, axis=0) for each in times]
    return {
        "before": mean_of(rows[0], _SEED),
        "after": mean_of(rows[1], _SEED),
        "ratio": ratio_in_turns(times[1], times[0], _SEED),
    }

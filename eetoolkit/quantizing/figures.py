"""The report's figures: what each segment became, what each exit answers by now, and what a call takes."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np

from eetoolkit.quantizing.agreement import answers, compare
from eetoolkit.quantizing.deciding import TURNS_ROWS, Decided, Task
from eetoolkit.quantizing.report import ExitChange, QuantizationReport, SegmentChoice
from eetoolkit.tuning.intervals import Interval, mean_of, ratio_in_turns
from eetoolkit.tuning.pruning import latencies
from eetoolkit.tuning.wording import percent
from eetoolkit_exporters.quantizing.candidates import saturated
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.plan.types import Manifest

_SEED = 0
_SATURATED = 0.001  # of the values: some lie beyond any range that rows have shown
_SATURATING_ROWS = 200


def describe(task: Task, decided: Decided, written: Bundle | None) -> QuantizationReport:
    """Returns what was found, on the held-out rows."""
    source, part = task.source, task.parts.report
    now = source if written is None else written
    exits: tuple[ExitChange, ...] = ()
    if len(part):
        before, after = (answers(each, part.rows, task.threads, task.tell) for each in (source, now))
        found = compare(source.manifest, before, after, part.labels)
        exits = tuple(each.exit_change(task.max_disagreement) for each in found.values())
    taken: tuple[Interval, Interval, Interval] | None = None
    if written is not None and decided.costs is not None and decided.costs.here:
        taken = _in_turns(source, written, task)
    report = QuantizationReport(
        bundle=source.manifest.name,
        path=None if written is None else str(written.place),
        verdict="",
        weights=task.weights,
        activations=None if written is None else task.quantization(decided.choice).activations,
        max_disagreement=task.max_disagreement,
        costs="" if decided.costs is None else decided.costs.source,
        rows=_counts(task, decided),
        classes=any(exit_.scores is not None for exit_ in source.exits.values()),
        segments=tuple(_segments(task, decided, now)),
        exits=exits,
        before_bytes=source.size_bytes,
        after_bytes=now.size_bytes,
        before_ms=taken and taken[0],
        after_ms=taken and taken[1],
        ratio=taken and taken[2],
        notes=task.parts.notes,
    )
    return msgspec.structs.replace(report, verdict=_verdict(report, decided))


def _counts(task: Task, decided: Decided) -> dict[str, int]:
    """Returns how many rows did what; only ranges of static segments are calibrated."""
    counts = task.parts.counts if len(task.parts.report) else {}
    return {name: n for name, n in counts.items() if name != "calibrate" or "static" in decided.choice.values()}


def _verdict(report: QuantizationReport, decided: Decided) -> str:
    """Returns what is gained and what it costs, or why nothing pays, in one sentence."""
    if not report.pays:
        reasons = {each.why: each.name for each in reversed(report.segments)}
        return f"{report.weights} does not pay: " + "; ".join(f"{name}: {why}" for why, name in reasons.items())
    gains = [f"{report.after_bytes / report.before_bytes:.2f} of the bytes"]
    if report.ratio is not None:
        ends = f"({report.ratio.low:.2f} to {report.ratio.high:.2f})"
        gains.insert(0, f"{report.ratio.value:.2f} {ends} times the time of a call")
    elif decided.costs is not None and (share := decided.costs.share(decided.choice)) is not None:
        gains.insert(0, f"{share:.2f} times the time of a call by {decided.costs.source}")
    text = f"{' and '.join(gains)} of {report.bundle}"
    if report.worst is not None and report.classes:
        differ = 1 - report.worst.agreement.value
        said = f"at most {percent(differ)} of an exit's answers differ" if differ else "no exit's answer differs"
        text += f"; on {report.rows['report']} held-out rows {said}"
    exceeded = [each.name for each in report.exits if not each.within]
    return f"{text}, more than the bound of {report.limit} at {', '.join(exceeded)}" if exceeded else text


def _segments(task: Task, decided: Decided, now: Bundle) -> Iterator[SegmentChoice]:
    costs, candidates = decided.costs, task.candidates
    static = [name for name, method in decided.choice.items() if method == "static"]
    parts, shares = task.parts, dict[str, float]()
    if static:
        some = parts.report.evenly(_SATURATING_ROWS)
        shares = saturated(candidates.bundle(decided.choice), static, parts.calibrate.rows, some)
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
            saturated=share if (share := shares.get(name, 0.0)) > _SATURATED else None,
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


def _in_turns(source: Bundle, written: Bundle, task: Task) -> tuple[Interval, Interval, Interval]:
    """Returns the mean latency of a call of both bundles in milliseconds, and the new one's over the other's."""
    task.tell("comparing whole calls", 0, 0)
    before, after = 1e3 * latencies((source, written), task.parts.report.evenly(TURNS_ROWS), task.threads)
    one, other = (mean_of(np.median(each, axis=0), _SEED) for each in (before, after))
    return one, other, ratio_in_turns(after, before, _SEED)

"""The staged bundle, run on its golden samples before it is put in place: row by row, and rows together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from eetoolkit_exporters.cutting.rows import mixing
from eetoolkit_exporters.cutting.segments import CutSegment
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.bundle.golden import Sample, read_golden
from eetoolkit_runtime.errors import ExportError, RunError
from eetoolkit_runtime.plan.types import Manifest
from eetoolkit_runtime.running.answer import Answer
from eetoolkit_runtime.running.inputs import row_axes
from eetoolkit_runtime.running.runner import Runner
from eetoolkit_runtime.verify import DEFAULT_TOLERANCE, VerifyReport, difference, verify

_NO_ROUNDING = 0.1  # of the largest value
_AMPLE = 2  # times the largest difference, which other inputs may exceed


def prove(bundle: Bundle, segments: Sequence[CutSegment]) -> Manifest:
    """Runs a staged bundle on its golden samples, one by one and together.

    Returns:
        The manifest, which says that rows run one by one where together they give something else, or may do so in a
        segment that no sample came to.

    Raises:
        ExportError: It differs from the source.
    """
    manifest, report = bundle.manifest, verify(bundle)
    if not report.passed:
        raise ExportError(
            f"the segments differ from the source network: {report.failures[0]}; nothing was written{_fix(report)}"
        )
    reason = None if manifest.batch == 1 else _against_rows_together(bundle, segments)
    if reason is None:
        return manifest
    return msgspec.structs.replace(manifest, batch=1, notes=(*manifest.notes, f"rows run one by one: {reason}"))


def _fix(report: VerifyReport) -> str:
    """Returns what lets differences of this size pass; nothing where rounding does not explain it."""
    largest = max(max(each.output_difference, each.confidence_difference) for each in report.exits)
    if not report.tolerance < largest < _NO_ROUNDING:
        return ""
    enough = float(f"{_AMPLE * largest:.1g}")
    return f"; if that is rounding, allow it with tolerance={enough:g} (--tolerance {enough:g})"


def _against_rows_together(bundle: Bundle, segments: Sequence[CutSegment]) -> str | None:
    """Returns why rows must run one by one: some answer otherwise in a batch, or nobody has seen what they do."""
    golden = bundle.manifest.golden
    tolerance = max(DEFAULT_TOLERANCE, golden.tolerance if golden is not None else 0.0)
    with Runner(bundle) as runner:
        axes = dict(zip((spec.name for spec in bundle.manifest.inputs), row_axes(bundle.manifest), strict=True))
        rows = _rows(bundle, read_golden(bundle), [name for name, axis in axes.items() if axis is None], runner)
        stacked = {
            name: array if (axis := axes[name]) is None else np.concatenate([row[name] for row in rows], axis)
            for name, array in rows[0].items()
        }
        proved = set[str]()
        for exit_ in bundle.exits:
            alone = [runner.run(row, exit_at=exit_) for row in rows]
            together = runner.run_batch(stacked, exit_at=exit_)
            if not all(_alike(many, one, tolerance) for many, one in zip(together, alone, strict=True)):
                return "together the golden samples give other answers"
            runs = Counter(name for answer in alone for name in set(answer.path))
            proved.update(name for name, count in runs.items() if count > 1)
    for segment in segments:
        if segment.name not in proved and (mixed := mixing(segment.nodes)) is not None:
            return f"{mixed} in {segment.name}, which no two golden samples reached; pass golden_inputs that reach it"
    return None


def _rows(
    bundle: Bundle, samples: Sequence[Sample], shared: Sequence[str], runner: Runner
) -> list[Mapping[str, Array]]:
    """Returns the samples' inputs; beside a single one another of other floats, if the network takes that."""
    first = samples[0].inputs
    rows: list[Mapping[str, Array]] = [
        {**sample.inputs, **{name: first[name] for name in shared}} for sample in samples
    ]
    if len(rows) > 1:
        return rows
    other = {name: array if name in shared else _changed(array) for name, array in first.items()}
    try:
        for exit_ in bundle.exits:
            runner.run(other, exit_at=exit_)
    except RunError:
        return [first, first]
    return [first, other]


def _changed(array: Array) -> Array:
    """Returns other floats of the same size; integers may be indices, of which not every one is allowed."""
    if array.dtype.kind != "f":
        return array
    return np.asarray(np.roll(array, 1, axis=-1) * -0.5 if array.ndim else array * -0.5, array.dtype)


def _alike(many: Answer, one: Answer, tolerance: float) -> bool:
    return (many.exit, many.gates) == (one.exit, one.gates) and all(
        difference(found, expected) <= tolerance
        for found, expected in (
            (np.array(many.confidence), np.array(one.confidence)),
            *((many.outputs[name], array) for name, array in one.outputs.items()),
        )
    )

"""Small reports of quantised bundles."""

from __future__ import annotations

import msgspec

from eetoolkit.quantizing.report import ExitChange, QuantizationReport, SegmentChoice
from eetoolkit.tuning.intervals import Interval

edit = msgspec.structs.replace


def small(pays: bool = True) -> QuantizationReport:
    """Returns the report of a bundle of three segments, the first of which stays float; without `pays`, all do."""
    stem = SegmentChoice(
        name="stem", method="float", why="int8 is not faster", before_bytes=4000, after_bytes=4000, before_ms=0.02,
        after_ms=0.025,
    )  # fmt: skip
    body = SegmentChoice(
        name="body", method="static", before_bytes=80_000, after_bytes=21_000, before_ms=0.2, after_ms=0.08,
        saturated=0.003,
    )  # fmt: skip
    tail = SegmentChoice(
        name="tail", method="blockwise", before_bytes=200_000, after_bytes=52_000, before_ms=0.4, after_ms=0.24,
        float_operators=("Erf", "Softmax"),
    )  # fmt: skip
    exits = (
        ExitChange(
            name="exit0", rows=200, agreement=Interval(1.0, 0.981, 1.0), before=Interval(0.9, 0.85, 0.935),
            after=Interval(0.9, 0.85, 0.935), shift=(0.0, 0.0), within=True,
        ),
        ExitChange(
            name="exit1", rows=120, agreement=Interval(0.975, 0.929, 0.9915), before=Interval(0.95, 0.895, 0.977),
            after=Interval(0.942, 0.884, 0.972), shift=(0.0021, 0.0312), within=False,
        ),
    )  # fmt: skip
    known = QuantizationReport(
        bundle="digits", verdict="no segment is faster with int8", weights="int8", max_disagreement=0.01,
        costs="those of a test", rows={"calibrate": 100, "choose": 200, "report": 200},
        segments=tuple(edit(each, method="float", why="not faster", after_bytes=each.before_bytes) for each in
                       (stem, body, tail)),
        exits=(), before_bytes=290_000, after_bytes=290_000, notes=("a note",),
    )  # fmt: skip
    if not pays:
        return known
    return edit(
        known, path="digits-int8.ee", verdict="0.52 times the time and 0.28 of the bytes of digits", exits=exits,
        activations="uint8", segments=(stem, body, tail), after_bytes=81_000, before_ms=Interval(0.25, 0.24, 0.26),
        after_ms=Interval(0.13, 0.125, 0.135), ratio=Interval(0.52, 0.5, 0.54),
    )  # fmt: skip

"""What quantising a bundle found: every segment's choice, and what each exit and the mean call have gained or lost."""

from __future__ import annotations

from typing import Literal

import msgspec

from eetoolkit.tuning.intervals import Interval
from eetoolkit.tuning.report import TuningReport
from eetoolkit_runtime.plan.types import Activations, Method

PARTS = {
    "calibrate": "calibrated the ranges",
    "choose": "chose what is quantised",
    "report": "give every figure here (held-out)",
    "tune": "tuned the thresholds anew",
}
"""What the rows of each part did."""


class SegmentChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One segment with a graph.

    Attributes:
        name: The segment.
        method: How it is quantised; `float`: not at all.
        why: Why it stayed float; None where it did not.
        before_bytes: Of its graph and of the weights that it is the first to map.
        after_bytes: The same of the new bundle.
        before_ms: Median latency of the float segment; None where nothing was measured.
        after_ms: That of its method; of the best one tried where it stayed float.
        saturated: The share of calibrated values outside the ranges of the rows that chose; None where none were.
        float_operators: Operators that stay float in a quantised segment, beside the exit's own.
    """

    name: str
    method: Literal["float"] | Method
    why: str | None = None
    before_bytes: int
    after_bytes: int
    before_ms: float | None = None
    after_ms: float | None = None
    saturated: float | None = None
    float_operators: tuple[str, ...] = ()


class ExitChange(msgspec.Struct, frozen=True, kw_only=True):
    """One exit, over the held-out rows that meet it: agreement over those that do in either bundle, the rest in both.

    Attributes:
        name: The exit.
        rows: How many met it in either.
        agreement: The share whose answers are the same; without classes, 1 minus the mean relative difference.
        before: Accuracy of the float bundle there; None without labels or classes.
        after: Accuracy of the quantised one.
        shift: Median and 99th percentile of the absolute change of its confidence.
        within: Whether the disagreement is within the bound on these rows.
    """

    name: str
    rows: int
    agreement: Interval
    before: Interval | None = None
    after: Interval | None = None
    shift: tuple[float, float]
    within: bool


class QuantizationReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `quantize` found.

    Attributes:
        bundle: The name of the bundle.
        path: Where the new one is; None where nothing pays, so that none was written.
        verdict: What is gained and what it costs, or why nothing pays: one sentence.
        weights: What weights are stored as.
        activations: What static segments compute with; None where there is none.
        max_disagreement: The bound of each exit's disagreement.
        costs: Where latencies come from.
        rows: How many rows each part of the data had, see `PARTS`.
        segments: In the plan's order.
        exits: In the plan's order.
        before_bytes: Of the whole bundle.
        after_bytes: Of the whole new one.
        before_ms: Mean latency of a call, held-out rows, real exits, both bundles in turns; None on another device.
        after_ms: The new one's.
        ratio: The new one's over the float one's.
        notes: What the reader must know.
        tuning: Of the new bundle, where it was asked for.
    """

    bundle: str
    path: str | None = None
    verdict: str
    weights: Literal["int8", "float16"]
    activations: Activations | None = None
    max_disagreement: float
    costs: str
    rows: dict[str, int]
    segments: tuple[SegmentChoice, ...]
    exits: tuple[ExitChange, ...]
    before_bytes: int
    after_bytes: int
    before_ms: Interval | None = None
    after_ms: Interval | None = None
    ratio: Interval | None = None
    notes: tuple[str, ...] = ()
    tuning: TuningReport | None = None

    @property
    def pays(self) -> bool:
        """Whether a bundle was written."""
        return self.path is not None

"""What quantising a bundle found: every segment's choice, and what each exit and the mean call have gained or lost."""

from __future__ import annotations

import shlex
from typing import Literal

import msgspec

from eetoolkit.tuning.intervals import Interval
from eetoolkit.tuning.report import TuningReport
from eetoolkit.tuning.wording import Wording, percent, spell_times
from eetoolkit_runtime.plan.types import Activations, Method
from eetoolkit_runtime.printable import printable, spell_size

Weights = Literal["int8", "float16"]

PARTS = {
    "calibrate": "calibrated the ranges",
    "choose": "chose what is quantised",
    "report": "give every figure here (held-out)",
    "tune": "tuned the thresholds anew",
}
"""What the rows of each part did."""
_SAY = Wording("accuracy", "ms")


class SegmentChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One segment with a graph.

    Attributes:
        name: The segment.
        method: How it is quantised; `float`: not at all.
        why: Why it stayed float; None where it did not.
        before_bytes: Of its graph and of the weights that it is the first to map.
        after_bytes: The same of the new bundle.
        before_ms: Latency of a visit to the float segment, a robust mean; None where nothing was measured.
        after_ms: That of its method; of the best one tried where it stayed float.
        saturated: The share of what it reads of held-out rows outside the calibrated ranges; None: hardly any.
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

    @property
    def remarks(self) -> str:
        """Why it stayed float, what of it did, and what saturates; empty where there is nothing to say."""
        said = [] if self.why is None else [self.why]
        said += [f"float: {', '.join(self.float_operators)}"] if self.float_operators else []
        said += [f"{percent(self.saturated)} of what it reads saturates"] if self.saturated else []
        return "; ".join(said)


class ExitChange(msgspec.Struct, frozen=True, kw_only=True):
    """One exit, over the held-out rows that meet it: agreement over those that do in either bundle, the rest in both.

    Attributes:
        name: The exit.
        rows: How many met it in either, at least one.
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
        classes: Whether answers are classes, see `ExitChange.agreement`.
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
    weights: Weights
    activations: Activations | None = None
    max_disagreement: float
    costs: str
    rows: dict[str, int]
    classes: bool = True
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

    @property
    def agreement(self) -> str:
        """What `ExitChange.agreement` is."""
        return "agreement" if self.classes else "1 - difference"

    @property
    def bound(self) -> str:
        """What each exit must keep, and which do not on held-out rows."""
        what = "of the answers differ" if self.classes else "is the mean relative difference of its outputs"
        beyond = ", ".join(change.name for change in self.exits if not change.within)
        return (
            f"at every exit at most {self.limit} {what}{f'; exceeded on held-out rows at {beyond}' if beyond else ''}"
        )

    @property
    def limit(self) -> str:
        """The bound in percent."""
        return f"{100 * self.max_disagreement:g}%"

    @property
    def gains(self) -> dict[str, str]:
        """Bytes and mean call, each of both bundles; empty where nothing was written or timed."""
        found = {}
        if self.pays:
            share = self.after_bytes / self.before_bytes
            sizes = spell_size(self.after_bytes), spell_size(self.before_bytes)
            found["bytes"] = f"{sizes[0]}, {share:.2f} of the float bundle's {sizes[1]}"
        if self.ratio is not None and self.before_ms is not None and self.after_ms is not None:
            when = "" if self.tuning is None else ", before tuning"
            found["mean call"] = (
                f"{_SAY.cost(self.after_ms)}, {spell_times(self.ratio)} the float bundle's "
                f"{_SAY.cost(self.before_ms)}; in turns on held-out rows{when}"
            )
        return found

    @property
    def worst(self) -> ExitChange | None:
        """The exit that agrees least; None where no rows were compared."""
        return min(self.exits, key=lambda change: change.agreement.value, default=None)

    @property
    def advice(self) -> str | None:
        """What the new bundle's thresholds lack; None where they are right as they are."""
        if self.path is None or self.weights == "float16" or len(self.exits) == 1:
            return None
        if self.tuning is None:
            chooses = f"eetoolkit tune {shlex.quote(self.path)} --data DATA --apply"
            return f"thresholds are those of the float bundle; `{chooses}` chooses them anew"
        if self.tuned:
            return None
        why = "with tuned ones no exit answers early" if self.tuning.goal_met else "the goal is missed or unknown"
        return f"thresholds are those of the float bundle still: {why}; tune with more rows or for a weaker goal"

    @property
    def tuned(self) -> bool:
        """Whether thresholds were tuned and written: they meet the goal, and some exit answers early."""
        tuning = self.tuning
        return tuning is not None and tuning.goal_met is True and set(tuning.thresholds.values()) != {"never"}

    def __str__(self) -> str:
        lines = [f"{self.bundle}: {self.verdict}"]
        lines += [f"{name}: {said}" for name, said in self.gains.items()]
        lines += [f"{each.name}: {each.method}{f' ({each.remarks})' if each.remarks else ''}" for each in self.segments]
        lines += [f"{each.name}: {self.agreement} {_SAY.share(each.agreement)}" for each in self.exits]
        lines += [f"bound: {self.bound}"] if self.exits else []
        lines += [f"{count} rows {PARTS[name]}" for name, count in self.rows.items()]
        lines += [f"note: {note}" for note in self.notes]
        lines += [self.advice] if self.advice else []
        own = [] if self.tuning is None else [str(self.tuning)]
        return "\n".join([*map(printable, lines), *own])

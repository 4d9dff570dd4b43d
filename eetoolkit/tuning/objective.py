"""What settings of thresholds are worth and cost on one part of the data, many at once.

A setting is one candidate per exit. Along one exit, all others fixed, every row's run ends at one of a few visits, each
for a range of that exit's candidates; so one pass over the rows gives worth and cost for all its candidates (`line`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from eetoolkit.tuning.record import NO_CLASS, NO_EXIT, Array, Record
from eetoolkit.tuning.replay import answers, most_confident, stops
from eetoolkit_runtime.errors import TuneError
from eetoolkit_runtime.plan import COUNTED_KINDS, Fallback, Manifest

Metric = Callable[[Mapping[str, Array], Array], npt.ArrayLike]
"""From the answers' outputs, by name (N, ...), and the labels to one number, or to one per row whose mean counts."""


def worth_of(record: Record, metric: Metric | None) -> Array | None:
    """Returns what the answer of each visit is worth, float64 (N, V), padded with 0; None for a metric that is no mean.

    Without a metric it is 1 where the predicted class is the label.

    Raises:
        TuneError: Answers that name no class, or a metric that gives something else.
    """
    padded = record.exit == NO_EXIT
    if metric is None:
        if record.label.ndim != 1 or record.label.dtype.kind not in "iub":
            raise TuneError(f"labels are {record.label.dtype}{list(record.label.shape)}, no classes: pass a metric")
        if (record.prediction[~padded] == NO_CLASS).all():
            raise TuneError("the exits' outputs name no class: pass a metric")
        return np.where(padded, 0.0, record.prediction == record.label[:, None])
    found = np.zeros(record.exit.shape)
    for visit in range(record.exit.shape[1]):
        here = np.flatnonzero(~padded[:, visit])
        part = record.take(here)
        value = np.asarray(metric(part.answered(np.full(len(here), visit)), part.label), np.float64)
        if value.shape == ():
            return None
        if value.shape != (len(here),):
            raise TuneError(f"the metric gave shape {list(value.shape)}, expected one number, or one for each row")
        found[here, visit] = value
    if not np.isfinite(found).all():
        raise TuneError("the metric gave NaN or infinity for some rows")
    return found


@dataclass(frozen=True, eq=False)
class Candidates:
    """The thresholds that an exit may get, ascending; beyond the last one it never fires.

    Attributes:
        thresholds: By exit, float64 (J,), J of 0 for an exit that may not fire.
        beyond: What an exit gets that never fires: NaN, it is disabled.
    """

    thresholds: tuple[Array, ...]
    beyond: float = np.nan

    @property
    def never(self) -> Array:
        """The setting in which no exit fires, (E,)."""
        return np.array([len(own) for own in self.thresholds])

    def spell(self, settings: npt.ArrayLike) -> Array:
        """Returns the thresholds of settings (..., E); NaN for an exit that may not fire."""
        chosen = np.asarray(settings)
        table = np.full((len(self.thresholds), max(map(len, self.thresholds), default=0) + 1), np.nan)
        for e, own in enumerate(self.thresholds):
            table[e, : len(own)] = own
            table[e, len(own)] = self.beyond if len(own) else np.nan
        return np.asarray(table[np.arange(len(self.thresholds)), chosen])


def candidates(record: Record, plan: Manifest, allowed: Array, most: int = 100) -> Candidates:
    """Returns each exit's candidates: quantiles of the confidences that it gives, midway between two that occur.

    So no row of the record lies on a threshold, where another machine's rounding would decide. A count or a share is
    taken as it is, as the manifest wants it.

    Args:
        record: Whose confidences count.
        plan: Says which exits have a threshold, and what confidences are counts.
        allowed: Which exits may fire, bool (E,).
        most: How many candidates an exit gets at most.
    """
    found = []
    for e, exit_ in enumerate(plan.exits.values()):
        seen = record.confidence[record.exit == e].astype(np.float64)
        seen = np.sort(seen[np.isfinite(seen)])
        values = np.unique(seen)
        if exit_.threshold is None or not allowed[e] or not len(values):
            found.append(np.zeros(0))
            continue
        if exit_.criterion.kind not in COUNTED_KINDS:
            values = np.array([min(0.0, values[0]), *(values[:-1] + values[1:]) / 2])
        if len(values) > most:
            # Even steps through the rows, not through the values: a step changes the exit for equally many.
            ranks = np.searchsorted(values, np.quantile(seen, np.linspace(0, 1, most)))
            values = values[np.unique(np.minimum([0, *ranks[1:]], len(values) - 1))]
        found.append(values)
    # A disabled exit is none of the most confident: there one that never fires stays enabled, behind a number that no
    # confidence reaches and JSON can hold.
    beyond = np.nan if plan.fallback == "last" else float(np.finfo(np.float32).max)
    return Candidates(tuple(found), beyond)


@dataclass(frozen=True, eq=False)
class Objective:
    """Worth and cost of settings on the rows of a record.

    Attributes:
        record: N rows.
        choices: The candidates.
        worth: Of the answer at each visit, (N, V); None where only a whole of answers has one.
        cost: Of a run that ends at each visit, (N, V), in shares of the whole network's, so that it is near 1.
        fallback: What answers where none fired.
        enabled: Which exits may then answer, bool (E,).
        metric: For where `worth` is None.
    """

    record: Record
    choices: Candidates
    worth: Array | None
    cost: Array
    fallback: Fallback
    enabled: Array
    metric: Metric | None = None
    _reached: Array = field(init=False)
    _owned: tuple[tuple[int, ...], ...] = field(init=False)
    _end: Array = field(init=False)
    _bounds: Array = field(init=False)

    def __post_init__(self) -> None:
        record, rows = self.record, np.arange(len(self.record))
        reached = np.zeros(record.exit.shape, np.int32)
        for e, own in enumerate(self.choices.thresholds):
            here = record.exit == e
            reached[here] = np.searchsorted(own, record.confidence[here].astype(np.float64), side="right")
        reached[np.isnan(record.confidence)] = 0
        reached[rows, record.last] = 0
        exits = range(len(record.exits))
        end = record.last if self.fallback == "last" else most_confident(record, self.enabled)
        object.__setattr__(self, "_reached", reached)
        object.__setattr__(self, "_owned", tuple(tuple(np.flatnonzero((record.exit == e).any(axis=0))) for e in exits))
        object.__setattr__(self, "_end", end.astype(np.intp))
        object.__setattr__(self, "_bounds", self.choices.never)

    @property
    def exits(self) -> list[int]:
        """The exits that have candidates."""
        return [e for e, own in enumerate(self.choices.thresholds) if len(own)]

    @property
    def full(self) -> tuple[float, float]:
        """Worth and cost of the whole network: the last exit always."""
        rows = np.arange(len(self.record))
        return self._worth_at(self.record.last), float(self.cost[rows, self.record.last].mean())

    def at(self, setting: Array) -> tuple[float, float]:
        """Returns worth and cost of one setting, (E,)."""
        fires = self._reached > np.append(setting, 0)[self.record.exit]
        ended = np.where(fires.any(axis=1), fires.argmax(axis=1), self.record.last)
        rows = np.arange(len(self.record))
        chosen = np.where(fires.any(axis=1), ended, self._end)
        return self._worth_at(chosen), float(self.cost[rows, ended].mean())

    def line(self, setting: Array, exit_: int) -> tuple[Array, Array]:
        """Returns worth and cost, (J + 1,) each, of `setting` with each candidate of one exit, without that exit."""
        if self.worth is None:
            settings = [np.where(np.arange(len(setting)) == exit_, j, setting) for j in range(self._bounds[exit_] + 1)]
            found = np.array([self.at(other) for other in settings])
            return found[:, 0], found[:, 1]
        record, bound = self.record, int(self._bounds[exit_])
        rows = np.arange(len(record))
        level = np.append(setting, 0)  # the padded visits' NO_EXIT looks at the last
        level[exit_] = bound
        fires = self._reached > level[record.exit]
        some = fires.any(axis=1)
        first = np.where(some, fires.argmax(axis=1), record.last)
        worth, cost = np.zeros(bound + 2), np.zeros(bound + 2)

        def add(low: Array, high: Array | int, worths: Array, costs: Array) -> None:
            """Counts rows for the candidates from `low` up to before `high`."""
            ends = np.broadcast_to(high, low.shape)
            worth[:] += np.bincount(low, worths, bound + 2) - np.bincount(ends, worths, bound + 2)
            cost[:] += np.bincount(low, costs, bound + 2) - np.bincount(ends, costs, bound + 2)

        reach = np.zeros(len(record), np.int32)
        for visit in self._owned[exit_]:
            reached = self._reached[:, visit]
            more = np.flatnonzero((record.exit[:, visit] == exit_) & (visit < first) & (reached > reach))
            add(reach[more], reached[more], self.worth[more, visit], self.cost[more, visit])
            reach[more] = reached[more]
        chosen = np.where(some, first, self._end)
        add(reach, bound + 1, self.worth[rows, chosen], self.cost[rows, first])
        count = len(record)
        return np.cumsum(worth)[:-1] / count, np.cumsum(cost)[:-1] / count

    def _worth_at(self, visit: Array) -> float:
        return worth_at(self.record, self.worth, self.metric, visit)


def worth_at(record: Record, worth: Array | None, metric: Metric | None, visit: Array) -> float:
    """Returns what the answers of one visit of each row, (N,), are worth together.

    Raises:
        TuneError: The metric gave no number.
    """
    if worth is not None:
        return float(worth[np.arange(len(record)), visit].mean())
    found = np.nan if metric is None else float(np.asarray(metric(record.answered(visit), record.label), np.float64))
    if not np.isfinite(found):
        raise TuneError(f"the metric gave {found}, expected a number")
    return found


def run_ends(record: Record, thresholds: Array, fallback: Fallback) -> tuple[Array, Array]:
    """Returns, for one setting of thresholds (E,), the visit that answers and the one that ends the run, (N,) each."""
    ended = stops(record, thresholds)
    return answers(record, thresholds, ended, fallback)[:, 0], ended[:, 0]

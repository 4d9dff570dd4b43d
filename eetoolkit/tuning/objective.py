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


def candidates(record: Record, plan: Manifest, allowed: Array, most: int = 100, also: npt.ArrayLike = ()) -> Candidates:
    """Returns each exit's candidates: quantiles of the confidences that it gives, midway between two that occur.

    So no row of the record lies on a threshold, where another machine's rounding would decide. A count or a share is
    taken as it is, as the manifest wants it.

    Args:
        record: Whose confidences count.
        plan: Says which exits have a threshold, and what confidences are counts.
        allowed: Which exits may fire, bool (E,).
        most: How many candidates an exit gets at most, beside those of `also`.
        also: Thresholds (S, E) whose equals on this record are candidates too: those at which the same rows leave.
    """
    wanted = np.asarray(also, np.float64).reshape(-1, len(plan.exits))
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
            kept = np.minimum([0, *ranks[1:]], len(values) - 1)
            same = _ranks(seen, values).searchsorted(_ranks(seen, wanted[:, e]))
            values = values[np.unique([*kept, *same[same < len(values)]])]
        found.append(values)
    # A disabled exit is none of the most confident: there one that never fires stays enabled, behind a number that no
    # confidence reaches and JSON can hold.
    beyond = np.nan if plan.fallback == "last" else float(np.finfo(np.float32).max)
    return Candidates(tuple(found), beyond)


def settings_of(record: Record, choices: Candidates, thresholds: npt.ArrayLike) -> Array:
    """Returns the settings (S, E) at which the same rows of `record` leave as at thresholds (S, E), else fewer."""
    wanted = np.atleast_2d(np.asarray(thresholds, np.float64))
    found = np.tile(choices.never, (len(wanted), 1))
    for e, own in enumerate(choices.thresholds):
        seen = record.confidence[record.exit == e].astype(np.float64)
        seen = np.sort(seen[np.isfinite(seen)])
        found[:, e] = _ranks(seen, own).searchsorted(_ranks(seen, wanted[:, e]))
    return found


def _ranks(seen: Array, thresholds: Array) -> Array:
    """Returns how many of the ascending confidences lie below each threshold; one more than all for none (NaN)."""
    found = np.where(np.isnan(thresholds), len(seen), seen.searchsorted(thresholds))
    return np.asarray(np.where(found == len(seen), len(seen) + 1, found))


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
    _reached: tuple[Array, ...] = field(init=False)
    _met: tuple[Array, ...] = field(init=False)
    _last: Array = field(init=False)
    _end: Array = field(init=False)
    _values: tuple[Array, Array] = field(init=False)

    def __post_init__(self) -> None:
        record = self.record
        reached = np.zeros(record.exit.shape, np.int16)
        for e, own in enumerate(self.choices.thresholds):
            here = record.exit == e
            reached[here] = np.searchsorted(own, record.confidence[here].astype(np.float64), side="right")
        reached[np.isnan(record.confidence)] = 0
        reached[np.arange(len(record)), record.last] = 0
        end = record.last if self.fallback == "last" else most_confident(record, self.enabled)
        # By visit, since a plan without gates meets one exit at each: then its column compares with one number.
        met = [np.unique(column) if len(column) else column for column in record.exit.T]
        columns = [own[0] if len(own) == 1 else column for own, column in zip(met, record.exit.T, strict=True)]
        object.__setattr__(self, "_reached", tuple(np.ascontiguousarray(reached.T)))
        object.__setattr__(self, "_met", tuple(np.ascontiguousarray(column) for column in columns))
        object.__setattr__(self, "_last", record.last.astype(np.int16))
        object.__setattr__(self, "_end", end.astype(np.int16))
        # Worth and cost visit after visit, since a line reads them by visit.
        worth = np.zeros(record.exit.shape) if self.worth is None else self.worth
        pair = tuple(np.ascontiguousarray(values.T, np.float64).ravel() for values in (worth, self.cost))
        object.__setattr__(self, "_values", pair)

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
        ended = self._ends(setting)
        chosen = np.where(ended == self._last, self._end, ended)
        return self._worth_at(chosen), float(self.cost[np.arange(len(self.record)), ended].mean())

    def line(self, setting: Array, exit_: int) -> tuple[Array, Array]:
        """Returns worth and cost, (J + 1,) each, of a setting with each candidate of one exit, and without it."""
        record, bound = self.record, int(self.choices.never[exit_])
        if self.worth is None:
            settings = [np.where(np.arange(len(setting)) == exit_, j, setting) for j in range(bound + 1)]
            found = np.array([self.at(other) for other in settings])
            return found[:, 0], found[:, 1]
        ended = self._ends(np.where(np.arange(len(setting)) == exit_, bound, setting))
        count = len(record)
        reach = np.zeros(count, np.int16)
        totals = np.zeros((2, bound + 2))
        for visit, reached in enumerate(self._reached):
            here = (self._met[visit] == exit_) & (reached > reach)
            if not here.any():
                continue
            more = np.flatnonzero(here & (ended > visit))
            if len(more):  # from the candidate before which the row has ended already up to the one that it reaches
                low, high = reach[more], reached[more]
                for total, values in zip(totals, self._values, strict=True):
                    column = values[visit * count + more]
                    total += np.bincount(low, column, bound + 2) - np.bincount(high, column, bound + 2)  # noqa: PLW2901 - in place
                reach[more] = high
        rows = np.arange(count)
        chosen = np.where(ended == self._last, self._end, ended)
        for total, values, visits in zip(totals, self._values, (chosen, ended), strict=True):
            total += np.bincount(reach, values[visits.astype(np.intp) * count + rows], bound + 2)  # noqa: PLW2901 - in place
        worth, cost = np.cumsum(totals, axis=1)[:, :-1] / count
        return worth, cost

    def _ends(self, setting: Array) -> Array:
        """Returns the visit with which each row's run ends, int16 (N,)."""
        level = np.append(setting, 0).astype(np.int16)  # padded visits, of NO_EXIT, look at the last
        ended = self._last.copy()
        for visit in range(len(self._reached) - 1, -1, -1):
            fires = self._reached[visit] > level[self._met[visit]]
            ended -= (ended - np.int16(visit)) * fires  # arithmetic: a masked copy takes ten times as long
        return ended

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

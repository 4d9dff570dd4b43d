"""What settings of thresholds score and cost on one part of the data, many at once.

A setting is one candidate per exit. Along one exit, all others fixed, every row's run ends at one of a few visits, each
for a range of this exit's candidates; so one pass over the rows gives score and cost for all of them (`sweep`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from eetoolkit.tuning.record import NO_CLASS, NO_EXIT, Record
from eetoolkit.tuning.replay import answers, most_confident, stops
from eetoolkit_runtime.arguments import shortened
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import TuneError
from eetoolkit_runtime.plan.criteria import kind_of
from eetoolkit_runtime.plan.types import Fallback, Manifest
from eetoolkit_runtime.printable import cut

Metric = Callable[[Mapping[str, Array], Array], npt.ArrayLike]
"""From the answers' outputs, by name (N, ...), and the labels to one number, or to one per row whose mean counts."""

NEVER_REACHED = float(np.finfo(np.float32).max)
"""A threshold that JSON can hold and no finite confidence reaches: an exit that stands in and never fires."""


def scores_of(record: Record, metric: Metric | None) -> Array | None:
    """Returns what the answer of each visit scores, float64 (N, V), padded with 0; None for a metric that is no mean.

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
        value = _measured(metric, part, np.full(len(here), visit))
        if value.shape == ():
            return None
        found[here, visit] = value
    if not np.isfinite(found).all():
        raise TuneError("the metric gave NaN or infinity for some rows")
    return found


@dataclass(frozen=True, eq=False)
class Candidates:
    """The thresholds that an exit may get, ascending; beyond the last one it is disabled.

    Attributes:
        thresholds: By exit, float64 (J,), J of 0 for an exit that may not fire.
    """

    thresholds: tuple[Array, ...]

    @property
    def never(self) -> Array:
        """The setting in which every exit is disabled, (E,)."""
        return np.array([len(own) for own in self.thresholds])

    def spell(self, settings: npt.ArrayLike) -> Array:
        """Returns the thresholds of settings (..., E); NaN for an exit that is disabled."""
        chosen = np.asarray(settings)
        table = np.full((len(self.thresholds), max(map(len, self.thresholds), default=0) + 1), np.nan)
        for e, own in enumerate(self.thresholds):
            table[e, : len(own)] = own
        return np.asarray(table[np.arange(len(self.thresholds)), chosen])


def candidates(record: Record, plan: Manifest, allowed: Array, most: int = 100, also: npt.ArrayLike = ()) -> Candidates:
    """Returns each exit's candidates: quantiles of the confidences that it gives, midway between two that occur.

    So no row of the record lies on a threshold, where another machine's rounding would decide. A count or a share is
    taken as it is, as the manifest wants it. With the fallback `most_confident` the last one is `NEVER_REACHED`.

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
        if exit_.ends or not allowed[e] or not len(values):
            found.append(np.zeros(0))
            continue
        if not kind_of(exit_.criterion).counted:
            values = np.array([min(0.0, values[0]), *(values[:-1] + values[1:]) / 2])
        if len(values) > most:
            # Even steps through the rows, not through the values: a step changes the exit for equally many.
            ranks = np.searchsorted(values, np.quantile(seen, np.linspace(0, 1, most)))
            kept = np.minimum([0, *ranks[1:]], len(values) - 1)
            same = _ranks(seen, values).searchsorted(_ranks(seen, wanted[:, e]))
            values = values[np.unique([*kept, *same[same < len(values)]])]
        found.append(values if plan.fallback == "last" else np.append(values, NEVER_REACHED))
    return Candidates(tuple(found))


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
    """Returns how many of the ascending confidences lie below each threshold.

    Where none reaches it that is one more than all, and where the exit is disabled (NaN) two more.
    """
    found = seen.searchsorted(thresholds)
    found = np.where(found == len(seen), len(seen) + 1, found)
    return np.asarray(np.where(np.isnan(thresholds), len(seen) + 2, found))


@dataclass(frozen=True, eq=False)
class Objective:
    """Score and cost of settings on the rows of a record.

    Attributes:
        record: N rows.
        choices: The candidates.
        score: Of the answer at each visit, (N, V); None where only a whole of answers has one.
        cost: Of a run that ends at each visit, (N, V), in shares of the whole network's, so that it is near 1.
        fallback: What answers where none fired.
        metric: For where `score` is None.
    """

    record: Record
    choices: Candidates
    score: Array | None
    cost: Array
    fallback: Fallback
    metric: Metric | None = None

    @property
    def exits(self) -> list[int]:
        """The exits that have candidates."""
        return [e for e, own in enumerate(self.choices.thresholds) if len(own)]

    @property
    def full(self) -> tuple[float, float]:
        """Score and cost of the whole network: the last exit always."""
        return self._score_at(self.record.last), self._cost_at(self.record.last)

    @property
    def costs(self) -> tuple[Array, ...]:
        """The costs, (N, V) each, whose means make the cost of a setting, by `counted`."""
        return (self.cost,)

    def counted(self, costs: Array) -> Array:
        """Returns the cost that counts, (...), by the means of all `costs`, (K, ...)."""
        return np.asarray(costs[0])

    def at(self, setting: Array) -> tuple[float, float]:
        """Returns score and cost of one setting, (E,)."""
        ended = self._ends(setting)
        return self._score_at(self._answers(setting, ended)), self._cost_at(ended)

    def sweep(self, setting: Array, exit_: int) -> tuple[Array, Array]:
        """Returns score and cost of a setting with every candidate of an exit, ascending, and disabled, (J + 1,)."""
        bound = int(self.choices.never[exit_])
        if self.score is None:
            score, cost = np.array([self.at(moved(setting, exit_, j)) for j in range(bound + 1)]).T
            return score, cost
        ended = self._ends(moved(setting, exit_, bound))
        count = len(ended)
        score_visits = self._answers(moved(setting, exit_, 0), ended)
        ends = [
            values[visits * np.intp(count) + np.arange(count)]
            for values, visits in zip(self._values, (score_visits, *(ended for _ in self.costs)), strict=True)
        ]
        totals = np.zeros((len(ends), bound + 1))
        totals[:, 0] = [end.sum() for end in ends]
        # Each row's run goes on for all candidates from some one on. A visit that fires moves that one, and ends what
        # lies between: what that gains is added at the old one and taken away at the new one. Sums along the candidates
        # then give each one's total.
        reach = np.zeros(count, np.int16)
        for visit in self._visits[exit_]:
            reached = self._reached[visit]
            rows = np.flatnonzero((reached > reach) & (ended > visit) & (self._met[visit] == exit_))
            old, new = reach[rows], reached[rows]
            reach[rows] = new
            for total, values, end in zip(totals, self._values, ends, strict=True):
                gain = values[visit * count + rows] - end[rows]
                total += np.bincount(old, gain, len(total)) - np.bincount(new, gain, len(total))  # noqa: PLW2901 - in place
        score, *costs = totals.cumsum(axis=1) / count
        cost = self.counted(np.array(costs))
        if self.fallback == "most_confident":  # disabled, it does not stand in either
            score[bound], _ = self.at(moved(setting, exit_, bound))
        return score, cost

    @cached_property
    def _reached(self) -> tuple[Array, ...]:
        """By visit, how many of its exit's candidates each row's confidence reaches, int16 (N,); 0 at the end."""
        record = self.record
        reached = np.zeros(record.exit.shape, np.int16)
        for e, own in enumerate(self.choices.thresholds):
            here = record.exit == e
            reached[here] = np.searchsorted(own, record.confidence[here].astype(np.float64), side="right")
        reached[np.isnan(record.confidence)] = 0
        reached[np.arange(len(record)), record.last] = 0
        return tuple(np.ascontiguousarray(reached.T))

    @cached_property
    def _met(self) -> tuple[Array | int, ...]:
        """By visit, the exit that each row meets, (N,); one number where all meet the same, which compares faster."""
        return tuple(int(column[0]) if (column == column[0]).all() else column for column in self.record.exit.T)

    @cached_property
    def _visits(self) -> tuple[tuple[int, ...], ...]:
        """By exit, the visits at which rows meet it."""
        met = [set(np.unique(column).tolist()) for column in self.record.exit.T]
        return tuple(tuple(v for v, own in enumerate(met) if e in own) for e in range(len(self.record.exits)))

    @cached_property
    def _stand_ins(self) -> dict[bytes, Array]:
        """Each row's surest visit, (N,), by which exits are enabled."""
        return {}

    @cached_property
    def _values(self) -> tuple[Array, ...]:
        """Score and costs, (V * N,) each: visit after visit, as a sweep reads them."""
        score = np.zeros(self.record.exit.shape) if self.score is None else self.score
        return tuple(np.ascontiguousarray(values.T, np.float64).ravel() for values in (score, *self.costs))

    def _ends(self, setting: Array) -> Array:
        """Returns the visit with which each row's run ends, (N,)."""
        level = np.append(setting, 0).astype(np.int16)  # padded visits, of NO_EXIT, look at the last
        most = len(self._reached)
        small = np.min_scalar_type(most)
        left = (most - self.record.last).astype(small)  # visits behind the end: the most of all that fire
        for visit, (reached, met) in enumerate(zip(self._reached, self._met, strict=True)):
            fires = (reached > level[met]).astype(small)
            np.maximum(left, fires * small.type(most - visit), out=left)  # a masked copy takes ten times as long
        return most - left.astype(np.intp)

    def _answers(self, setting: Array, ended: Array) -> Array:
        """Returns the visit whose answer counts, (N,), of runs that end at these visits."""
        if self.fallback == "last":
            return ended
        enabled = setting < self.choices.never
        key = enabled.tobytes()
        if key not in self._stand_ins:
            self._stand_ins[key] = most_confident(self.record, enabled)
        return np.where(ended == self.record.last, self._stand_ins[key], ended)

    def _cost_at(self, ended: Array) -> float:
        rows = np.arange(len(ended))
        return float(self.counted(np.array([cost[rows, ended].mean() for cost in self.costs])))

    def _score_at(self, visit: Array) -> float:
        return score_at(self.record, self.score, self.metric, visit)


def moved(setting: Array, exit_: int, to: int) -> Array:
    """Returns a setting with another candidate of an exit."""
    found = setting.copy()
    found[exit_] = to
    return found


def score_at(record: Record, score: Array | None, metric: Metric | None, visit: Array) -> float:
    """Returns what the answers of one visit of each row, (N,), score together.

    Raises:
        TuneError: The metric gave no number.
    """
    if score is not None:
        return float(score[np.arange(len(record)), visit].mean())
    found = np.float64(np.nan) if metric is None else _measured(metric, record, visit)
    if found.shape != () or not np.isfinite(found):
        raise TuneError(f"the metric gave {cut(str(found), 80)}, expected a number")
    return float(found)


def _measured(metric: Metric, record: Record, visit: Array) -> Array:
    """Returns what a metric says of the answers of one visit of each row, (N,): one number, or one for each, (N,)."""
    given = metric(record.answered(visit), record.label)
    try:
        found = np.asarray(given, np.float64)
    except (TypeError, ValueError) as error:
        raise TuneError(f"the metric gave {shortened(given)}, expected one number, or one for each row") from error
    if found.shape not in ((), (len(record),)):
        raise TuneError(f"the metric gave shape {list(found.shape)}, expected one number, or one for each row")
    return found


def run_ends(record: Record, thresholds: Array, fallback: Fallback) -> tuple[Array, Array]:
    """Returns, for one setting of thresholds (E,), the visit that answers and the one that ends the run, (N,) each."""
    ended = stops(record, thresholds)
    return answers(record, thresholds, ended, fallback)[:, 0], ended[:, 0]

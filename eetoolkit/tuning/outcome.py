"""Whether the goal was met on the held-out rows: yes, no, or too few of them to know.

One rule for every goal, by a figure of these rows and the end of its 95 % interval that is nearer to a miss:

- the goal is missed where the figure misses it;
- it is met where the figure keeps it, and the interval leaves out every miss that is larger than a tolerance;
- else the rows are too few to know. So are fewer than 30, since intervals are those of large samples.

The tolerance is what makes some hundreds of rows enough; for a bound without one there is `--risk`. It is

- for a drop: twice the drop that is allowed, where less than one point counts as one, but at most five points;
- for a least accuracy: the same, of the errors that it allows;
- for another metric: the same, with a hundredth of the whole network's score as a point; for its least: five points;
- for a budget: a quarter of it. Costs of segments are taken as exact.

So a choice that misses by more than the tolerance passes for one that meets the goal by one draw of the rows in forty
at most. A bootstrap takes what rows do not show for impossible. So the interval's end is no nearer to the figure than
Wilson's (1927), for the share of rows that differ, would be, with values as far apart as they can be. What is the whole
network by definition loses nothing, whatever rows show. A guarantee is its own proof: it was shown, or it was not, or
no result on so few rows would have shown it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from eetoolkit.tuning.evaluate import Subset
from eetoolkit.tuning.goal import GoalSpec
from eetoolkit.tuning.guarantee import GuaranteedChoice
from eetoolkit.tuning.intervals import Figures, Interval, wilson
from eetoolkit.tuning.wording import Wording
from eetoolkit_runtime.arrays import Array

LEAST_ROWS = 30
"""Held-out rows, without which nothing is called known."""
_TIMES = 2.0  # what a goal allows: the tolerance
_POINT = 0.01  # of the scale of scores
_MOST_POINTS = 5
_OF_BUDGET = 0.25
_ALL_ROWS = 10**9


@dataclass(frozen=True)
class Outcome:
    """Whether a goal was met on the held-out rows.

    Attributes:
        met: None: these rows are too few to know.
        reason: The figure that decides, what the goal asks for, and what is missing.
        rows_needed: About how many rows in all would do; None where more would not tell more.
    """

    met: bool | None
    reason: str
    rows_needed: int | None = None


@dataclass(frozen=True)
class _Unit:
    """How a figure is spelled: so many times as large, with a name behind it."""

    factor: float
    name: str

    def __call__(self, value: float) -> str:
        number = self._number(value)
        return number + (self.name.removesuffix("s") if number == "1" and len(self.name) > len(" ms") else self.name)

    def interval(self, figure: Interval) -> str:
        return f"{self(figure.value)} [{self._number(figure.low)}, {self._number(figure.high)}]"

    def _number(self, value: float) -> str:
        return f"{self.factor * value:.4g}"


_PERCENT, _POINTS, _MILLISECONDS, _NUMBER = _Unit(100, "%"), _Unit(100, " points"), _Unit(1, " ms"), _Unit(1, "")


@dataclass(frozen=True, eq=False)
class _Held:
    """A figure of held-out rows beside what was asked of it, all turned so that more is worse.

    Attributes:
        told: The figure with its interval, and what was asked for, for people.
        over: How far the figure is beyond the goal; at most 0 where it keeps it.
        towards: From the figure to the end of its interval that is nearer to a miss.
        away: And to the other.
        differ: The share of rows that differ; 0 where that says nothing of the spread.
        span: How far apart the values of two rows can lie.
        tolerance: The largest miss that the interval may hold.
        rows: How many there are.
        unit: Of the figure.
    """

    told: str
    over: float
    towards: float
    away: float
    differ: float
    span: float
    tolerance: float
    rows: int
    unit: _Unit

    def reach(self, rows: int) -> float:
        """Returns how far from the figure the interval's end would lie by so many rows like these."""
        unseen = wilson(self.differ * rows, rows).high - self.differ
        return max(self.towards * math.sqrt(self.rows / rows), self.span * unseen)

    def enough(self, room: float) -> int | None:
        """Returns about how many rows like these bring the interval's end so near; None: more than anybody has."""
        count = LEAST_ROWS
        while count < _ALL_ROWS and self.reach(count) > room:
            count = math.ceil(1.02 * count) + 1
        return count if count < _ALL_ROWS else None


def goal_outcome(
    goal: GoalSpec,
    test: Subset,
    thresholds: Array,
    chosen: Figures,
    whole: Figures,
    rows: int,
    guaranteed: GuaranteedChoice | None,
) -> Outcome:
    """Returns whether a choice meets the goal on the held-out rows.

    Args:
        goal: What was asked for.
        test: The held-out rows.
        thresholds: The choice, (E,).
        chosen: Its figures.
        whole: The whole network's.
        rows: How many rows there are in all.
        guaranteed: The guarantee, if one was asked for.
    """
    if guaranteed is not None:
        return _of_guarantee(guaranteed, rows)
    answered, ended = test.ends(thresholds)
    if goal.kind in ("budget_ms", "budget_share"):
        return _decide(_cost(goal, test, ended, chosen), rows)
    silent = bool(np.isnan(thresholds).all())
    if goal.kind == "max_accuracy_drop" and silent and len(test.record) >= LEAST_ROWS:
        return Outcome(met=True, reason="the whole network always answers, so nothing is lost")
    return _decide(_score(goal, test, answered, chosen, whole), rows)


def _decide(held: _Held, rows: int) -> Outcome:
    """Returns the outcome by the rule; `rows` is how many there are in all, other parts included."""
    reach, missed = held.reach(held.rows), held.over > 0
    if held.rows >= LEAST_ROWS and not missed and held.over + reach <= held.tolerance:
        return Outcome(met=True, reason=held.told)
    few = held.rows < LEAST_ROWS or not missed
    room = held.tolerance - min(0.0, held.over) if few else held.tolerance / _TIMES
    needed = held.enough(room) if few or held.over <= held.away else None
    if needed is None or (not few and reach <= room):
        return Outcome(met=None if few else False, reason=held.told)
    in_all = math.ceil(needed * rows / held.rows)
    why = "are too few to know" if few else "may show that by chance"
    known, wanted = (held.unit(float(f"{within:.2g}")) for within in (reach, room))
    more = f"+-{wanted} needs about {needed} held-out rows, {in_all} rows in all"
    reason = f"{held.told}; {held.rows} rows {why}: they measure it to +-{known}, {more}"
    return Outcome(met=None if few else False, reason=reason, rows_needed=in_all)


def _cost(goal: GoalSpec, test: Subset, ended: Array, chosen: Figures) -> _Held:
    rows = np.arange(len(test.record))
    full = test.cost[rows, test.record.last]
    milliseconds = goal.kind == "budget_ms"
    figure, unit = (chosen.cost, _MILLISECONDS) if milliseconds else (chosen.share, _PERCENT)
    dearest = max(float(full.max()), float(test.cost[rows, ended].max()))
    over = figure.value - goal.value
    return _Held(
        told=f"a run costs {unit.interval(figure)} on {len(rows)} held-out rows; the goal allows {unit(goal.value)}",
        over=0.0 if abs(over) <= 1e-9 * goal.value else over,
        towards=figure.high - figure.value,
        away=figure.value - figure.low,
        differ=0.0,
        span=(dearest - float(test.cost[:, 0].min())) / (1.0 if milliseconds else float(full.mean())),
        tolerance=_OF_BUDGET * goal.value,
        rows=len(rows),
        unit=unit,
    )


def _score(goal: GoalSpec, test: Subset, answered: Array, chosen: Figures, whole: Figures) -> _Held:
    accuracy, least = test.metric is None, goal.kind == "min_accuracy"
    figure = chosen.score if least else chosen.drop
    unit = _NUMBER if not accuracy else _PERCENT if least else _POINTS
    say = Wording("accuracy" if accuracy else "metric", "")
    scale = 1.0 if accuracy else abs(whole.score.value)
    allowed = goal.value if not least else 1 - goal.value if accuracy else math.inf
    sides = figure.high - figure.value, figure.value - figure.low
    towards, away = sides[::-1] if least else sides
    over = (goal.value - figure.value) if least else (figure.value - goal.value)
    what = ("accuracy is" if accuracy else "the metric is") if least else "the drop is"
    asked = f"the goal {'asks for' if least else 'allows'} {unit(goal.value)}"
    lost = _lost(test, answered, against_whole=not least)
    counted = len(lost) > 0 and bool(np.isin(lost, (-1, 0, 1)).all())
    return _Held(
        told=f"{what} {say.score(figure) if least else say.drop(figure)} on {len(test.record)} held-out rows; {asked}",
        over=0.0 if abs(over) <= 1e-12 else over,
        towards=0.0 if counted and not (lost < 0).any() else towards,  # then Wilson's interval is all there is
        away=away,
        differ=float((lost != 0).mean()) if counted else 0.0,
        span=scale if test.score is None else max(scale, float(np.ptp(test.score))),
        tolerance=min(_TIMES * max(allowed, _POINT * scale), _MOST_POINTS * _POINT * scale),
        rows=len(test.record),
        unit=unit,
    )


def _lost(test: Subset, answered: Array, *, against_whole: bool) -> Array:
    """Returns how much less each answer scores than the whole network's, or than 1, (N,); (0,) where rows have none."""
    if test.score is None:
        return np.zeros(0)
    rows = np.arange(len(test.record))
    best = test.score[rows, test.record.last] if against_whole else 1.0
    return np.asarray(best - test.score[rows, answered].astype(np.float64))


def _of_guarantee(guaranteed: GuaranteedChoice, rows: int) -> Outcome:
    given = guaranteed.guarantee
    risk, own = f"a risk of at most {_PERCENT(given.risk)}", f"{given.rows} rows of its own"
    if given.passed:
        return Outcome(met=True, reason=f"{risk} is shown on {own}")
    if given.rows >= guaranteed.needed:
        return Outcome(met=False, reason=f"no early exit was shown to keep {risk} on {own}")
    in_all = math.ceil(rows * guaranteed.needed / given.rows)
    more = f"at least {guaranteed.needed} are needed, {in_all} rows in all"
    return Outcome(met=None, reason=f"{own} are too few to show {risk}: {more}", rows_needed=in_all)

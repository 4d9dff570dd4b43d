"""Whether the goal was met on the rows that chose nothing: yes, no, or too few of them to know.

One rule for every goal, by a figure of these rows and the end of its 95 % interval that is nearer to a miss:

- the goal is missed where the figure misses it;
- it is met where the figure keeps it, and the interval leaves out every miss that is larger than a tolerance;
- else the rows are too few to know. So are fewer than 30, since intervals are those of large samples.

The tolerance is what makes some hundreds of rows enough; for a bound without one there is `--risk`. It is

- for a drop twice what is allowed, of which less than one point counts as one, but no more than five points;
- for a least accuracy the same, with the errors that it allows in the place of the drop;
- for another metric the same, a point being a hundredth of what the whole network reaches; for a least worth five;
- for a budget a quarter of it. Costs of segments are taken as exact.

So a choice that misses by more than the tolerance passes for one that meets the goal by one draw of the rows in forty
at most. A bootstrap takes what rows do not show for impossible. So the interval's end is no nearer to the figure than
Wilson's (1927), for the share of rows that differ, would be, with values as far apart as they can be. What is the whole
network by definition loses nothing, whatever rows show. A guarantee is its own proof: it was shown, or it was not, or
no result on so few rows would have shown it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from eetoolkit.tuning.choice import Figures
from eetoolkit.tuning.figures import Interval, wilson
from eetoolkit.tuning.measure import Part
from eetoolkit.tuning.promises import Promise
from eetoolkit.tuning.record import Array
from eetoolkit.tuning.wish import Wish

LEAST_ROWS = 30
"""Held-out rows, without which nothing is called known."""
_TIMES = 2.0  # what a goal allows: the tolerance
_POINT = 0.01  # of the scale of worth
_MOST_POINTS = 5
_OF_BUDGET = 0.25
_ALL_ROWS = 10**9


@dataclass(frozen=True)
class Outcome:
    """Whether a goal was met on rows that chose nothing.

    Attributes:
        met: None: these rows are too few to know.
        reason: The figure that tells, what was asked for, and what is missing.
        rows_needed: About how many rows in all would do; None where more would not tell more.
    """

    met: bool | None
    reason: str
    rows_needed: int | None = None

    @property
    def undecided(self) -> str | None:
        """Why nothing can be said of a choice that was to meet the goal; None where it does."""
        if self.met is None:
            return "the held-out rows are too few to know whether the goal is met"
        return None if self.met else "the goal is missed on the held-out rows"


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
        spell: Writes a figure.
    """

    told: str
    over: float
    towards: float
    away: float
    differ: float
    span: float
    tolerance: float
    rows: int
    spell: Callable[[float], str]

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


def judge_goal(
    wish: Wish, test: Part, thresholds: Array, chosen: Figures, whole: Figures, rows: int, promised: Promise | None
) -> Outcome:
    """Returns whether a choice meets the goal on the test part.

    Args:
        wish: What was asked for.
        test: The test part.
        thresholds: The choice, (E,).
        chosen: Its figures.
        whole: The whole network's.
        rows: How many rows there are in all.
        promised: The guarantee, if one was asked for.
    """
    if promised is not None:
        return _of_guarantee(promised, rows)
    answered, ended = test.ends(thresholds)
    if wish.kind in ("budget_ms", "budget_share"):
        return _judge(_cost(wish, test, ended, chosen), rows)
    silent = test.fallback == "last" and bool(np.isnan(thresholds).all())
    if wish.kind == "max_accuracy_drop" and silent and len(test.record) >= LEAST_ROWS:
        return Outcome(met=True, reason="the whole network always answers, which loses nothing against itself")
    return _judge(_worth(wish, test, answered, chosen, whole), rows)


def _judge(held: _Held, rows: int) -> Outcome:
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
    told, wanted = (held.spell(float(f"{within:.2g}")) for within in (reach, room))
    takes = f"+-{wanted} takes about {needed} of them, {in_all} rows in all"
    reason = f"{held.told}; {held.rows} rows {why}: they tell it to +-{told}, {takes}"
    return Outcome(met=None if few else False, reason=reason, rows_needed=in_all)


def _cost(wish: Wish, test: Part, ended: Array, chosen: Figures) -> _Held:
    rows = np.arange(len(test.record))
    full = test.cost[rows, test.record.last]
    milliseconds = wish.kind == "budget_ms"
    figure, spell = (chosen.cost, _milliseconds) if milliseconds else (chosen.share, _percent)
    dearest = max(float(full.max()), float(test.cost[rows, ended].max()))
    over = figure.value - wish.value
    return _Held(
        told=f"a run costs {_told(figure, spell, len(rows))}, at most {spell(wish.value)} was asked for",
        over=0.0 if abs(over) <= 1e-9 * wish.value else over,
        towards=figure.high - figure.value,
        away=figure.value - figure.low,
        differ=0.0,
        span=(dearest - float(test.cost[:, 0].min())) / (1.0 if milliseconds else float(full.mean())),
        tolerance=_OF_BUDGET * wish.value,
        rows=len(rows),
        spell=spell,
    )


def _worth(wish: Wish, test: Part, answered: Array, chosen: Figures, whole: Figures) -> _Held:
    accuracy, least = test.metric is None, wish.kind == "min_accuracy"
    figure, spell = chosen.worth if least else chosen.drop, _percent if accuracy else _number
    scale = 1.0 if accuracy else abs(whole.worth.value)
    allowed = wish.value if not least else 1 - wish.value if accuracy else math.inf
    sides = figure.high - figure.value, figure.value - figure.low
    towards, away = sides[::-1] if least else sides
    over = (wish.value - figure.value) if least else (figure.value - wish.value)
    what = ("accuracy is" if accuracy else "the metric is") if least else "the drop is"
    asked = f"at {'least' if least else 'most'} {spell(wish.value)} was asked for"
    lost = _lost(test, answered, against_whole=not least)
    counted = len(lost) > 0 and bool(np.isin(lost, (-1, 0, 1)).all())
    return _Held(
        told=f"{what} {_told(figure, spell, len(test.record))}, {asked}",
        over=0.0 if abs(over) <= 1e-12 else over,
        towards=0.0 if counted and not (lost < 0).any() else towards,  # then Wilson's interval is all there is
        away=away,
        differ=float((lost != 0).mean()) if counted else 0.0,
        span=scale if test.worth is None else max(scale, float(np.ptp(test.worth))),
        tolerance=min(_TIMES * max(allowed, _POINT * scale), _MOST_POINTS * _POINT * scale),
        rows=len(test.record),
        spell=spell,
    )


def _lost(test: Part, answered: Array, *, against_whole: bool) -> Array:
    """Returns what each answer is worth less than the whole network's, or than 1, (N,); (0,) where rows have none."""
    if test.worth is None:
        return np.zeros(0)
    rows = np.arange(len(test.record))
    best = test.worth[rows, test.record.last] if against_whole else 1.0
    return np.asarray(best - test.worth[rows, answered].astype(np.float64))


def _of_guarantee(promised: Promise, rows: int) -> Outcome:
    given = promised.guarantee
    told = f"a risk of at most {_percent(given.risk)} was asked for"
    if given.passed:
        return Outcome(met=True, reason=f"{told}, and shown on {given.rows} rows of its own")
    if given.rows >= promised.needed:
        return Outcome(met=False, reason=f"{told}; no early exit was shown to keep it, on {given.rows} rows of its own")
    in_all = math.ceil(rows * promised.needed / given.rows)
    few = f"{given.rows} rows can show no guarantee, it takes {promised.needed} at least, {in_all} rows in all"
    return Outcome(met=None, reason=f"{told}; {few}", rows_needed=in_all)


def _told(figure: Interval, spell: Callable[[float], str], rows: int) -> str:
    return f"{spell(figure.value)} [{spell(figure.low)}, {spell(figure.high)}] on {rows} held-out rows"


def _percent(share: float) -> str:
    return f"{100 * share:.4g}%"


def _milliseconds(value: float) -> str:
    return f"{value:.4g} ms"


def _number(value: float) -> str:
    return f"{value:.4g}"

"""Whether the goal was met on the rows that chose nothing: yes, no, or too few of them to know.

A goal is missed where the figure of these rows misses it. It is met where their figure keeps it and is known well
enough, and else they are too few to know. Well enough means: all of the 95 % interval keeps the goal; or half of it is
no wider than

- for a drop, twice what is allowed, and five points; an allowed drop of 0 counts as one point;
- for a least accuracy, the same with the errors that it allows in the place of the drop;
- for a least worth by a metric, a twentieth of the whole network's; for a drop of it, twice what is allowed;
- for a budget, a quarter of it.

So what is called met is, but for one case in forty, missed by twice the goal's own size at most. An interval counts at
least as the one of an event that none of so many rows shows (Wilson 1927), since what few rows do not show may still
be. A guarantee is met where it was shown, and by fewer rows than it takes at all nothing can be known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from eetoolkit.tuning.choice import Figures
from eetoolkit.tuning.figures import Z95, Interval, rows_needed, wilson
from eetoolkit.tuning.measure import Part
from eetoolkit.tuning.promises import Promise
from eetoolkit.tuning.record import Array
from eetoolkit.tuning.wish import Wish

_TIMES = 2.0  # what a goal allows: half of the interval may be as wide
_MOST = 0.05  # and no wider, as a share of all rows
_LEAST = 0.01  # what a goal that allows nothing counts as
_OF_BUDGET = 0.25


@dataclass(frozen=True)
class Outcome:
    """Whether the goal was met on rows that chose nothing, and by which figures; None: these are too few to know."""

    met: bool | None
    reason: str


@dataclass(frozen=True, eq=False)
class _Held:
    """A figure beside what was asked of it.

    Attributes:
        name: What it is, with its verb.
        figure: The figure.
        bound: What was asked for.
        least: Whether the figure must be at least that; else at most.
        within: How wide half of its interval may be.
        span: How far apart the values of two rows can lie.
        values: Each row's, (N,); None where only a whole of rows has one.
        spell: Writes it.
    """

    name: str
    figure: Interval
    bound: float
    least: bool
    within: float
    span: float
    values: Array | None
    spell: Callable[[float], str]


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
    accuracy = test.metric is None
    held = _cost(wish, test, ended, chosen) if wish.kind.startswith("budget") else None
    held = held or _worth(wish, test, answered, chosen, abs(whole.worth.value), accuracy=accuracy)
    count, figure = len(test.record), held.figure
    sign = -1.0 if held.least else 1.0
    over = sign * (figure.value - held.bound)
    asked = f"{'at least' if held.least else 'at most'} {held.spell(held.bound)} was asked for"
    told = f"{held.name} {_spell(figure, held.spell)} on {count} held-out rows, {asked}"
    half = max((figure.high - figure.low) / 2, held.span * wilson(0, count).high)
    if figure.low == figure.high == 0 and not held.least:  # by definition: it is the whole network
        half = 0.0
    if half <= held.within or over + half <= 0:
        return Outcome(met=over <= 1e-9 * abs(held.bound), reason=told)
    needed = _needed(held, half, count)
    few = (
        f"{count} rows tell it to +-{held.spell(half)} only; +-{held.spell(held.within)} takes about {needed} of them, "
        f"{math.ceil(needed * rows / count)} rows in all"
    )
    return Outcome(met=False if over > 1e-9 * abs(held.bound) else None, reason=f"{told}; {few}")


def _cost(wish: Wish, test: Part, ended: Array, chosen: Figures) -> _Held:
    rows = np.arange(len(test.record))
    full = test.cost[rows, test.record.last]
    unit = 1.0 if wish.kind == "budget_ms" else float(full.mean())
    return _Held(
        name="a run costs",
        figure=chosen.cost if wish.kind == "budget_ms" else chosen.share,
        bound=wish.value,
        least=False,
        within=_OF_BUDGET * wish.value,
        span=float(full.max() - test.cost[:, 0].min()) / unit,
        values=test.cost[rows, ended] / unit,
        spell=_milliseconds if wish.kind == "budget_ms" else _percent,
    )


def _worth(wish: Wish, test: Part, answered: Array, chosen: Figures, whole: float, *, accuracy: bool) -> _Held:
    rows, least = np.arange(len(test.record)), wish.kind == "min_accuracy"
    values = None if test.worth is None else test.worth[rows, answered]
    allowed = 1 - wish.value if least else wish.value
    within = _TIMES * (allowed if allowed > 0 else _LEAST)
    if accuracy:
        within = min(within, _MOST)
    elif least:
        within = _MOST * whole
    return _Held(
        name=("accuracy is" if accuracy else "the metric is") if least else "the drop is",
        figure=chosen.worth if least else chosen.drop,
        bound=wish.value,
        least=least,
        within=within,
        span=1.0 if accuracy else whole if test.worth is None else float(np.ptp(test.worth)),
        values=values if least else test.drops(answered),
        spell=_percent if accuracy else _number,
    )


def _needed(held: _Held, half: float, count: int) -> int:
    """Returns how many test rows would tell a figure well enough."""
    within = max(held.within, 1e-12)
    if held.values is None:
        return math.ceil(count * (half / within) ** 2)
    unseen = math.ceil(Z95**2 * max(0.0, held.span / within - 1))  # where Wilson's interval of none is so wide
    return max(unseen, rows_needed(held.values, within) if held.values.any() else 0)


def _of_guarantee(promised: Promise, rows: int) -> Outcome:
    given = promised.guarantee
    if given.passed:
        return Outcome(met=True, reason=f"a risk of at most {given.risk:.2%} was shown on {given.rows} rows")
    if given.rows >= promised.needed:
        return Outcome(met=False, reason=f"no early exit was shown to keep the risk to {given.risk:.2%} on {given.rows} rows")
    share = promised.needed / given.rows
    return Outcome(
        met=None,
        reason=f"{given.rows} rows for the guarantee can show nothing: it takes {promised.needed} at least, "
        f"{math.ceil(rows * share)} rows in all",
    )


def _spell(figure: Interval, spell: Callable[[float], str]) -> str:
    return f"{spell(figure.value)} [{spell(figure.low)}, {spell(figure.high)}]"


def _percent(share: float) -> str:
    return f"{share:.2%}"


def _milliseconds(value: float) -> str:
    return f"{value:.4g} ms"


def _number(value: float) -> str:
    return f"{value:.4g}"

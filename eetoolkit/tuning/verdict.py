"""The verdict: whether each exit pays, and whether early exit as such does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from eetoolkit.tuning.evaluate import Subset
from eetoolkit.tuning.intervals import Interval, difference_of
from eetoolkit.tuning.objective import score_at
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.printable import printable


class ExitVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether one exit pays. Costs are in the unit of the report, for a run in the mean.

    Attributes:
        exit: Its name.
        reached: Which share of the rows comes to it.
        rate: Which share of these leaves there.
        saved: What runs would cost more without it, all else equal.
        drop: How much more answers would score without it, all else equal.
        behind: What a row that comes to it and stays costs from there on.
        overhead: What a visit of it costs: the cut, and the head where that is known.
        break_even: The rate at which it saves what it costs; None where nothing lies behind it.
        affordable: The most that a visit may cost for the exit to pay.
        pays: Whether it saves more than it costs, on the tuning rows; the other figures are of the held-out rows.
    """

    exit: str
    reached: float
    rate: float
    saved: Interval
    drop: float
    behind: float
    overhead: float
    break_even: float | None
    affordable: float
    pays: bool


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether early exit pays here.

    Attributes:
        exits: One for every exit that tuning may let fire.
        best_static: The cheapest of always exiting at one exit, and the whole network, that is as good as was asked.
        static_exit: Its exit; None: the whole network.
        static_cost: What that costs on the held-out rows.
        pays: Whether thresholds are cheaper than that; else it is the choice.
        undecided: Why nothing can be said, if so: the goal is missed, or rows are too few.
    """

    exits: tuple[ExitVerdict, ...]
    best_static: str
    static_exit: str | None
    static_cost: float
    pays: bool
    undecided: str | None = None

    def __str__(self) -> str:
        if self.undecided is not None:
            return f"whether early exit pays is unknown: {self.undecided}"
        if self.pays:
            lost = [verdict.exit for verdict in self.exits if not verdict.pays]
            does = "does" if len(lost) == 1 else "do"
            return "early exit pays here" + (printable(f"; {' and '.join(lost)} {does} not pay") if lost else "")
        return f"early exit does not pay here: {self._simpler}"

    @property
    def _simpler(self) -> str:
        """What is as good without early exit."""
        if self.static_exit is None:
            return "the whole network meets the goal and costs no more"
        exit_ = printable(self.static_exit)
        removes = f"`eetoolkit truncate BUNDLE --at {exit_}` removes what lies behind it"
        return f"always answering at {exit_} meets the goal and costs no more; {removes}"


@dataclass(frozen=True, eq=False)
class Effect:
    """What an exit does under some thresholds, against the same without it.

    Attributes:
        reached: Which rows come to it, bool (N,).
        left: Which leave there, bool (N,).
        saved: What each row's run costs less by it, (N,).
        behind: What a row costs from there on without it, (N,); means nothing where it is not reached.
        score: Of all answers.
        score_without: The same without it.
    """

    reached: Array
    left: Array
    saved: Array
    behind: Array
    score: float
    score_without: float

    @property
    def share(self) -> float:
        """Which share of the rows comes to it."""
        return float(self.reached.mean())

    def gain(self, overhead: float) -> float:
        """Returns what a run costs less by it in the mean, if a visit of it costs `overhead`."""
        return float(self.saved.mean()) - self.share * overhead


def effect_of(subset: Subset, thresholds: Array, exit_: int) -> Effect:
    """Returns what one exit does under thresholds (E,)."""
    record, rows = subset.record, np.arange(len(subset.record))
    answered, ended = subset.ends(thresholds)
    without = thresholds.copy()
    without[exit_] = np.nan
    other, longer = subset.ends(without)
    here = record.exit == exit_
    first = np.where(here.any(axis=1), here.argmax(axis=1), record.exit.shape[1])
    reached = first <= ended
    return Effect(
        reached=reached,
        left=reached & (record.exit[rows, ended] == exit_) & (ended != record.last),
        saved=subset.cost[rows, longer] - subset.cost[rows, ended],
        behind=subset.cost[rows, longer] - subset.cost[rows, np.minimum(first, record.last)],
        score=_score(subset, answered),
        score_without=_score(subset, other),
    )


def exit_verdicts(
    test: Subset, tuned: Subset, thresholds: Array, exits: Sequence[int], overheads: Array
) -> tuple[ExitVerdict, ...]:
    """Returns the verdict on each of `exits` under thresholds (E,), each against the same without it.

    Args:
        test: The held-out rows, of which the figures are.
        tuned: The tuning rows, which decide whether an exit pays.
        thresholds: The choice.
        exits: Which exits.
        overheads: What a visit of each exit costs, (E,).
    """
    found = []
    for e in exits:
        overhead, effect = float(overheads[e]), effect_of(test, thresholds, e)
        saved, reached = difference_of(effect.saved, test.seed), effect.reached
        behind = float(effect.behind[reached].mean()) if reached.any() else 0.0
        found.append(
            ExitVerdict(
                exit=test.record.exits[e],
                reached=effect.share,
                rate=float(effect.left.sum() / reached.sum()) if reached.any() else 0.0,
                saved=saved,
                drop=effect.score_without - effect.score,
                behind=behind,
                overhead=overhead,
                break_even=min(1.0, overhead / behind) if behind > 0 else None,
                affordable=saved.value / effect.share if effect.share else 0.0,
                pays=effect_of(tuned, thresholds, e).gain(overhead) > 0,
            )
        )
    return tuple(found)


def _score(subset: Subset, answered: Array) -> float:
    return score_at(subset.record, subset.score, subset.metric, answered)

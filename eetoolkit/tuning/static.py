"""Choices without early exit: always to answer at one exit. Where one is as good and as cheap, it is the choice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eetoolkit.tuning.evaluate import Subset
from eetoolkit.tuning.goal import GoalSpec
from eetoolkit.tuning.objective import Objective
from eetoolkit.tuning.safety_margin import keeps
from eetoolkit.tuning.search import Constraint
from eetoolkit_runtime.arrays import Array

WHOLE = "whole network"
AS_GOOD = 1.01
"""A static choice of at most so many times the cost is as good: simpler wins."""


@dataclass(frozen=True, eq=False)
class Static:
    """A static choice.

    Attributes:
        exit: The one that always answers; None: the whole network.
        thresholds: With which it does, (E,).
        wins: Whether it costs no more than the thresholds that it is held against.
    """

    exit: str | None
    thresholds: Array
    wins: bool

    @property
    def name(self) -> str:
        """What reports call it."""
        return WHOLE if self.exit is None else f"always {self.exit}"


def best_static(
    goal: GoalSpec, constraint: Constraint, tuned: Subset, objective: Objective, thresholds: Array
) -> Static:
    """Returns the cheapest static choice that is as good as asked on the tuning rows; if none is, the whole network.

    Exits that may not fire are left out.

    Args:
        goal: What was asked for.
        constraint: The same in terms of the tuning rows.
        tuned: The tuning rows.
        objective: Of the search on it.
        thresholds: What the search chose, (E,), which it is held against.
    """
    whole = np.full(len(thresholds), np.nan)
    choices: dict[str | None, Array] = {}
    for e in objective.exits:
        choices[tuned.record.exits[e]] = np.where(np.arange(len(whole)) == e, objective.choices.thresholds[e][0], whole)
    choices[None] = whole
    costs = {
        exit_: tuned.means(tuned.ends(limits))[1]
        for exit_, limits in choices.items()
        if _is_as_good(goal, constraint, tuned, limits, thresholds)
    }
    if not costs:
        return Static(None, whole, wins=False)
    best = min(costs, key=costs.__getitem__)
    return Static(best, choices[best], wins=costs[best] <= AS_GOOD * tuned.means(tuned.ends(thresholds))[1])


def _is_as_good(goal: GoalSpec, constraint: Constraint, tuned: Subset, limits: Array, thresholds: Array) -> bool:
    """Whether a static choice keeps the goal, and within a budget is no worse than the thresholds of the search."""
    ends, searched = tuned.ends(limits), tuned.ends(thresholds)
    if goal.kind == "risk":  # nothing is guaranteed of others than the thresholds that it was shown of
        same = all(np.array_equal(own, other) for own, other in zip(ends, searched, strict=True))
        return same or np.array_equal(ends[0], tuned.record.last)
    score, cost = tuned.means(ends)
    return keeps_goal(goal, constraint, tuned, ends[0], (score, cost / tuned.full_cost), tuned.means(searched)[0])


def keeps_goal(
    goal: GoalSpec, constraint: Constraint, tuned: Subset, answered: Array, point: tuple[float, float], least: float
) -> bool:
    """Whether answers that no search has found keep the goal, and within a budget are good enough.

    Args:
        goal: What was asked for; a risk counts as a drop.
        constraint: The same in terms of the tuning rows.
        tuned: The tuning rows.
        answered: The visits that answer, (N,).
        point: Their score and cost, this as a share of the whole network's.
        least: What they must score within a budget.
    """
    if constraint.least_score is not None and tuned.score is not None:
        return keeps(tuned, answered, goal.value, drop=goal.kind != "min_accuracy")
    score, share = point
    return bool(constraint.met(np.array(score), np.array(share))) and (
        constraint.least_score is not None or score >= least
    )

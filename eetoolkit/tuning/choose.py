"""Choosing thresholds: a search on the tuning rows with a safety margin, held against choices without early exit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from eetoolkit.tuning.baselines import baselines
from eetoolkit.tuning.costs import Costs
from eetoolkit.tuning.dataset import TuningData
from eetoolkit.tuning.evaluate import Subset, objective_of
from eetoolkit.tuning.goal import GoalSpec
from eetoolkit.tuning.guarantee import GuaranteedChoice
from eetoolkit.tuning.manifest import may_fire
from eetoolkit.tuning.objective import Metric, Objective, scores_of, settings_of
from eetoolkit.tuning.record import Record
from eetoolkit.tuning.safety_margin import budget_margin, rows_to_show, safety_margin
from eetoolkit.tuning.search import Constraint, Search
from eetoolkit.tuning.static import AS_GOOD, Static, best_static
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.plan.types import Manifest


@dataclass(frozen=True, eq=False)
class Task:
    """What is tuned, for what, and by what.

    Attributes:
        goal: What was asked for.
        plan: The bundle's.
        data: The rows and their parts.
        costs: What runs cost.
        metric: What counts; None: accuracy.
        seed: Of all draws.
    """

    goal: GoalSpec
    plan: Manifest
    data: TuningData
    costs: Costs
    metric: Metric | None
    seed: int

    def rows_of(self, record: Record) -> Subset:
        """Returns all rows of a record with their scores and costs."""
        score, cost = scores_of(record, self.metric), self.costs.of_visits(record)
        return Subset(record, score, cost, self.metric, self.plan.fallback, self.seed)

    @cached_property
    def rows(self) -> Subset:
        """All rows."""
        return self.rows_of(self.data.record)

    @cached_property
    def tuned(self) -> Subset:
        """The tuning rows."""
        return self.rows.take(self.data.tune)

    @cached_property
    def test(self) -> Subset:
        """The held-out rows."""
        return self.rows.take(self.data.test)

    @cached_property
    def full(self) -> tuple[float, float]:
        """Score and cost of the whole network on the tuning rows."""
        return self.tuned.means((self.tuned.record.last, self.tuned.record.last))

    @property
    def constraint(self) -> Constraint:
        """What the goal asks of the tuning rows."""
        return self.goal.constraint(self.full)

    def check_met(self, constraint: Constraint, reached: tuple[float, float]) -> None:
        """Refuses a choice of this score and cost, a share of the whole network's, that misses the goal.

        Raises:
            TuneError: Says the best that can be met.
        """
        self.goal.check_met(constraint, reached, self.full[1], self.costs)


@dataclass(frozen=True, eq=False)
class Choice:
    """What was chosen, and what else was found on the way.

    Attributes:
        thresholds: The choice, (E,).
        static: The best choice without early exit, which the choice is where that wins.
        margin: How much stricter than the goal the search was; None where no margin is measured.
        passed: Whether an early exit passed the guarantee, where one was asked for.
        unshown: Whether the whole network is the choice only because the tuning rows are too few to show that an early
            exit keeps the goal.
        rows_to_show: About how many rows in all would show that one does; None: no number, 0: a goal without a margin.
        rivals: What other rules choose, by name.
        search: The search, which has met a frontier.
        objective: What it searched.
    """

    thresholds: Array
    static: Static
    margin: float | None
    passed: bool
    unshown: bool
    rows_to_show: int | None
    rivals: tuple[tuple[str, Array], ...]
    search: Search
    objective: Objective


def choose(task: Task, guaranteed: GuaranteedChoice | None) -> Choice:
    """Returns the choice for a goal.

    Args:
        task: What is tuned.
        guaranteed: With a guarantee, what it was shown of.

    Raises:
        TuneError: The goal cannot be met; it says the best that can.
    """
    constraint, tuned = task.constraint, task.tuned
    margin = margin_of(task.goal, constraint, task.plan, tuned)
    rivals = list(baselines(tuned, np.array(may_fire(task.plan)), constraint))
    others = np.array([thresholds for _, thresholds in rivals])
    objective = objective_of(task.plan, tuned, others)
    search = Search(objective)
    if guaranteed is None:
        thresholds, reached = _best(search, objective, constraint.stricter(margin or 0.0), others)
        task.check_met(constraint, reached)
    else:
        thresholds = guaranteed.thresholds
    static = best_static(task.goal, constraint, tuned, objective, thresholds)
    alone = static.wins and static.exit is None and bool(margin)
    keeps, needed = _rows_to_show(task, search, objective)
    greedy = objective.choices.spell(Search(objective).greedy(constraint))
    return Choice(
        thresholds=static.thresholds if static.wins else thresholds,
        static=static,
        margin=margin,
        passed=guaranteed is None or guaranteed.guarantee.passed,
        unshown=alone and keeps and (needed is None or sum(task.data.rows.values()) < needed),
        rows_to_show=needed,
        rivals=(*rivals, ("greedy coordinate descent", greedy)),
        search=search,
        objective=objective,
    )


def margin_of(goal: GoalSpec, constraint: Constraint, plan: Manifest, tuned: Subset) -> float | None:
    """Returns how much stricter than the goal to search, for held-out rows to meet it; None: not measured.

    Args:
        goal: What was asked for.
        constraint: The same in terms of the tuning rows.
        plan: The bundle's.
        tuned: The tuning rows.
    """
    if constraint.most_cost is not None:
        return budget_margin(tuned, constraint.most_cost)
    if tuned.score is None or goal.kind == "risk":
        return None
    return safety_margin(plan, tuned, goal.value, drop=goal.kind == "max_accuracy_drop")


def _rows_to_show(task: Task, search: Search, objective: Objective) -> tuple[bool, int | None]:
    """Returns whether an early exit keeps the goal on the tuning rows, and how many rows in all would show that.

    None: no number of rows would; 0: the goal takes no safety margin.
    """
    tuned, constraint = task.tuned, task.constraint
    if constraint.least_score is None or tuned.score is None or task.goal.kind == "risk":
        return False, 0
    points = search.frontier()
    best = constraint.best(points.score, points.cost)
    answered, _ = tuned.ends(objective.choices.spell(points.settings[best]))
    needed = rows_to_show(tuned, answered, task.full[0] - constraint.least_score)
    in_all = None if needed is None else math.ceil(needed * sum(task.data.rows.values()) / len(answered))
    return bool(points.cost[best] * AS_GOOD < 1), in_all


def _best(
    search: Search, objective: Objective, constraint: Constraint, others: Array
) -> tuple[Array, tuple[float, float]]:
    """Returns the best thresholds (E,) for a constraint, with their score and cost on the tuning rows.

    The search starts from thresholds of `others` (S, E) too.
    """
    if constraint.least_score == np.inf:
        return np.full(len(objective.choices.never), np.nan), objective.full
    setting = search.best(constraint, settings_of(objective.record, objective.choices, others))
    return objective.choices.spell(setting), objective.at(setting)

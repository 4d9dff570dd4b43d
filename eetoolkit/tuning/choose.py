"""Choosing thresholds: a search on the tuning rows with a safety margin, held against choices without early exit."""

from __future__ import annotations

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
from eetoolkit.tuning.safety_margin import budget_margin, safety_margin
from eetoolkit.tuning.search import Constraint, Search
from eetoolkit.tuning.static import Static, best_static
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


@dataclass(frozen=True, eq=False)
class Choice:
    """What was chosen, and what else was found on the way.

    Attributes:
        thresholds: The choice, (E,).
        static: The best choice without early exit, which the choice is where that wins.
        margin: How much stricter than the goal the search was; None where no margin is measured.
        passed: Whether an early exit passed the guarantee, where one was asked for.
        rivals: What other rules choose, by name.
        search: The search, which has met a frontier.
        objective: What it searched.
    """

    thresholds: Array
    static: Static
    margin: float | None
    passed: bool
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
    margin = _margin(task)
    rivals = list(baselines(tuned, np.array(may_fire(task.plan)), constraint))
    others = np.array([thresholds for _, thresholds in rivals])
    objective = objective_of(task.plan, tuned, others)
    search = Search(objective)
    if guaranteed is None:
        thresholds, reached = _best(search, objective, constraint.stricter(margin or 0.0), others)
        task.goal.check_met(constraint, reached, task.full[1], task.costs)
    else:
        thresholds = guaranteed.thresholds
    static = best_static(task.goal, constraint, tuned, objective, thresholds)
    greedy = objective.choices.spell(Search(objective).greedy(constraint))
    return Choice(
        thresholds=static.thresholds if static.wins else thresholds,
        static=static,
        margin=margin,
        passed=guaranteed is None or guaranteed.guarantee.passed,
        rivals=(*rivals, ("greedy coordinate descent", greedy)),
        search=search,
        objective=objective,
    )


def _margin(task: Task) -> float | None:
    """Returns how much stricter than the goal to search, for held-out rows to meet it; None: not measured."""
    most_cost, tuned = task.constraint.most_cost, task.tuned
    if most_cost is not None:
        return budget_margin(tuned, most_cost)
    if tuned.score is None or task.goal.kind == "risk":
        return None
    return safety_margin(task.plan, tuned, task.goal.value, drop=task.goal.kind == "max_accuracy_drop")


def _best(
    search: Search, objective: Objective, constraint: Constraint, others: Array
) -> tuple[Array, tuple[float, float]]:
    """Returns the best thresholds (E,) for a constraint, with their score and cost on the tuning rows.

    The search starts from thresholds of `others` (S, E) too.

    The whole network, all exits disabled, is none of the search's settings where the fallback is `most_confident`:
    there exits that never fire may still answer.
    """
    if constraint.least_score == np.inf:
        return np.full(len(objective.choices.never), np.nan), objective.full
    setting = search.best(constraint, settings_of(objective.record, objective.choices, others))
    reached = objective.full, objective.at(setting)
    if constraint.best(*np.array(reached).T) == 0:
        return np.full(len(setting), np.nan), reached[0]
    return objective.choices.spell(setting), reached[1]

"""The goal: what the user asks for, and the constraint of the search that it becomes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from eetoolkit.tuning.costs import Costs
from eetoolkit.tuning.search import Constraint
from eetoolkit_runtime.errors import TuneError

DEFAULT_DROP = 0.01
"""The `max_accuracy_drop` where no goal is given."""


@dataclass(frozen=True)
class GoalSpec:
    """A goal and its number.

    Attributes:
        kind: What is asked for.
        value: How much.
        accuracy: Whether answers score accuracy, a share of the rows; else a metric of any range.
    """

    kind: Literal["max_accuracy_drop", "min_accuracy", "budget_ms", "budget_share", "risk"]
    value: float
    accuracy: bool = True

    @property
    def asked(self) -> str:
        """How it was asked for, in Python and in a shell."""
        return f"{self.kind}={self.value:g} (--{self.kind.replace('_', '-')} {self.value:g})"

    def __str__(self) -> str:
        percent = f"{100 * self.value:g}%"
        match self.kind:
            case "max_accuracy_drop" if self.accuracy:
                points = f"{100 * self.value:g} point" + ("" if self.value == 0.01 else "s")
                return f"least cost at a drop of at most {points} below the last exit"
            case "max_accuracy_drop":
                return f"least cost at a drop of at most {self.value:g} below the last exit"
            case "min_accuracy":
                return f"least cost at {percent if self.accuracy else f'{self.value:g}'} or better"
            case "budget_ms":
                return f"best answers within {self.value:g} ms a run, in the mean"
            case "budget_share":
                return f"best answers within {percent} of the whole network's cost, in the mean"
            case "risk":
                return f"least cost at a risk of at most {percent}"

    def check_costs(self, *, latencies: bool) -> None:
        """Refuses milliseconds where no latencies are known, before anything is run.

        Raises:
            TuneError: What to pass.
        """
        if self.kind == "budget_ms" and not latencies:
            raise TuneError(
                f"{self.asked} needs latencies, and there is no profile here; pass profile=FILE (--profile FILE), "
                "or budget_share=SHARE (--budget-share SHARE)"
            )

    def constraint(self, whole: tuple[float, float]) -> Constraint:
        """Returns what the search must keep on the tuning rows, where the whole network has this score and cost."""
        score, cost = whole
        match self.kind:
            case "min_accuracy":
                return Constraint(least_score=self.value)
            case "budget_ms":
                return Constraint(most_cost=self.value / cost)
            case "budget_share":
                return Constraint(most_cost=self.value)
            case _:
                return Constraint(least_score=score - self.value)

    def check_met(self, constraint: Constraint, found: tuple[float, float], full_cost: float, costs: Costs) -> None:
        """Refuses a choice that misses the goal.

        Args:
            constraint: What `constraint` returned.
            found: The choice's score, and its cost as a share of the whole network's.
            full_cost: That, in the unit of `costs`.
            costs: Names the unit.

        Raises:
            TuneError: Says the best that can be met.
        """
        score, share = found
        if constraint.met(np.array(score), np.array(share)):
            return
        if constraint.least_score is not None:
            raise TuneError(
                f"{self.asked} cannot be met: the best thresholds reach {score:.4g} on the tuning rows, "
                f"at {share:.3g} of the whole network's cost"
            )
        raise TuneError(
            f"{self.asked} cannot be met: the cheapest thresholds cost {share:.3g} of the whole network, "
            f"{share * full_cost:.4g} {costs.unit}, and reach {score:.4g}"
        )


def choose_goal(*, accuracy: bool, **goals: float | None) -> GoalSpec:
    """Returns the one goal that is given; without any, the default.

    Args:
        accuracy: Whether accuracy is what counts, a share of the rows; else a metric of any range.
        goals: By name, None where not given.

    Raises:
        TuneError: Several, no number, or one outside its range.
    """
    given = [GoalSpec(name, value, accuracy) for name, value in goals.items() if value is not None]  # type: ignore[arg-type] # the names are its kinds
    if len(given) > 1:
        raise TuneError(f"one goal at a time: got {' and '.join(goal.asked for goal in given)}")
    goal = given[0] if given else GoalSpec("max_accuracy_drop", DEFAULT_DROP, accuracy)
    shares = ("budget_share", "risk", *(("max_accuracy_drop", "min_accuracy") if accuracy else ()))
    most = 1 if goal.kind in shares else np.inf
    least = 0 if accuracy or goal.kind != "min_accuracy" else -np.inf
    if not least <= goal.value <= most or np.isinf(goal.value):
        finite = "a number from 0" if least == 0 else "a finite number"
        expected = finite if most == np.inf else _share(goal.value)
        raise TuneError(f"{goal.asked}: expected {expected}")
    return goal


def _share(given: float) -> str:
    """Returns what is expected where a share is, by what a percentage would be as one."""
    example = f"{given / 100:g} for {given:g} per cent" if 1 < given <= 100 else "0.01 for one per cent"
    return f"a share from 0 to 1, such as {example}"

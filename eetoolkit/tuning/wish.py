"""What the user asks for, in the user's terms and in those of the search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from eetoolkit.tuning.costs import Costs
from eetoolkit.tuning.search import Goal
from eetoolkit_runtime.errors import TuneError

DEFAULT_DROP = 0.01
"""The `max_accuracy_drop` where no goal is given."""


@dataclass(frozen=True)
class Wish:
    """A goal and its number."""

    kind: Literal["max_accuracy_drop", "min_accuracy", "budget_ms", "budget_share", "risk"]
    value: float

    def __str__(self) -> str:
        match self.kind:
            case "max_accuracy_drop":
                return f"least cost at a drop of at most {self.value:g} against the last exit"
            case "min_accuracy":
                return f"least cost at {self.value:g} or better"
            case "budget_ms":
                return f"best answers within {self.value:g} ms a run in the mean"
            case "budget_share":
                return f"best answers within {self.value:g} of the whole network's cost in the mean"
            case "risk":
                return f"least cost at a risk of at most {self.value:g}"

    def goal(self, whole: tuple[float, float], costs: Costs) -> Goal:
        """Returns the goal in terms of the tune part, where the whole network has this worth and cost.

        Raises:
            TuneError: Milliseconds are asked for and costs are none.
        """
        worth, cost = whole
        if self.kind == "budget_ms" and costs.unit != "ms":
            raise TuneError(
                f"budget_ms needs latencies, and costs are {costs.unit} here; pass a profile, or budget_share"
            )
        match self.kind:
            case "min_accuracy":
                return Goal(least_worth=self.value)
            case "budget_ms":
                return Goal(most_cost=self.value / cost)
            case "budget_share":
                return Goal(most_cost=self.value)
            case _:
                return Goal(least_worth=worth - self.value)

    def check_met(self, goal: Goal, found: tuple[float, float], full_cost: float, costs: Costs) -> None:
        """Refuses a choice that misses the goal.

        Args:
            goal: What `goal` returned.
            found: The choice's worth, and its cost as a share of the whole network's.
            full_cost: That, in the unit of `costs`.
            costs: Names the unit.

        Raises:
            TuneError: Says the best that can be met.
        """
        worth, share = found
        if goal.met(np.array(worth), np.array(share)):
            return
        if goal.least_worth is not None:
            raise TuneError(
                f"{self.kind} {self.value:g} cannot be met: of the tune part's rows the best thresholds reach "
                f"{worth:.4g}, at {share:.3g} of the whole network's cost"
            )
        raise TuneError(
            f"{self.kind} {self.value:g} cannot be met: the cheapest thresholds cost {share:.3g} of the whole network, "
            f"{share * full_cost:.4g} {costs.unit}, and reach {worth:.4g}"
        )


def choose_wish(**goals: float | None) -> Wish:
    """Returns the one goal that is given; without any, the default.

    Raises:
        TuneError: Several, or no number.
    """
    given = [Wish(name, value) for name, value in goals.items() if value is not None]  # type: ignore[arg-type] # the names are its kinds
    if len(given) > 1:
        raise TuneError(f"one goal at a time: got {' and '.join(wish.kind for wish in given)}")
    wish = given[0] if given else Wish("max_accuracy_drop", DEFAULT_DROP)
    if not np.isfinite(wish.value) or wish.value < 0:
        raise TuneError(f"{wish.kind} is {wish.value}, expected a number from 0")
    return wish

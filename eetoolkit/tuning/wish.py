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

    @property
    def asked(self) -> str:
        """How it was asked for, in Python and in a shell."""
        return f"{self.kind}={self.value:g} (--{self.kind.replace('_', '-')} {self.value:g})"

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

    def goal(self, whole: tuple[float, float]) -> Goal:
        """Returns the goal in terms of the tune part, where the whole network has this worth and cost."""
        worth, cost = whole
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
                f"{self.asked} cannot be met: of the tune part's rows the best thresholds reach "
                f"{worth:.4g}, at {share:.3g} of the whole network's cost"
            )
        raise TuneError(
            f"{self.asked} cannot be met: the cheapest thresholds cost {share:.3g} of the whole network, "
            f"{share * full_cost:.4g} {costs.unit}, and reach {worth:.4g}"
        )


def choose_wish(*, accuracy: bool, **goals: float | None) -> Wish:
    """Returns the one goal that is given; without any, the default.

    Args:
        accuracy: Whether accuracy is what counts, a share of the rows; else a metric of any range.
        goals: By name, None where not given.

    Raises:
        TuneError: Several, no number, or one outside its range.
    """
    given = [Wish(name, value) for name, value in goals.items() if value is not None]  # type: ignore[arg-type] # the names are its kinds
    if len(given) > 1:
        raise TuneError(f"one goal at a time: got {' and '.join(wish.asked for wish in given)}")
    wish = given[0] if given else Wish("max_accuracy_drop", DEFAULT_DROP)
    shares = ("budget_share", "risk", *(("max_accuracy_drop", "min_accuracy") if accuracy else ()))
    most = 1 if wish.kind in shares else np.inf
    least = 0 if accuracy or wish.kind != "min_accuracy" else -np.inf
    if not least <= wish.value <= most or np.isinf(wish.value):
        finite = "a number from 0" if least == 0 else "a finite number"
        expected = finite if most == np.inf else "a share from 0 to 1, such as 0.01 for one per cent"
        raise TuneError(f"{wish.asked}: expected {expected}")
    return wish

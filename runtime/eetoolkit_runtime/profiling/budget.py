"""The seconds that a measurement may take, shared among its parts, and the figures for which they did not suffice."""

from __future__ import annotations

import math
import time
from typing import Literal

LONGEST_S = 24 * 3600
"""How long may be measured."""
Part = Literal[
    "energy", "segments", "inputs", "accuracies", "warm-up", "rounds", "exits", "whole", "passing", "operators"
]
"""What a profile may have no time for."""

MEANING: dict[Part, str] = {
    "energy": "energy",
    "segments": "what opening each segment takes",
    "inputs": "all of the inputs",
    "accuracies": "accuracies if every input left at one exit",
    "warm-up": "a warm-up",
    "rounds": "five rounds",
    "exits": "calls that always leave at each exit",
    "whole": "the whole network",
    "passing": "what each exit adds to its segment",
    "operators": "operators",
}
"""The parts in words, in the order of measuring."""


class Budget:
    """The time for what is measured; a part of it is begun where as much is left as it is expected to take.

    Args:
        seconds: In all; 0: without a bound.

    Attributes:
        bounded: Whether there is a bound.
        lacking: The parts for which there was no time, as they came.
    """

    def __init__(self, seconds: float) -> None:
        self.bounded = seconds > 0
        self.lacking: dict[Part, None] = {}
        self._seconds = seconds
        self._began = time.perf_counter()
        self._whole: Budget | None = None

    def until(self, share: float) -> Budget:
        """Returns the budget of what is to end when this share of all has passed."""
        part = Budget(share * self._seconds)
        part.lacking, part._began, part._whole = self.lacking, self._began, self
        return part

    def left(self) -> float:
        """Returns how many seconds are left, none below 0; infinity without a bound."""
        return max(0.0, self._began + self._seconds - time.perf_counter()) if self.bounded else math.inf

    def allows(self, needed_s: float = 0.0) -> bool:
        """Whether more than so many seconds are left."""
        return self.left() > needed_s

    def extend(self, seconds: float) -> None:
        """Adds seconds that passed without work."""
        self._began += seconds
        if self._whole is not None:
            self._whole.extend(seconds)

    def lack(self, part: Part) -> None:
        """Remembers that there was no time for a part."""
        self.lacking[part] = None

    def lacks(self) -> tuple[Part, ...]:
        """Returns the parts for which there was no time, in the order of measuring."""
        return tuple(part for part in MEANING if part in self.lacking)


def told(parts: tuple[Part, ...]) -> str:
    """Returns parts in words."""
    return ", ".join(MEANING[part] for part in parts)

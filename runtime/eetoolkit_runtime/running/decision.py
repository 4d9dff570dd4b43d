"""The decision: whether an exit answers, in a call's thresholds; and which one stands in where none fired."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import numpy as np

from eetoolkit_runtime.arguments import is_number, shortened
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import InputError, did_you_mean
from eetoolkit_runtime.plan.names import plan_name
from eetoolkit_runtime.plan.types import Exit, Threshold
from eetoolkit_runtime.running.answer import Answer, rank

Thresholds = Mapping[str, float | Literal["never"]]
"""Other thresholds for a call, by exit; the exit that ends the plan has none."""


class Decision(msgspec.Struct, frozen=True):
    """When a row answers. `Workspace.run` has `fires` written out, since it is asked after every segment.

    Attributes:
        exits: Names of the plan's exits, in order.
        limits: What each exit's confidence must reach, in that order, float64; NaN: it never fires. Then one more NaN,
            for segments without an exit.
        stand_ins: The exits that may answer where none fired.
        at: Index of the exit that answers whatever the confidences; None: confidences decide.
        most_confident: Whether the most confident exit answers where none fired, else the last.
    """

    exits: tuple[str, ...]
    limits: list[float]
    stand_ins: frozenset[str]
    at: int | None = None
    most_confident: bool = False

    def fires(self, index: int, confidence: Any) -> Any:
        """Whether the exit of this index answers: bool, or an array of them for an array of confidences.

        A float32 confidence is widened to float64; NaN reaches nothing.
        """
        return (confidence >= self.limits[index]) | (index == self.at)

    def better(self, answer: Answer, best: Answer | None) -> bool:
        """Whether an answer may stand in for an exit that fired, and does so better than the best before it."""
        if self.at is not None:
            return True
        if answer.exit not in self.stand_ins:
            return False
        return not self.most_confident or best is None or rank(answer) >= rank(best)


def decide(
    exits: Mapping[str, Exit],
    thresholds: Thresholds | None = None,
    exit_at: str | None = None,
    titles: Mapping[str, str] | None = None,
    *,
    most_confident: bool = False,
) -> Decision:
    """Returns the decision of a plan's exits, with other thresholds in place of some.

    Args:
        exits: The plan's, by name.
        thresholds: By exit, as the plan or the network calls it.
        exit_at: The exit that answers whatever the confidences; None: confidences decide.
        titles: What the network calls the exits.
        most_confident: Whether the most confident exit stands in where none fired, else the last.

    Raises:
        InputError: An exit or a threshold that the plan does not take.
    """
    given: Thresholds = {} if thresholds is None else thresholds
    if not isinstance(given, Mapping):
        raise InputError(f"thresholds is {shortened(given)}, expected a mapping of exits to numbers")
    if titles:
        given = {plan_name(name, titles): value for name, value in given.items()}
        if len(given) < len(thresholds or ()):
            raise InputError(f"thresholds: an exit is named twice among {', '.join(map(str, thresholds or ()))}")
        exit_at = None if exit_at is None else plan_name(exit_at, titles)
    for name, value in given.items():
        if known_exit(exits, name).ends:
            raise InputError(f"thresholds: {name!r} ends the plan and accepts everything; it has no threshold")
        if not (is_number(value) and not math.isnan(value)) and not (isinstance(value, str) and value == "never"):
            raise InputError(f"thresholds: {name!r} is {shortened(value)}, expected a number, or 'never'")
    own = {name: given.get(name, exit_.threshold) for name, exit_ in exits.items()}
    if exit_at is not None:
        known_exit(exits, exit_at)
    return Decision(
        tuple(own),
        [*(math.nan if exit_at is not None else limit_of(value) for value in own.values()), math.nan],
        frozenset(name for name, value in own.items() if value != "never"),
        None if exit_at is None else list(own).index(exit_at),
        most_confident,
    )


def limit_of(threshold: Threshold) -> float:
    """Returns what a confidence must reach for an exit to fire; NaN, which nothing reaches, where none does.

    The exit that ends the plan has no limit either: it answers because the plan ends there.
    """
    return math.nan if isinstance(threshold, str) else float(threshold)


def spell_threshold(threshold: Threshold, digits: int = 6) -> str:
    """Returns when an exit fires, for people: `>= 0.9`, `never` or `always`."""
    return threshold if isinstance(threshold, str) else f">= {threshold:.{digits}g}"


def in_float32(limits: Any) -> Array:
    """Returns the least float32 values that reach these limits: against them float32 decides as float64 would."""
    wanted = np.asarray(limits, np.float64)
    with np.errstate(over="ignore"):
        near = wanted.astype(np.float32)
        return np.where(near < wanted, np.nextafter(near, np.float32(np.inf)), near)


def known_exit(exits: Mapping[str, Exit], name: str) -> Exit:
    """Returns the exit called `name`.

    Raises:
        InputError: There is none.
    """
    if not isinstance(name, str) or name not in exits:
        raise InputError(f"no exit {shortened(name)}; the exits are {', '.join(exits)}{did_you_mean(name, exits)}")
    return exits[name]

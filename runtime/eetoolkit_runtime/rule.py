"""When a row answers: the thresholds of a call, and which exit stands in where none fired."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from eetoolkit_runtime.answer import Answer, rank
from eetoolkit_runtime.arguments import is_number, shortened
from eetoolkit_runtime.errors import InputError, did_you_mean
from eetoolkit_runtime.plan import Exit

Thresholds = Mapping[str, float | None]


class Rule(msgspec.Struct, frozen=True):
    """When a row answers.

    Attributes:
        exits: The plan's.
        limits: What each exit's confidence must reach, in the order of `exits`; NaN: it does not fire. Then one more
            NaN, for segments without an exit.
        exit_at: The exit that always answers instead.
        most_confident: Whether the most confident exit answers where none fired, else the last.
    """

    exits: Mapping[str, Exit]
    limits: list[float]
    exit_at: str | None = None
    most_confident: bool = False

    def better(self, answer: Answer, best: Answer | None) -> bool:
        """Whether an answer may stand in for an exit that fired, and does so better than the best before it."""
        if not self.exits[answer.exit].enabled:
            return False
        return not self.most_confident or best is None or rank(answer) >= rank(best)


def limits_of(exits: Mapping[str, Exit], thresholds: Thresholds | None = None) -> list[float]:
    """Returns `Rule.limits` of a plan's exits, with other thresholds in place of some.

    Raises:
        InputError: An exit or a threshold that the plan does not take.
    """
    given = {} if thresholds is None else thresholds
    if not isinstance(given, Mapping):
        raise InputError(f"thresholds is {shortened(given)}, expected a mapping of exits to numbers")
    for name, value in given.items():
        if known_exit(exits, name).threshold is None:
            raise InputError(f"thresholds: {name!r} ends the plan and accepts everything; it has no threshold")
        if value is not None and not _is_limit(value):
            raise InputError(f"thresholds: {name!r} is {value!r}, expected a number; None keeps it from firing")
    limits = []
    for name, exit_ in exits.items():
        own = exit_.threshold if exit_.enabled else None
        limit = given.get(name, own)
        limits.append(math.nan if limit is None else float(limit))  # nothing is >= NaN
    return [*limits, math.nan]


def _is_limit(value: object) -> bool:
    return is_number(value) and not math.isnan(value)


class _Reached(float):
    """A limit that every confidence reaches, NaN too: of two floats Python asks the subclass first."""

    __slots__ = ()
    __array_ufunc__ = None  # numpy's scalars then leave the comparison to it

    def __le__(self, other: float) -> bool:
        return True


def limits_at(exits: Mapping[str, Exit], exit_at: str) -> list[float]:
    """Returns `Rule.limits` by which one exit always answers.

    Raises:
        InputError: There is none.
    """
    known_exit(exits, exit_at)
    return [*(_Reached("-inf") if name == exit_at else math.nan for name in exits), math.nan]


def known_exit(exits: Mapping[str, Exit], name: str) -> Exit:
    """Returns the exit called `name`.

    Raises:
        InputError: There is none.
    """
    if not isinstance(name, str) or name not in exits:
        raise InputError(f"no exit {shortened(name)}; the exits are {', '.join(exits)}{did_you_mean(name, exits)}")
    return exits[name]

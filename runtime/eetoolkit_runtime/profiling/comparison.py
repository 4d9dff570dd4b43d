"""Two profiles beside each other: two devices, two builds, two settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import msgspec

from eetoolkit_runtime.profiling.latency import Latency
from eetoolkit_runtime.running.decision import spell_threshold

if TYPE_CHECKING:
    from eetoolkit_runtime.profiling.profile import Profile


class _Struct(msgspec.Struct, frozen=True, kw_only=True):
    """What all parts of a comparison share."""


class Change(_Struct, frozen=True, kw_only=True):
    """Something that a latency may depend on and that differs: what, and how each profile has it."""

    what: str
    a: str
    b: str


class Pair(_Struct, frozen=True, kw_only=True):
    """The same latency in both profiles, in milliseconds.

    Attributes:
        a_ms: In the first; None where it has none.
        b_ms: In the second.
        ratio: The second to the first: under 1 where the second is faster; None where either has none, and
            for means.
        within_spread: Whether they differ by no more than both spreads together; None where either has none.
    """

    a_ms: float | None
    b_ms: float | None
    ratio: float | None
    within_spread: bool | None


class Comparison(_Struct, frozen=True, kw_only=True):
    """Two profiles beside each other.

    Attributes:
        changes: What differs and may be why, the bundle's graphs first.
        expected: The mean calls.
        full_path: The median full paths.
        segments: The medians of the segments that both have.
        exits: The medians from the call to the exits that both have.
        only_a: Segments that only the first has.
        only_b: Segments that only the second has.
    """

    changes: tuple[Change, ...]
    expected: Pair
    full_path: Pair
    segments: dict[str, Pair]
    exits: dict[str, Pair]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]


def compare(a: Profile, b: Profile) -> Comparison:
    """Returns how the profile `b` differs from the profile `a`; they may be of different bundles and machines."""
    return Comparison(
        changes=tuple(_changes(a, b)),
        expected=_pair(a.expected, b.expected, mean=True),
        full_path=_pair(a.full_path, b.full_path),
        segments={
            name: _pair(cost.latency, b.segments[name].latency)
            for name, cost in a.segments.items()
            if name in b.segments
        },
        exits={name: _pair(cost.latency, b.exits[name].latency) for name, cost in a.exits.items() if name in b.exits},
        only_a=tuple(name for name in a.segments if name not in b.segments),
        only_b=tuple(name for name in b.segments if name not in a.segments),
    )


def _pair(a: Latency | None, b: Latency | None, *, mean: bool = False) -> Pair:
    one, other = (None if x is None else x.mean_ms if mean else x.p50_ms for x in (a, b))
    if a is None or b is None or one is None or other is None:
        return Pair(a_ms=one, b_ms=other, ratio=None, within_spread=None)
    # A mean call is of several exits: the spread of single calls says nothing about it.
    near = None if mean else abs(other - one) <= a.spread_ms + b.spread_ms
    return Pair(a_ms=one, b_ms=other, ratio=other / one, within_spread=near)


def _changes(a: Profile, b: Profile) -> Iterator[Change]:
    yield from _differ("bundle", a.bundle, b.bundle)
    yield from _differ("graphs", *_spell_graphs(a.files, b.files))
    for what in ("processor", "cores", "memory_bytes", "system", "python", "onnxruntime", "numpy"):
        yield from _differ(what, getattr(a.machine, what), getattr(b.machine, what))
    for what in ("backend", "threads", "spin", "pool"):
        yield from _differ(what, getattr(a, what), getattr(b, what))
    yield from _differ("providers", ", ".join(a.providers), ", ".join(b.providers))
    yield from _differ("governor", a.before.governor, b.before.governor)
    yield from _differ("throttled", a.after.throttled, b.after.throttled)
    for name in dict.fromkeys((*a.thresholds, *b.thresholds)):
        yield from _differ(f"threshold of {name}", _threshold(a, name), _threshold(b, name))
    for name in dict.fromkeys((*a.exits, *b.exits)):
        if name in a.exits and name in b.exits:
            yield from _differ(f"share of {name}", f"{a.exits[name].share:.1%}", f"{b.exits[name].share:.1%}")
    yield from _differ("inputs", a.rows, b.rows)
    if a.accuracy is not None and b.accuracy is not None:
        yield from _differ("accuracy", f"{a.accuracy:.1%}", f"{b.accuracy:.1%}")


def _differ(what: str, a: object, b: object) -> Iterator[Change]:
    if a != b:
        yield Change(what=what, a=_spell(a), b=_spell(b))


def _spell(value: object) -> str:
    return "-" if value is None else str(value)


def _threshold(profile: Profile, exit_: str) -> str:
    if exit_ not in profile.thresholds:
        return "no such exit"
    return spell_threshold(profile.thresholds[exit_])


def _spell_graphs(a: Mapping[str, str], b: Mapping[str, str]) -> tuple[str, str]:
    """Returns how many graphs each has that the other has not: their names end in a part of their hash."""
    only_a, only_b = set(a.values()) - set(b.values()), set(b.values()) - set(a.values())
    if not only_a and not only_b:
        return "", ""
    return f"{len(only_a)} of {len(a)} are its own", f"{len(only_b)} of {len(b)} are its own"

"""Two profiles beside each other: two devices, two builds, two settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from eetoolkit_runtime.profiling.latency import Latency


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


class Side(NamedTuple):
    """What of a profile is compared.

    Attributes:
        facts: What a latency may depend on, by what it is.
        files: The digests of its graphs.
        expected: A call as in use.
        full_path: One of which no exit fires.
        segments: Running each once.
        exits: Calls that always leave at each.
    """

    facts: Mapping[str, object]
    files: Mapping[str, str]
    expected: Latency | None
    full_path: Latency | None
    segments: Mapping[str, Latency | None]
    exits: Mapping[str, Latency | None]


def compare(a: Side, b: Side) -> Comparison:
    """Returns how `b` differs from `a`; they may be of different bundles and machines."""
    return Comparison(
        changes=tuple(_changes(a, b)),
        expected=_pair(a.expected, b.expected, mean=True),
        full_path=_pair(a.full_path, b.full_path),
        segments=_pairs(a.segments, b.segments),
        exits=_pairs(a.exits, b.exits),
        only_a=tuple(name for name in a.segments if name not in b.segments),
        only_b=tuple(name for name in b.segments if name not in a.segments),
    )


def _pairs(a: Mapping[str, Latency | None], b: Mapping[str, Latency | None]) -> dict[str, Pair]:
    return {name: _pair(latency, b[name]) for name, latency in a.items() if name in b}


def _pair(a: Latency | None, b: Latency | None, *, mean: bool = False) -> Pair:
    one, other = (None if x is None else x.mean_ms if mean else x.p50_ms for x in (a, b))
    if a is None or b is None or one is None or other is None:
        return Pair(a_ms=one, b_ms=other, ratio=None, within_spread=None)
    # A mean call is of several exits: the spread of single calls says nothing about it.
    near = None if mean else abs(other - one) <= a.spread_ms + b.spread_ms
    return Pair(a_ms=one, b_ms=other, ratio=other / one, within_spread=near)


def _changes(a: Side, b: Side) -> Iterator[Change]:
    one, other = _spell_graphs(a.files, b.files)
    if one != other:
        yield Change(what="graphs", a=one, b=other)
    for what, fact in a.facts.items():
        if what in b.facts and fact != b.facts[what]:
            yield Change(what=what, a=_spell(fact), b=_spell(b.facts[what]))


def _spell(value: object) -> str:
    return "-" if value is None else str(value)


def _spell_graphs(a: Mapping[str, str], b: Mapping[str, str]) -> tuple[str, str]:
    """Returns how many graphs each has that the other has not: their names end in a part of their hash."""
    only_a, only_b = set(a.values()) - set(b.values()), set(b.values()) - set(a.values())
    if not only_a and not only_b:
        return "", ""
    return f"{len(only_a)} of {len(a)} are its own", f"{len(only_b)} of {len(b)} are its own"

"""Which segments of a plan run one behind the other whatever happens, once some exits are gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import msgspec

from eetoolkit_runtime.plan import Goto, Manifest
from eetoolkit_runtime.ways import successors


def without_exits(plan: Manifest, names: Collection[str]) -> Manifest:
    """Returns the plan in which segments go on where these exits stood."""
    segments = {
        name: msgspec.structs.replace(segment, exit=None)
        if segment.exit is not None and segment.exit.name in names
        else segment
        for name, segment in plan.segments.items()
    }
    return msgspec.structs.replace(plan, segments=segments)


def chains(plan: Manifest) -> list[tuple[str, ...]]:
    """Returns all segments, in the plan's order, in groups of those that always run together.

    One runs with the next where nothing is answered or decided between them and the next is come to from nowhere else.
    """
    ways = Counter(then for segment in plan.segments.values() for then in set(successors(segment)))
    behind = {
        name: segment.next.segment
        for name, segment in plan.segments.items()
        if segment.exit is None
        and isinstance(segment.next, Goto)
        and ways[segment.next.segment] == 1
        and segment.next.segment != plan.start
    }
    found = []
    for name in plan.segments.keys() - set(behind.values()):
        chain = [name]
        while chain[-1] in behind:
            chain.append(behind[chain[-1]])
        found.append(tuple(chain))
    order = {name: place for place, name in enumerate(plan.segments)}
    return sorted(found, key=lambda chain: order[chain[-1]])  # where its exit stands

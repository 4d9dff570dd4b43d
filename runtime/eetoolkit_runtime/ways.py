"""Where a segment leads: which ones may run next, and what decides."""

from __future__ import annotations

from eetoolkit_runtime.plan import Gate, Goto, Segment, Stop, Switch


def successors(segment: Segment) -> tuple[str, ...]:
    """Returns the names of the segments that may run next."""
    match segment.next:
        case Goto(segment=name):
            return (name,)
        case Gate(then=then, otherwise=otherwise):
            return (then, otherwise)
        case Switch(cases=cases):
            return cases
        case Stop():
            return ()


def targets(segment: Segment) -> tuple[str, ...]:
    """Returns the segments that may be next, by the number that a switch, or a gate as 0 or 1, decides for."""
    if isinstance(segment.next, Gate):
        return segment.next.otherwise, segment.next.then
    return successors(segment)


def decider(segment: Segment) -> str | None:
    """Returns the slot that decides which segment is next; None where nothing does."""
    return segment.next.on if isinstance(segment.next, Gate | Switch) else None

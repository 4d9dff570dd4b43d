"""Where a segment leads: which ones may run next, what decides, and what is looked at then."""

from __future__ import annotations

from collections.abc import Iterator

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


def looked_at(segment: Segment) -> Iterator[tuple[str, str]]:
    """Yields (what for, slot) for every slot looked at after the segment's writes: its exit's and its gate's."""
    if segment.exit is not None:
        for name, slot in segment.exit.outputs.items():
            yield f"exit output {name!r}", slot
        yield "confidence", segment.exit.confidence
    if isinstance(segment.next, Gate | Switch):
        yield "gate" if isinstance(segment.next, Gate) else "switch", segment.next.on

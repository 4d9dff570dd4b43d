"""Where a plan's segments lead, what decides, which of them always run together, and which slots matter where."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from eetoolkit_runtime.plan.types import Gate, Goto, Manifest, Segment, Stop, Switch

Node = TypeVar("Node", bound=Hashable)
Facts = TypeVar("Facts", int, frozenset[Any])


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


def closure(start: Iterable[str], edges: Mapping[str, Iterable[str]]) -> set[str]:
    """Returns what edges lead to from any of `start`, these included."""
    found = set(start)
    waiting = list(found)
    while waiting:
        for name in edges[waiting.pop()]:
            if name not in found:
                found.add(name)
                waiting.append(name)
    return found


def repeats(plan: Manifest, name: str) -> bool:
    """Whether a row may come to a segment more than once."""
    edges = {each: successors(segment) for each, segment in plan.segments.items()}
    return name in closure(edges[name], edges)


def backward(
    targets: Mapping[Node, Iterable[Node]], before: Callable[[Node, Facts], Facts], nothing: Facts
) -> dict[Node, Facts]:
    """Returns what holds before each node: the least fixed point of a backward dataflow analysis.

    Args:
        targets: The nodes that may follow each node, themselves among the keys.
        before: What holds before a node, of what holds before any of those that follow it.
        nothing: The empty set, or 0 where sets are bits.
    """
    sources: dict[Node, list[Node]] = {node: [] for node in targets}
    for node, following in targets.items():
        for other in following:
            sources[other].append(node)
    found = dict.fromkeys(targets, nothing)
    waiting = deque(reversed(list(targets)))
    while waiting:
        node = waiting.popleft()
        after = nothing
        for other in targets[node]:
            after |= found[other]
        now = before(node, after)
        if now != found[node]:
            found[node] = now
            waiting.extend(sources[node])
    return found


def slot_bits(plan: Manifest) -> dict[str, int]:
    """Returns a bit for every input and slot: sets of them are then numbers, and those of a long plan take little."""
    names = dict.fromkeys((*(spec.name for spec in plan.inputs), *plan.slots))
    return {name: 1 << place for place, name in enumerate(names)}


def mask_of(names: Iterable[str], bits: Mapping[str, int]) -> int:
    """Returns a set of inputs and slots as a number; other names are left out."""
    mask = 0
    for name in names:
        mask |= bits.get(name, 0)
    return mask


def assigned_before(plan: Manifest, bits: Mapping[str, int]) -> dict[str, int]:
    """Returns the inputs and slots that every path to a segment has written, as numbers."""
    writes = {name: mask_of(segment.writes, bits) for name, segment in plan.segments.items()}
    given = mask_of((spec.name for spec in plan.inputs), bits)
    return forward(plan, given, (1 << len(bits)) - 1, lambda name, before: before | writes[name])


def forward(plan: Manifest, given: int, everything: int, behind: Callable[[str, int], int]) -> dict[str, int]:
    """Returns what holds before each segment, whatever path led there: a forward must-analysis, with sets as numbers.

    Args:
        plan: Whose segments.
        given: What holds before the first.
        everything: What may hold.
        behind: What holds behind a segment, of what holds before it.
    """
    before = dict.fromkeys(plan.segments, everything)
    before[plan.start] = given
    waiting = deque(plan.segments)
    while waiting:
        name = waiting.popleft()
        after = behind(name, before[name])
        for following in successors(plan.segments[name]):
            known = before[following] & after
            if known != before[following]:
                before[following] = known
                waiting.append(following)
    return before


class Live:
    """For each segment, the slots and inputs whose tensors it or a later segment may still look at.

    Sets are numbers, a bit for each slot, until they are asked for: those of a long plan would fill the memory.
    """

    def __init__(self, masks: Mapping[str, int], names: Sequence[str]) -> None:
        self._masks = masks
        self._names = names
        self._sets: dict[str, frozenset[str]] = {}

    def __getitem__(self, segment: str) -> frozenset[str]:
        found = self._sets.get(segment)
        if found is None:
            digits = bin(self._masks[segment])[:1:-1]  # the lowest bit first
            names = (name for name, digit in zip(self._names, digits, strict=False) if digit == "1")
            found = self._sets[segment] = frozenset(names)
        return found


def live_before(plan: Manifest) -> Live:
    """Returns what matters before each segment runs."""
    bits = slot_bits(plan)
    used = {name: mask_of(_used(segment), bits) for name, segment in plan.segments.items()}
    seen = {name: mask_of((slot for _, slot in looked_at(segment)), bits) for name, segment in plan.segments.items()}
    kept = {name: ~mask_of(segment.writes, bits) for name, segment in plan.segments.items()}

    def before(name: str, after: int) -> int:
        return used[name] | ((after | seen[name]) & kept[name])

    edges = {name: successors(segment) for name, segment in plan.segments.items()}
    return Live(backward(edges, before, 0), list(bits))


def live_after(segment: Segment, live: Live) -> frozenset[str]:
    """Returns the slots that matter once the segment's writes are done, its own exit and gate included."""
    return live_beyond(segment, live).union(slot for _, slot in looked_at(segment))


def live_beyond(segment: Segment, live: Live) -> frozenset[str]:
    """Returns the slots that matter to the segments that may run next."""
    return frozenset().union(*(live[name] for name in successors(segment)))


def _used(segment: Segment) -> list[str]:
    """Returns what a segment reads and moves; constants among it have no bit."""
    return [*segment.reads.values(), *(source.slot for source in segment.writes.values() if source.slot is not None)]


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

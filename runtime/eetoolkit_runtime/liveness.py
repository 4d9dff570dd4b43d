"""Which slots still matter where: the backward dataflow analysis that lets buffers be used again."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from eetoolkit_runtime.plan import Manifest, Segment
from eetoolkit_runtime.validate import mask_of, slot_bits
from eetoolkit_runtime.ways import looked_at, successors


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
    before: dict[str, list[str]] = {name: [] for name in plan.segments}
    for name, segment in plan.segments.items():
        for following in successors(segment):
            before[following].append(name)
    live = dict.fromkeys(plan.segments, 0)
    waiting = deque(reversed(plan.segments))
    while waiting:
        name = waiting.popleft()
        after = seen[name]
        for following in successors(plan.segments[name]):
            after |= live[following]
        now = used[name] | (after & kept[name])
        if now != live[name]:
            live[name] = now
            waiting.extend(before[name])
    return Live(live, list(bits))


def live_after(segment: Segment, live: Live) -> frozenset[str]:
    """Returns the slots that matter once the segment's writes are done, its own exit and gate included."""
    after = {slot for _, slot in looked_at(segment)}
    return frozenset(after.union(*(live[name] for name in successors(segment))))


def _used(segment: Segment) -> list[str]:
    """Returns what a segment reads and moves; constants among it have no bit."""
    return [*segment.reads.values(), *(source.slot for source in segment.writes.values() if source.slot is not None)]

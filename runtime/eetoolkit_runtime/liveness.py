"""Which slots still matter where: the backward dataflow analysis that lets buffers be used again."""

from __future__ import annotations

from eetoolkit_runtime.plan import Manifest, Segment
from eetoolkit_runtime.validate import observed, successors


def live_before(plan: Manifest) -> dict[str, frozenset[str]]:
    """Returns, for each segment, the slots and inputs whose tensors it or a later segment may still look at."""
    live: dict[str, frozenset[str]] = dict.fromkeys(plan.segments, frozenset())
    changed = True
    while changed:
        changed = False
        for name, segment in reversed(plan.segments.items()):
            now = _used(plan, segment) | (live_after(segment, live) - segment.writes.keys())
            if now != live[name]:
                live[name], changed = now, True
    return live


def live_after(segment: Segment, live: dict[str, frozenset[str]]) -> frozenset[str]:
    """Returns the slots that matter once the segment's writes are done, its own exit and gate included."""
    after = {slot for _, slot in observed(segment)}
    return frozenset(after.union(*(live[name] for name in successors(segment))))


def _used(plan: Manifest, segment: Segment) -> frozenset[str]:
    moved = {source.slot for source in segment.writes.values() if source.slot is not None}
    return frozenset((moved | set(segment.reads.values())) - plan.constants.keys())

"""A plan with some of its segments alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from eetoolkit_runtime.plan.names import titles_of
from eetoolkit_runtime.plan.types import Manifest, SavedProfile, Segment


def restricted(plan: Manifest, segments: Mapping[str, Segment]) -> Manifest:
    """Returns the plan with these segments alone: without slots and constants that they do not name, and untuned."""
    used = {
        name
        for segment in segments.values()
        for name in (
            *segment.reads.values(), *segment.writes,
            *(source.constant for source in segment.writes.values()),
            *(name for _, name in (segment.exit.criterion.named_constants() if segment.exit is not None else ())),
        )
    }  # fmt: skip
    kept = msgspec.structs.replace(
        plan,
        segments=dict(segments),
        slots={name: slot for name, slot in plan.slots.items() if name in used},
        constants={name: constant for name, constant in plan.constants.items() if name in used},
        profile=None if plan.profile is None else _of_segments(plan.profile, segments),
        tuning=None,
        split=None,
    )
    return msgspec.structs.replace(kept, titles=titles_of(kept))


def _of_segments(profile: SavedProfile, segments: Collection[str]) -> SavedProfile:
    """Returns the latencies of these segments; the profile itself was measured with others behind them."""
    return SavedProfile(expected_ms={name: ms for name, ms in profile.expected_ms.items() if name in segments})

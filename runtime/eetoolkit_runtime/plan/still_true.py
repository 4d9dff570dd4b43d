"""What a manifest still says of its tuning and quantisation when segments or thresholds are others than before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

import msgspec

from eetoolkit_runtime.plan.types import Manifest, Method, Quantization, Split, Tuning


def unmeasured(tuning: Tuning | None) -> Tuning | None:
    """Returns a tuning without what was measured and promised of it, for a bundle that answers otherwise."""
    return None if tuning is None else msgspec.structs.replace(tuning, figures={}, guarantee=None)


def with_stale(plan: Manifest, *, stale: bool) -> Manifest:
    """Returns the plan with thresholds that are a float bundle's or not; float16 weights leave them as good."""
    said = plan.quantization
    if said is None:
        return plan
    stale = stale and any(method != "float16" for method in said.segments.values())
    return msgspec.structs.replace(plan, quantization=msgspec.structs.replace(said, stale=stale))


def split_of(plan: Manifest, before: Manifest) -> Split | None:
    """Returns where a plan hands over to a server: as before, while that exit ends it and what stands in is there.

    Args:
        plan: With other segments.
        before: What it was made of.
    """
    said = before.split
    exits = plan.exits
    if said is None or said.exit not in exits or not exits[said.exit].ends or said.local not in exits:
        return None
    now, then = (sum(segment.model is not None for segment in each.segments.values()) for each in (plan, before))
    return msgspec.structs.replace(said, segments=said.segments - then + now)


def quantization_of(
    plan: Manifest, said: Quantization | None, joined: Mapping[str, Sequence[str]]
) -> Quantization | None:
    """Returns how the segments of a plan were quantised.

    Args:
        plan: With other segments.
        said: How those before were.
        joined: Of which of them each is made; the first in the order of `Method` stands for it.
    """
    if said is None:
        return None
    methods: dict[str, Method] = {}
    for name, segment in plan.segments.items():
        own = {said.segments[part] for part in joined[name] if part in said.segments}
        if own and segment.model is not None:
            methods[name] = min(own, key=get_args(Method).index)
    if not methods:
        return None
    return msgspec.structs.replace(
        said,
        segments=methods,
        activations=said.activations if "static" in methods.values() else None,
        stale=said.stale and any(exit_.enabled and not exit_.ends for exit_ in plan.exits.values()),
    )

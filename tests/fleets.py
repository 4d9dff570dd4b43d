"""Made profiles of devices, as tests of fleets read and tune by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import eetoolkit as ee
from eetoolkit_runtime.profiling.costs import ExitCost, SegmentCost
from eetoolkit_runtime.profiling.latency import Latency, summarise
from eetoolkit_runtime.profiling.machine import Machine
from eetoolkit_runtime.profiling.profile import digests


def steady(ms: float) -> Latency:
    """Returns the latency of what always takes the same."""
    return summarise(np.full(20, ms))


def device(bundle: ee.Bundle, segments_ms: Sequence[float], **more: Any) -> ee.Profile:
    """Returns a profile of a chain of exits whose segments take this, nothing else being measured.

    A run then costs the sum of its segments.
    """
    plan = bundle.manifest
    exits = list(plan.exits)
    told: dict[str, Any] = {
        "measured": "2026-11-01T00:00:00+00:00",
        "threads": 1,
        "machine": Machine(processor="Raspberry Pi 4", cores=4),
        "expected": steady(segments_ms[0]),
        "full_path": steady(sum(segments_ms)),
    }
    return ee.Profile(
        bundle=plan.name, files=digests(plan), backend="python", rows=10,
        segments={
            name: SegmentCost(latency=steady(ms), exit=exit_)
            for name, exit_, ms in zip(plan.segments, exits, segments_ms, strict=True)
        },
        exits={name: ExitCost(latency=None, share=1 / len(exits)) for name in exits},
        **told | more,
    )  # fmt: skip

"""A bundle without what no row comes to."""

from __future__ import annotations

from pathlib import Path

import msgspec

import eetoolkit as ee
from eetoolkit.tuning.manifest import replaced
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.bundle.rewriting import change_bundle
from eetoolkit_runtime.plan.types import Exit, Manifest


def shorten(bundle: Bundle, output: Path) -> Bundle:
    """Returns a tuned bundle that ends at the first exit where every row leaves; the same bundle where none does.

    Args:
        bundle: Its plan is a chain of segments.
        output: Where to write the shorter one.
    """
    end = next((name for name, exit_ in bundle.exits.items() if _answers_all(exit_)), None)
    if end is None:
        return bundle
    shorter = ee.truncate(bundle, end, output)
    return change_bundle(shorter.path, lambda now, _: _tuned_as(bundle.manifest, now.manifest))


def _answers_all(exit_: Exit) -> bool:
    """Whether no confidence is below the threshold: a probability never is below 0."""
    limit = exit_.threshold
    return not exit_.ends and exit_.criterion.kind == "max_prob" and not isinstance(limit, str) and limit <= 0


def _tuned_as(before: Manifest, plan: Manifest) -> Manifest:
    """Returns the shorter plan with the thresholds that the longer one had, and with what it said of its tuning."""
    stay = [name for name, exit_ in plan.exits.items() if not exit_.ends]
    tuning = before.tuning
    if tuning is not None:
        tuning = msgspec.structs.replace(
            tuning,
            thresholds={name: limit for name, limit in tuning.thresholds.items() if name in stay},
            exits_before={name: limit for name, limit in tuning.exits_before.items() if name in stay},
            constants_before={n: held for n, held in tuning.constants_before.items() if n in plan.constants},
        )
    return replaced(plan, {name: before.exits[name].threshold for name in stay}, {}, tuning)

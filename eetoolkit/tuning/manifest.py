"""Writing a choice into a bundle's manifest in one step, and taking it back."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from eetoolkit.tuning.record import values_of
from eetoolkit_runtime.arguments import checked
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.bundle.golden import Sample, Visit, read_golden, store_golden
from eetoolkit_runtime.bundle.rewriting import change_bundle
from eetoolkit_runtime.bundle.store import in_place_of
from eetoolkit_runtime.errors import TuneError
from eetoolkit_runtime.plan.criteria import kind_of
from eetoolkit_runtime.plan.still_true import with_stale
from eetoolkit_runtime.plan.types import Constant, Manifest, Threshold, Tuning
from eetoolkit_runtime.profiling.profile import digests
from eetoolkit_runtime.running.runner import Runner


def tuned_plan(
    bundle: Bundle,
    files: Mapping[str, str],
    thresholds: Mapping[str, Threshold],
    constants: Mapping[str, tuple[float, ...]],
    note: Callable[[Mapping[str, Any]], Tuning],
) -> Manifest:
    """Returns the bundle's manifest with thresholds and constants, and what they were before.

    Args:
        bundle: As it is now.
        files: Digests of the graphs that they are for.
        thresholds: By exit.
        constants: Values by name that the thresholds were found with, whatever the bundle holds by now.
        note: Makes what the manifest keeps, from what was chosen and what was there before.

    Raises:
        TuneError: It is another bundle by now.
    """
    plan = bundle.manifest
    held = values_of(plan)
    if digests(plan) != files or not constants.keys() <= held.keys():
        raise TuneError(f"{bundle.place} holds another bundle by now; tune it again")
    old = plan.tuning
    new = {name: values for name, values in constants.items() if values != held[name]}
    constants_before = {name: held[name] for name in new}
    free = [name for name, may in zip(plan.exits, may_fire(plan), strict=True) if may]
    before = {
        "thresholds": {name: thresholds[name] for name in free if name in thresholds},
        "exits_before": {name: plan.exits[name].threshold for name in thresholds} if old is None else old.exits_before,
        "constants_before": constants_before | ({} if old is None else old.constants_before),
    }
    return with_stale(replaced(plan, thresholds, new, note(before)), stale=False)


@checked(TuneError)
def undo_tuning(bundle: str | os.PathLike[str] | Bundle) -> Bundle:
    """Puts back the thresholds and constants that a bundle had before it was first tuned; returns it as it is now.

    Raises:
        TuneError: It was not tuned, or is a device's half.
        BundleError: It is packed, or the manifest cannot be written.
    """

    def before(now: Bundle, folder: Path) -> Manifest:
        check_whole(now.manifest, "undone", "undo the tuning of")
        tuning = now.manifest.tuning
        if tuning is None:
            raise TuneError(f"{now.place} was not tuned: there is nothing to undo")
        plan = replaced(now.manifest, tuning.exits_before, tuning.constants_before, None)
        return with_golden(now, with_stale(plan, stale=True), folder)

    return change_bundle(bundle, before)


def check_whole(plan: Manifest, done: str, fix: str) -> None:
    """Refuses a device's half: what its thresholds cost is known with the server's exits alone.

    Raises:
        TuneError: It is one.
    """
    if plan.split is not None:
        raise TuneError(
            f"{plan.name!r} is a device's half, which cannot be {done}: the server's exits are not in it; {fix} the "
            "whole bundle and split that again"
        )


def replaced(
    plan: Manifest,
    thresholds: Mapping[str, Threshold],
    constants: Mapping[str, tuple[float, ...]],
    tuning: Tuning | None,
) -> Manifest:
    """Returns the plan with other thresholds and constants, wherever an exit stands."""
    segments = {}
    for name, segment in plan.segments.items():
        exit_ = segment.exit
        if exit_ is not None and not exit_.ends and exit_.name in thresholds:
            exit_ = msgspec.structs.replace(exit_, threshold=thresholds[exit_.name])
        segments[name] = msgspec.structs.replace(segment, exit=exit_)
    values: dict[str, Constant] = {
        name: msgspec.structs.replace(constant, data=constants[name]) if name in constants else constant
        for name, constant in plan.constants.items()
    }
    return msgspec.structs.replace(plan, segments=segments, constants=values, tuning=tuning)


def with_constants(bundle: Bundle, constants: Mapping[str, tuple[float, ...]]) -> Bundle:
    """Returns the bundle with other values of some constants, in memory alone, for a runner to run."""
    plan = replaced(bundle.manifest, {}, constants, bundle.manifest.tuning)
    return msgspec.structs.replace(bundle, manifest=plan)


def may_fire(plan: Manifest) -> list[bool]:
    """Returns which exits tuning may let fire: all but those that are `never` without tuning having chosen that."""
    chosen = {} if plan.tuning is None else plan.tuning.thresholds
    return [not exit_.ends and (exit_.enabled or chosen.get(name) == "never") for name, exit_ in plan.exits.items()]


def with_golden(bundle: Bundle, plan: Manifest, folder: Path) -> Manifest:
    """Returns a bundle's new plan; where its constants change what exits say, with new golden samples in `folder`."""
    if plan.golden is None or plan.constants == bundle.manifest.constants:
        return plan
    samples = golden_under(bundle, plan)
    golden, stored = store_golden(folder, samples, plan.golden.tolerance) if samples else (None, {})
    return msgspec.structs.replace(plan, files=in_place_of(plan.golden.file, stored, plan.files), golden=golden)


def golden_under(bundle: Bundle, plan: Manifest) -> list[Sample]:
    """Returns golden samples with the confidences of the plan's constants, and answers where ensembles change them.

    A sample that meets other exits on this machine, since a gate hangs by a rounding, is left out.
    """
    samples = []
    with Runner(Bundle(bundle.path, plan)) as runner:
        for sample in read_golden(bundle):
            found = runner.run_all_exits(sample.inputs)
            if [answer.exit for answer in found] != [visit.exit for visit in sample.visits]:
                continue
            visits = [
                Visit(visit.exit, answer.outputs if _ensemble(plan, visit.exit) else visit.outputs, answer.confidence)
                for visit, answer in zip(sample.visits, found, strict=True)
            ]
            samples.append(Sample(sample.inputs, tuple(visits)))
    return samples


def _ensemble(plan: Manifest, exit_: str) -> bool:
    return kind_of(plan.exits[exit_].criterion).ensemble

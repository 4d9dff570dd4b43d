"""Writing a choice into a bundle's manifest in one step, and taking it back."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from eetoolkit.tuning.record import values_of
from eetoolkit_runtime.arguments import checked
from eetoolkit_runtime.bundle import Bundle, load
from eetoolkit_runtime.errors import TuneError
from eetoolkit_runtime.golden import Sample, Visit, read_golden, store_golden
from eetoolkit_runtime.lock import alone
from eetoolkit_runtime.paths import absolute
from eetoolkit_runtime.plan import Constant, ExitBefore, Manifest, Tuning
from eetoolkit_runtime.profiling.profile import digests
from eetoolkit_runtime.runner import Runner
from eetoolkit_runtime.scores import ENSEMBLES
from eetoolkit_runtime.store import commit, staging
from eetoolkit_runtime.validate import validate


def apply(bundle: Bundle, tuned: Manifest) -> Bundle:
    """Writes the manifest that `tuned_plan` returned into the bundle, in one step; returns the bundle.

    Raises:
        TuneError: It is packed.
        BundleError: The manifest cannot be written.
    """
    _check_folder(bundle.archive or bundle.path)
    return _write(bundle, tuned)


def tuned_plan(
    bundle: Bundle,
    files: Mapping[str, str],
    thresholds: Mapping[str, float | None],
    constants: Mapping[str, tuple[float, ...]],
    note: Callable[[Mapping[str, Any]], Tuning],
) -> Manifest:
    """Returns the bundle's manifest with thresholds and constants, and what they were before.

    Args:
        bundle: As it is now.
        files: Digests of the graphs that they are for.
        thresholds: By exit; None disables it.
        constants: Values by name that the thresholds were found with, whatever the bundle holds by now.
        note: Makes what the manifest keeps, from what it says of before.

    Raises:
        TuneError: It is another bundle by now.
    """
    plan = bundle.manifest
    held = values_of(plan)
    if digests(plan) != files or not constants.keys() <= held.keys():
        raise TuneError(f"{bundle.place} holds another bundle by now; tune it again")
    old = plan.tuning
    exits_before = {name: ExitBefore(threshold=e.threshold, enabled=e.enabled) for name, e in plan.exits.items()}
    new = {name: values for name, values in constants.items() if values != held[name]}
    constants_before = {name: held[name] for name in new}
    before = {
        "exits_before": {name: exits_before[name] for name in thresholds} if old is None else old.exits_before,
        "constants_before": constants_before | ({} if old is None else old.constants_before),
    }
    changed = {
        name: ExitBefore(threshold=plan.exits[name].threshold if limit is None else limit, enabled=limit is not None)
        for name, limit in thresholds.items()
    }
    return replaced(plan, changed, new, note(before))


@checked(TuneError)
def undo(bundle: str | os.PathLike[str] | Bundle) -> Bundle:
    """Puts back the thresholds and constants that a bundle had before it was first tuned; returns it as it is now.

    Raises:
        TuneError: It was not tuned, or is packed.
        BundleError: The manifest cannot be written.
    """
    path = (bundle.archive or bundle.path) if isinstance(bundle, Bundle) else bundle
    _check_folder(path)
    with alone(absolute(path, TuneError)):
        found = load(path)
        tuning = found.manifest.tuning
        if tuning is None:
            raise TuneError(f"{found.place} was not tuned: there is nothing to undo")
        return _write(found, replaced(found.manifest, tuning.exits_before, tuning.constants_before, None))


def replaced(
    plan: Manifest,
    exits: Mapping[str, ExitBefore],
    constants: Mapping[str, tuple[float, ...]],
    tuning: Tuning | None,
) -> Manifest:
    """Returns the plan with other thresholds and constants, wherever an exit stands."""
    segments = {}
    for name, segment in plan.segments.items():
        exit_ = segment.exit
        if exit_ is not None and exit_.threshold is not None and exit_.name in exits:
            new = exits[exit_.name]
            exit_ = msgspec.structs.replace(exit_, threshold=new.threshold, enabled=new.enabled)
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
    """Returns which exits tuning may let fire: those with a threshold that nobody but tuning has disabled."""
    before = {} if plan.tuning is None else plan.tuning.exits_before
    return [
        exit_.threshold is not None and (before[name].enabled if name in before else exit_.enabled)
        for name, exit_ in plan.exits.items()
    ]


def _check_folder(path: str | os.PathLike[str]) -> None:
    if Path(path).is_file():  # it would be written to where it was unpacked
        raise TuneError(f"{path} is packed; tuning is written to a bundle's folder: unpack it, and pack it again")


def _write(bundle: Bundle, plan: Manifest) -> Bundle:
    """Replaces the manifest, and the golden samples where constants change what exits say to them."""
    validate(plan)
    with staging(bundle.path) as folder:
        if plan.golden is not None and plan.constants != bundle.manifest.constants:
            golden, stored = store_golden(folder, judged_again(bundle, plan), plan.golden.tolerance)
            files = {name: file for name, file in plan.files.items() if name != plan.golden.file}
            plan = msgspec.structs.replace(plan, files=files | stored, golden=golden)
        commit(folder, plan, bundle.path)
    return load(bundle.path)


def judged_again(bundle: Bundle, plan: Manifest) -> list[Sample]:
    """Returns golden samples with the confidences of the plan's constants, and answers where ensembles change them."""
    samples = []
    with Runner(Bundle(bundle.path, plan)) as runner:
        for sample in read_golden(bundle):
            found = runner.run_all_exits(sample.inputs)
            visits = [
                Visit(visit.exit, answer.outputs if _ensemble(plan, visit.exit) else visit.outputs, answer.confidence)
                for visit, answer in zip(sample.visits, found, strict=True)
            ]
            samples.append(Sample(sample.inputs, tuple(visits)))
    return samples


def _ensemble(plan: Manifest, exit_: str) -> bool:
    return plan.exits[exit_].criterion.kind in ENSEMBLES

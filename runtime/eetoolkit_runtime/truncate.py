"""Static pruning: a bundle cut off at one exit."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import msgspec

from eetoolkit_runtime.arguments import checked
from eetoolkit_runtime.bundle.bundle import Bundle, load
from eetoolkit_runtime.bundle.golden import Sample, read_golden, store_golden
from eetoolkit_runtime.bundle.integrity import check_full
from eetoolkit_runtime.bundle.rewriting import write_bundle
from eetoolkit_runtime.bundle.store import check_target
from eetoolkit_runtime.errors import InputError
from eetoolkit_runtime.plan.flow import live_after, live_before, successors
from eetoolkit_runtime.plan.names import plan_name
from eetoolkit_runtime.plan.restricted import restricted
from eetoolkit_runtime.plan.still_true import quantization_of, split_of
from eetoolkit_runtime.plan.types import Manifest, Segment, Stop
from eetoolkit_runtime.running.decision import known_exit


@checked(InputError)
def truncate(
    bundle: str | os.PathLike[str] | Bundle,
    at: str,
    output: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
) -> Bundle:
    """Returns a new bundle that always answers at one exit, without what lies behind it.

    Its answers are those of `run(..., exit_at=at)`. Earlier exits stay, disabled; `thresholds=` can bring them back for
    a call.

    Args:
        bundle: A `Bundle` or its path.
        at: The exit's name.
        output: Where to write; None: beside the bundle, `{name}-{at}.ee`.
        overwrite: Whether a bundle at `output` may be replaced.

    Raises:
        InputError: No such exit.
        BundleError: The bundle cannot be opened, or `output` is in the way.
    """
    source = load(bundle)
    at = plan_name(at, source.manifest.titles)
    known_exit(source.exits, at)
    beside = (source.archive or source.path).resolve()
    target = check_target(beside.with_name(f"{beside.stem}-{at}.ee") if output is None else output, overwrite=overwrite)
    check_full(source.path, source.manifest)
    return write_bundle(target, lambda folder: _make(source, at, folder), overwrite=overwrite)


def _make(source: Bundle, at: str, folder: Path) -> Manifest:
    plan = _cut(source.manifest, at)
    used = (file for segment in plan.segments.values() for file in (segment.model, *segment.weights))
    files = {name: source.manifest.files[name] for name in used if name is not None}
    for name in files:
        shutil.copyfile(source.path / name, folder / name)
    golden = None
    if source.manifest.golden is not None:
        samples = [_shorten(sample, at) for sample in read_golden(source)]
        golden, stored = store_golden(folder, samples, source.manifest.golden.tolerance)
        files |= stored
    return msgspec.structs.replace(plan, files=files, golden=golden)


def _cut(plan: Manifest, at: str) -> Manifest:
    segments: dict[str, Segment] = {}
    waiting = [plan.start]
    while waiting:
        name = waiting.pop()
        if name in segments:
            continue
        segment = plan.segments[name]
        if segment.exit is not None and segment.exit.name == at:
            last = msgspec.structs.replace(segment.exit, threshold="always")
            segment = msgspec.structs.replace(segment, exit=last, next=Stop())
        elif segment.exit is not None and not segment.exit.ends:
            segment = msgspec.structs.replace(segment, exit=msgspec.structs.replace(segment.exit, threshold="never"))
        segments[name] = segment
        waiting.extend(successors(segment))
    kept = {name: segments[name] for name in plan.segments if name in segments}
    live = live_before(msgspec.structs.replace(plan, segments=kept))
    kept = {name: _without_unread(segment, live_after(segment, live)) for name, segment in kept.items()}
    users = Counter(file for segment in kept.values() for file in segment.weights)
    for name, segment in kept.items():
        if not segment.prepack and all(users[file] == 1 for file in segment.weights):
            kept[name] = msgspec.structs.replace(segment, prepack=True)  # who shared them is gone
    short = restricted(plan, kept)
    quantization = quantization_of(short, plan.quantization, {name: (name,) for name in kept})
    return msgspec.structs.replace(short, quantization=quantization, split=split_of(short, plan))


def _without_unread(segment: Segment, read: frozenset[str]) -> Segment:
    """Drops the writes that only what lies behind would have read."""
    writes = {slot: source for slot, source in segment.writes.items() if slot in read}
    if not any(source.output is not None for source in writes.values()):  # a model must give something
        writes = segment.writes
    return msgspec.structs.replace(segment, writes=writes)


def _shorten(sample: Sample, at: str) -> Sample:
    """Keeps the visits that a run which stops at `at` still makes."""
    names = [visit.exit for visit in sample.visits]
    count = names.index(at) + 1 if at in names else len(names)
    return Sample(sample.inputs, sample.visits[:count])

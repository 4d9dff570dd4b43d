"""A bundle in two halves on disk: the device's bundle, and the server's model repository."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec

from eetoolkit.splitting.repository import BUNDLE, write_mlserver
from eetoolkit_runtime.arguments import checked
from eetoolkit_runtime.bundle.bundle import Bundle, load
from eetoolkit_runtime.bundle.golden import Sample, Visit, read_golden, store_golden
from eetoolkit_runtime.bundle.integrity import check_full
from eetoolkit_runtime.bundle.rewriting import write_bundle
from eetoolkit_runtime.bundle.store import check_target, staging
from eetoolkit_runtime.errors import BundleError, InputError
from eetoolkit_runtime.files.paths import absolute, shown
from eetoolkit_runtime.plan.halves import Halves, cut_point, halves
from eetoolkit_runtime.plan.types import Manifest
from eetoolkit_runtime.running.runner import Runner


@checked(InputError)
def split(
    bundle: str | os.PathLike[str] | Bundle,
    at: str,
    device: str | os.PathLike[str],
    server: str | os.PathLike[str],
    *,
    overwrite: bool = False,
) -> Bundle:
    """Writes both halves of a bundle and returns the device's."""
    source = load(bundle)
    found = halves(source.manifest, cut_point(source.manifest, at))
    target = check_target(device, overwrite=overwrite)
    place = absolute(server, BundleError)
    check_full(source.path, source.manifest)
    assert found.device.split is not None
    version = place / found.server.name / str(found.device.split.version)
    with staging(place) as folder:
        golden = _golden(source, found)
        inner = folder / found.server.name / version.name
        inner.mkdir(parents=True)
        write_bundle(inner / BUNDLE, lambda to: _make(source, found.server, [s for _, s in golden if s], to))
        write_mlserver(inner, found.server, found.device.split.version)
        made = write_bundle(
            target, lambda to: _make(source, found.device, [d for d, _ in golden], to), overwrite=overwrite
        )
        version.parent.mkdir(parents=True, exist_ok=True)
        if version.exists():
            if not overwrite:
                raise BundleError(f"{shown(version)} exists; pass overwrite=True (--overwrite) to replace it")
            shutil.rmtree(version)
        inner.rename(version)
    return made


def _make(source: Bundle, plan: Manifest, samples: list[Sample], folder: Path) -> Manifest:
    for name in plan.files:
        shutil.copyfile(source.path / name, folder / name)
    if not samples or source.manifest.golden is None:
        return plan
    golden, stored = store_golden(folder, samples, source.manifest.golden.tolerance)
    return msgspec.structs.replace(plan, files=dict(plan.files) | stored, golden=golden)


def _golden(source: Bundle, found: Halves) -> list[tuple[Sample, Sample | None]]:
    said = found.device.split
    assert said is not None
    samples: list[tuple[Sample, Sample | None]] = []
    with Runner(Bundle(source.path, found.device)) as device, Runner(Bundle(source.path, found.server)) as server:
        for sample in read_golden(source):
            answers = device.run_all_exits(sample.inputs)
            visits = {visit.exit: visit for visit in sample.visits}
            here = tuple(visits.get(each.exit) or Visit(each.exit, each.outputs, each.confidence) for each in answers)
            crossed = {name: answers[-1].outputs[output] for name, output in said.sends.items()}
            behind = server.run_all_exits(crossed)
            after = tuple(visits[each.exit] for each in behind if each.exit in visits)
            samples.append((Sample(sample.inputs, here), Sample(crossed, after)))
    return samples

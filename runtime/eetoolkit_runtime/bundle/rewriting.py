"""The one way to write a bundle: made in a folder beside its place, proved there, and put in place in one step."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from eetoolkit_runtime.bundle.bundle import Bundle, load
from eetoolkit_runtime.bundle.store import commit, staging, write_manifest
from eetoolkit_runtime.errors import BundleError
from eetoolkit_runtime.files.lock import alone
from eetoolkit_runtime.files.paths import absolute, shown
from eetoolkit_runtime.plan.types import Manifest
from eetoolkit_runtime.plan.validate import validate

Proof = Callable[[Bundle], Manifest]
"""Runs a staged bundle, refuses it or returns its manifest, to which it may add what it has found."""


def write_bundle(
    target: Path, make: Callable[[Path], Manifest], proof: Proof | None = None, *, overwrite: bool = False
) -> Bundle:
    """Writes a new bundle and returns it; where anything fails, nothing is written.

    Args:
        target: Where, as `check_target` returned it before any work was done.
        make: Writes the files into the empty folder that it is given, and returns the manifest.
        proof: Runs the staged bundle.
        overwrite: Whether a bundle at `target` may be replaced.

    Raises:
        ManifestError: The plan is not valid.
        BundleError: It cannot be written.
    """
    with staging(target) as folder:
        plan = make(folder)
        validate(plan)
        if proof is not None:
            write_manifest(folder, plan)
            plan = proof(Bundle(folder, plan))
        commit(folder, plan, target, overwrite=overwrite)
    return load(target)


def change_bundle(bundle: str | os.PathLike[str] | Bundle, change: Callable[[Bundle, Path], Manifest]) -> Bundle:
    """Changes a bundle where it lies and returns it as it is then; nobody else can change it meanwhile.

    Args:
        bundle: It, or its folder.
        change: Is given the bundle as it is on disk by now and an empty folder for new files; returns the manifest.

    Raises:
        ManifestError: The changed plan is not valid.
        BundleError: It is packed, or cannot be read or written.
    """
    place = absolute((bundle.archive or bundle.path) if isinstance(bundle, Bundle) else bundle, BundleError)
    if place.is_file():  # it would be written to where it was unpacked
        raise BundleError(f"{shown(place)} is packed, and only a bundle's folder can be changed: unpack it first")
    with alone(place):
        found = load(place)
        return write_bundle(found.path, lambda folder: change(found, folder), overwrite=True)

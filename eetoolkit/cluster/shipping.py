"""Bundles on their way to workers that may not share a disk with the process that sends them."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eetoolkit_runtime.bundle.bundle import Bundle, load
from eetoolkit_runtime.errors import BundleError
from eetoolkit_runtime.plan.types import Manifest

_NAME = "shipped"


@dataclass(frozen=True, eq=False)
class Shipped:
    """A bundle for Ray's workers.

    Attributes:
        path: Its folder; workers that have it there too read it there.
        plan: As it is in this process, where its constants may differ from the disk's.
        packed: Of its .zip, a reference in Ray's store of objects.
    """

    path: str
    plan: Manifest
    packed: Any


def ship(bundle: Bundle) -> Shipped:
    """Returns what a worker opens a bundle by.

    Raises:
        BundleError: A file of it is missing or changed, or is another by now.
    """
    import ray

    plan, now = bundle.manifest, load(bundle.path)
    if now.manifest.files != plan.files:
        raise BundleError(f"{bundle.place} holds another bundle by now; load it again")
    with tempfile.TemporaryDirectory() as folder:
        packed = now.pack(Path(folder) / f"{_NAME}.zip").read_bytes()
    return Shipped(str(bundle.path.resolve()), plan, ray.put(packed))


def open_shipped(shipped: Shipped) -> Bundle:
    """Returns the bundle, from the disk where it lies there, else unpacked into this user's cache.

    Raises:
        BundleError: It cannot be unpacked.
    """
    try:
        found = load(shipped.path)
    except BundleError:
        found = None
    if found is None or found.manifest.files != shipped.plan.files:
        import ray

        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder) / f"{_NAME}.zip"
            archive.write_bytes(ray.get(shipped.packed))
            found = load(archive)
    return Bundle(found.path, shipped.plan)

"""What takes long to make and is the same for every test: made once a run, by whichever worker needs it first."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Returns a folder that `make` has filled, which no test may change."""
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / f"once-{name}"
    with (shared / f"once-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            half = Path(tempfile.mkdtemp(dir=shared))
            make(half)
            half.rename(folder)
    return folder


def digits_bundle(factory: pytest.TempPathFactory) -> Path:
    """Returns `digits.ee`, the zoo's trained network of digits with eight of the test set as golden samples."""
    return made_once(factory, "digits", _export_digits) / "digits.ee"


def _export_digits(folder: Path) -> None:
    import eetoolkit as ee
    from eetoolkit.zoo import branchynet, digits

    images = digits.digits("test").images / 16
    ee.export(branchynet.load(), images[:1], folder / "digits.ee", labels=digits.LABELS, golden_inputs=images[:8])

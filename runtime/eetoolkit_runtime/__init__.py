"""eetoolkit on the device: opens bundles and runs them, with numpy, onnxruntime and msgspec alone.

The public names are handed on lazily: a device that only runs bundles does not read what verifies or cuts them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eetoolkit_runtime.answer import Answer
    from eetoolkit_runtime.bundle import Bundle, load
    from eetoolkit_runtime.errors import (
        BundleError,
        DeadlineError,
        EEToolkitError,
        InputError,
        IntegrityError,
        ManifestError,
        RunError,
    )
    from eetoolkit_runtime.interrupt import Interrupt
    from eetoolkit_runtime.runner import Runner
    from eetoolkit_runtime.store import accept_edit
    from eetoolkit_runtime.truncate import truncate
    from eetoolkit_runtime.verify import VerifyReport, verify

_PLACES = {
    "Answer": "answer",
    "Bundle": "bundle",
    "Interrupt": "interrupt",
    "Runner": "runner",
    "VerifyReport": "verify",
    "accept_edit": "store",
    "load": "bundle",
    "truncate": "truncate",
    "verify": "verify",
}

__all__ = [
    "Answer",
    "Bundle",
    "BundleError",
    "DeadlineError",
    "EEToolkitError",
    "InputError",
    "IntegrityError",
    "Interrupt",
    "ManifestError",
    "RunError",
    "Runner",
    "VerifyReport",
    "accept_edit",
    "load",
    "truncate",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module 'eetoolkit_runtime' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"eetoolkit_runtime.{_PLACES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Returns the public names."""
    return sorted(__all__)

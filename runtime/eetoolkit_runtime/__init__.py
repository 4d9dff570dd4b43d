"""eetoolkit on the device: opens bundles and runs them, with numpy, onnxruntime and msgspec alone.

The public names are handed on lazily: a device that only runs bundles does not read what verifies or cuts them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eetoolkit_runtime.bundle.bundle import Bundle as Bundle
    from eetoolkit_runtime.bundle.bundle import load as load
    from eetoolkit_runtime.bundle.store import accept_edit as accept_edit
    from eetoolkit_runtime.errors import BundleError as BundleError
    from eetoolkit_runtime.errors import DeadlineError as DeadlineError
    from eetoolkit_runtime.errors import EEToolkitError as EEToolkitError
    from eetoolkit_runtime.errors import InputError as InputError
    from eetoolkit_runtime.errors import IntegrityError as IntegrityError
    from eetoolkit_runtime.errors import ManifestError as ManifestError
    from eetoolkit_runtime.errors import RemoteError as RemoteError
    from eetoolkit_runtime.errors import RunError as RunError
    from eetoolkit_runtime.monitoring.monitor import Monitor as Monitor
    from eetoolkit_runtime.monitoring.snapshot import MonitorSnapshot as MonitorSnapshot
    from eetoolkit_runtime.running.answer import Answer as Answer
    from eetoolkit_runtime.running.interrupt import Interrupt as Interrupt
    from eetoolkit_runtime.running.runner import Runner as Runner
    from eetoolkit_runtime.truncate import truncate as truncate
    from eetoolkit_runtime.verify import VerifyReport as VerifyReport
    from eetoolkit_runtime.verify import verify as verify

_PLACES = {
    # A bundle is opened and checked
    "load": "eetoolkit_runtime.bundle.bundle",
    "Bundle": "eetoolkit_runtime.bundle.bundle",
    "verify": "eetoolkit_runtime.verify",
    "VerifyReport": "eetoolkit_runtime.verify",
    # and run
    "Runner": "eetoolkit_runtime.running.runner",
    "Answer": "eetoolkit_runtime.running.answer",
    "Interrupt": "eetoolkit_runtime.running.interrupt",
    # and watched in use
    "Monitor": "eetoolkit_runtime.monitoring.monitor",
    "MonitorSnapshot": "eetoolkit_runtime.monitoring.snapshot",
    # It is changed
    "truncate": "eetoolkit_runtime.truncate",
    "accept_edit": "eetoolkit_runtime.bundle.store",
    # Errors, a tree that `errors` draws
    "EEToolkitError": "eetoolkit_runtime.errors",
    "BundleError": "eetoolkit_runtime.errors",
    "ManifestError": "eetoolkit_runtime.errors",
    "IntegrityError": "eetoolkit_runtime.errors",
    "RunError": "eetoolkit_runtime.errors",
    "InputError": "eetoolkit_runtime.errors",
    "DeadlineError": "eetoolkit_runtime.errors",
    "RemoteError": "eetoolkit_runtime.errors",
}
"""Every public name and the module that it is imported from when it is first used."""

__all__ = list(_PLACES)


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used."""
    if name not in _PLACES:
        raise AttributeError(f"module 'eetoolkit_runtime' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Returns the public names."""
    return sorted(_PLACES)

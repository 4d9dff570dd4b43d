"""eetoolkit on the device: opens bundles and runs them, with numpy, onnxruntime and msgspec alone.

The public names are handed on lazily: a device that only runs bundles does not read what verifies or cuts them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eetoolkit_runtime.answer import Answer as Answer
    from eetoolkit_runtime.bundle import Bundle as Bundle
    from eetoolkit_runtime.bundle import load as load
    from eetoolkit_runtime.errors import BundleError as BundleError
    from eetoolkit_runtime.errors import DeadlineError as DeadlineError
    from eetoolkit_runtime.errors import EEToolkitError as EEToolkitError
    from eetoolkit_runtime.errors import InputError as InputError
    from eetoolkit_runtime.errors import IntegrityError as IntegrityError
    from eetoolkit_runtime.errors import ManifestError as ManifestError
    from eetoolkit_runtime.errors import RunError as RunError
    from eetoolkit_runtime.interrupt import Interrupt as Interrupt
    from eetoolkit_runtime.runner import Runner as Runner
    from eetoolkit_runtime.store import accept_edit as accept_edit
    from eetoolkit_runtime.truncate import truncate as truncate
    from eetoolkit_runtime.verify import VerifyReport as VerifyReport
    from eetoolkit_runtime.verify import verify as verify

_PLACES = {
    # A bundle is opened and checked
    "load": "bundle",
    "Bundle": "bundle",
    "verify": "verify",
    "VerifyReport": "verify",
    # and run
    "Runner": "runner",
    "Answer": "answer",
    "Interrupt": "interrupt",
    # It is changed
    "truncate": "truncate",
    "accept_edit": "store",
    # Errors, a tree that `errors` draws
    "EEToolkitError": "errors",
    "BundleError": "errors",
    "ManifestError": "errors",
    "IntegrityError": "errors",
    "RunError": "errors",
    "InputError": "errors",
    "DeadlineError": "errors",
}
"""Every public name and the module of this package that it is imported from when it is first used."""

__all__ = list(_PLACES)


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used."""
    if name not in _PLACES:
        raise AttributeError(f"module 'eetoolkit_runtime' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"eetoolkit_runtime.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Returns the public names."""
    return sorted(_PLACES)

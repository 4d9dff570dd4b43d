"""eetoolkit on the device: opens bundles and runs them, with numpy, onnxruntime and msgspec alone."""

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
from eetoolkit_runtime.truncate import truncate
from eetoolkit_runtime.verify import VerifyReport, verify

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
    "load",
    "truncate",
    "verify",
]

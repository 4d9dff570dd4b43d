"""eetoolkit: trained early-exit networks in, bundles out, answers at the first confident exit.

The public names are handed on lazily, so `import eetoolkit` costs what you use: on a device neither torch nor onnx.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eetoolkit.report.page import write_report as write_report
    from eetoolkit.tuning.manifest import undo_tuning as undo_tuning
    from eetoolkit.tuning.report import TuningReport as TuningReport
    from eetoolkit.tuning.tune import tune as tune
    from eetoolkit.verification import verify as verify
    from eetoolkit_exporters.capturing.attach import attach_exits as attach_exits
    from eetoolkit_exporters.capturing.attach import fit_exits as fit_exits
    from eetoolkit_exporters.capturing.marker import exit as exit  # noqa: A004 - `ee.exit`
    from eetoolkit_exporters.export import export as export
    from eetoolkit_exporters.pruning.prune import prune as prune
    from eetoolkit_runtime.bundle.bundle import Bundle as Bundle
    from eetoolkit_runtime.bundle.bundle import load as load
    from eetoolkit_runtime.bundle.store import accept_edit as accept_edit
    from eetoolkit_runtime.doctor.examine import doctor as doctor
    from eetoolkit_runtime.doctor.finding import Finding as Finding
    from eetoolkit_runtime.errors import BundleError as BundleError
    from eetoolkit_runtime.errors import DeadlineError as DeadlineError
    from eetoolkit_runtime.errors import DeviceError as DeviceError
    from eetoolkit_runtime.errors import EEToolkitError as EEToolkitError
    from eetoolkit_runtime.errors import ExportError as ExportError
    from eetoolkit_runtime.errors import InputError as InputError
    from eetoolkit_runtime.errors import IntegrityError as IntegrityError
    from eetoolkit_runtime.errors import ManifestError as ManifestError
    from eetoolkit_runtime.errors import ProviderError as ProviderError
    from eetoolkit_runtime.errors import RunError as RunError
    from eetoolkit_runtime.errors import TuneError as TuneError
    from eetoolkit_runtime.plan.types import Criterion as Criterion
    from eetoolkit_runtime.profiling.comparison import Comparison as Comparison
    from eetoolkit_runtime.profiling.profile import Profile as Profile
    from eetoolkit_runtime.profiling.profiler import profile as profile
    from eetoolkit_runtime.profiling.tracing import trace as trace
    from eetoolkit_runtime.running.answer import Answer as Answer
    from eetoolkit_runtime.running.interrupt import Interrupt as Interrupt
    from eetoolkit_runtime.running.runner import Runner as Runner
    from eetoolkit_runtime.truncate import truncate as truncate
    from eetoolkit_runtime.verify import VerifyReport as VerifyReport

_ERRORS = "eetoolkit_runtime.errors"
_PLACES = {
    # A network becomes a bundle
    "export": "eetoolkit_exporters.export",
    "exit": "eetoolkit_exporters.capturing.marker",
    "attach_exits": "eetoolkit_exporters.capturing.attach",
    "fit_exits": "eetoolkit_exporters.capturing.attach",
    "Criterion": "eetoolkit_runtime.plan.types",
    # A bundle is opened and checked
    "load": "eetoolkit_runtime.bundle.bundle",
    "Bundle": "eetoolkit_runtime.bundle.bundle",
    "verify": "eetoolkit.verification",
    "VerifyReport": "eetoolkit_runtime.verify",
    # and run
    "Runner": "eetoolkit_runtime.running.runner",
    "Answer": "eetoolkit_runtime.running.answer",
    "Interrupt": "eetoolkit_runtime.running.interrupt",
    # What it costs on this machine, and what is wrong there
    "profile": "eetoolkit_runtime.profiling.profiler",
    "Profile": "eetoolkit_runtime.profiling.profile",
    "Comparison": "eetoolkit_runtime.profiling.comparison",
    "trace": "eetoolkit_runtime.profiling.tracing",
    "doctor": "eetoolkit_runtime.doctor.examine",
    "Finding": "eetoolkit_runtime.doctor.finding",
    # Its thresholds are chosen
    "tune": "eetoolkit.tuning.tune",
    "TuningReport": "eetoolkit.tuning.report",
    "undo_tuning": "eetoolkit.tuning.manifest",
    "write_report": "eetoolkit.report.page",
    # It is changed
    "truncate": "eetoolkit_runtime.truncate",
    "prune": "eetoolkit_exporters.pruning.prune",
    "accept_edit": "eetoolkit_runtime.bundle.store",
    # Errors, a tree that `eetoolkit_runtime.errors` draws
    "EEToolkitError": _ERRORS,
    "ExportError": _ERRORS,
    "BundleError": _ERRORS,
    "ManifestError": _ERRORS,
    "IntegrityError": _ERRORS,
    "RunError": _ERRORS,
    "InputError": _ERRORS,
    "ProviderError": _ERRORS,
    "DeadlineError": _ERRORS,
    "TuneError": _ERRORS,
    "DeviceError": _ERRORS,
}
"""Every public name and the module that it is imported from when it is first used."""
_HOST = {"torch", "onnx", "onnx_ir", "onnxscript"}

__all__ = list(_PLACES)


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used."""
    if name == "__version__":
        from importlib.metadata import version

        return version("eetoolkit")
    if name not in _PLACES:
        raise AttributeError(f"module 'eetoolkit' has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(_PLACES[name]), name)
    except ModuleNotFoundError as error:
        if error.name in _HOST:
            from eetoolkit.extras import install
            from eetoolkit_runtime.errors import ExportError as Missing

            raise Missing(f"`{name}` needs {error.name}: {install('export')}") from error
        raise
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Returns the public names."""
    return sorted([*_PLACES, "__version__"])

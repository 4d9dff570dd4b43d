"""eetoolkit: trained early-exit networks in, bundles out, answers at the first confident exit.

The public names are handed on lazily, so `import eetoolkit` costs what you use: on a device neither torch nor onnx.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eetoolkit.report.page import write_report
    from eetoolkit.tuning.manifest import undo as undo_tuning
    from eetoolkit.tuning.report import TuningReport
    from eetoolkit.tuning.tune import tune
    from eetoolkit.verification import verify
    from eetoolkit_exporters.capturing.attach import attach_exits, fit_exits
    from eetoolkit_exporters.capturing.marker import exit  # noqa: A004 - `ee.exit`
    from eetoolkit_exporters.export import export
    from eetoolkit_exporters.pruning.prune import prune
    from eetoolkit_runtime.answer import Answer
    from eetoolkit_runtime.bundle import Bundle, load
    from eetoolkit_runtime.doctor.examine import examine
    from eetoolkit_runtime.doctor.finding import Finding
    from eetoolkit_runtime.errors import (
        BundleError,
        DeadlineError,
        EEToolkitError,
        ExportError,
        InputError,
        IntegrityError,
        ManifestError,
        RunError,
        TuneError,
    )
    from eetoolkit_runtime.interrupt import Interrupt
    from eetoolkit_runtime.plan import Criterion
    from eetoolkit_runtime.profiling.comparison import Comparison, compare_profiles
    from eetoolkit_runtime.profiling.merging import merge_profiles
    from eetoolkit_runtime.profiling.profile import Profile
    from eetoolkit_runtime.profiling.profiler import profile
    from eetoolkit_runtime.profiling.profiles import read_profile, save_profile, write_profile
    from eetoolkit_runtime.profiling.tracing import trace
    from eetoolkit_runtime.runner import Runner
    from eetoolkit_runtime.store import accept_edit
    from eetoolkit_runtime.truncate import truncate
    from eetoolkit_runtime.verify import VerifyReport

_ERRORS = "eetoolkit_runtime.errors"
_PLACES = {
    "Answer": "eetoolkit_runtime.answer",
    "Bundle": "eetoolkit_runtime.bundle",
    "BundleError": _ERRORS,
    "Comparison": "eetoolkit_runtime.profiling.comparison",
    "Criterion": "eetoolkit_runtime.plan",
    "DeadlineError": _ERRORS,
    "EEToolkitError": _ERRORS,
    "ExportError": _ERRORS,
    "Finding": "eetoolkit_runtime.doctor.finding",
    "InputError": _ERRORS,
    "IntegrityError": _ERRORS,
    "Interrupt": "eetoolkit_runtime.interrupt",
    "ManifestError": _ERRORS,
    "Profile": "eetoolkit_runtime.profiling.profile",
    "RunError": _ERRORS,
    "Runner": "eetoolkit_runtime.runner",
    "TuneError": _ERRORS,
    "TuningReport": "eetoolkit.tuning.report",
    "VerifyReport": "eetoolkit_runtime.verify",
    "accept_edit": "eetoolkit_runtime.store",
    "attach_exits": "eetoolkit_exporters.capturing.attach",
    "compare_profiles": "eetoolkit_runtime.profiling.comparison",
    "examine": "eetoolkit_runtime.doctor.examine",
    "exit": "eetoolkit_exporters.capturing.marker",
    "export": "eetoolkit_exporters.export",
    "fit_exits": "eetoolkit_exporters.capturing.attach",
    "load": "eetoolkit_runtime.bundle",
    "merge_profiles": "eetoolkit_runtime.profiling.merging",
    "profile": "eetoolkit_runtime.profiling.profiler",
    "prune": "eetoolkit_exporters.pruning.prune",
    "read_profile": "eetoolkit_runtime.profiling.profiles",
    "save_profile": "eetoolkit_runtime.profiling.profiles",
    "trace": "eetoolkit_runtime.profiling.tracing",
    "truncate": "eetoolkit_runtime.truncate",
    "tune": "eetoolkit.tuning.tune",
    "undo_tuning": "eetoolkit.tuning.manifest",
    "verify": "eetoolkit.verification",
    "write_profile": "eetoolkit_runtime.profiling.profiles",
    "write_report": "eetoolkit.report.page",
}
_RENAMED = {"undo_tuning": "undo"}
_HOST = {"torch", "onnx", "onnx_ir", "onnxscript"}

__all__ = [
    "Answer", "Bundle", "BundleError", "Comparison", "Criterion", "DeadlineError", "EEToolkitError", "ExportError",
    "Finding", "InputError", "IntegrityError", "Interrupt", "ManifestError", "Profile", "RunError", "Runner",
    "TuneError", "TuningReport", "VerifyReport", "accept_edit", "attach_exits", "compare_profiles", "examine", "exit",
    "export", "fit_exits", "load", "merge_profiles", "profile", "prune", "read_profile", "save_profile", "trace",
    "truncate", "tune", "undo_tuning", "verify", "write_profile", "write_report",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used."""
    if name == "__version__":
        from importlib.metadata import version

        return version("eetoolkit")
    if name not in _PLACES:
        raise AttributeError(f"module 'eetoolkit' has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(_PLACES[name]), _RENAMED.get(name, name))
    except ModuleNotFoundError as error:
        if error.name in _HOST:
            from eetoolkit_runtime.errors import ExportError as Missing

            raise Missing(f"`{name}` needs {error.name}: pip install 'eetoolkit[export]'") from error
        raise
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Returns the public names."""
    return sorted([*__all__, "__version__"])

"""eetoolkit: trained early-exit networks in, bundles out, answers at the first confident exit.

The public names are handed on lazily, so `import eetoolkit` costs what you use: on a device neither torch nor onnx.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eetoolkit.adapting.adapted import Adapted as Adapted
    from eetoolkit.adapting.add_exits import add_exits as add_exits
    from eetoolkit.adapting.report import AdaptReport as AdaptReport
    from eetoolkit.fleet.fleet import Fleet as Fleet
    from eetoolkit.fleet.fleet import read_fleet as read_fleet
    from eetoolkit.quantizing.quantize import quantize as quantize
    from eetoolkit.quantizing.report import QuantizationReport as QuantizationReport
    from eetoolkit.report.page import write_report as write_report
    from eetoolkit.splitting.report import SplitReport as SplitReport
    from eetoolkit.splitting.split import split as split
    from eetoolkit.tuning.link import Link as Link
    from eetoolkit.tuning.manifest import undo_tuning as undo_tuning
    from eetoolkit.tuning.report import TuningReport as TuningReport
    from eetoolkit.tuning.tune import tune as tune
    from eetoolkit.tuning.where import WhereToSplit as WhereToSplit
    from eetoolkit.verification import verify as verify
    from eetoolkit_exporters.attaching.attach import attach_exits as attach_exits
    from eetoolkit_exporters.attaching.fit import fit_exits as fit_exits
    from eetoolkit_exporters.attaching.places import Place as Place
    from eetoolkit_exporters.attaching.places import find_exits as find_exits
    from eetoolkit_exporters.capturing.marker import exit as exit  # noqa: A004 - `ee.exit`
    from eetoolkit_exporters.export import export as export
    from eetoolkit_exporters.pruning.prune import prune as prune
    from eetoolkit_exporters.single_file.single_file import write_single_file as write_single_file
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
    from eetoolkit_runtime.errors import RemoteError as RemoteError
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

_PUBLIC = {
    # A network gets exits
    "eetoolkit.adapting.add_exits": ("add_exits",),
    "eetoolkit.adapting.adapted": ("Adapted",),
    "eetoolkit.adapting.report": ("AdaptReport",),
    "eetoolkit_exporters.attaching.places": ("find_exits", "Place"),
    "eetoolkit_exporters.attaching.attach": ("attach_exits",),
    "eetoolkit_exporters.attaching.fit": ("fit_exits",),
    # A network becomes a bundle
    "eetoolkit_exporters.export": ("export",),
    "eetoolkit_exporters.capturing.marker": ("exit",),
    "eetoolkit_runtime.plan.types": ("Criterion",),
    # A bundle is opened and checked
    "eetoolkit_runtime.bundle.bundle": ("load", "Bundle"),
    "eetoolkit.verification": ("verify",),
    "eetoolkit_runtime.verify": ("VerifyReport",),
    # and run
    "eetoolkit_runtime.running.runner": ("Runner",),
    "eetoolkit_runtime.running.answer": ("Answer",),
    "eetoolkit_runtime.running.interrupt": ("Interrupt",),
    # What it costs on this machine, and what is wrong there
    "eetoolkit_runtime.profiling.profiler": ("profile",),
    "eetoolkit_runtime.profiling.profile": ("Profile",),
    "eetoolkit_runtime.profiling.comparison": ("Comparison",),
    "eetoolkit_runtime.profiling.tracing": ("trace",),
    "eetoolkit.fleet.fleet": ("read_fleet", "Fleet"),
    "eetoolkit_runtime.doctor.examine": ("doctor",),
    "eetoolkit_runtime.doctor.finding": ("Finding",),
    # Its thresholds are chosen
    "eetoolkit.tuning.tune": ("tune",),
    "eetoolkit.tuning.report": ("TuningReport",),
    "eetoolkit.tuning.link": ("Link",),
    "eetoolkit.tuning.where": ("WhereToSplit",),
    "eetoolkit.tuning.manifest": ("undo_tuning",),
    "eetoolkit.report.page": ("write_report",),
    # It is changed
    "eetoolkit_runtime.truncate": ("truncate",),
    "eetoolkit_exporters.pruning.prune": ("prune",),
    "eetoolkit.quantizing.quantize": ("quantize",),
    "eetoolkit.quantizing.report": ("QuantizationReport",),
    "eetoolkit_runtime.bundle.store": ("accept_edit",),
    # or is written in two halves, for a device and a server
    "eetoolkit.splitting.split": ("split",),
    "eetoolkit.splitting.report": ("SplitReport",),
    # or becomes one ONNX file
    "eetoolkit_exporters.single_file.single_file": ("write_single_file",),
    # Errors, a tree that the module draws
    "eetoolkit_runtime.errors": (
        "EEToolkitError", "ExportError", "BundleError", "ManifestError", "IntegrityError", "RunError", "InputError",
        "ProviderError", "DeadlineError", "RemoteError", "TuneError", "DeviceError",
    ),
}  # fmt: skip
"""The public names of each module, imported when they are first used."""
_PLACES = {name: module for module, names in _PUBLIC.items() for name in names}
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

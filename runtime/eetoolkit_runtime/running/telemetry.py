"""What onnxruntime tells its makers: since 1.29 it does on Linux and macOS, unless an environment variable is set."""

from __future__ import annotations

import os
from collections.abc import Mapping

SWITCH = "ORT_DISABLE_TELEMETRY"
"""The variable of onnxruntime that decides, read when onnxruntime is imported; "1" is off, "0" is on."""
_ALSO_OFF = ("CI", "GITHUB_ACTIONS", "ORT_RUNNING_UNIT_TESTS")
_SINCE = "1.29"


def switch_off() -> None:
    """Has an onnxruntime that is imported later tell nothing, unless the user has decided."""
    os.environ.setdefault(SWITCH, "1")


def tells(environment: Mapping[str, str] | None = None) -> bool:
    """Whether onnxruntime tells how it is used, as far as its version and an environment (None: ours) say.

    It then has a thread of its own and files in the home folder, which `onnxruntime.disable_telemetry_events` does not
    change, and a process that was forked after its import never comes to its end.
    """
    from eetoolkit_runtime.running.release import is_new_enough  # which imports onnxruntime

    given = os.environ if environment is None else environment
    off = any(given.get(name, "").lower() in ("1", "true", "yes") for name in (SWITCH, *_ALSO_OFF))
    return os.name == "posix" and not off and is_new_enough(_SINCE)

"""Examining a machine, and a bundle on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from eetoolkit_runtime.arguments import check_range, checked
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.doctor.bundle_findings import examine_bundle
from eetoolkit_runtime.doctor.finding import Finding
from eetoolkit_runtime.doctor.machine_findings import examine_machine
from eetoolkit_runtime.errors import InputError
from eetoolkit_runtime.profiling.budget import LONGEST_S


@checked(InputError)
def doctor(
    bundle: str | Path | Bundle | None = None,
    *,
    seconds: float = 10.0,
    progress: Callable[[str, int, int], object] | None = None,
) -> list[Finding]:
    """Returns what this machine has for running bundles and what holds it back, and the same of a bundle on it.

    Each finding is read or measured. The bundle is opened with every hash checked, verified, and run with several
    settings; nothing is raised for what is wrong with it: that is a finding.

    Args:
        bundle: A `Bundle`, the path of one, or None for the machine alone.
        seconds: How long it may take to examine the bundle; a finding says what there was no time for. 0: without a
            bound, from as few runs as it needs.
        progress: Is told (what, done, total) from time to time.

    Raises:
        InputError: Seconds that are no time to measure.
    """
    check_range(InputError, "seconds", seconds, 0, LONGEST_S)
    findings = examine_machine()
    if bundle is not None:
        findings += examine_bundle(bundle, seconds=seconds, progress=progress)
    return findings

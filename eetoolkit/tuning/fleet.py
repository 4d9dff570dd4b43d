"""A fleet as tuning takes it: which quantile is asked for, which profiles are refused, what is told of all devices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from eetoolkit.fleet.fleet import Fleet
from eetoolkit.fleet.quantile import Quantile, read_quantile
from eetoolkit.fleet.tuned import FleetOutcome
from eetoolkit.tuning.across import FleetTask, kinds_of, mean_costs
from eetoolkit.tuning.choose import Task
from eetoolkit.tuning.costs import check_profile, costs_of_profile
from eetoolkit.tuning.remarks import profile_lacks, threads_differ
from eetoolkit.tuning.report import TuningReport
from eetoolkit_runtime.errors import TuneError
from eetoolkit_runtime.plan.types import Manifest
from eetoolkit_runtime.profiling.profile import Profile

_NAMED = 3  # devices that a note names


def choose_quantile(measured: Profile | Fleet | None, for_: str | None) -> Quantile | None:
    """Returns the quantile that is asked for; None without a fleet.

    Raises:
        TuneError: No quantile is named for a fleet, or one where there is none.
    """
    if not isinstance(measured, Fleet):
        if for_ is not None:
            raise TuneError(
                f"for_={for_!r} (--for {for_}) goes with a fleet: pass a folder of profiles (--profile DIR), or leave "
                "it out"
            )
        return None
    if for_ is None:
        raise TuneError(
            f"profile is a fleet of {len(measured.devices)} devices: say whose cost counts, such as "
            "for_='p90-device' (--for p90-device), or pass one device's profile"
        )
    return read_quantile(for_)


def check_fleet(fleet: Fleet, plan: Manifest, providers: tuple[str, ...]) -> None:
    """Refuses a fleet of another bundle, or with devices on other providers.

    Raises:
        TuneError: It names the first such device.
    """
    for device in fleet.devices:
        check_profile(plan, device.profile, providers, f"{device.file} in {fleet.folder}")


def fleet_task(task: Task, fleet: Fleet, quantile: Quantile) -> FleetTask:
    """Returns the task of a quantile of a fleet by one of any device: all of it but the costs.

    Raises:
        TuneError: A profile has no latency for a segment that rows come through; it names the device.
    """
    record = task.data.record
    devices = {}
    for device in fleet.devices:
        try:
            devices[device.name] = costs_of_profile(device.profile, record)
        except TuneError as error:
            raise TuneError(f"{device.file} in {fleet.folder}: {error}") from error
    kinds, by_kind = kinds_of(record, list(devices.values()))
    full = mean_costs(kinds, by_kind, record.last)
    usual = int(np.argsort(full, kind="stable")[quantile.rank(len(devices)) - 1])
    costs = list(devices.values())[usual]
    return FleetTask(task.goal, task.plan, task.data, costs, task.metric, task.seed, devices, quantile)


def for_fleet(report: TuningReport, outcome: FleetOutcome) -> TuningReport:
    """Returns a report of the device at the quantile with what all devices gain."""
    goal = f"{report.goal}, on the {outcome.quantile} of {len(outcome.devices)}"
    return msgspec.structs.replace(report, goal=goal, fleet=outcome)


def profile_notes(measured: Profile | Fleet | None, threads: int | None) -> tuple[str, ...]:
    """Returns what the reader must know of the profiles: other threads than tuning was told, figures that are missing.

    Args:
        measured: One profile, or those of a fleet.
        threads: What tuning was told.
    """
    if not isinstance(measured, Fleet):
        return (*threads_differ(measured, threads), *profile_lacks(measured))
    found: dict[str, list[str]] = {}
    for device in measured.devices:
        for note in (*threads_differ(device.profile, threads), *profile_lacks(device.profile)):
            found.setdefault(note, []).append(device.name)
    return (*measured.notes, *_told(found, len(measured.devices)))


def _told(found: dict[str, list[str]], count: int) -> Iterator[str]:
    for note, names in found.items():
        yield note if len(names) == count else f"{_listed(names)}: {note}"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")

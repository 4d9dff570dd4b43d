"""A fleet in figures: what a table shows of each device, and of the devices at some quantiles."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from eetoolkit.fleet.fleet import Device, Fleet
from eetoolkit.fleet.quantile import MEDIAN, P90, SLOWEST
from eetoolkit_runtime.profiling.comparison import Change, Pair
from eetoolkit_runtime.profiling.latency import QUANTILES, Latency

_P95 = QUANTILES.index(0.95)
_SEEN_ELSEWHERE = ("share of ", "inputs", "accuracy", "bundle")
"""What a table shows anyway, and what hangs on the inputs."""


class DeviceFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One device by its newest profile, in milliseconds; None: not measured.

    Attributes:
        name: Of the device.
        file: Of the profile.
        processor: As its kernel calls it.
        measured: When, ISO 8601.
        backend: What ran the graphs.
        threads: Workers for each operator; None: one per physical core.
        providers: The execution providers.
        call_mean_ms: A call as in use, the mean.
        call_p50_ms: Half of the calls took at most this.
        call_p95_ms: 95 % of them did.
        full_path_ms: A call in which no exit fires, the median.
        exits: Which share of the inputs answered where.
        profiles: How many profiles of it there are.
        changes: What differs from the one before and may be why.
        call: The mean calls of the one before, a, and of the newest, b; None where there is one alone.
        full_path: The same of the median full paths.
    """

    name: str
    file: str
    processor: str
    measured: str
    backend: str
    threads: int | None
    providers: tuple[str, ...]
    call_mean_ms: float | None
    call_p50_ms: float | None
    call_p95_ms: float | None
    full_path_ms: float | None
    exits: dict[str, float]
    profiles: int
    changes: tuple[Change, ...] = ()
    call: Pair | None = None
    full_path: Pair | None = None


class QuantileFigures(msgspec.Struct, frozen=True, kw_only=True):
    """A quantile of the fleet, each figure in an order of its own: `devices` of them take no more."""

    name: str
    devices: int
    call_p50_ms: float | None
    call_p95_ms: float | None
    full_path_ms: float | None


class FleetFigures(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet in figures.

    Attributes:
        bundle: The bundle's name.
        devices: Each device.
        quantiles: The median, the p90 and the slowest device.
        notes: What of the folder was left out.
    """

    bundle: str
    devices: tuple[DeviceFigures, ...]
    quantiles: tuple[QuantileFigures, ...]
    notes: tuple[str, ...] = ()


def p95_ms(latency: Latency) -> float:
    """Returns what 95 % of the runs took at most."""
    return latency.quantiles_ms[_P95]


def figures_of(fleet: Fleet) -> FleetFigures:
    """Returns a fleet in figures."""
    devices = tuple(map(_figures, fleet.devices))
    return FleetFigures(bundle=fleet.bundle, devices=devices, quantiles=_quantiles(devices), notes=fleet.notes)


def _figures(device: Device) -> DeviceFigures:
    found, change = device.profile, device.change
    call, full = found.expected, found.full_path
    changes = () if change is None else change.changes
    return DeviceFigures(
        name=device.name,
        file=device.file,
        processor=found.machine.processor,
        measured=found.measured,
        backend=found.backend,
        threads=found.threads,
        providers=found.providers,
        call_mean_ms=None if call is None else call.mean_ms,
        call_p50_ms=None if call is None else call.p50_ms,
        call_p95_ms=None if call is None else p95_ms(call),
        full_path_ms=None if full is None else full.p50_ms,
        exits={name: cost.share for name, cost in found.exits.items()} if found.rows else {},
        profiles=device.profiles,
        changes=tuple(each for each in changes if not each.what.startswith(_SEEN_ELSEWHERE)),
        call=None if change is None else change.expected,
        full_path=None if change is None else change.full_path,
    )


def _quantiles(devices: tuple[DeviceFigures, ...]) -> tuple[QuantileFigures, ...]:
    def at(rank: Callable[[int], int], of: Callable[[DeviceFigures], float | None]) -> float | None:
        known = sorted(value for device in devices if (value := of(device)) is not None)
        return known[rank(len(known)) - 1] if len(known) == len(devices) else None

    return tuple(
        QuantileFigures(
            name=each.name,
            devices=each.rank(len(devices)),
            call_p50_ms=at(each.rank, lambda device: device.call_p50_ms),
            call_p95_ms=at(each.rank, lambda device: device.call_p95_ms),
            full_path_ms=at(each.rank, lambda device: device.full_path_ms),
        )
        for each in (MEDIAN, P90, SLOWEST)
    )

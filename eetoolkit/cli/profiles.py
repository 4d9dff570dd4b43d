"""`eetoolkit profiles`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

import eetoolkit as ee
from eetoolkit.cli import terminal
from eetoolkit.cli.options import json_option
from eetoolkit.cli.table import Table, print_pairs
from eetoolkit.cli.verb import Verb

if TYPE_CHECKING:
    from eetoolkit.fleet.figures import DeviceFigures, FleetFigures

_FIGURES = ("call p50", "call p95", "full path")
_ORDERS: Mapping[str, Callable[[DeviceFigures], tuple[object, ...]]] = {
    "name": lambda device: (device.name,),
    "call": lambda device: _slowest_first(device.call_p50_ms),
    "p95": lambda device: _slowest_first(device.call_p95_ms),
    "full-path": lambda device: _slowest_first(device.full_path_ms),
}


@click.command(
    cls=Verb,
    short_help="Show the profiles of many devices as one table.",
    examples=(
        "eetoolkit profiles profiles/",
        "eetoolkit profiles profiles/ --bundle digits.ee --sort p95",
    ),
)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--bundle", metavar="BUNDLE", help="Show profiles of this bundle; default: all, which must be of one.")
@click.option(
    "--sort",
    type=click.Choice(list(_ORDERS)),
    default="name",
    show_default=True,
    help="By name, or the slowest first.",
)
@json_option
def profiles(
    folder: Path, bundle: str | None, sort: Literal["name", "call", "p95", "full-path"], as_json: bool
) -> None:
    """Show the profiles in DIR as one table, a row for each device.

    Each `.json` file that `profile --output` or `serve` wrote is a device. NAME-2.json is a later profile of the device
    of NAME.json: the newest counts, and the last column says what changed. All are of one bundle; --bundle picks one.
    """
    from eetoolkit.fleet.figures import figures_of

    found = figures_of(ee.read_fleet(folder, bundle))
    devices = sorted(found.devices, key=_ORDERS[sort])
    if as_json:
        import msgspec

        terminal.print_json(msgspec.structs.replace(found, devices=tuple(devices)))
        return
    _print_devices(devices)
    terminal.say("")
    _print_quantiles(found)
    if found.notes:
        terminal.say("")
        print_pairs(("note", note) for note in found.notes)


def _slowest_first(value: float | None) -> tuple[object, ...]:
    return (value is None, -(value or 0.0))


def _print_devices(devices: list[DeviceFigures]) -> None:
    exits = list(dict.fromkeys(name for device in devices for name in device.exits))
    changed = any(device.profiles > 1 for device in devices)
    table = Table(
        "device", "processor", "measured", "threads", "runs on", *_FIGURES, *exits,
        *(["what changed"] if changed else []),
        right=(*_FIGURES, *exits), prose=("processor", "what changed"),
    )  # fmt: skip
    for device in devices:
        table.add(
            device.name, device.processor, _when(device.measured), str(device.threads or "per core"),
            ", ".join(name.removesuffix("ExecutionProvider") for name in device.providers),
            _ms(device.call_p50_ms), _ms(device.call_p95_ms), _ms(device.full_path_ms),
            *(f"{device.exits[name]:.1%}" if name in device.exits else "-" for name in exits),
            *([_changed(device)] if changed else []),
        )  # fmt: skip
    table.print()


def _print_quantiles(found: FleetFigures) -> None:
    count = len(found.devices)
    table = Table("quantile", "devices that take no more", *_FIGURES, right=_FIGURES)
    for each in found.quantiles:
        figures = (each.call_p50_ms, each.call_p95_ms, each.full_path_ms)
        table.add(each.name, f"{each.devices} of {count}", *map(_ms, figures))
    table.print()


def _changed(device: DeviceFigures) -> str:
    """Returns how a device's newest profile differs from the one before."""
    full = device.full_path
    if full is None:
        return ""
    told = [f"{each.what} {each.a} to {each.b}" for each in device.changes]
    if full.ratio is not None:
        near = ", within the spread" if full.within_spread else ""
        told.insert(0, f"full path {full.ratio:.2f} times{near}")
    return "; ".join(told) or "nothing"


def _when(measured: str) -> str:
    """Returns a time in minutes, which rows can be told apart by."""
    return measured[:16].replace("T", " ")


def _ms(value: float | None) -> str:
    from eetoolkit.showing.profile_picture import spell_ms

    return "-" if value is None else spell_ms(value)

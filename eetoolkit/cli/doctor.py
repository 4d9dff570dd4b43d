"""`eetoolkit doctor`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec

import click

import eetoolkit as ee
from eetoolkit.cli import EXTRAS, terminal
from eetoolkit.cli.device import DEVICE, There, device_options, run_there
from eetoolkit.cli.options import json_option, seconds_options
from eetoolkit.cli.table import Table
from eetoolkit.cli.verb import Verb
from eetoolkit.extras import install

_COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}


@click.command(
    cls=Verb,
    short_help="Say what is wrong here, and what would make a bundle faster.",
    examples=("eetoolkit doctor", "eetoolkit doctor digits.ee --seconds 10", "eetoolkit doctor --on pi@raspberrypi"),
    groups={"On another machine": DEVICE},
)
@click.argument("bundle", required=False)
@seconds_options("examining BUNDLE")
@device_options()
@json_option
@click.pass_context
def doctor(
    ctx: click.Context,
    *,
    bundle: str | None,
    seconds: float,
    as_json: bool,
    on: str | None,
    python: str,
    clean: bool,
) -> None:
    """Examine this machine and, with BUNDLE, how the bundle runs on it.

    The exit status is 1 if there is a problem. Warnings do not change it.
    """
    if on is not None:
        ctx.exit(run_there(There(ctx, here=["bundle"]), bundle, on=on, python=python, clean=clean)[0])
    with terminal.progress() as tell:
        findings = ee.doctor(bundle, seconds=seconds, progress=tell)
    findings += _extras()
    if as_json:
        terminal.print_json(findings)
    else:
        _print(findings)
    ctx.exit(1 if any(finding.state == "problem" for finding in findings) else 0)


def _extras() -> Iterator[ee.Finding]:
    """Yields which extras of eetoolkit are there; a device needs none."""
    packages: dict[str, list[str]] = {}
    for package, extra in EXTRAS.items():
        packages.setdefault(extra, []).append(package)
    for extra, names in packages.items():
        missing = [name for name in names if find_spec(name) is None]
        what = "installed" if not missing else f"not installed: {', '.join(missing)}"
        fix = f"if you need it: {install(extra)}" if missing else None
        yield ee.Finding(name=f"extra {extra}", what=what, fix=fix)


def _print(findings: Sequence[ee.Finding]) -> None:
    table = Table("state", "looked at", "found", prose=("found",), colours=_COLOURS, shown=False)
    for finding in findings:
        fix = () if finding.fix is None else (f"-> {terminal.for_shell(finding.fix)}",)
        table.add(finding.state, finding.name, (finding.what, *fix))
    table.print()

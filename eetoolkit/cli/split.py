"""`eetoolkit split`."""

from __future__ import annotations

from typing import Literal

import click
import msgspec
from click.core import ParameterSource

import eetoolkit as ee
from eetoolkit.cli import terminal
from eetoolkit.cli.options import json_option, overwrite_option
from eetoolkit.cli.outputs import Outputs
from eetoolkit.cli.table import Table
from eetoolkit.cli.verb import Verb
from eetoolkit_runtime.plan.names import spell_name
from eetoolkit_runtime.printable import spell_size


@click.command(
    cls=Verb,
    short_help="Write a bundle in two halves: for a device and for a server.",
    examples=(
        "eetoolkit split digits.ee --list",
        "eetoolkit split digits.ee --at exit1 --out-device d.ee --out-server repo",
        "eetoolkit split digits.ee --at exit1 --out-device d.ee --out-server repo --crossing auto --data val.npz",
    ),
    groups={
        "Where": ("places", "at"),
        "What crosses": ("crossing", "data", "max_disagreement"),
        "What to write": ("device", "server", "servers", "overwrite"),
    },
)
@click.argument("bundle")
@click.option("--list", "places", is_flag=True, help="Say where it can be cut and what would cross; write nothing.")
@click.option("--at", metavar="EXIT", help="The exit behind which it is cut, or the segment before which.")
@click.option("--out-device", "device", metavar="OUT.ee", help="The device's bundle to write.")
@click.option("--out-server", "server", metavar="FOLDER", help="The model repository that gets the server's half.")
@click.option(
    "--crossing",
    type=click.Choice(["float32", "float16", "uint8", "auto"]),
    default="float32",
    show_default=True,
    help="What float32 tensors cross as; auto: in the fewest bytes that leave the answers as they are.",
)
@click.option("--data", metavar="DATA", help="Rows that choose and judge what crosses: as --data of `quantize`.")
@click.option(
    "--max-disagreement",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.01,
    show_default=True,
    help="With --crossing auto: which share of the answers may differ.",
)
@click.option(
    "--for",
    "servers",
    type=click.Choice(["mlserver", "triton"]),
    multiple=True,
    help="A model server that is to find the server's half. Repeatable; default: both.",
)
@overwrite_option
@json_option
@click.pass_context
def split(  # noqa: PLR0913 - one for each option
    ctx: click.Context,
    *,
    bundle: str,
    places: bool,
    at: str | None,
    device: str | None,
    server: str | None,
    crossing: Literal["float32", "float16", "uint8", "auto"],
    data: str | None,
    max_disagreement: float,
    servers: tuple[Literal["mlserver", "triton"], ...],
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write BUNDLE in two halves: what a device runs, and what a model server goes on with.

    The device's half hands over behind an exit. The server's half is for MLServer and for Triton.
    """
    _check_together(ctx, places=places, crossing=crossing)
    if places:
        _list(ee.load(bundle), as_json=as_json)
        return
    if at is None or device is None or server is None:
        raise click.UsageError("pass --at, --out-device and --out-server; --list says where it can be cut")
    Outputs(bundles={"--out-device": device}, reads=[bundle, data]).check(overwrite=overwrite)
    with terminal.progress() as tell:
        report = ee.split(
            bundle, at, device, server, crossing=crossing, rows=data, max_disagreement=max_disagreement,
            servers=servers or ("mlserver", "triton"), overwrite=overwrite, progress=tell,
        )  # fmt: skip
    if as_json:
        terminal.print_json(report)
    else:
        terminal.say(*str(report).split("\n"))


def _check_together(ctx: click.Context, *, places: bool, crossing: str) -> None:
    """Refuses options that would be given in vain."""
    given = {
        each.name: each.opts[0]
        for each in ctx.command.params
        if ctx.get_parameter_source(each.name or "") is ParameterSource.COMMANDLINE
    }
    beside = [option for name, option in given.items() if name not in ("bundle", "places", "as_json")]
    if places and beside:
        raise click.UsageError(f"{beside[0]} does not go with --list, which writes nothing")
    if crossing != "auto" and "max_disagreement" in given:
        raise click.UsageError("--max-disagreement goes with --crossing auto")


def _list(bundle: ee.Bundle, *, as_json: bool) -> None:
    """Prints where a bundle can be cut, and what would cross there."""
    from eetoolkit.splitting.report import total
    from eetoolkit.splitting.split import crosses_of
    from eetoolkit_runtime.plan.halves import check_uncut, cut_points

    check_uncut(bundle.manifest)
    found = [(point, crosses_of(bundle, point)) for point in cut_points(bundle.manifest)]
    if as_json:
        rows = [
            {"exit": point.exit, "segment": point.segment, "tensors": msgspec.to_builtins(tensors)}
            for point, tensors in found
        ]
        terminal.print_json({"cuts": rows})
        return
    if not found:
        terminal.say(
            f"{bundle.manifest.name} cannot be cut: no exit stands before a segment that all later ones follow"
        )
        return
    table = Table("behind", "before segment", "what crosses", "a row", right=["a row"], prose=["what crosses"])
    for point, tensors in found:
        size = total(each.bytes for each in tensors)
        table.add(
            spell_name(point.exit, bundle.manifest.titles), point.segment, ", ".join(each.name for each in tensors),
            "?" if size is None else spell_size(size),
        )  # fmt: skip
    table.print()

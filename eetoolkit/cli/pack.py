"""`eetoolkit pack`."""

from __future__ import annotations

from pathlib import Path

import click

import eetoolkit as ee
from eetoolkit.cli import terminal
from eetoolkit.cli.options import beside, json_option, overwrite_option


@click.command(short_help="Pack a bundle into one .zip.")
@click.argument("bundle")
@click.argument("output", required=False, metavar="[OUT.zip]", type=click.Path(path_type=Path))
@overwrite_option
@json_option
def pack(bundle: str, output: Path | None, overwrite: bool, as_json: bool) -> None:
    """Pack BUNDLE into one .zip for transport, every file's hash checked.

    Without OUT.zip it is written beside the bundle. Every verb takes a packed bundle as well.
    """
    target = ee.load(bundle).pack(output or beside(bundle, ".ee.zip"), overwrite=overwrite)
    from eetoolkit.summary import spell_size

    if as_json:
        terminal.print_json({"path": str(target), "size_bytes": target.stat().st_size})
    else:
        click.echo(f"{target}: {spell_size(target.stat().st_size)}")

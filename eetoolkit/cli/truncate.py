"""`eetoolkit truncate`."""

from __future__ import annotations

import click

import eetoolkit as ee
from eetoolkit.cli import terminal
from eetoolkit.cli.options import beside, json_option, overwrite_option


@click.command(short_help="Cut a bundle off at an exit.")
@click.argument("bundle")
@click.option("--at", "exit_", metavar="EXIT", required=True, help="The exit that always answers.")
@click.option("-o", "--output", metavar="OUT", help="Where to write; default: beside BUNDLE, NAME-EXIT.ee.")
@overwrite_option
@json_option
def truncate(bundle: str, exit_: str, output: str | None, overwrite: bool, as_json: bool) -> None:
    """Cut BUNDLE off at an exit: a smaller bundle that always answers there."""
    target = output or beside(bundle, f"-{exit_}.ee")
    terminal.print_bundle(ee.truncate(bundle, exit_, target, overwrite=overwrite), as_json=as_json)

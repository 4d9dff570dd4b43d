"""`eetoolkit truncate`."""

from __future__ import annotations

import click

import eetoolkit as ee
from eetoolkit.cli import terminal
from eetoolkit.cli.options import beside, json_option, overwrite_option
from eetoolkit.cli.outputs import Outputs
from eetoolkit.cli.verb import Verb
from eetoolkit_runtime.files.paths import file_stem


@click.command(
    cls=Verb,
    short_help="Cut a bundle off at an exit.",
    examples=("eetoolkit truncate digits.ee --at exit1 -o short.ee",),
)
@click.argument("bundle")
@click.option("--at", "exit_", metavar="EXIT", required=True, help="The exit that always answers.")
@click.option("-o", "--output", metavar="OUT", help="Where to write; default: beside BUNDLE, NAME-EXIT.ee.")
@overwrite_option
@json_option
def truncate(bundle: str, exit_: str, output: str | None, overwrite: bool, as_json: bool) -> None:
    """Cut BUNDLE off at an exit: a smaller bundle that always answers there."""
    target = output or beside(bundle, f"-{file_stem(exit_)}.ee")
    Outputs(bundles={"--output": target}, reads=[bundle]).check(overwrite=overwrite)
    made = ee.truncate(bundle, exit_, target, overwrite=overwrite)
    terminal.print_bundle(made, as_json=as_json)

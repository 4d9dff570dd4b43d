"""`eetoolkit verify`."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import click

import eetoolkit as ee
from eetoolkit.cli import terminal
from eetoolkit.cli.device import DEVICE, There, device_options, run_there
from eetoolkit.cli.options import json_option, split_names
from eetoolkit.cli.outputs import Outputs
from eetoolkit.cli.verb import Verb


@click.command(
    cls=Verb,
    short_help="Check that a bundle answers here as its network did.",
    examples=(
        "eetoolkit verify digits.ee",
        "eetoolkit verify digits.ee --model eetoolkit.zoo.branchynet:load",
        "eetoolkit verify digits.ee --on pi@raspberrypi",
        "eetoolkit verify digits.onnx",
    ),
    groups={
        "What to compare with": ("models", "weights", "exits", "tolerance"),
        "On another machine": DEVICE,
    },
)
@click.argument("bundle")
@click.option(
    "--model",
    "models",
    metavar="MODULE:FUNCTION",
    multiple=True,
    help="Compare with the source network too: a torch network, or an .onnx file. Several are a cascade.",
)
@click.option(
    "--weights",
    metavar="FILE",
    help="The torch network's weights, .pt or .safetensors. With them it is put in eval mode.",
)
@click.option("--exits", metavar="A,B", help="As they were given to `export`.")
@click.option("--tolerance", type=click.FloatRange(min=0, min_open=True), help="Default: what the bundle states.")
@click.option(
    "--accept-edit",
    is_flag=True,
    help="First accept a manifest.json that you edited: prove its plan, check every file and renew the digest.",
)
@device_options()
@json_option
@click.pass_context
def verify(  # noqa: PLR0913 - one for each option
    ctx: click.Context,
    *,
    bundle: str,
    models: tuple[str, ...],
    weights: str | None,
    exits: str | None,
    tolerance: float | None,
    accept_edit: bool,
    as_json: bool,
    on: str | None,
    python: str,
    clean: bool,
) -> None:
    """Check that BUNDLE gives on this machine what its source network gave.

    It hashes every file and runs the golden samples. With --model it compares the answers to fresh random inputs too.
    The exit status is 1 if something differs. Golden samples of a quantised bundle are of its quantised segments, and
    --model compares with the float network. BUNDLE may be the .onnx that `pack --single-file` wrote, with its .json
    beside it.
    """
    if not models and (weights is not None or exits is not None):
        raise click.UsageError("--weights and --exits go with --model")
    if on is not None:
        there = There(ctx, here=["bundle"], refused=["models", "weights", "exits", "accept_edit"])
        ctx.exit(run_there(there, bundle, on=on, python=python, clean=clean)[0])
    Outputs(changed={"--accept-edit": bundle if accept_edit else None}).check(overwrite=True)
    if accept_edit:
        ee.accept_edit(bundle)
    # What the network's own code prints is no result of ours.
    with terminal.progress() as tell, contextlib.redirect_stdout(sys.stderr):
        tell("verifying", 0, 0)
        report = ee.verify(bundle, _open(models, weights), exits=split_names(exits), tolerance=tolerance)
    if as_json:
        import msgspec

        terminal.print_json({"passed": report.passed, **msgspec.to_builtins(report)})
    else:
        terminal.say(*str(report).split("\n"))
    ctx.exit(0 if report.passed else 1)


def _open(models: tuple[str, ...], weights: str | None) -> Any:
    if not models:
        return None
    from eetoolkit.reading.modelspec import open_model

    opened = [open_model(model, weights) for model in models]
    return opened[0] if len(opened) == 1 else opened

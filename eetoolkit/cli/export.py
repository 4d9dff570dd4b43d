"""`eetoolkit export`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import eetoolkit as ee
from eetoolkit.cli import terminal
from eetoolkit.cli.network import (
    check_network,
    dynamic_shapes,
    labels_option,
    network_options,
    open_network,
    preprocess_option,
    read_labels,
    read_preprocess,
)
from eetoolkit.cli.options import json_option, one_or_per_exit, overwrite_option, split_names, to_threshold
from eetoolkit.cli.outputs import Outputs
from eetoolkit.cli.verb import Verb

if TYPE_CHECKING:
    from eetoolkit_exporters.cutting.control_flow import Lower
    from eetoolkit_runtime.plan.types import Criterion, Fallback

_FILE = click.Path(path_type=Path)
_LOWER: dict[str, Lower] = {"lower": True, "always": "always", "inside": False}


@click.command(
    cls=Verb,
    short_help="Compile a trained network to a bundle.",
    examples=(
        "eetoolkit export --model eetoolkit.zoo.branchynet:load --input image:1x1x8x8 -o digits.ee",
        "eetoolkit export --model text:load --weights best.pt --input ids:1x16:int64 --dynamic ids:1=length -o text.ee",
        "eetoolkit export small.onnx big.onnx --criterion entropy --threshold 0.8 -o cascade.ee",
    ),
    groups={
        "The network": ("model", "weights", "inputs", "static_batch", "dynamic", "control_flow", "max_loop_steps"),
        "Its exits": ("exits", "criteria", "thresholds", "min_exit", "fallback"),
        "The bundle": ("output", "name", "labels", "preprocess", "golden", "tolerance", "overwrite"),
    },
)
@click.argument("onnx_files", nargs=-1, metavar="[MODEL.onnx]...")
@network_options
@click.option("-o", "--output", required=True, metavar="OUT.ee", help="The bundle to write.")
@click.option("--exits", metavar="A,B", help="Which outputs are exits; default: all, in order.")
@click.option(
    "--criterion",
    "criteria",
    multiple=True,
    metavar="[EXIT=]KIND",
    help="How sure an exit is: max_prob (the default), entropy, margin, patience, vote, mean_ensemble, "
    "geometric_ensemble or learned; with options as JSON, such as "
    """'{"kind": "all_of", "members": [{"kind": "patience"}, {"kind": "margin", "threshold": 0.5}]}'. Repeatable.""",
)
@click.option(
    "--threshold",
    "thresholds",
    multiple=True,
    metavar="[EXIT=]VALUE",
    help="When an exit is confident enough. Repeatable.",
)
@click.option("--static-batch", is_flag=True, help="Fix the number of rows.")
@labels_option
@preprocess_option
@click.option(
    "--golden", type=_FILE, metavar="FILE", help="Real inputs, .npy or .npz, with which a device verifies itself."
)
@click.option(
    "--control-flow",
    type=click.Choice(["lower", "always", "inside"]),
    default="lower",
    show_default=True,
    help="Whether torch.cond, torch.while_loop and blended gates become gates of the plan: if that pays, always, or "
    "never.",
)
@click.option(
    "--max-loop-steps", type=click.IntRange(min=1), metavar="N", help="The bound of loops that do not show their own."
)
@click.option("--min-exit", metavar="EXIT", help="The first exit that may fire; earlier ones are disabled.")
@click.option(
    "--fallback",
    type=click.Choice(["last", "most_confident"]),
    default="last",
    show_default=True,
    help="Which exit answers if none fired.",
)
@click.option(
    "--tolerance",
    type=float,
    metavar="SIZE",
    help="How far a device's answers may be from the network's; default: it depends on the network's dtype.",
)
@click.option("--name", help="The bundle's name; default: that of OUT.ee.")
@overwrite_option
@json_option
def export(  # noqa: PLR0913 - one for each option
    *,
    onnx_files: tuple[str, ...],
    model: str | None,
    weights: str | None,
    inputs: tuple[str, ...],
    output: str,
    exits: str | None,
    criteria: tuple[str, ...],
    thresholds: tuple[str, ...],
    static_batch: bool,
    dynamic: tuple[str, ...],
    labels: Path | None,
    preprocess: Path | None,
    golden: Path | None,
    control_flow: str,
    max_loop_steps: int | None,
    min_exit: str | None,
    fallback: Fallback,
    tolerance: float | None,
    name: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Compile a trained network to the bundle OUT.ee.

    The network is a torch one that --model names, an .onnx file, or several .onnx files, small to large, as a cascade.
    Its outputs are its exits.
    """
    check_network(onnx_files, model, weights, inputs)
    criterion = one_or_per_exit("--criterion", criteria, _criterion)
    threshold = one_or_per_exit("--threshold", thresholds, to_threshold)
    shapes = dynamic_shapes(dynamic)
    given = (*onnx_files, weights, labels, preprocess, golden)
    Outputs(bundles={"--output": output}, reads=given).check(overwrite=overwrite)
    # What the network's own code prints is no result of ours.
    doubts: list[str] = []
    with terminal.progress() as tell, contextlib.redirect_stdout(sys.stderr):
        tell("exporting", 0, 0)
        network, arguments, names = open_network(onnx_files, model, weights, inputs)
        bundle = ee.export(
            network,
            arguments,
            output,
            exits=split_names(exits),
            criterion=criterion or "max_prob",
            threshold=threshold,
            dynamic_batch=not static_batch,
            dynamic_shapes=shapes,
            input_names=names,
            labels=None if labels is None else read_labels(labels),
            preprocess=None if preprocess is None else read_preprocess(preprocess),
            golden_inputs=None if golden is None else _read_golden(golden),
            lower_control_flow=_LOWER[control_flow],
            max_loop_steps=max_loop_steps,
            min_exit=min_exit,
            fallback=fallback,
            tolerance=tolerance,
            name=name,
            overwrite=overwrite,
            warn=doubts.append,
        )
    if model is not None and weights is None and not model.endswith(".onnx"):
        doubts.append(f"without --weights the bundle has those that {model} gives: random ones if it loads none")
    for doubt in doubts:
        terminal.warn(terminal.for_shell(doubt))
    terminal.print_bundle(bundle, as_json=as_json)


def _criterion(text: str) -> str | Criterion:
    """Returns a kind, or the criterion that JSON describes."""
    if not text.startswith("{"):
        return text
    import msgspec

    from eetoolkit_runtime.plan.types import Criterion

    try:
        return msgspec.json.decode(text, type=Criterion)
    except msgspec.DecodeError as error:
        example = '{"kind": "at_least", "n": 2, "members": [...]}'
        raise click.BadParameter(f"{text}: {error}; expected {example}", param_hint="--criterion") from error


def _read_golden(path: Path) -> Any:
    from eetoolkit.reading.inputfiles import read_arrays

    return read_arrays(path)

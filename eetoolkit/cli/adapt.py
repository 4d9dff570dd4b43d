"""`eetoolkit adapt`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import eetoolkit as ee
from eetoolkit.cli import terminal
from eetoolkit.cli.adapt_tables import print_places, print_report
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
from eetoolkit.cli.options import (
    PICTURES,
    json_option,
    overwrite_option,
    picture_options,
    report_option,
    split_names,
    threads_option,
)
from eetoolkit.cli.outputs import Outputs, check_page
from eetoolkit.cli.verb import Verb

if TYPE_CHECKING:
    from eetoolkit.reading.images import ImageOptions

_BY_WORK = "multiply-adds"


@click.command(
    cls=Verb,
    short_help="Give a trained network with one output early exits.",
    examples=(
        "eetoolkit adapt --model pkg:net --weights net.pt --input image:1x3x64x64 --data train/ -o phone.ee",
        "eetoolkit adapt net.onnx --data train.npz -o phone.ee --max-accuracy-drop 0.005 --report report.html",
        "eetoolkit adapt net.onnx --list",
    ),
    groups={
        "The network": ("model", "weights", "inputs", "dynamic"),
        "Rows": ("data", "validation", *PICTURES),
        "The goal": ("max_accuracy_drop", "max_exits", "profile", "by"),
        "Exits": ("list_", "places", "finetune", "seed", "threads"),
        "The bundle": ("output", "name", "labels", "preprocess", "page", "overwrite", "force"),
    },
)
@click.argument("onnx_file", required=False, metavar="[MODEL.onnx]")
@network_options
@click.option(
    "--data",
    metavar="DATA",
    help="A .npz with inputs and `labels` (without them exits learn from the network alone), or a folder with pictures "
    "in a subfolder for each class; rows that the network was not trained on, as far as you have them.",
)
@click.option("--validation", metavar="DATA", help="Rows that choose exits and thresholds; default: some of --data.")
@click.option(
    "--max-accuracy-drop",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="How far the accuracy may fall below the network's.",
)
@click.option("--max-exits", type=click.IntRange(min=1), default=4, show_default=True, help="How many early exits.")
@click.option(
    "--profile",
    metavar="FILE",
    help="Latencies of the device that matters: the JSON of `profile`; default: measured here and now.",
)
@click.option("--by", type=click.Choice([_BY_WORK]), help="Choose exits by work; nothing is measured.")
@click.option("--list", "list_", is_flag=True, help="Only list the places where an exit can be.")
@click.option("--places", metavar="A,B", help="Where exits may be, as --list names them; default: everywhere.")
@click.option(
    "--finetune", type=click.IntRange(min=0), default=0, show_default=True, help="Epochs of training with the exits."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of splits and heads.")
@click.option("-o", "--output", metavar="OUT.ee", help="The bundle to write.")
@click.option("--name", help="The bundle's name; default: that of OUT.ee.")
@labels_option
@preprocess_option
@report_option("all that was tried")
@overwrite_option
@click.option("--force", is_flag=True, help="Write the bundle too where the rows are too few to know its figures.")
@threads_option
@picture_options
@json_option
@click.pass_context
def adapt(  # noqa: PLR0913 - one for each option
    ctx: click.Context,
    *,
    onnx_file: str | None,
    model: str | None,
    weights: str | None,
    inputs: tuple[str, ...],
    dynamic: tuple[str, ...],
    data: str | None,
    validation: str | None,
    max_accuracy_drop: float,
    max_exits: int,
    profile: str | None,
    by: str | None,
    list_: bool,
    places: str | None,
    finetune: int,
    seed: int,
    output: str | None,
    name: str | None,
    labels: Path | None,
    preprocess: Path | None,
    page: Path | None,
    overwrite: bool,
    force: bool,
    threads: int | None,
    as_json: bool,
    pictures: ImageOptions,
) -> None:
    """Give a trained network with one output early exits, and write the tuned bundle OUT.ee.

    The network is a torch one that --model names, or an .onnx file. It stays as it is: heads are fitted on what it
    computes, exits and thresholds are chosen by latency, and the figures are of rows that chose nothing.

    The first line says whether early exit pays. Where it does not, no bundle is written and the exit status is 1;
    --report and --json are written all the same. After Ctrl-C the same command goes on where it was.
    """
    given = () if onnx_file is None else (onnx_file,)
    check_network(given, model, weights, inputs)
    _check_usage(ctx.params)
    shapes = dynamic_shapes(dynamic)
    reads = (*given, weights, data, validation, labels, preprocess, profile)
    outputs = Outputs({"--report": page}, bundles={"--output": output}, reads=reads, kept="features and heads")
    if not list_:
        outputs.check(overwrite=overwrite)
        for path in (data, validation):
            if path is not None and not Path(path).exists():
                raise ee.InputError(f"{path} does not exist")
        check_page(page, overwrite=overwrite)
    named = None if labels is None else read_labels(labels)
    prepared = None if preprocess is None else read_preprocess(preprocess)
    # What the network's own code prints is no result of ours.
    with terminal.progress() as tell, contextlib.redirect_stdout(sys.stderr):
        tell("opening the network", 0, 0)
        network, example, names = open_network(given, model, weights, inputs)
        settings: dict[str, Any] = {"dynamic_shapes": shapes, "input_names": names}
        if list_:
            found = ee.find_exits(network, example, **settings)
        else:
            from eetoolkit.reading.labelled import LabelledPath

            rows = LabelledPath(str(data), pictures, prepared or {}, named)
            adapted = ee.add_exits(
                network, rows, example_inputs=example,
                validation=None if validation is None else replace(rows, path=validation),
                max_accuracy_drop=max_accuracy_drop, max_exits=max_exits, places=split_names(places),
                finetune=finetune, seed=seed, threads=threads, progress=tell, **settings,
            )  # fmt: skip
            refusal, bundle = None, None
            try:
                bundle = adapted.bundle(
                    str(output), profile=profile or by, labels=named, preprocess=prepared, name=name,
                    overwrite=overwrite, force=force, progress=tell,
                )  # fmt: skip
            except ee.TuneError as error:  # what was tried is told all the same
                if adapted.report is adapted.first:
                    raise
                refusal = error
    if list_:
        print_places(found, as_json=as_json)
        return
    if page is not None:
        page = ee.write_report(adapted.report, page, inputs=bundle and adapted.rows.inputs, overwrite=overwrite)
    if as_json:
        terminal.print_json({"bundle": None if bundle is None else str(bundle.place), "report": adapted.report})
    else:
        print_report(adapted.report, bundle, page)
    if refusal is not None:
        raise terminal.Failure(terminal.for_shell(str(refusal))) from refusal


def _check_usage(given: Mapping[str, Any]) -> None:
    """Refuses options that do not go together."""
    if given["list_"]:
        others = {"data": "--data", "output": "--output", "page": "--report"}
        for name, option in others.items():
            if given[name] is not None:
                raise click.UsageError(f"{option} does not go with --list, which adds no exits")
        return
    if given["data"] is None:
        raise click.UsageError("pass --data, rows with labels; --list shows where exits can be without them")
    if given["output"] is None:
        raise click.UsageError("name the bundle to write: -o OUT.ee")
    if given["profile"] is not None and given["by"] is not None:
        raise click.UsageError(f"--profile does not go with --by {given['by']}")

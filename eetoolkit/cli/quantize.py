"""`eetoolkit quantize`."""

from __future__ import annotations

import contextlib
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

import eetoolkit as ee
from eetoolkit.cli import terminal
from eetoolkit.cli.device import DEVICE, device_options, profiling_there
from eetoolkit.cli.options import (
    PICTURES,
    json_option,
    overwrite_option,
    picture_options,
    report_option,
    split_names,
    split_seed_option,
    threads_option,
)
from eetoolkit.cli.outputs import Outputs, check_page
from eetoolkit.cli.quantize_tables import print_report
from eetoolkit.cli.verb import Verb

if TYPE_CHECKING:
    from eetoolkit.reading.images import ImageOptions

_ROWS_THERE = 100
"""About how many rows another machine is measured by."""


@click.command(
    cls=Verb,
    short_help="Make a bundle smaller and faster with int8.",
    examples=(
        "eetoolkit quantize digits.ee --data val.npz -o digits-int8.ee",
        "eetoolkit quantize digits.ee --data val.npz -o phone.ee --tune --report report.html",
        "eetoolkit quantize digits.ee --data val.npz -o pi.ee --on pi@raspberrypi",
        "eetoolkit quantize digits.ee -o small.ee --weights float16",
    ),
    groups={
        "Rows": ("data", "seed", *PICTURES),
        "How it becomes smaller": ("weights", "activations", "reduce_range", "segments", "max_disagreement"),
        "Latencies": ("profile", "threads"),
        "On another machine": DEVICE,
        "Thresholds": ("tune", "max_accuracy_drop"),
        "What to write": ("output", "page", "overwrite"),
    },
)
@click.argument("bundle")
@click.option(
    "--data",
    metavar="DATA",
    help="A .npz or .npy with inputs, or a folder with pictures in a subfolder for each class; with `labels`, "
    "accuracies are told too.",
)
@click.option("-o", "--output", metavar="OUT.ee", required=True, help="The bundle to write.")
@click.option(
    "--max-disagreement",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.01,
    show_default=True,
    help="Which share of the answers may differ at each exit.",
)
@click.option(
    "--weights",
    type=click.Choice(["int8", "float16"]),
    default="int8",
    show_default=True,
    help="float16: stored so, computed with in float32, for the bytes alone; needs no --data.",
)
@click.option(
    "--activations",
    type=click.Choice(["uint8", "int8"]),
    help="What convolutions compute with: uint8 for CPUs, int8 for some accelerators; default: uint8.",
)
@click.option(
    "--reduce-range", is_flag=True, help="Weights of 7 bits, for processors whose int8 saturates (x86 without VNNI)."
)
@click.option("--segments", metavar="A,B", help="Quantise these, or `all`; default: those that it makes faster.")
@click.option(
    "--profile",
    multiple=True,
    metavar="FILE",
    help="Latencies of the device that matters: the JSON of `profile`, of BUNDLE and of a bundle that --segments all "
    "wrote. Repeatable; default: measured here and now.",
)
@device_options("Measure")
@click.option("--tune", is_flag=True, help="Choose the new bundle's thresholds too, by labelled rows of their own.")
@click.option(
    "--max-accuracy-drop",
    type=click.FloatRange(0, 1),
    help="With --tune: accuracy drops by at most this below the last exit's; default: 0.01.",
)
@split_seed_option
@report_option("all figures and charts")
@overwrite_option
@threads_option
@picture_options
@json_option
@click.pass_context
def quantize(  # noqa: PLR0913 - one for each option
    ctx: click.Context,
    *,
    bundle: str,
    data: str | None,
    output: str,
    max_disagreement: float,
    weights: Literal["int8", "float16"],
    activations: Literal["uint8", "int8"] | None,
    reduce_range: bool,
    segments: str | None,
    profile: tuple[str, ...],
    on: str | None,
    python: str,
    clean: bool,
    tune: bool,
    max_accuracy_drop: float | None,
    seed: int,
    page: Path | None,
    overwrite: bool,
    threads: int | None,
    as_json: bool,
    pictures: ImageOptions,
) -> None:
    """Write BUNDLE as OUT.ee with int8 where that is faster, and say what it costs.

    Segments whose int8 is not faster stay float, and so do those that would let more answers differ than
    --max-disagreement says. All figures are of rows that chose nothing.

    The first line says what is gained and what it costs. Where nothing pays, no bundle is written and the exit status
    is 1; --report and --json are written all the same.
    """
    from eetoolkit.reading.labelled import read_labelled

    _check_usage(ctx.params)
    outputs = Outputs({"--report": page}, bundles={"--output": output}, reads=(bundle, data, *profile))
    outputs.check(overwrite=overwrite)
    check_page(page, overwrite=overwrite)
    opened = ee.load(bundle)
    inputs, labels = None, None
    if data is not None:
        inputs, labels = read_labelled(opened.manifest, data, pictures, unlabelled=True)
    with terminal.progress() as tell, contextlib.ExitStack() as stack:
        measured: Any = profile or None
        if on is not None:
            rows = stack.enter_context(_written_rows(opened, inputs))
            settings = [] if threads is None else [f"--threads={threads}"]
            there = profiling_there(rows, settings, on=on, python=python, clean=clean, show=tell)
            measured = stack.enter_context(there)
        report = ee.quantize(
            opened, inputs, output, labels, max_disagreement=max_disagreement, profile=measured, weights=weights,
            activations=activations or "uint8", reduce_range=reduce_range,
            segments="all" if segments == "all" else split_names(segments), tune=tune,
            max_accuracy_drop=max_accuracy_drop, seed=seed, threads=threads, overwrite=overwrite, progress=tell,
        )  # fmt: skip
    if page is not None:
        page = ee.write_report(report, page, overwrite=overwrite)
    if as_json:
        terminal.print_json(report)
    else:
        print_report(report, page)
    if not report.pays:
        raise terminal.Failure(f"no bundle was written: {report.verdict if as_json else 'see above'}")


def _check_usage(given: Mapping[str, Any]) -> None:
    """Refuses options that do not go together."""
    if given["weights"] == "float16":
        for option in ("activations", "reduce-range", "profile", "on"):
            if given[option.replace("-", "_")]:
                raise click.UsageError(f"--{option} does not go with --weights float16, which computes as before")
    elif given["data"] is None:
        raise click.UsageError("pass --data, rows to calibrate by; only --weights float16 needs none")
    if given["profile"] and given["on"] is not None:
        raise click.UsageError("--profile does not go with --on, which measures")
    if given["tune"] and given["data"] is None:
        raise click.UsageError("--tune needs --data, rows with labels")
    if given["max_accuracy_drop"] is not None and not given["tune"]:
        raise click.UsageError("--max-accuracy-drop goes with --tune")


@contextlib.contextmanager
def _written_rows(bundle: ee.Bundle, inputs: Any) -> Iterator[dict[str, Path]]:
    """Gives files of some rows, each as `profile --inputs` reads it, by their names on another machine."""
    import numpy as np

    from eetoolkit.reading.labelled import some_rows

    with tempfile.TemporaryDirectory() as folder:
        files: dict[str, Path] = {}
        for number, row in enumerate(some_rows(bundle.manifest, inputs, _ROWS_THERE)):
            path = Path(folder, f"row{number}.npz")
            with zipfile.ZipFile(path, "w") as archive:  # `np.savez` takes no input that is called `file`
                for spec, array in zip(bundle.manifest.inputs, row, strict=True):
                    with archive.open(f"{spec.name}.npy", "w") as file:
                        np.save(file, array)
            files[path.name] = path
        yield files

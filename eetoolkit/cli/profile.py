"""`eetoolkit profile`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

import eetoolkit as ee
from eetoolkit.cli import terminal
from eetoolkit.cli.device import DEVICE, There, device_options, profile_by_adb, read_profile, run_there
from eetoolkit.cli.options import (
    PICTURES,
    json_option,
    overwrite_option,
    picture_options,
    pool_option,
    provider_option,
    seconds_options,
    threads_option,
)
from eetoolkit.cli.outputs import Outputs
from eetoolkit.cli.remote_options import REMOTE, remote_options
from eetoolkit.cli.verb import Verb

if TYPE_CHECKING:
    from eetoolkit.reading.images import ImageOptions
    from eetoolkit.showing.profile_picture import Kind

_FILE = click.Path(path_type=Path)
_HERE = ("what", "output", "save", "svg", "png", "overwrite", "as_json")
"""What has its meaning on this machine, wherever the bundle runs."""
_TRACING = 0.2  # of the seconds
_MEASURING = ("inputs", "labels", "whole", "trace")


@click.command(
    cls=Verb,
    short_help="Say what each segment and exit costs on this machine.",
    examples=(
        "eetoolkit profile digits.ee --threads 1",
        "eetoolkit profile digits.ee --inputs val.npz --output pi.json --svg pi.svg",
        "eetoolkit profile digits.ee --on pi@raspberrypi --output pi.json",
        "eetoolkit profile --compare pi.json laptop.json",
    ),
    groups={
        "What to run": ("inputs", "labels", "whole"),
        "How to run": ("threads", "spin", "pool", "providers", "seconds", "cool_down", "operators"),
        "Pictures as inputs": PICTURES,
        "What to write": ("output", "save", "trace", "svg", "png", "overwrite"),
        "A server that goes on": REMOTE,
        "On another machine": (*DEVICE, "adb", "native"),
        "Profiles that are there": ("task",),
    },
)
@click.argument("what", nargs=-1, required=True, metavar="BUNDLE | PROFILE...")
@click.option(
    "--inputs", multiple=True, metavar="DATA", help="What to run, as `run` takes it; default: golden samples."
)
@click.option(
    "--labels", metavar="FILE", help="A .npy of the right classes, for accuracies; default: `labels` in .npz inputs."
)
@threads_option
@click.option(
    "--spin",
    type=click.Choice(["always", "brief", "never"]),
    default="brief",
    show_default=True,
    help="What idle workers do.",
)
@pool_option
@provider_option
@seconds_options("all of it")
@click.option(
    "--cool-down",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to pause at most beside this, in all, if the machine becomes hot.",
)
@click.option("--whole", metavar="FILE", help="The same network as one ONNX file, to be run in turns with the bundle.")
@click.option("--operators", is_flag=True, help="Say which operators cost most in each segment.")
@click.option("--trace", metavar="FILE", type=_FILE, help="Write a timeline for chrome://tracing and Perfetto.")
@click.option("-o", "--output", metavar="FILE", type=_FILE, help="Write the profile as JSON.")
@click.option("--svg", metavar="FILE", type=_FILE, help="Draw the profile.")
@click.option("--png", metavar="FILE", type=_FILE, help="Draw the profile.")
@click.option("--save", is_flag=True, help="Save the profile in the bundle; deadlines go by it.")
@click.option("--show", "task", flag_value="show", help="Show what was measured before and measure nothing.")
@click.option("--compare", "task", flag_value="compare", help="Show two profiles beside each other.")
@device_options()
@click.option(
    "--adb",
    is_flag=False,
    flag_value="",
    metavar="[SERIAL]",
    help="Run on an Android phone behind adb, by the native `ee-profile`.",
)
@click.option(
    "--native",
    metavar="FOLDER",
    help="With --adb: where `ee-profile` and libonnxruntime.so for arm64 are; default: $EETOOLKIT_ANDROID.",
)
@overwrite_option
@remote_options
@picture_options
@json_option
@click.pass_context
def profile(  # noqa: PLR0913 - one for each option
    ctx: click.Context,
    *,
    what: tuple[str, ...],
    inputs: tuple[str, ...],
    labels: str | None,
    threads: int | None,
    spin: Literal["always", "brief", "never"],
    pool: Literal["shared", "own"],
    providers: list[tuple[str, dict[str, str]]] | None,
    seconds: float,
    cool_down: float,
    whole: str | None,
    operators: bool,
    trace: Path | None,
    output: Path | None,
    svg: Path | None,
    png: Path | None,
    save: bool,
    task: Literal["show", "compare"] | None,
    overwrite: bool,
    as_json: bool,
    pictures: ImageOptions,
    remote: dict[str, object] | None,
    on: str | None,
    python: str,
    clean: bool,
    adb: str | None,
    native: str | None,
) -> None:
    """Run BUNDLE and say what each segment and exit costs on this machine.

    With --show or --compare nothing is measured: each PROFILE is a file that --output wrote, or a bundle that --save
    saved one in.
    """
    _check_usage(ctx, task, what, save=save, elsewhere=remote is not None and (on is not None or adb is not None))
    kinds: tuple[tuple[Path | None, Kind], ...] = (svg, "svg"), (png, "png")
    pictured = [(path, kind) for path, kind in kinds if path is not None]
    Outputs(
        files={"--output": output, "--trace": trace, "--svg": svg, "--png": png},
        changed={"--save": what[0] if save else None},
        reads=(*what, *inputs, labels, whole),
    ).check(overwrite=overwrite)
    if pictured:  # refused before anything is measured, not after
        importlib.import_module("matplotlib")
    if task == "compare":
        _compare(what, as_json=as_json)
        return
    if task == "show":
        found = ee.Profile.read(what[0])
    elif on is not None or adb is not None:
        opened = _open(what[0])
        found = _elsewhere(ctx, opened, on=on, python=python, clean=clean, adb=adb, native=native)
        if save:
            found.save(opened)
    else:
        opened = _open(what[0])
        rows, right = _read_inputs(opened, inputs, pictures)
        right = right if labels is None else _read_labels(labels)
        tracing_s = 0.0 if trace is None else _TRACING * seconds
        with terminal.progress() as tell:
            found = ee.profile(
                opened, None if rows is None else iter(rows), right, threads=threads, spin=spin, pool=pool,
                providers=providers, seconds=seconds - tracing_s, whole=whole, operators=operators,
                cool_down_s=cool_down, remote=remote, progress=tell,
            )  # fmt: skip
        if trace is not None:
            traced = None if rows is None else iter(rows)
            ee.trace(
                opened,
                trace,
                traced,
                threads=threads,
                spin=spin,
                pool=pool,
                seconds=tracing_s,
                overwrite=overwrite,
            )
        if save:
            found.save(opened)
    if output is not None:
        found.write(output, overwrite=overwrite)
    for path, kind in pictured:
        from eetoolkit.showing.profile_picture import draw

        draw(found, path, kind, overwrite=overwrite)
    if as_json:
        terminal.print_json(found)
    else:
        from eetoolkit.cli.profile_tables import print_profile

        print_profile(found)


def _elsewhere(
    ctx: click.Context,
    bundle: ee.Bundle,
    *,
    on: str | None,
    python: str,
    clean: bool,
    adb: str | None,
    native: str | None,
) -> ee.Profile:
    """Returns the profile that another machine gives, by ssh or by adb."""
    if on is not None:
        there = There(ctx, files=["inputs", "labels", "whole"], here=_HERE, refused=["trace", "task", "adb", "native"])
        extra, results = ("--output=profile.json",), ("profile.json",)
        code, found = run_there(
            there, str(bundle.place), on=on, python=python, clean=clean, extra=extra, results=results, shown=False
        )
        text = found.get("profile.json")
    else:
        code, text = profile_by_adb(ctx, bundle, adb or "", native, clean=clean)
    return read_profile(text, code, on or adb or "the phone")


def _compare(what: Sequence[str], *, as_json: bool) -> None:
    a, b = map(ee.Profile.read, what)
    comparison = a.compare(b)
    if as_json:
        terminal.print_json(comparison)
        return
    from eetoolkit.cli.profile_tables import print_comparison

    print_comparison(comparison)


def _check_usage(ctx: click.Context, task: str | None, what: tuple[str, ...], *, save: bool, elsewhere: bool) -> None:
    if elsewhere:
        raise click.UsageError("--remote measures the link of this machine: it goes without --on and --adb")
    count, expected = {None: (1, "one BUNDLE"), "show": (1, "one PROFILE"), "compare": (2, "two PROFILEs")}[task]
    if len(what) != count:
        flag = "" if task is None else f"--{task}: "
        raise click.UsageError(f"{flag}got {len(what)} arguments, expected {expected}")
    if ctx.params["providers"] and ctx.params["trace"]:
        raise click.UsageError("--provider does not go with --trace, which shows work on the CPU")
    if task is None:
        return
    given = [name for name in _MEASURING if ctx.params[name]]
    given += ["save"] if save else []
    given += ["operators"] if ctx.params["operators"] else []
    given += ["provider"] if ctx.params["providers"] else []
    given += [name for name in ("on", "adb", "native") if ctx.params[name] is not None]
    if task == "compare":
        given += [name for name in ("output", "svg", "png") if ctx.params[name] is not None]
    if given:
        raise click.UsageError(f"--{given[0]} does not go with --{task}")


def _open(bundle: str) -> ee.Bundle:
    path = Path(bundle)
    if path.suffix == ".json" and path.is_file():
        raise ee.BundleError(f"{bundle} is not a bundle; --show shows a profile")
    return ee.load(bundle)


def _read_inputs(bundle: ee.Bundle, inputs: tuple[str, ...], pictures: ImageOptions) -> tuple[Any, Any]:
    """Returns the rows, None without inputs, and their labels, None where a file has none."""
    if not inputs:
        return None, None
    import numpy as np

    from eetoolkit.reading.inputfiles import find_files, holds_nan, read_files

    files = list(read_files(bundle.manifest, find_files(inputs), pictures, sys.stdin.buffer))
    bad = [name for file in files for name, row in zip(file.names, file.rows, strict=True) if holds_nan(row)]
    if bad:
        missing = "where they leave means nothing, unless the network takes it for a missing value"
        terminal.warn(f"NaN in {len(bad)} of the inputs, first {bad[0]}: {missing}")
    rows = [row for file in files for row in file.rows]
    labels = [file.labels for file in files if file.labels is not None]
    if len(labels) < len(files):
        return rows, None
    if any(each.ndim != 1 or each.dtype.kind not in "iu" for each in labels):
        terminal.warn("the labels in the inputs are not one integer for each row, so there are no accuracies")
        return rows, None
    return rows, np.concatenate(labels)


def _read_labels(path: str) -> Any:
    from eetoolkit.reading.inputfiles import read_arrays

    labels = read_arrays(Path(path))
    if isinstance(labels, dict):
        raise ee.InputError(f"{path} holds several arrays; expected a .npy of labels, or a .npz of inputs and labels")
    return labels

"""`eetoolkit profile`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

import eetoolkit as ee
from eetoolkit.cli import terminal
from eetoolkit.cli.options import json_option, picture_options, pool_option, threads_option

if TYPE_CHECKING:
    from eetoolkit.images import ImageOptions
    from eetoolkit_runtime.profile import Latency, Profile


@click.command(short_help="Say what each segment and exit costs on this machine.")
@click.argument("bundle")
@click.option(
    "--inputs", multiple=True, metavar="DATA", help="What to run, as `run` takes it; default: golden samples."
)
@click.option("--labels", metavar="FILE", help="A .npy of the right classes, for accuracies.")
@threads_option
@click.option(
    "--spin",
    type=click.Choice(["always", "brief", "never"]),
    default="brief",
    show_default=True,
    help="What idle workers do.",
)
@pool_option
@click.option(
    "--seconds", type=click.FloatRange(min=0), default=5.0, show_default=True, help="How long to measure, about."
)
@click.option("--save", is_flag=True, help="Write the segments' latencies into the bundle, for deadlines.")
@picture_options
@json_option
def profile(  # noqa: PLR0913 - one for each option
    *,
    bundle: str,
    inputs: tuple[str, ...],
    labels: str | None,
    threads: int | None,
    spin: Literal["always", "brief", "never"],
    pool: Literal["shared", "own"],
    seconds: float,
    save: bool,
    as_json: bool,
    pictures: ImageOptions,
) -> None:
    """Run BUNDLE and say what each segment and exit costs on this machine."""
    import numpy as np

    from eetoolkit.inputfiles import find_files, read_files

    if save and Path(bundle).is_file():
        raise ee.BundleError(f"{bundle} is packed; --save needs the bundle's folder")
    opened = ee.load(bundle)
    plan = opened.manifest
    arrays = None
    if inputs:
        rows = [row for file in read_files(plan, find_files(inputs), pictures, sys.stdin.buffer) for row in file.rows]
        arrays = tuple(np.concatenate(parts) for parts in zip(*rows, strict=True))
    with terminal.progress() as tell:
        found = ee.profile(
            opened, arrays, None if labels is None else _read_labels(labels), threads=threads, spin=spin, pool=pool,
            seconds=seconds, progress=tell,
        )  # fmt: skip
    if save:
        ee.save_profile(opened, found)
    if as_json:
        terminal.print_json(found)
        return
    terminal.print_pairs(_header(found))
    click.echo()
    _print_segments(found)
    click.echo()
    _print_exits(found)


def _read_labels(path: str) -> Any:
    import numpy as np

    try:
        return np.load(path, allow_pickle=False)
    except ValueError as error:
        raise ee.InputError(f"{path} is not a .npy file of labels: {error}") from error


def _header(found: Profile) -> Iterator[tuple[str, str]]:
    from eetoolkit.summary import spell_size

    yield "machine", f"{found.machine.processor}, {found.machine.cores} cores, {found.machine.system}"
    clock = [f"{found.before.clock_mhz:,.0f} MHz"] if found.before.clock_mhz is not None else []
    clock += [f"governor {found.before.governor}"] if found.before.governor else []
    if found.after.temperature_c is not None and found.before.temperature_c is not None:
        clock.append(f"{found.before.temperature_c:.0f} to {found.after.temperature_c:.0f} degrees Celsius")
    if clock:
        yield "clock", ", ".join(clock)
    if found.after.throttled:
        yield "throttled", "yes: heat or a weak power supply has lowered the clock"
    threads = "one per core" if found.threads is None else str(found.threads)
    yield "settings", f"threads {threads}, spin {found.spin}, pool {found.pool}"
    yield "runtime", f"onnxruntime {found.machine.onnxruntime}, numpy {found.machine.numpy}"
    steady = "" if found.steady else ", never steady"
    yield "measured", f"{found.rows} inputs, {found.rounds} rounds after {found.warmup_rounds} of warm-up{steady}"
    yield "a call", f"mean {_ms(found.expected.mean_ms)}, {_spread(found.expected)}"
    if found.full_path is not None:
        yield "full path", f"mean {_ms(found.full_path.mean_ms)}, {_spread(found.full_path)}"
    yield "overhead", f"{found.overhead_us:.1f} us a segment"
    if found.accuracy is not None:
        yield "accuracy", f"{found.accuracy:.1%}"
    if found.memory.opened is not None and found.memory.before is not None:
        yield "memory", f"{spell_size(max(0, found.memory.opened - found.memory.before))} more with all segments open"


def _print_segments(found: Profile) -> None:
    names = ("parameters", "multiply-adds", "bytes", "load", "p50", "p90", "p99", "outliers", "visits")
    table = terminal.new_table("segment", *names, right=names)
    for name, cost in found.segments.items():
        latency = cost.latency
        adds = "-" if cost.multiply_adds is None else f"{cost.multiply_adds:,}"
        table.add_row(
            name, f"{cost.parameters:,}", adds, f"{cost.size_bytes:,}", _ms(cost.load_ms),
            *(_percentiles(latency)), "-" if latency is None else f"{latency.outliers} of {latency.runs}",
            f"{cost.visits:.2f}",
        )  # fmt: skip
    terminal.print_table(table)


def _print_exits(found: Profile) -> None:
    names = ("share", "of these right", "right if always here", "p50", "p90", "p99")
    table = terminal.new_table("exit", *names, right=names)
    for name, cost in found.exits.items():
        table.add_row(
            name, f"{cost.share:.1%}", _percent(cost.accuracy), _percent(cost.accuracy_if_always),
            *_percentiles(cost.latency),
        )  # fmt: skip
    terminal.print_table(table)


def _percentiles(latency: Latency | None) -> tuple[str, str, str]:
    if latency is None:
        return "-", "-", "-"
    return _ms(latency.p50_ms), _ms(latency.p90_ms), _ms(latency.p99_ms)


def _spread(latency: Latency) -> str:
    p50, p90, p99 = _percentiles(latency)
    return f"p50 {p50}, p90 {p90}, p99 {p99}"


def _ms(value: float) -> str:
    return f"{value:.3g} ms" if value >= 1 else f"{value:.3f} ms"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"

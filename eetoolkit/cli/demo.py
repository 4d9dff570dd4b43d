"""`eetoolkit demo`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from eetoolkit.cli import terminal
from eetoolkit.cli.options import json_option
from eetoolkit.cli.outputs import Outputs
from eetoolkit.cli.table import Table, print_pairs
from eetoolkit.cli.verb import Verb

if TYPE_CHECKING:
    from eetoolkit.demo import DemoReport

_MODEL = "branchynet"
_NUMBERS = ("left here", "share", "of these right", "median latency", "if all left here")


@click.command(
    cls=Verb,
    short_help="Try it all on a small network.",
    examples=("eetoolkit demo", "eetoolkit demo --model skipnet --picture skipnet.png"),
)
@click.option(
    "--model", default=_MODEL, show_default=True, metavar="NAME", help="A system of the zoo (eetoolkit zoo list)."
)
@click.option(
    "--output",
    show_default=f"NAME.ee; digits.ee for {_MODEL}",
    metavar="OUT.ee",
    help="The bundle to write.",
)
@click.option("--picture", default="demo.png", show_default=True, metavar="FILE", help="The picture to draw.")
@json_option
def demo(model: str, output: str | None, picture: str, as_json: bool) -> None:
    """Export, verify, run and measure a small network on handwritten digits, and draw what left where.

    It writes a bundle and, where digits left at different exits, a picture, and replaces only its own. Nothing is
    downloaded.
    """
    from eetoolkit.demo import demo as run_demo
    from eetoolkit.demo.pipeline import bundle_path

    Outputs(files={"--picture": picture}, bundles={"--output": bundle_path(output, model)}).watch()
    with terminal.progress() as tell:
        report = run_demo(output, picture, model=model, tell=tell)
    if as_json:
        terminal.print_json(report)
    else:
        _print(report)


def _print(report: DemoReport) -> None:
    terminal.say(
        f"{report.bundle}: {report.title} in {report.segments} segments, {report.size_bytes / 1e6:.2f} MB, "
        f"verified on {report.verified_samples} samples"
    )
    if report.picture is not None:
        terminal.say(f"{report.picture}: easy and hard digits, and where they left", "")
    else:
        terminal.say("no picture: all digits left at one exit", "")
    if len(report.exits) > 1:
        _print_exits(report)
    if report.model != _MODEL:  # there the exits say it all
        _print_work(report)
    threads = "1 thread" if report.threads == 1 else f"{report.threads} threads"
    terminal.say(f"{report.digits} held-out digits, one at a time, {threads}, both in one loop in turns:", "")
    table = Table("", "accuracy", "median", "mean", right=("accuracy", "median", "mean"))
    for name, accuracy, latency in (
        ("early exits" if len(report.exits) > 1 else "bundle", report.accuracy, report.latency),
        ("whole network, one session", report.whole_accuracy, report.whole_latency),
    ):
        table.add(name, _percent(accuracy), f"{latency.median_ms:.3f} ms", f"{latency.mean_ms:.3f} ms")
    table.add("speed-up", "", f"{report.speedup_median:.2f} x", f"{report.speedup_mean:.2f} x")
    table.print()


def _print_exits(report: DemoReport) -> None:
    table = Table("exit", *_NUMBERS, right=_NUMBERS)
    for exit_ in report.exits:
        table.add(
            exit_.exit,
            str(exit_.left),
            _percent(exit_.share),
            _percent(exit_.accuracy),
            "-" if exit_.median_ms is None else f"{exit_.median_ms:.3f} ms",
            "-" if exit_.accuracy_if_always is None else f"{exit_.accuracy_if_always:.1%} right",
        )
    table.print()
    terminal.say("")


def _print_work(report: DemoReport) -> None:
    """Prints what was done of what there is, all of it as means over the digits."""
    print_pairs(_work(report))
    terminal.say("")


def _work(report: DemoReport) -> Iterator[tuple[str, str]]:
    yield "work done", f"{_percent(report.work_share)} of all multiply-adds"
    yield "segments run", f"{report.segments_run:.2f} of {report.segments}"
    if report.gates_open is not None:
        yield "gates open", f"{report.gates_open:.2f} of {report.gates_met:.2f} met"
    if report.rounds is not None:
        yield "rounds", f"{report.rounds:.2f} of at most {report.max_rounds}"
    if report.ponder_cost is not None:
        yield "ponder cost", f"{report.ponder_cost:.2f}"
    for switch in report.routes:
        yield f"cases after {switch.segment}", ", ".join(map(str, switch.taken)) + " times"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"

"""`eetoolkit demo`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from eetoolkit.cli import terminal
from eetoolkit.cli.options import json_option

if TYPE_CHECKING:
    from eetoolkit.demo import DemoReport

_NUMBERS = ("left here", "share", "of these right", "median latency", "if all left here")


@click.command(short_help="Try it all on a small network.")
@click.option("--output", default="digits.ee", show_default=True, metavar="OUT.ee", help="The bundle to write.")
@click.option("--picture", default="demo.png", show_default=True, metavar="FILE", help="The picture to draw.")
@json_option
def demo(output: str, picture: str, as_json: bool) -> None:
    """Export, verify, run and measure a small network on handwritten digits, and draw what left where.

    It writes a bundle and a picture, and replaces only its own. Nothing is downloaded.
    """
    from eetoolkit.demo import demo as run_demo

    with terminal.progress() as tell:
        report = run_demo(output, picture, tell=tell)
    if as_json:
        terminal.print_json(report)
    else:
        _print(report)


def _print(report: DemoReport) -> None:
    click.echo(
        f"{report.bundle}: BranchyNet in {report.segments} segments, {report.size_bytes / 1e6:.2f} MB, "
        f"verified on {report.verified_samples} samples"
    )
    click.echo(f"{report.picture}: easy and hard digits, and where they left\n")
    table = terminal.new_table("exit", *_NUMBERS, right=_NUMBERS)
    for exit_ in report.exits:
        table.add_row(
            exit_.exit,
            str(exit_.left),
            _percent(exit_.share),
            _percent(exit_.accuracy),
            "-" if exit_.median_ms is None else f"{exit_.median_ms:.3f} ms",
            f"{_percent(exit_.accuracy_if_always)} right",
        )
    terminal.print_table(table)
    threads = "1 thread" if report.threads == 1 else f"{report.threads} threads"
    click.echo(f"\n{report.digits} held-out digits, one at a time, {threads}, both in one loop in turns:\n")
    table = terminal.new_table("", "accuracy", "median", "mean", right=("accuracy", "median", "mean"))
    for name, accuracy, latency in (
        ("early exits", report.accuracy, report.latency),
        ("whole network, one session", report.whole_accuracy, report.whole_latency),
    ):
        table.add_row(name, _percent(accuracy), f"{latency.median_ms:.3f} ms", f"{latency.mean_ms:.3f} ms")
    table.add_row("speed-up", "", f"{report.speedup_median:.2f} x", f"{report.speedup_mean:.2f} x")
    terminal.print_table(table)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"

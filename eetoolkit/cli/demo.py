"""`eetoolkit demo`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from eetoolkit.cli import terminal
from eetoolkit.cli.options import json_option
from eetoolkit.cli.outputs import Outputs
from eetoolkit.cli.table import Table
from eetoolkit.cli.verb import Verb

if TYPE_CHECKING:
    from eetoolkit.demo import DemoReport
    from eetoolkit_runtime.profiling.latency import Latency
    from eetoolkit_runtime.profiling.profile import Profile

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

    The demo writes a bundle. If digits left at different exits, it draws a picture too. It replaces only a bundle and a
    picture that a demo wrote. Nothing is downloaded.
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
    found, whole = report.profile, report.profile.whole
    terminal.say(
        f"{report.bundle}: {report.title} in {report.segments} segments, {report.size_bytes / 1e6:.2f} MB, "
        f"verified on {report.verified_samples} samples"
    )
    if report.picture is not None:
        terminal.say(f"{report.picture}: easy and hard digits, and where they left", "")
    else:
        terminal.say("no picture: all digits left at one exit", "")
    several = len(found.exits) > 1
    if several:
        _print_exits(found)
    threads = "1 thread" if found.threads == 1 else f"{found.threads} threads"
    terminal.say(f"{found.rows} held-out digits, one at a time, {threads}, both in one loop in turns:", "")
    table = Table("", "accuracy", "median", "mean", right=("accuracy", "median", "mean"))
    table.add("early exits" if several else "bundle", _percent(found.accuracy), *_times(found.expected))
    if whole is not None:
        accuracy = list(found.exits.values())[-1].accuracy_if_always
        table.add("whole network, one session", _percent(accuracy), *_times(whole.latency))
        if (calls := found.expected) is not None:
            median, mean = whole.latency.p50_ms / calls.p50_ms, whole.latency.robust_ms / calls.robust_ms
            table.add("speed-up", "", f"{median:.2f} x", f"{mean:.2f} x")
    table.print()


def _print_exits(found: Profile) -> None:
    table = Table("exit", *_NUMBERS, right=_NUMBERS)
    for name, cost in found.exits.items():
        table.add(
            name,
            str(round(cost.share * found.rows)),
            _percent(cost.share),
            _percent(cost.accuracy),
            "-" if cost.call is None else f"{cost.call.p50_ms:.3f} ms",
            "-" if cost.accuracy_if_always is None else f"{cost.accuracy_if_always:.1%} right",
        )
    table.print()
    terminal.say("")


def _times(latency: Latency | None) -> tuple[str, str]:
    """Returns the median and the robust mean."""
    if latency is None:
        return "-", "-"
    return f"{latency.p50_ms:.3f} ms", f"{latency.robust_ms:.3f} ms"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"

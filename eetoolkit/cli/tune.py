"""`eetoolkit tune`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

import eetoolkit as ee
from eetoolkit.cli import terminal
from eetoolkit.cli.frontier_chart import frontier_chart
from eetoolkit.cli.options import (
    PICTURES,
    json_option,
    overwrite_option,
    picture_options,
    report_option,
    split_seed_option,
    threads_option,
)
from eetoolkit.cli.outputs import Outputs, check_page
from eetoolkit.cli.table import print_pairs
from eetoolkit.cli.tune_tables import figures, print_choices, print_fleet
from eetoolkit.cli.verb import Verb
from eetoolkit_runtime.running.decision import spell_threshold

if TYPE_CHECKING:
    from eetoolkit.reading.images import ImageOptions
    from eetoolkit.tuning.pruning import Pruning

_COMPARED = 200
"""About how many rows a pruned bundle is measured by."""


@click.command(
    cls=Verb,
    short_help="Choose thresholds for a stated goal.",
    examples=(
        "eetoolkit tune digits.ee --data val.npz --max-accuracy-drop 0.01 --report report.html",
        "eetoolkit tune digits.ee --data val.npz --profile pi.json --apply",
        "eetoolkit tune digits.ee --data val.npz --profile pi.json --link link.json --server-profile server.json",
        "eetoolkit tune digits.ee --data val.npz --profile profiles/ --for p90-device --budget-ms 5",
        "eetoolkit tune digits.ee --undo",
    ),
    groups={
        "The goal": ("max_accuracy_drop", "min_accuracy", "budget_ms", "budget_share", "risk", "delta", "method"),
        "Data and costs": ("data", "calibrate", "profile", "for_", "force", "seed", "record", "threads"),
        "Where to split": ("link", "server_profile", "server_speedup"),
        "Pictures": PICTURES,
        "Output": ("apply_", "undo", "prune", "page", "overwrite"),
    },
)
@click.argument("bundle")
@click.option(
    "--data",
    metavar="DATA",
    help="A .npz with inputs and `labels`, or a folder with pictures in a subfolder for each class.",
)
@click.option(
    "--max-accuracy-drop",
    type=float,
    help="Lowest cost; accuracy drops by at most this below the last exit's; default: 0.01.",
)
@click.option("--min-accuracy", type=float, help="Lowest cost at this accuracy or above.")
@click.option("--budget-ms", type=float, help="Best accuracy within this mean latency.")
@click.option("--budget-share", type=float, help="Best accuracy within this share of the whole network's cost.")
@click.option(
    "--risk",
    type=float,
    help="Lowest cost, with a guarantee: at most this share of inputs is wrong only because it left early.",
)
@click.option("--delta", type=float, help="With --risk: the probability that the guarantee fails; default: 0.05.")
@click.option(
    "--method",
    type=click.Choice(["ltt", "ucb", "crc"]),
    help="With --risk: Learn then Test, betting bound, or conformal risk control (expected loss); default: ltt.",
)
@click.option(
    "--calibrate/--no-calibrate",
    default=None,
    help="Fit a temperature for each exit first; default: on when --data has 150 rows or more, with --risk 200.",
)
@click.option(
    "--profile",
    metavar="FILE | DIR",
    help="Segment latencies: the JSON of `profile`, from any machine, or a folder of many devices'; default: the "
    "profile saved in BUNDLE, otherwise multiply-adds.",
)
@click.option(
    "--for",
    "for_",
    metavar="QUANTILE",
    help="With --profile DIR: the device whose cost counts, pN-device, median-device or slowest-device: N % of the "
    "devices take no more than it.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Accept a profile of another bundle or of other providers. Let --apply and --prune write even if the goal is "
    "missed or the rows are too few to know.",
)
@click.option(
    "--link",
    metavar="FILE",
    help="Choose where to split too, with a server behind this link: a profile that measured one, or JSON with "
    "round_trip_ms, up_mbit_s and down_mbit_s.",
)
@click.option("--server-profile", metavar="FILE", help="With --link: a profile of BUNDLE taken on the server.")
@click.option("--server-speedup", type=float, metavar="TIMES", help="Instead: how many times as fast the server is.")
@split_seed_option
@click.option(
    "--record",
    metavar="FILE",
    help="With --data: save every exit's answers in FILE, with fitted temperatures in FILE's .calibrated.npz, and "
    "resume from there. Without --data: tune by FILE alone.",
)
@report_option("all figures and charts")
@overwrite_option
@click.option("--apply", "apply_", is_flag=True, help="Write the chosen thresholds into BUNDLE.")
@click.option("--prune", metavar="OUT", help="Write a tuned bundle without the exits that do not pay.")
@click.option(
    "--undo", is_flag=True, help="Restore the thresholds and temperatures from before BUNDLE was first tuned."
)
@threads_option
@picture_options
@json_option
@click.pass_context
def tune(  # noqa: PLR0913 - one for each option
    ctx: click.Context,
    *,
    bundle: str,
    data: str | None,
    max_accuracy_drop: float | None,
    min_accuracy: float | None,
    budget_ms: float | None,
    budget_share: float | None,
    risk: float | None,
    delta: float | None,
    method: Literal["ltt", "ucb", "crc"] | None,
    calibrate: bool | None,
    profile: str | None,
    link: str | None,
    server_profile: str | None,
    server_speedup: float | None,
    for_: str | None,
    force: bool,
    seed: int,
    record: str | None,
    page: Path | None,
    overwrite: bool,
    apply_: bool,
    prune: str | None,
    undo: bool,
    threads: int | None,
    as_json: bool,
    pictures: ImageOptions,
) -> None:
    """Choose the thresholds of BUNDLE for a goal, and report their figures on held-out rows.

    The first line says whether the goal is met on the held-out rows; in --json it is `goal_met`. If the goal is missed,
    or the rows are too few to know, --apply and --prune write nothing and the exit status is 1. --report, --record and
    --json are written all the same. Without --apply and --prune the exit status is 0, unless no thresholds can meet the
    goal.
    """
    import msgspec

    from eetoolkit.reading.labelled import read_labelled, some_rows
    from eetoolkit.tuning.record import calibrated_path
    from eetoolkit_runtime.files.paths import shown

    _check_usage(ctx.params)
    collected = None if data is None else record
    Outputs(
        files={"--report": page},
        resumed={"--record": collected, "--record's temperatures": collected and calibrated_path(collected)},
        bundles={"--prune": prune},
        changed={"--apply": bundle if apply_ else None, "--undo": bundle if undo else None},
        reads=(bundle, data, profile, link, server_profile, None if collected else record),
    ).check(overwrite=overwrite)
    if undo:
        restored = ee.undo_tuning(bundle)
        if not as_json:
            limits = (f"{name} {spell_threshold(exit_.threshold)}" for name, exit_ in restored.exits.items())
            terminal.say(f"thresholds and temperatures restored: {', '.join(limits)}")
        terminal.print_bundle(restored, as_json=as_json)
        return
    check_page(page, overwrite=overwrite)
    opened = ee.load(bundle)
    if prune is not None:
        _check_prunable(opened)
    inputs, labels = (None, None) if data is None else read_labelled(opened.manifest, data, pictures)
    with terminal.progress() as tell:
        report = ee.tune(
            opened, inputs, labels, max_accuracy_drop=max_accuracy_drop, min_accuracy=min_accuracy,
            budget_ms=budget_ms, budget_share=budget_share, risk=risk, delta=0.05 if delta is None else delta,
            method=method or "ltt", calibrate=calibrate, profile=profile, for_=for_, link=link,
            server=server_speedup if server_profile is None else server_profile, force=force, seed=seed, record=record,
            threads=threads, progress=tell,
        )  # fmt: skip
    refusals: list[ee.EEToolkitError] = []  # what was found is told all the same
    pruning, written, applied = None, None, False
    if apply_:
        with _noted(refusals):
            report.apply(force=force)
            applied = True
    if prune is not None:
        with _noted(refusals), terminal.progress() as tell:
            tell("pruning", 0, 0)
            some = None if inputs is None else some_rows(opened.manifest, inputs, _COMPARED)
            pruning = report.prune(prune, some, threads=threads, overwrite=overwrite, force=force)
    if page is not None:
        with _noted(refusals):
            written = ee.write_report(report, page, inputs=inputs, overwrite=overwrite)
    if as_json:
        terminal.print_json(report if pruning is None else msgspec.to_builtins(report) | {"pruning": pruning})
    else:
        _print(report, pruning, applied=applied)
        if written is not None:
            terminal.say("", f"report in {shown(written)}")
    # The outcome stands above already, with its reason.
    told = [str(refusal) if as_json else str(refusal).replace(report.goal_reason, "see above") for refusal in refusals]
    for line in told[:-1]:
        terminal.complain("error:", "red", terminal.for_shell(line))
    if refusals:
        raise terminal.Failure(terminal.for_shell(told[-1])) from refusals[-1]


@contextlib.contextmanager
def _noted(refusals: list[ee.EEToolkitError]) -> Iterator[None]:
    """Adds what is refused inside to a list, the same once, and goes on."""
    try:
        yield
    except ee.EEToolkitError as error:
        if str(error) not in map(str, refusals):
            refusals.append(error)


def _check_usage(given: Mapping[str, Any]) -> None:
    """Refuses options that do not go together."""
    if given["undo"] and any(given[name] for name in ("data", "record", "page", "prune", "apply_")):
        raise click.UsageError("--undo goes alone")
    if not (given["undo"] or given["data"] or given["record"]):
        raise click.UsageError("pass --data, or a --record")
    if given["for_"] is not None and given["profile"] is None:
        raise click.UsageError("--for goes with --profile DIR")
    for name in ("delta", "method"):
        if given[name] is not None and given["risk"] is None:
            raise click.UsageError(f"--{name} goes with --risk")
    if given["server_profile"] is not None and given["server_speedup"] is not None:
        raise click.UsageError("--server-profile or --server-speedup, not both")
    if given["link"] is not None and given["prune"] is not None:
        raise click.UsageError("--prune goes without --link: prune first, then tune the pruned bundle with --link")


def _check_prunable(bundle: ee.Bundle) -> None:
    """Refuses what cannot be pruned, before any work is done."""
    if bundle.manifest.golden is None:
        raise ee.ExportError(f"--prune: {bundle.place} has no golden samples to verify a pruned bundle by")
    _ = ee.prune  # says what is missing


def _print(report: ee.TuningReport, pruning: Pruning | None, *, applied: bool) -> None:
    print_pairs(_header(report, pruning, applied=applied))
    terminal.say("")
    print_choices(report)
    if report.fleet is not None:
        terminal.say("")
        print_fleet(report.fleet)
    terminal.say("", *frontier_chart(report, terminal.columns()))


def _header(report: ee.TuningReport, pruning: Pruning | None, *, applied: bool) -> Iterator[tuple[str, str]]:
    from eetoolkit.tuning.wording import Wording

    say = Wording(report.metric, report.unit)
    yield from figures(report)
    if pruning is not None:
        without = f"without {', '.join(pruning.exits)}" if pruning.exits else f"with every exit: {pruning.kept}"
        yield "pruned", f"{pruning.path}, {without}"
        alike = "all rows" if pruning.equal == pruning.rows else f"{pruning.equal} of {pruning.rows} rows"
        if pruning.latency is not None:
            unsure = "; the difference may be chance" if pruning.latency.low <= 1 <= pruning.latency.high else ""
            yield "measured", f"{say.share(pruning.latency)} of the tuned bundle's latency{unsure}"
        disabled = " with these exits disabled" if pruning.exits else ""
        yield "answers", f"the same as the tuned bundle's{disabled}, on {alike}"
    elif report.pruned is not None:
        gone = [name for name, limit in report.pruned.thresholds.items() if limit == "never"]
        does, them = ("does", "it") if len(gone) == 1 else ("do", "them")
        yield "prune", f"{' and '.join(gone)} {does} not pay; --prune OUT writes a bundle without {them}"
    apply = "--apply" if report.goal_met else "--apply --force"
    yield (
        "bundle",
        "thresholds written; --undo restores the old ones" if applied else f"unchanged; {apply} writes the thresholds",
    )

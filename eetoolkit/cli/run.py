"""`eetoolkit run`."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

import eetoolkit as ee
from eetoolkit.cli import terminal
from eetoolkit.cli.device import DEVICE, There, device_options, run_there
from eetoolkit.cli.options import (
    PICTURES,
    json_option,
    per_exit,
    picture_options,
    pool_option,
    provider_option,
    threads_option,
    to_threshold,
)
from eetoolkit.cli.remote_options import REMOTE, remote_options
from eetoolkit.cli.verb import Verb
from eetoolkit_runtime.plan.names import spell_name

if TYPE_CHECKING:
    from eetoolkit.reading.images import ImageOptions
    from eetoolkit_runtime.plan.types import Manifest


def _given(ctx: click.Context, param: click.Parameter, inputs: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the inputs; where there are none, a file that is no bundle is what is said first."""
    if not inputs:
        if Path(ctx.params["bundle"]).is_file():
            ee.load(ctx.params["bundle"])
        raise click.MissingParameter(ctx=ctx, param=param)
    return inputs


@click.command(
    cls=Verb,
    short_help="Answer arrays, pictures, or what comes on stdin.",
    examples=(
        "eetoolkit run digits.ee digits.npy",
        "eetoolkit run digits.ee pictures/ --json --deadline-ms 5",
        "cat digits.npy | eetoolkit run digits.ee -",
        "eetoolkit run digits.ee digits.npy --remote https://server/v2/models/digits-tail --from exit1",
    ),
    groups={
        "Where to answer": ("exit_at", "thresholds", "deadline_ms"),
        "Pictures": PICTURES,
        "How to run": ("threads", "pool", "providers", "check"),
        "A server that goes on": REMOTE,
        "On another machine": DEVICE,
    },
)
@click.argument("bundle")
@click.argument("inputs", nargs=-1, callback=_given, metavar="INPUT...")
@click.option("--exit-at", metavar="EXIT", help="Always answer at this exit.")
@click.option(
    "--threshold",
    "thresholds",
    multiple=True,
    metavar="EXIT=VALUE",
    help="Another threshold for an exit, a number or never. Repeatable.",
)
@click.option(
    "--deadline-ms",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MS",
    help="Answer each row within this, with the best exit reached by then.",
)
@threads_option
@pool_option
@provider_option
@click.option(
    "--check",
    type=click.Choice(["quick", "full"]),
    default="quick",
    show_default=True,
    help="Hash the graphs, or every file.",
)
@picture_options
@remote_options
@device_options()
@json_option
@click.option("--outputs", is_flag=True, help="With --json: the exit's outputs as well, as lists.")
@click.pass_context
def run(  # noqa: PLR0913 - one for each option
    ctx: click.Context,
    *,
    bundle: str,
    inputs: tuple[str, ...],
    exit_at: str | None,
    thresholds: tuple[str, ...],
    deadline_ms: float | None,
    threads: int | None,
    pool: Literal["shared", "own"],
    providers: list[tuple[str, dict[str, str]]] | None,
    check: Literal["quick", "full"],
    as_json: bool,
    outputs: bool,
    pictures: ImageOptions,
    remote: dict[str, object] | None,
    on: str | None,
    python: str,
    clean: bool,
) -> None:
    """Answer each row of INPUT..., one line an answer.

    INPUT is a .npy array, a .npz of arrays by input name (its `labels` are left alone), a PNG or JPEG, a folder of
    these pictures, or - for stdin: a picture, a .npz, or one .npy array after the other, each answered when it comes.

    Pictures are prepared as the bundle's `preprocess` says, unless an option says otherwise.
    """
    from eetoolkit.reading.inputfiles import find_files, read_files

    if outputs and not as_json:
        raise click.UsageError("--outputs goes with --json")
    if on is not None:
        if remote is not None:
            raise click.UsageError("--remote goes without --on: this machine asks the server")
        there = There(ctx, files=["inputs"], here=["bundle"])
        ctx.exit(run_there(there, bundle, on=on, python=python, clean=clean)[0])
    load: Literal["lazy", "eager"] = "lazy" if deadline_ms is None else "eager"  # opening is not answering
    limits = per_exit("--threshold", thresholds, to_threshold)
    files = find_files(inputs)
    with (
        ee.Runner(
            bundle, threads=threads, pool=pool, providers=providers, check=check, load=load, remote=remote
        ) as runner,
        terminal.progress(beside_results=True) as tell,
    ):
        plan = runner.bundle.manifest
        if (remark := runner.bundle.stale_remark) is not None:
            terminal.warn(remark)
        if plan.split is not None and remote is None:
            terminal.warn(
                f"no --remote: where no exit of this device's half is sure, {plan.split.exit} has the answer of "
                f"{spell_name(plan.split.local, plan.titles)} and what the server needs"
            )
        total, done, late = len(files), 0, 0
        failed: str | None = None
        for file in read_files(plan, files, pictures, sys.stdin.buffer):
            total = max(total + len(file.rows) - 1, done + len(file.rows))
            for name, row in zip(file.names, file.rows, strict=True):
                try:
                    answer = runner.run(row, exit_at=exit_at, thresholds=limits or None, deadline_ms=deadline_ms)
                except ee.DeadlineError as error:
                    terminal.complain(f"{name}:", "yellow", str(error))
                    late += 1
                    failed = _warn_of(runner, name, failed)
                    continue
                if math.isnan(answer.confidence):
                    terminal.warn(f"{name}: the confidence is NaN; look at this input")
                if as_json:
                    terminal.print_json(_record(plan, name, answer, outputs=outputs), indent=-1)
                else:
                    terminal.say(f"{name}: {_line(plan, answer)}")
                failed = _warn_of(runner, name, failed)
                done += 1
                tell("running", done, total)
    _count_unanswered(runner, failed)
    if late:
        raise ee.DeadlineError(f"{late} of {done + late} rows had no answer in time")


def _warn_of(runner: ee.Runner, name: str, known: str | None) -> str | None:
    """Says why the server gave a row no answer, unless that is the known reason; returns the last reason so far."""
    failure = None if runner.remote is None else runner.remote.last_failure
    if failure is None or str(failure) == known:
        return known
    terminal.warn(terminal.for_shell(f"{name}: no answer of the server: {failure}"))
    return str(failure)


def _count_unanswered(runner: ee.Runner, failed: str | None) -> None:
    """Says how many rows the server did not answer, and the last reason."""
    if runner.remote is None or not runner.remote.unanswered:
        return
    count, rows = runner.remote.unanswered, runner.remote.answered + runner.remote.unanswered
    went = "1 row that went on" if rows == 1 else f"{rows:,} rows that went on"
    terminal.warn(f"{count:,} of {went} got no answer from the server, at last: {terminal.for_shell(str(failed))}")


def _line(plan: Manifest, answer: ee.Answer) -> str:
    """Returns the answer for people; gates and repeated visits only where the plan has them."""
    parts = [label] if (label := _label(plan, answer)) is not None else []
    parts.append(str(answer))
    if answer.ponder_cost is not None:
        parts.append(f"ponder cost {answer.ponder_cost:.4g}")
    decisions: dict[str, list[str]] = {}
    for segment, decision in answer.gates:
        decisions.setdefault(segment, []).append(str(decision))
    if decisions:
        parts.append("gates " + " ".join(f"{segment}={','.join(taken)}" for segment, taken in decisions.items()))
    repeated = [f"{segment}={count}" for segment, count in answer.visits.items() if count > 1]
    if repeated:
        parts.append("visits " + " ".join(repeated))
    return ", ".join(parts)


def _label(plan: Manifest, answer: ee.Answer) -> str | None:
    """Returns the label of the predicted class, its number where it has none, None where the answer is no class."""
    number = answer.prediction
    if number is None:
        return None
    return plan.labels[number] if plan.labels is not None and number < len(plan.labels) else f"class {number}"


def _record(plan: Manifest, name: str, answer: ee.Answer, *, outputs: bool) -> dict[str, Any]:
    number = answer.prediction
    labelled = number is not None and plan.labels is not None and number < len(plan.labels)
    record = {
        "input": name,
        "prediction": number,
        "label": _label(plan, answer) if labelled else None,
        "exit": answer.exit,
        "confidence": answer.confidence,
        "path": answer.path,
        "segments": answer.segments,
        "visits": answer.visits,
        "gates": answer.gates,
        "ponder_cost": answer.ponder_cost,
        "stopped_by": answer.stopped_by,
        "remote": answer.remote,
    }
    return record | ({"outputs": {key: array.tolist() for key, array in answer.outputs.items()}} if outputs else {})

"""What `quantize` prints: the verdict, bytes and calls, every segment, every exit, the tuned figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from eetoolkit.cli import terminal
from eetoolkit.cli.table import Table, print_pairs
from eetoolkit.cli.tune_tables import figures

if TYPE_CHECKING:
    from pathlib import Path

    from eetoolkit.quantizing.report import QuantizationReport


def print_report(report: QuantizationReport, page: Path | None) -> None:
    """Prints what quantising a bundle found, its verdict first, and what was written."""
    from eetoolkit_runtime.files.paths import shown

    terminal.say(report.verdict)
    print_pairs(_header(report))
    terminal.say("")
    _print_segments(report)
    if report.exits:
        terminal.say("")
        _print_exits(report)
    if report.tuning is not None:
        terminal.say("")
        print_pairs(figures(report.tuning))
    if page is not None:
        terminal.say("", f"report in {shown(page)}")


def _header(report: QuantizationReport) -> Iterator[tuple[str, str]]:
    from eetoolkit.quantizing.report import PARTS

    if report.path is not None:
        yield "bundle", report.path
    yield from report.gains.items()
    activations = "" if report.activations is None else f", static segments compute with {report.activations}"
    yield "weights", f"{report.weights}{activations}"
    if report.exits:
        yield "bound", report.bound
    if report.rows:
        yield "rows", ", ".join(f"{count} {PARTS[name]}" for name, count in report.rows.items())
    if report.costs:
        yield "latencies", report.costs
    for note in report.notes:
        yield "note", terminal.for_shell(note)
    if report.advice is not None:
        yield "next", report.advice


def _print_segments(report: QuantizationReport) -> None:
    made = report.weights
    columns = ("float, ms", f"{made}, ms", "bytes before", "bytes after")
    table = Table("segment", "method", *columns, "remarks", right=columns, prose=("remarks",))
    for each in report.segments:
        table.add(
            each.name, each.method, _ms(each.before_ms), _ms(each.after_ms), f"{each.before_bytes:,}",
            f"{each.after_bytes:,}", each.remarks,
        )  # fmt: skip
    table.print()
    tried = f"; {made} of a float segment: the best that was tried" if _tried(report) else ""
    print_pairs([("", f"robust means of a visit{tried}")] if _timed(report) else [])


def _print_exits(report: QuantizationReport) -> None:
    from eetoolkit.tuning.wording import Wording

    say = Wording("accuracy", "ms")
    scored = any(each.before is not None for each in report.exits)
    scores = ("accuracy before", "accuracy after") if scored else ()
    numbers = (
        "rows",
        report.agreement,
        *scores,
        "shift p50",
        "shift p99",
        f"within {report.limit}",
    )
    table = Table("on held-out rows", *numbers, right=numbers)
    for each in report.exits:
        accuracies = ["-" if score is None else say.score(score) for score in (each.before, each.after)]
        table.add(
            each.name, str(each.rows), say.share(each.agreement), *(accuracies if scored else []),
            *(f"{shift:.4f}" for shift in each.shift), "yes" if each.within else "exceeded",
        )  # fmt: skip
    table.print()
    of = f"{report.agreement}: of the rows that meet the exit in either bundle; the others: in both"
    print_pairs([("", f"{of}; shift: how far its confidence moves")])


def _timed(report: QuantizationReport) -> bool:
    return any(each.before_ms is not None for each in report.segments)


def _tried(report: QuantizationReport) -> bool:
    """Whether a segment stayed float that was timed otherwise too."""
    return any(each.method == "float" and each.after_ms is not None for each in report.segments)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"

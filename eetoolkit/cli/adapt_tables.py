"""What `adapt` prints: the verdict, the network's places, what each further exit brings, the tuned figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from eetoolkit.cli import terminal
from eetoolkit.cli.table import Table, print_pairs
from eetoolkit.cli.tune_tables import figures

if TYPE_CHECKING:
    from pathlib import Path

    import eetoolkit as ee
    from eetoolkit.adapting.report import AdaptReport
    from eetoolkit_exporters.attaching.places import Place


def print_report(report: AdaptReport, bundle: ee.Bundle | None, page: Path | None) -> None:
    """Prints what adapting a network found, its verdict first, and what was written."""
    from eetoolkit_runtime.files.paths import shown

    terminal.say(report.verdict)
    print_pairs(_header(report))
    terminal.say("")
    _print_places(report)
    if report.tried:
        terminal.say("")
        _print_placements(report)
    if report.tuning is not None:
        terminal.say("")
        pairs = figures(report.tuning)
        print_pairs(pair for pair in pairs if pair[0] != "verdict")  # that is by segments alone
    if bundle is not None:
        terminal.say("", bundle)
    if page is not None:
        terminal.say("", f"report in {shown(page)}")


def print_places(places: Sequence[Place], *, as_json: bool) -> None:
    """Prints where an exit can be."""
    if as_json:
        found = [{"name": place.name, "share": place.share, "shape": list(place.shape)} for place in places]
        terminal.print_json(found)
        return
    table = Table("places for exits", "of work", "shape", right=("of work",))
    for place in places:
        table.add(place.name, f"{place.share:.1%}", " x ".join(map(str, place.shape)))
    table.print()


def _header(report: AdaptReport) -> Iterator[tuple[str, str]]:
    from eetoolkit.adapting.report import PARTS

    yield "network", report.network
    if report.against_fixed:
        yield "one exit", report.against_fixed
    yield "rows", ", ".join(f"{count} {PARTS[name]}" for name, count in report.rows.items())
    if report.costs:
        yield "costs", f"by {report.costs}"
    for note in report.notes:
        yield "note", terminal.for_shell(note)


def _print_places(report: AdaptReport) -> None:
    from eetoolkit.tuning.wording import percent, short

    table = Table("places", "of work", report.what, "best head", "chosen", right=("of work", report.what))
    for place in report.places:
        table.add(
            short(place.name), percent(place.share), percent(place.best.accuracy), place.best.kind,
            ", ".join(head.kind for head in place.chosen),
        )  # fmt: skip
    table.add("whole network", "100%", percent(report.accuracy), "its own", "always")
    table.print()


def _print_placements(report: AdaptReport) -> None:
    from eetoolkit.adapting.report import spell_count
    from eetoolkit.tuning.wording import percent

    columns = "of cost", report.what
    table = Table("on the tuning rows", *columns, "where", right=columns, prose=("where",))
    for count, tried in enumerate(report.tried, 1):
        where = ", ".join(map(report.spell_exit, tried.exits)) or "none pays"
        table.add(f"at most {spell_count(count)}", percent(tried.cost), percent(tried.score), where)
    if report.fixed is not None:
        where = f"always {report.spell_exit(report.fixed.exits[0])}"
        table.add("best fixed exit", percent(report.fixed.cost), percent(report.fixed.score), where)
    table.print()

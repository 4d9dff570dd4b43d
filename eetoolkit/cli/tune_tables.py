"""What `tune` and `adapt` print of a choice of thresholds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from eetoolkit.cli import terminal
from eetoolkit.cli.table import Table
from eetoolkit_runtime.running.decision import spell_threshold

if TYPE_CHECKING:
    import eetoolkit as ee
    from eetoolkit.fleet.tuned import FleetOutcome
    from eetoolkit.tuning.intervals import Figures
    from eetoolkit.tuning.where import WhereToSplit

_PARTS = {"calibrate": "calibration", "tune": "tuning", "guarantee": "guarantee", "test": "held-out"}
"""The parts of the rows, for people."""


def figures(report: ee.TuningReport) -> Iterator[tuple[str, str]]:
    """Yields pairs: whether the goal is met, the choice, what it gains and what it costs."""
    from eetoolkit.tuning.report import spell_guarantee
    from eetoolkit.tuning.wording import Wording

    say = Wording(report.metric, report.unit)
    met, _, reason = report.outcome.partition(": ")
    yield met, reason
    yield "goal", report.goal
    hint = "" if report.unit == "ms" else "; --profile gives measured latency"
    yield "costs", f"{report.unit}, by {report.costs}{hint}"
    parts = ", ".join(f"{count} {_PARTS[name]}" for name, count in report.rows.items())
    yield "rows", f"{parts}; seed {report.seed}{', stratified by label' if report.by_label else ''}"
    for name, threshold in report.thresholds.items():
        yield name, spell_threshold(threshold)
    yield report.metric, f"{say.score(report.chosen.score)}, whole network {say.score(report.whole.score)}"
    yield "drop", say.drop(report.chosen.drop)
    yield "cost", f"{say.share(report.chosen.share)} of the whole network's"
    for name, values in report.constants.items():
        yield name, ", ".join(f"{value:.4g}" for value in values)
    if report.guarantee is not None:
        yield "guarantee", spell_guarantee(report.guarantee)
    if report.split is not None:
        yield "split", terminal.for_shell(str(report.split))
        yield "server", report.split.server
    if report.fleet is not None:
        yield "fleet", str(report.fleet)
    yield "verdict", str(report.verdict)
    for note in report.notes:
        yield "note", terminal.for_shell(note)


def print_fleet(outcome: FleetOutcome) -> None:
    """Prints a table of what each device of a fleet gains, the slowest first."""
    budget = outcome.kept is not None
    columns = ("whole network, ms", "before, ms", "tuned, ms", "of whole")
    table = Table("device", *columns, *(["keeps the budget"] if budget else []), right=columns)
    for each in sorted(outcome.devices, key=lambda each: -each.tuned_ms):
        table.add(
            each.name, *(f"{ms:.4g}" for ms in (each.whole_ms, each.before_ms, each.tuned_ms)),
            f"{each.tuned_ms / each.whole_ms:.1%}", *(["yes" if each.keeps else "no"] if budget else []),
        )  # fmt: skip
    table.print()


def print_choices(report: ee.TuningReport) -> None:
    """Prints a table of the choice and all that it is held against."""
    from eetoolkit.tuning.wording import Wording

    pruned = () if report.pruned is None else (report.pruned,)
    shown: list[Figures] = [report.chosen, *pruned, report.before, *report.always, report.whole, *report.baselines]
    say = Wording(report.metric, report.unit)
    columns = (report.metric, f"drop{say.drop_unit}", f"cost, {report.unit}", "of whole", *report.whole.exits)
    table = Table("on held-out rows", *columns, right=columns)
    for figures in shown:
        score = f"{figures.score.value:.2%}" if report.metric == "accuracy" else say.score(figures.score.value)
        table.add(
            figures.name, score, say.difference(figures.drop.value), f"{figures.cost.value:.4g}",
            f"{figures.share.value:.1%}", *(f"{share:.1%}" for share in figures.exits.values()),
        )  # fmt: skip
    table.print()
    if report.split is not None:
        _print_places(report.split, report.metric)


def _print_places(where: WhereToSplit, metric: str) -> None:
    """Prints every place to split at with its own best thresholds."""
    from eetoolkit.tuning.where import place_rows

    columns = (metric, "cost, ms", "sent", "bytes up", "link, ms")
    table = Table("where to split", *columns, right=columns)
    for row in place_rows(where, metric):
        table.add(*row)
    terminal.say("")
    table.print()

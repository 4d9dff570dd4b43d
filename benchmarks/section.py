"""A benchmark's place on the page: what it shows, how, and in which columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.measure import store

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], str]]


@dataclass(frozen=True)
class Section:
    """One table.

    Attributes:
        name: Of the stored results.
        title: Its heading.
        method: What was measured and how, in a sentence or two.
        columns: Each column's heading, and how it spells a row.
        picture: A picture in `docs/images` that belongs to it.
    """

    name: str
    title: str
    method: str
    columns: Sequence[Column]
    picture: str | None = None


def publish(section: Section, rows: list[Row], *, keep: bool = True) -> None:
    """Prints the rows, and stores them beside the machine unless they are only a part of what belongs there."""
    if keep:
        store(section.name, rows)
    table = Table(title=section.title, box=None)
    for heading, _ in section.columns:
        table.add_column(heading, justify="left" if heading == section.columns[0][0] else "right")
    for row in rows:
        table.add_row(*(spell(row) for _, spell in section.columns))
    console = Console()
    console.width = max(console.width, 150)
    console.print(table)


def markdown(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table of cells."""
    lines = ["| " + " | ".join(titles) + " |", "|" + " --- |" * len(titles)]
    return "\n".join([*lines, *("| " + " | ".join(cells) + " |" for cells in rows)])


def over(peer: Row | None) -> str:
    """Spells bundle / peer and its interval."""
    return "-" if peer is None else f"{peer['bundle_over']:.3f} ({peer['low']:.3f} to {peer['high']:.3f})"


def met(row: Row) -> str:
    """Spells whether a row's target was met."""
    return "-" if row.get("met") is None else "yes" if row["met"] else "**no**"

"""What the verbs print: JSON and tables on stdout, progress on a stderr that someone watches."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    import eetoolkit as ee

_UNLIMITED_COLUMNS = 10_000
_IN_PYTHON = re.compile(r"\b\w+=(?:'[^']*'|[^\s()]*) \((--[^()]*)\)")


def for_shell(text: str) -> str:
    """Returns a message with the option alone where it names argument and option: `overwrite=True (--overwrite)`."""
    return _IN_PYTHON.sub(r"\1", text)


def warn(text: str) -> None:
    """Prints on stderr what the user should know and may go on with."""
    click.echo(f"{click.style('warning:', fg='yellow', bold=True)} {text}", err=True, color=colour())


def colour() -> bool | None:
    """Returns what click is told about colours on stderr: None lets it look whether stderr is a terminal."""
    return False if "NO_COLOR" in os.environ else None


def print_json(value: Any, *, indent: int = 2) -> None:
    """Prints a value as one JSON document, on one line where `indent` is -1; NaN and infinity become null."""
    import msgspec

    text = msgspec.json.encode(value)
    click.echo((msgspec.json.format(text, indent=indent) if indent >= 0 else text).decode())


def print_bundle(bundle: ee.Bundle, *, as_json: bool) -> None:
    """Prints the bundle that a verb has made."""
    if not as_json:
        click.echo(bundle)
        return
    plan = bundle.manifest
    print_json(
        {
            "path": str(bundle.place),
            "name": plan.name,
            "exits": list(bundle.exits),
            "segments": list(plan.segments),
            "size_bytes": bundle.size_bytes,
        }
    )


def new_table(*columns: str, right: Collection[str] = (), fold: Collection[str] = (), headings: bool = True) -> Table:
    """Returns a table without a frame, so that it can be cut up.

    Args:
        columns: Their headings.
        right: Which of them are aligned to the right.
        fold: Which of them give way where the terminal is too narrow.
        headings: Whether to print the headings.
    """
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=headings)
    for column in columns:
        table.add_column(
            column, justify="right" if column in right else "left", overflow="fold", no_wrap=column not in fold
        )
    return table


def print_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """Prints keys and what stands behind each, aligned."""
    table = new_table("", "", fold=("",), headings=False)
    for key, value in pairs:
        table.add_row(key, value)
    print_table(table)


def width_of(table: Table) -> int:
    """Returns the characters that the table's longest line takes when nothing is folded."""
    return _console(width=_UNLIMITED_COLUMNS).measure(table).maximum


def columns() -> int | None:
    """Returns the width of the terminal; None where stdout is a pipe or a file, whose lines may be of any length."""
    console = _console()
    return console.width if console.is_terminal else None


def print_table(table: Table) -> None:
    """Prints a table: folded to a terminal, and in full, without codes and trailing blanks, to a pipe."""
    console = _console()
    if console.is_terminal:
        console.print(table)
        return
    text = io.StringIO()
    _console(file=text, width=_UNLIMITED_COLUMNS).print(table)
    click.echo("\n".join(line.rstrip() for line in text.getvalue().splitlines()))


def _console(**settings: Any) -> Console:
    """Returns a console that prints names as they are: `[batch, 1]` is no markup and `:0:` no emoji."""
    from rich.console import Console

    return Console(markup=False, emoji=False, highlight=False, **settings)


@contextmanager
def progress(*, beside_results: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """Gives what shows progress on stderr until the end: call it with (what goes on, done, total).

    Nothing is shown where stderr is not a terminal; nor, if `beside_results`, where stdout is one as well, since
    results printed meanwhile are progress enough.
    """
    if not sys.stderr.isatty() or (beside_results and sys.stdout.isatty()):
        yield _show_nothing
        return
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    # The console holds stderr itself: the exporter redirects `sys.stderr` while torch speaks. Nothing is redirected by
    # rich, which would send results from stdout to stderr.
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[count]}"),
        console=_console(file=sys.stderr),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )

    def show(what: str, done: int, total: int) -> None:
        count = f"{done} of {total}" if total else ""
        bar.update(task, description=what, completed=done, total=total or None, count=count)

    with bar:
        task = bar.add_task("", total=None, count="")
        yield show


def _show_nothing(what: str, done: int, total: int) -> None:
    """Stands in where nobody watches."""

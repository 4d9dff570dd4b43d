"""`eetoolkit inspect`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

import eetoolkit as ee
from eetoolkit.cli import terminal
from eetoolkit.cli.options import json_option, overwrite_option

if TYPE_CHECKING:
    from rich.table import Table

    from eetoolkit.summary import BundleSummary, SegmentSummary

_NUMBERS = ("nodes", "parameters", "multiply-adds", "bytes")
_COSTS = ("segment", *_NUMBERS, "exit", "criterion", "threshold")
_DATA = ("segment", "reads", "writes", "next")
_FOLD = ("segment", "reads", "writes", "exit", "next")
_ALL = ("segment", "reads", "writes", *_NUMBERS, "exit", "criterion", "threshold", "next")


@click.command(short_help="Show what a bundle holds, and draw it.")
@click.argument("bundle")
@json_option
@click.option("--dot", "draw", flag_value="dot", help="Print the plan as a picture in Graphviz's language.")
@click.option("--mermaid", "draw", flag_value="mermaid", help="Print the plan as a Mermaid flowchart.")
@click.option("--svg", metavar="FILE", type=click.Path(path_type=Path), help="Draw the plan to FILE; needs Graphviz.")
@overwrite_option
def inspect(bundle: str, as_json: bool, draw: str | None, svg: Path | None, overwrite: bool) -> None:
    """Show what BUNDLE holds: its segments, what they cost, and where it may answer."""
    if as_json + (draw is not None) + (svg is not None) > 1:
        raise click.UsageError("--json, --dot, --mermaid and --svg exclude each other")
    opened = ee.load(bundle)
    if draw is not None or svg is not None:
        from eetoolkit import drawing

        if svg is not None:
            click.echo(drawing.write_svg(opened.manifest, svg, overwrite=overwrite))
        else:
            click.echo((drawing.dot if draw == "dot" else drawing.mermaid)(opened.manifest), nl=False)
        return
    from eetoolkit.summary import summarize

    summary = summarize(opened)
    if as_json:
        terminal.print_json(summary)
        return
    terminal.print_pairs(_header(summary))
    click.echo()
    _print_segments(summary)


def _header(summary: BundleSummary) -> Iterator[tuple[str, str]]:
    from eetoolkit.summary import spell_shape, spell_size

    yield "name", summary.name
    for kind, specs in (("input", summary.inputs), ("output", summary.outputs)):
        for spec in specs:
            yield kind, f"{spec.name}: {spec.dtype}{spell_shape(spec.shape)}"
    yield "exits", ", ".join(summary.exits)
    if summary.fallback == "most_confident":
        yield "fallback", "where none fires, the most confident exit answers"
    yield "batch", "row by row" if summary.batch == 1 else "any number of rows"
    for name, value in summary.preprocess.items():
        height, width = value.resize
        statistics = f"mean {_spell_numbers(value.mean)}, std {_spell_numbers(value.std)}"
        yield "preprocess", f"{name}: {value.layout}, {height}x{width}, scale {value.scale:.6g}, {statistics}"
    if summary.labels is not None:
        yield "labels", f"{len(summary.labels)}: {_spell_labels(summary.labels)}"
    yield "size", f"{spell_size(summary.size_bytes)} in {summary.files} files, {summary.path}"
    golden = summary.golden
    yield "golden", "none" if golden is None else f"{golden.file}, tolerance {golden.tolerance:g}"
    if summary.onnxruntime is not None:
        yield "needs", f"onnxruntime {summary.onnxruntime} or newer"
    yield "created", ", ".join(f"{key} {value}" for key, value in summary.created_with.items() if key != "source")
    if "source" in summary.created_with:
        yield "source", str(summary.created_with["source"])
    for note in summary.notes:
        yield "note", note


def _print_segments(summary: BundleSummary) -> None:
    """Prints one table where it fits or nobody counts columns, else two: what segments cost, and what they pass on."""
    table, columns = _table(summary, _ALL, _exact), terminal.columns()
    if columns is None or terminal.width_of(table) <= columns:
        terminal.print_table(table)
        return
    terminal.print_table(_table(summary, _COSTS, _rounded))
    click.echo()
    terminal.print_table(_table(summary, _DATA, _rounded))


def _table(summary: BundleSummary, columns: Sequence[str], spell: Callable[[int | None], str]) -> Table:
    from eetoolkit.summary import spell_criterion, spell_next, spell_rule, spell_writes

    constants = set(summary.constants)
    cells: dict[str, Callable[[SegmentSummary], str]] = {
        "segment": lambda s: s.name,
        "reads": lambda s: ", ".join(name for name in s.reads if name not in constants),
        "writes": spell_writes,
        "nodes": lambda s: _exact(s.nodes),
        "parameters": lambda s: spell(s.parameters),
        "multiply-adds": lambda s: spell(s.multiply_adds),
        "bytes": lambda s: spell(s.size_bytes),
        "exit": lambda s: s.exit or "-",
        "criterion": lambda s: spell_criterion(s.criterion) if s.criterion is not None else "-",
        "threshold": lambda s: spell_rule(s) or "-",
        "next": spell_next,
    }
    table = terminal.new_table(*columns, right=_NUMBERS, fold=_FOLD)
    for segment in summary.segments:
        table.add_row(*(cells[column](segment) for column in columns))
    return table


def _exact(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _rounded(value: int | None) -> str:
    """Returns three digits with an SI prefix."""
    if value is None or value < 1000:
        return _exact(value)
    for prefix in ("k", "M", "G", "T"):
        value_in_prefix = value / 1000 ** ("kMGT".index(prefix) + 1)
        if value_in_prefix < 999.5 or prefix == "T":
            break
    return f"{value_in_prefix:#.3g} {prefix}".replace(". ", " ")


def _spell_numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _spell_labels(labels: Sequence[str], shown: int = 10) -> str:
    return ", ".join(labels[:shown]) + (f", ... {labels[-1]}" if len(labels) > shown else "")

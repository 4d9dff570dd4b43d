"""`eetoolkit inspect`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

import eetoolkit as ee
from eetoolkit.cli import terminal
from eetoolkit.cli.options import json_option
from eetoolkit.cli.table import Table, print_pairs
from eetoolkit.cli.verb import Verb

if TYPE_CHECKING:
    from eetoolkit.showing.summary import BundleSummary

_NUMBERS = ("nodes", "parameters", "multiply-adds", "bytes")
_PROSE = ("reads", "writes", "criterion", "next")
_COLUMNS = ("segment", "reads", "writes", *_NUMBERS, "exit", "criterion", "threshold", "next")


@click.command(
    cls=Verb,
    short_help="Show what a bundle holds, and draw it.",
    examples=("eetoolkit inspect digits.ee", "eetoolkit inspect digits.ee --mermaid"),
)
@click.argument("bundle")
@json_option
@click.option("--dot", "draw", flag_value="dot", help="Print the plan for Graphviz's dot, which makes pictures of it.")
@click.option("--mermaid", "draw", flag_value="mermaid", help="Print the plan as a Mermaid flowchart.")
def inspect(bundle: str, as_json: bool, draw: str | None) -> None:
    """Show what BUNDLE holds: its segments, what they cost, and where it may answer."""
    if as_json and draw is not None:
        raise click.UsageError("--json, --dot and --mermaid exclude each other")
    opened = ee.load(bundle)
    if draw is not None:
        from eetoolkit.showing import drawing

        terminal.say_as_it_is((drawing.dot if draw == "dot" else drawing.mermaid)(opened.manifest))
        return
    from eetoolkit.showing.summary import summarize

    summary = summarize(opened)
    if as_json:
        terminal.print_json(summary)
        return
    print_pairs(_header(summary))
    terminal.say("")
    _print_segments(summary)


def _header(summary: BundleSummary) -> Iterator[tuple[str, str]]:
    from eetoolkit.showing.summary import spell_shape
    from eetoolkit_runtime.plan.names import spell_name
    from eetoolkit_runtime.printable import spell_size

    yield "name", summary.name
    for kind, specs in (("input", summary.inputs), ("output", summary.outputs)):
        for spec in specs:
            yield kind, f"{spell_name(spec.name, summary.titles)}: {spec.dtype}{spell_shape(spec.shape)}"
    yield "exits", ", ".join(spell_name(name, summary.titles) for name in summary.exits)
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
    from eetoolkit.showing.summary import spell_criterion, spell_next, spell_rule, spell_writes

    constants = set(summary.constants)
    table = Table(*_COLUMNS, right=_NUMBERS, prose=_PROSE)
    for segment in summary.segments:
        table.add(
            segment.name,
            ", ".join(name for name in segment.reads if name not in constants),
            spell_writes(segment),
            *map(_exact, (segment.nodes, segment.parameters, segment.multiply_adds, segment.size_bytes)),
            segment.exit or "-",
            "-" if segment.criterion is None else spell_criterion(segment.criterion),
            spell_rule(segment) or "-",
            spell_next(segment),
        )
    table.print()


def _exact(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _spell_numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _spell_labels(labels: Sequence[str], shown: int = 10) -> str:
    return ", ".join(labels[:shown]) + (f", ... {labels[-1]}" if len(labels) > shown else "")

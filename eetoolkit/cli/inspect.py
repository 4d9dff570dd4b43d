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
    from eetoolkit_runtime.plan.types import Manifest

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
@click.option("--mermaid", "draw", is_flag=True, help="Print the plan as a Mermaid flowchart.")
def inspect(bundle: str, as_json: bool, draw: bool) -> None:
    """Show what BUNDLE holds: its segments, what they cost, and where it may answer."""
    if as_json and draw:
        raise click.UsageError("--json and --mermaid exclude each other")
    opened = ee.load(bundle)
    if draw:
        from eetoolkit.showing.drawing import mermaid

        terminal.say_as_it_is(mermaid(opened.manifest))
        return
    if as_json:
        from eetoolkit.showing.summary import summarize

        terminal.print_json(summarize(opened))
        return
    print_pairs(_header(opened))
    terminal.say("")
    _print_segments(opened.manifest)


def _header(bundle: ee.Bundle) -> Iterator[tuple[str, str]]:
    from eetoolkit.showing.summary import spell_quantization, spell_shape
    from eetoolkit_runtime.plan.names import spell_name
    from eetoolkit_runtime.printable import spell_size

    plan = bundle.manifest
    yield "name", plan.name
    for kind, specs in (("input", plan.inputs), ("output", plan.outputs)):
        for spec in specs:
            yield kind, f"{spell_name(spec.name, plan.titles)}: {spec.dtype}{spell_shape(spec.shape)}"
    yield "exits", ", ".join(spell_name(name, plan.titles) for name in plan.exits)
    if plan.fallback == "most_confident":
        yield "fallback", "where none fires, the most confident exit answers"
    yield "batch", "row by row" if plan.batch == 1 else "any number of rows"
    for name, value in plan.preprocess.items():
        height, width = value.resize
        statistics = f"mean {_spell_numbers(value.mean)}, std {_spell_numbers(value.std)}"
        yield "preprocess", f"{name}: {value.layout}, {height}x{width}, scale {value.scale:.6g}, {statistics}"
    if plan.labels is not None:
        yield "labels", f"{len(plan.labels)}: {_spell_labels(plan.labels)}"
    yield "size", f"{spell_size(bundle.size_bytes)} in {len(plan.files)} files, {bundle.place}"
    golden = plan.golden
    yield "golden", "none" if golden is None else f"{golden.file}, tolerance {golden.tolerance:g}"
    if plan.quantization is not None:
        yield "quantised", spell_quantization(plan.quantization)
    if (remark := bundle.stale_remark) is not None:
        yield "stale", remark
    if plan.onnxruntime is not None:
        yield "needs", f"onnxruntime {plan.onnxruntime} or newer"
    yield "created", ", ".join(f"{key} {value}" for key, value in plan.created_with.items() if key != "source")
    if "source" in plan.created_with:
        yield "source", str(plan.created_with["source"])
    for note in plan.notes:
        yield "note", note


def _print_segments(plan: Manifest) -> None:
    from eetoolkit.showing.summary import moves, size_of, spell_criterion, spell_next
    from eetoolkit_runtime.running.decision import spell_threshold

    quantization = plan.quantization
    columns = _COLUMNS if quantization is None else (*_COLUMNS[:3], "quantised", *_COLUMNS[3:])
    table = Table(*columns, right=_NUMBERS, prose=_PROSE)
    for name, segment in plan.segments.items():
        moved, work, exit_ = moves(segment), segment.work, segment.exit
        table.add(
            name,
            ", ".join(slot for slot in segment.reads.values() if slot not in plan.constants),
            ", ".join(f"{slot} = {moved[slot]}" if slot in moved else slot for slot in segment.writes),
            *(() if quantization is None else (quantization.segments.get(name, "-"),)),
            *(("-",) * 3 if work is None else map(_exact, (work.nodes, work.parameters, work.multiply_adds))),
            _exact(size_of(plan, segment)),
            *(
                ("-",) * 3
                if exit_ is None
                else (exit_.name, spell_criterion(exit_.criterion), spell_threshold(exit_.threshold))
            ),
            spell_next(segment),
        )
    table.print()


def _exact(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _spell_numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _spell_labels(labels: Sequence[str], shown: int = 10) -> str:
    return ", ".join(labels[:shown]) + (f", ... {labels[-1]}" if len(labels) > shown else "")

"""What crosses the link for one row: the bytes of the tensors that are live where a plan can be cut."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import msgspec

from eetoolkit.reading.samples import read_samples
from eetoolkit.tuning.dataset import RowSource
from eetoolkit.tuning.link import NUMBER_AND_CONFIDENCE_BYTES, Link
from eetoolkit.tuning.splitting import Cut
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.errors import TuneError
from eetoolkit_runtime.plan.flow import closure, successors
from eetoolkit_runtime.plan.halves import CutPoint, cut_points, halves
from eetoolkit_runtime.plan.types import Manifest
from eetoolkit_runtime.running.answer import Answer
from eetoolkit_runtime.running.inputs import golden_rows, split_rows
from eetoolkit_runtime.running.runner import Runner

_TRIED = 16  # rows, until one comes to a place


def cuts_of(source: RowSource, link: Link) -> list[Cut]:
    """Returns every place that a row of the data comes to, in the plan's order, and last that of all inputs.

    Sizes are those of the first row that comes there: of `source`, where it can be read again, else golden.

    Raises:
        TuneError: There is no row to tell sizes by, or the plan can be cut nowhere.
    """
    bundle, plan = source.bundle, source.bundle.manifest
    points = cut_points(plan)
    if not points:
        raise TuneError(f"{plan.name!r} cannot be split: no exit stands before a segment that all later ones follow")
    rows = list(islice(_rows(source), _TRIED))
    if not rows:
        raise TuneError(
            f"nothing tells how many bytes cross: {plan.name!r} has no golden samples; pass inputs beside the record"
        )
    with Runner(bundle, threads=source.threads, providers=source.providers) as runner:
        answers = [answer for row in rows for answer in runner.run_all_exits(row)]
    found = [cut for point in points if (cut := _cut(source, point, rows, answers, link)) is not None]
    everything = Cut(
        segment=None, exit=None, at="the inputs", sent_bytes=link.sent_bytes(rows[0]),
        received_bytes=_received(answers, set(plan.exits)),
    )  # fmt: skip
    return [*found, everything]


def _rows(source: RowSource) -> Iterator[tuple[Array, ...]]:
    plan = source.bundle.manifest
    if source.inputs is None or not source.runs_again:
        yield from golden_rows(source.bundle)
        return
    _, samples = read_samples(plan, source.inputs, source.labels)
    for sample in samples:
        yield from split_rows(plan, sample.inputs)


def _cut(
    source: RowSource, point: CutPoint, rows: list[tuple[Array, ...]], answers: list[Answer], link: Link
) -> Cut | None:
    """Returns a place and what crosses there; None where no row comes to it."""
    bundle, plan = source.bundle, source.bundle.manifest
    device = halves(plan, point).device
    split = device.split
    if split is None:
        return None
    behind = closure((point.segment,), {name: successors(segment) for name, segment in plan.segments.items()})
    exits = {
        segment.exit.name for name, segment in plan.segments.items() if segment.exit is not None and name in behind
    }
    half = Bundle(bundle.path, msgspec.structs.replace(device, split=None), bundle.archive)
    with Runner(half, threads=source.threads, providers=source.providers) as runner:
        for row in rows:
            last = runner.run_all_exits(row)[-1]
            if last.exit == split.exit:
                sent = link.sent_bytes(last.outputs[output] for output in split.sends.values())
                at = _at(plan, point)
                received = _received(answers, exits)
                return Cut(segment=point.segment, exit=point.exit, at=at, sent_bytes=sent, received_bytes=received)
    return None


def _at(plan: Manifest, point: CutPoint) -> str:
    """Returns what `split` calls a place: its exit, or its segment where the exit means an earlier place."""
    first = next(each for each in cut_points(plan) if each.exit == point.exit)
    return plan.titles.get(point.exit, point.exit) if first == point else point.segment


def _received(answers: list[Answer], exits: set[str]) -> int:
    """Returns the most bytes that one of some exits answered."""
    sizes = (sum(a.nbytes for a in each.outputs.values()) for each in answers if each.exit in exits)
    return max(sizes, default=0) + NUMBER_AND_CONFIDENCE_BYTES

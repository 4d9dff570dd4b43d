"""The frontier of a tuned bundle as a chart of characters."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from eetoolkit.cli.terminal import fold

if TYPE_CHECKING:
    import eetoolkit as ee

_HEIGHT = 8
_WIDTH = 60
_NARROW = 20
_MARKS = {"frontier": "•", "always exit there": "○", "whole network": "■", "before": "◇", "chosen": "◆"}


def frontier_chart(report: ee.TuningReport, columns: int | None) -> Iterator[str]:
    """Yields the lines of a chart: upwards what answers score, to the right what a run costs.

    Args:
        report: What `tune` returned.
        columns: Of the terminal; None: as many as it takes.
    """
    from eetoolkit.report.frontier import ends, lies_far_apart
    from eetoolkit.tuning.wording import Wording

    marks = list(_marks(report))
    low, high = min(score for *_, score in marks), max(score for *_, score in marks)
    start, end = ends(report)
    far = lies_far_apart(report)
    say = Wording(report.metric, report.unit)
    names = [f"{score:.1%}" if report.metric == "accuracy" else f"{score:.4g}" for score in (high, low)]
    wide = max(map(len, names))
    width = _WIDTH if columns is None else max(_NARROW, min(_WIDTH, columns - wide - 2))
    canvas = [[" "] * width for _ in range(_HEIGHT)]
    for mark, cost, score in marks:
        row = round((high - score) / (high - low) * (_HEIGHT - 1)) if high > low else 0
        along = math.log(cost / start) / math.log(end / start) if far else cost / end if end > 0 else 0.0
        canvas[row][round(along * (width - 1))] = mark
    for row, characters in enumerate(canvas):
        named = {0: names[0], _HEIGHT - 1: names[1]}.get(row)
        yield f"{named or '':>{wide}} {'┤' if named else '│'}{''.join(characters)}".rstrip()
    yield f"{'':>{wide}} └{'─' * width}"
    margin = " " * (wide + 2)
    first, last = say.amount(start) if far else "0", say.amount(end)
    axis = f"mean {report.unit} a run" + (", logarithmic" if far else "")
    legend = f"{report.metric}: " + ", ".join(f"{mark} {name}" for name, mark in _MARKS.items())
    beside = len(f"{first} {last} {axis}") <= width
    words = [legend] if beside else [axis, legend]
    yield f"{margin}{first}{f'{last} {axis}' if beside else last:>{width - len(first)}}"
    for text in words:
        yield from (margin + line for line in ([text] if columns is None else fold(text, columns - len(margin))))


def _marks(report: ee.TuningReport) -> Iterator[tuple[str, float, float]]:
    """Yields the mark, the cost and the score of everything to be drawn, the most important last."""
    points = [("frontier", point.cost, point.score) for point in report.frontier]
    points += [("always exit there", each.cost.value, each.score.value) for each in report.always]
    for name, each in (("whole network", report.whole), ("before", report.before), ("chosen", report.chosen)):
        points.append((name, each.cost.value, each.score.value))
    for name, cost, score in points:
        yield _MARKS[name], cost, score

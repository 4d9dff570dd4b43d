"""Charts of the exits: who answers, how far confidences can be believed, and what thresholds let through."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from eetoolkit.report.chart import Chart, inline
from eetoolkit.showing.style import EARLY, FAINT, INK, WRONG, colours, plain
from eetoolkit.tuning.calibrate import Bin, Calibration, Reliability
from eetoolkit.tuning.intervals import wilson
from eetoolkit.tuning.report import TuningReport
from eetoolkit.tuning.report_data import Histogram
from eetoolkit.tuning.wording import Wording, short
from eetoolkit_runtime.printable import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAST_ROWS = 10
"""Of a point in a reliability diagram, if the exit has as many."""
_SMALL = (3.3, 3.1)
_READABLE = 0.09  # of the width: what a share needs to be written in its bar
_LEGEND_COLUMNS = 3


def shares(report: TuningReport, say: Wording) -> Chart:
    """Returns which share of the rows answers where, for the choice and for the thresholds before."""
    rows = (("chosen", report.chosen.exits), ("before", report.before.exits))
    text = ". ".join(
        f"{name}: " + ", ".join(f"{printable(exit_)} {say.share(share)}" for exit_, share in found.items())
        for name, found in rows
    )

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for place, (_, found) in enumerate(rows):
            left = 0.0
            for (exit_, share), colour in zip(found.items(), colours(len(found)), strict=True):
                axes.barh(
                    place, share, left=left, color=colour, height=0.62, label=None if place else short(exit_)
                )  # fmt: skip
                if share >= _READABLE:
                    axes.text(
                        left + share / 2, place, f"{share:.0%}", ha="center", va="center", color="white",
                        fontweight="bold",
                    )  # fmt: skip
                left += share
        axes.set_xlim(0, 1)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xticks([])
        axes.set_yticks(range(len(rows)), [name for name, _ in rows], color=INK)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        figure.legend(loc="outside lower left", ncols=_LEGEND_COLUMNS, fontsize=8, handlelength=1, columnspacing=1)

    lines = -(-len(report.chosen.exits) // _LEGEND_COLUMNS)
    return inline("shares", "Where rows are answered", text, (3.6, 1.0 + 0.2 * lines), draw)


def reliabilities(report: TuningReport) -> Iterator[Chart]:
    """Yields each exit's reliability diagram (DeGroot and Fienberg 1983), before and after its temperature changed."""
    for number, found in enumerate(report.calibration):
        before, after = found.before, found.after
        text = (
            f"Expected calibration error {before.ece:.3f} at temperature {before.temperature:.3g}"
            f"{f', {after.ece:.3f} at {after.temperature:.3g}' if changed(found) else ''}. Above the diagonal "
            "more answers are right than the confidence says, below it fewer."
        )
        yield inline(
            f"reliability{number}", printable(found.exit), text, _SMALL, partial(_draw_reliability, found=found)
        )


def changed(found: Calibration) -> bool:
    """Whether the temperature did."""
    return found.before.temperature != found.after.temperature


def confidences(report: TuningReport) -> Iterator[Chart]:
    """Yields each exit's confidences: of what it has right, upwards, and of what it has wrong, downwards."""
    for number, found in enumerate(report.histograms):
        threshold = report.thresholds.get(found.exit, "always")
        limit = None if isinstance(threshold, str) else threshold
        right, wrong = sum(found.right), sum(found.wrong)
        passed = "" if limit is None else f" The threshold is {limit:.4g}."
        text = f"{right} right, {wrong} wrong; each group's bars add up to 100%.{passed}"
        yield inline(
            f"confidences{number}", printable(found.exit), text, _SMALL,
            partial(_draw_confidences, found=found, limit=limit),
        )  # fmt: skip


def _draw_reliability(figure: Figure, found: Calibration) -> None:
    axes = figure.add_subplot()
    plain(axes)
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=":")
    stages = [("T", found.after, EARLY, "o")]
    if changed(found):
        stages.insert(0, ("before, T", found.before, FAINT, "s"))
        stages[1] = ("after, T", found.after, EARLY, "o")
    for name, stage, colour, marker in stages:
        filled = merged(stage)
        ends = [wilson(each.accuracy * each.rows, each.rows) for each in filled]
        axes.errorbar(
            [each.confidence for each in filled], [each.accuracy for each in filled],
            yerr=[
                [max(0.0, end.value - end.low) for end in ends],
                [max(0.0, end.high - end.value) for end in ends],
            ],
            color=colour, marker=marker, markersize=4, linewidth=1.2, elinewidth=0.7, capsize=1.5,
            label=f"{name} = {stage.temperature:.3g}, ECE {stage.ece:.3f}",
        )  # fmt: skip
    low = min(merged(stage)[0].confidence for _, stage, _, _ in stages)
    axes.set_xlim(max(0.0, low - 0.05), 1.02)
    axes.set_ylim(-0.03, 1.05)
    axes.set_xlabel("confidence")
    axes.set_ylabel("share that is right")
    figure.legend(loc="outside lower left", fontsize=8, handlelength=1.6)


def merged(found: Reliability) -> list[Bin]:
    """Returns the bins, neighbours merged until each has `LEAST_ROWS`: fewer say little of a share."""
    groups: list[list[Bin]] = [[]]
    for each in found.bins:
        if sum(one.rows for one in groups[-1]) >= LEAST_ROWS:
            groups.append([])
        groups[-1].append(each)
    if len(groups) > 1 and sum(one.rows for one in groups[-1]) < LEAST_ROWS:
        rest = groups.pop()
        groups[-1] += rest
    return [_as_one(group) for group in groups]


def _as_one(bins: list[Bin]) -> Bin:
    rows = sum(each.rows for each in bins)
    confidence = sum(each.rows * each.confidence for each in bins) / rows
    return Bin(rows, confidence, sum(each.rows * each.accuracy for each in bins) / rows)


def _draw_confidences(figure: Figure, found: Histogram, limit: float | None) -> None:
    from matplotlib.ticker import FuncFormatter

    axes = figure.add_subplot()
    plain(axes, grid="y")
    starts, widths = found.edges[:-1], [b - a for a, b in zip(found.edges[:-1], found.edges[1:], strict=True)]
    for counts, sign, colour, hatch, name in (
        (found.right, 1, EARLY, "", "right"), (found.wrong, -1, WRONG, "////", "wrong"),
    ):  # fmt: skip
        total = sum(counts)
        axes.bar(
            starts, [sign * count / max(total, 1) for count in counts], widths, align="edge",
            color="none" if hatch else colour, edgecolor=colour, linewidth=0.6, hatch=hatch, label=f"{name}, {total}",
        )  # fmt: skip
    axes.axhline(0, color=INK, linewidth=0.8)
    if limit is not None:
        axes.axvline(limit, color=INK, linewidth=1.2, linestyle="--", label=f"threshold {limit:.4g}")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{abs(share):.0%}"))
    axes.set_xlim(found.edges[0] - 0.02, max(found.edges[-1], limit or 0) + 0.02)
    axes.set_ylim(bottom=-max(0.06, *(1.1 * count / max(sum(found.wrong), 1) for count in found.wrong)))
    axes.set_xlabel("confidence")
    axes.set_ylabel("share of each group")
    figure.legend(loc="outside lower left", ncols=2, fontsize=8, handlelength=1.4, columnspacing=1)

"""The frontier of accuracy against cost: the goal, the choice, other rules, every exit always, the whole network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from eetoolkit.report.chart import Chart, inline, spell_tick
from eetoolkit.showing.style import EARLY, FAINT, INK, LATE, MIDDLE, PAPER, plain, styled
from eetoolkit.tuning.intervals import Figures, Interval
from eetoolkit.tuning.report import TuningReport
from eetoolkit.tuning.wording import Wording, short
from eetoolkit_runtime.files.outfile import check_file, writing
from eetoolkit_runtime.printable import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INCHES = (3.6, 3.7)
_FILE_INCHES = (7.6, 4.2)
_MARGIN = 0.08  # of each axis, so that marks and names at its ends stand inside
_WIDE = 6.0  # the ratio of costs from which on a logarithm shows more
_DECADES = 60.0  # and from this one it has room for the decades alone


def chart(report: TuningReport, say: Wording) -> Chart:
    """Returns the frontier for the page."""
    text = (
        f"The choice reaches {say.score(report.chosen.score)} at {say.cost(report.chosen.cost)} a run, the whole "
        f"network {say.score(report.whole.score)} at {say.cost(report.whole.cost)}."
    )
    return inline("frontier", _title(report), text, _INCHES, lambda figure: _draw(figure, report, say, 2))


def save_frontier(
    report: TuningReport, target: str | os.PathLike[str], kind: Literal["svg", "png"], *, overwrite: bool = False
) -> Path:
    """Draws the frontier on white into a file of its own and returns its path.

    Raises:
        EEToolkitError: Something is there and `overwrite` is not set.
    """
    path = check_file(target, overwrite=overwrite)
    from matplotlib.figure import Figure

    with styled():
        figure = Figure(figsize=_FILE_INCHES, dpi=150, facecolor="white", layout="constrained")
        axes = _draw(figure, report, Wording(report.metric, report.unit, report.labels), 4)
        axes.set_title(printable(f"{report.bundle}: {_title(report)}"), pad=12)
        with writing(path, overwrite=overwrite) as file:
            figure.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else {})
    return path


def static_choices(report: TuningReport) -> tuple[Figures, ...]:
    """Returns every exit always, without what is no other than the whole network."""
    whole = report.whole
    return tuple(each for each in report.always if (each.cost.value, each.score.value) != _place(whole))


def ends(report: TuningReport) -> tuple[float, float]:
    """Returns the least and the most that anything on the frontier's picture costs."""
    costs = [each.cost.value for each in (report.chosen, report.before, report.whole, *report.always)]
    costs += [point.cost for point in report.frontier]
    return min(costs), max(costs)


def lies_far_apart(report: TuningReport) -> bool:
    """Whether costs differ so much that only their logarithms can be told apart."""
    low, high = ends(report)
    return low > 0 and high > _WIDE * low


def _title(report: TuningReport) -> str:
    return f"{report.metric} against the mean cost of a run"


def _draw(figure: Figure, report: TuningReport, say: Wording, columns: int) -> Axes:
    from matplotlib.container import ErrorbarContainer
    from matplotlib.ticker import FuncFormatter

    axes = figure.add_subplot()
    plain(axes)
    points = report.frontier
    axes.plot(
        [point.cost for point in points], [point.score for point in points], color=EARLY, linewidth=1.6, marker="o",
        markersize=3.5, label="frontier", zorder=3,
    )  # fmt: skip
    axes.plot(
        [point.tune_cost for point in points], [point.tune_score for point in points], color=FAINT, linewidth=1,
        linestyle=":", label="on the tuning rows", zorder=2,
    )  # fmt: skip
    always = static_choices(report)
    _mark(axes, always, "D", MIDDLE, 5, "always exit there")
    _mark(axes, [report.whole], "s", LATE, 6.5, "whole network")
    axes.plot(
        [each.cost.value for each in report.baselines], [each.score.value for each in report.baselines], "+",
        color=FAINT, markersize=6.5, markeredgewidth=1.3, label="other rules", zorder=3,
    )  # fmt: skip
    _mark(axes, [report.before], "x", INK, 6.5, "thresholds before")
    _mark(axes, [report.chosen], "*", EARLY, 14, "chosen")
    if report.least_score is not None:
        axes.axhline(report.least_score, color=INK, linewidth=1, linestyle="--", label="goal: at least", zorder=2)
    if report.most_cost is not None:
        axes.axvline(report.most_cost, color=INK, linewidth=1, linestyle="--", label="goal: at most", zorder=2)
    _name(axes, always)
    _scale(axes, report)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda cost, _: say.amount(cost) if cost else "0"))
    if report.metric == "accuracy":
        axes.yaxis.set_major_formatter(FuncFormatter(spell_tick))
    axes.set_ylabel(report.metric)
    axes.set_xlabel(f"mean {report.unit} a run")
    handles, labels = axes.get_legend_handles_labels()
    marks = [handle[0] if isinstance(handle, ErrorbarContainer) else handle for handle in handles]
    figure.legend(
        marks, labels, loc="outside lower left", ncols=columns, fontsize=8, handletextpad=0.4, columnspacing=1
    )
    return axes


def _scale(axes: Axes, report: TuningReport) -> None:
    """Makes the axis of costs logarithmic where the cheapest cost a small part of the dearest."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    axes.margins(_MARGIN)
    if lies_far_apart(report):
        low, high = ends(report)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1,) if high / low > _DECADES else (1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(5))


def _mark(axes: Axes, choices: Sequence[Figures], marker: str, colour: str, size: float, label: str) -> None:
    """Marks choices with the intervals of their figures."""
    if not choices:
        return
    costs, scores = [each.cost for each in choices], [each.score for each in choices]
    axes.errorbar(
        [each.value for each in costs], [each.value for each in scores], xerr=_ends(costs), yerr=_ends(scores),
        fmt=marker, color=colour, markersize=size, markeredgecolor=INK if marker == "*" else colour,
        markeredgewidth=1.5 if marker == "x" else 0.6, elinewidth=0.9, capsize=2, label=label,
        zorder=5 if marker == "*" else 4,
    )  # fmt: skip


def _ends(found: Sequence[Interval]) -> list[list[float]]:
    """Returns how far intervals reach below their values and above."""
    return [[each.value - each.low for each in found], [each.high - each.value for each in found]]


def _name(axes: Axes, always: Sequence[Figures]) -> None:
    """Writes the exits' names beside their marks, in turns above and below where there are many."""
    for place, each in enumerate(always):
        below = place % 2 == 0
        axes.annotate(
            short(each.name.removeprefix("always ")), _place(each), (6, -5 if below else 5),
            textcoords="offset points", fontsize=8, color=MIDDLE, va="top" if below else "bottom",
            bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.7, "pad": 0.5}, zorder=6,
        )  # fmt: skip


def _place(figures: Figures) -> tuple[float, float]:
    return figures.cost.value, figures.score.value

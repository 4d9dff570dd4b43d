"""Charts of the rows: each class, early exit beside the whole network, and what runs cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from eetoolkit.report.chart import Chart, inline
from eetoolkit.showing.style import EARLY, FAINT, INK, LATE, MIDDLE, WRONG, colours, plain
from eetoolkit.tuning.report import TuningReport
from eetoolkit.tuning.report_data import ClassFigures
from eetoolkit.tuning.wording import Wording, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDE = 10.0  # the ratio of costs from which on a logarithm shows more
CLASSES = 40
"""Shown at most: those that early exit hurts most."""


def most_hurt(report: TuningReport) -> tuple[ClassFigures, ...]:
    """Returns the classes to show: all in their order, or where they are many those that lose most, these first."""
    if len(report.classes) <= CLASSES:
        return report.classes
    return tuple(sorted(report.classes, key=lambda each: each.score - each.whole)[:CLASSES])


def classes(report: TuningReport, say: Wording) -> Chart | None:
    """Returns each class's accuracy with early exit and without, and where its rows are answered."""
    shown = most_hurt(report)
    if not shown:
        return None
    worst = min(shown, key=lambda each: each.score - each.whole)
    text = (
        f"Class {say.label(worst.label)} changes most: {say.score(worst.score)} with early exit, "
        f"{say.score(worst.whole)} by the whole network."
    )

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.25, 1))
        _draw_scores(left, shown, report, say)
        _draw_shares(right, shown)
        figure.legend(loc="outside lower left", ncols=3, fontsize=8, handlelength=1, columnspacing=1)

    lines = -(-(2 + len(shown[0].exits)) // 3)
    return inline("classes", "Every class", text, (3.6, 0.9 + 0.24 * len(shown) + 0.2 * lines), draw)


def _draw_scores(axes: Axes, shown: Sequence[ClassFigures], report: TuningReport, say: Wording) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    plain(axes, grid="x")
    places = range(len(shown))
    early, whole = [each.score for each in shown], [each.whole for each in shown]
    losses = [WRONG if each.score < each.whole else EARLY for each in shown]
    axes.hlines(places, early, whole, colors=losses, linewidth=1.6)
    axes.scatter(whole, places, marker="|", s=90, color=FAINT, linewidths=1.8, label="whole network")
    axes.scatter(early, places, marker="o", s=22, color=INK, label="with early exit", zorder=3)
    axes.set_yticks(places, [short(say.label(each.label)) for each in shown], color=INK)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    if report.metric == "accuracy":
        axes.xaxis.set_major_formatter(FuncFormatter(lambda score, _: f"{score:.3g}" if score > 1 else f"{score:.0%}"))
    axes.set_xlabel(report.metric)


def _draw_shares(axes: Axes, shown: Sequence[ClassFigures]) -> None:
    names = list(shown[0].exits)
    left = [0.0] * len(shown)
    for name, colour in zip(names, colours(len(names)), strict=True):
        widths = [each.exits[name] for each in shown]
        axes.barh(range(len(shown)), widths, left=left, color=colour, height=0.62, label=short(name))
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_xlim(0, 1)
    axes.set_xticks([0.5, 1], ["50%", "100%"])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("answered at")


def costs(report: TuningReport, say: Wording) -> Chart:
    """Returns which share of the runs costs at most so much, up to p99, with the quantiles and the means."""
    spread = report.spread
    text = (
        f"Half of the runs cost at most {say.cost(spread.p50)}, 95% at most {say.cost(spread.p95)}, 99% at most "
        f"{say.cost(spread.p99)}. The mean is {say.cost(report.chosen.cost.value)}, the whole network's is "
        f"{say.cost(report.whole.cost.value)}."
    )

    def draw(figure: Figure) -> None:
        from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

        axes = figure.add_subplot()
        plain(axes)
        end = 1.05 * max(spread.p99, report.whole.cost.value)  # the rare runs beyond p99 would hide the others
        least = spread.steps[0][0]
        wide = 0 < least < end / _WIDE
        start = least / 1.25 if wide else 0.0
        places, heights, total = [start], [0.0], 0.0
        for cost, share in spread.steps:
            total += share
            places.append(cost)
            heights.append(min(total, 1.0))
        axes.step([*places, max(end, places[-1])], [*heights, 1.0], where="post", color=EARLY, linewidth=1.8)
        for name, cost, share, marker in (
            ("p50", spread.p50, 0.5, "o"), ("p95", spread.p95, 0.95, "^"), ("p99", spread.p99, 0.99, "v"),
        ):  # fmt: skip
            axes.plot(cost, share, marker, color=INK, markersize=6, label=f"{name} {say.cost(cost)}")
        for name, cost, colour, line in (
            ("mean", report.chosen.cost.value, MIDDLE, "--"), ("whole network", report.whole.cost.value, LATE, ":"),
        ):  # fmt: skip
            axes.axvline(cost, color=colour, linewidth=1.4, linestyle=line, label=f"{name} {say.cost(cost)}")
        if wide:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator())
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlim(start, end)
        axes.set_ylim(0, 1.05)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda cost, _: say.amount(cost) if cost else "0"))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_xlabel(f"{report.unit} a run")
        axes.set_ylabel("share of the runs")
        figure.legend(loc="outside lower left", fontsize=8)

    return inline("costs", "What runs cost", text, (3.6, 3.7), draw)

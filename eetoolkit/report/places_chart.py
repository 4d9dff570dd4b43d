"""The network's places: how much work lies before each, how good a head there is, which of them became exits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eetoolkit.adapting.report import AdaptReport
from eetoolkit.report.chart import Chart, inline, spell_tick
from eetoolkit.showing.style import FAINT, INK, LATE, colours, plain
from eetoolkit.tuning.wording import percent, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INCHES = (3.6, 3.4)
_LINE = 0.2  # inches of a line in the legend


def places(report: AdaptReport) -> Chart:
    """Returns the best head's accuracy against the share of the work, with the exits in their order."""
    exits = [(place, head) for place in report.places for head in place.chosen]
    told = [
        f"{short(place.name)}, {head.kind}: {percent(head.accuracy)} after {percent(place.share)} of the work"
        for place, head in exits
    ]
    text = f"{'. '.join(told) or 'No place became an exit'}. The whole network: {percent(report.accuracy)}."

    def draw(figure: Figure) -> None:
        from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

        axes = figure.add_subplot()
        plain(axes)
        axes.axhline(report.accuracy, color=LATE, linewidth=1, linestyle="--", zorder=1)
        shares, best = zip(*((place.share, place.best.accuracy) for place in report.places), strict=True)
        axes.plot(
            shares, best, color=FAINT, linewidth=0.8, marker="o", markersize=6, markerfacecolor="none",
            markeredgecolor=FAINT, label="best head of a place", zorder=2,
        )  # fmt: skip
        for number, ((place, head), colour) in enumerate(zip(exits, colours(len(exits)), strict=True), 1):
            axes.plot(
                place.share, head.accuracy, "o", color=colour, markersize=11, markeredgecolor=INK, markeredgewidth=0.6,
                label=f"exit {number}: {short(place.name)}, {head.kind}", zorder=4,
            )  # fmt: skip
            axes.annotate(
                str(number), (place.share, head.accuracy), ha="center", va="center_baseline", fontsize=8,
                fontweight="bold", color="white", zorder=5,
            )  # fmt: skip
        axes.plot(1, report.accuracy, "s", color=LATE, markersize=7, label="whole network", zorder=3)
        axes.set_xlim(0, 1.05)
        axes.margins(y=0.12)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.yaxis.set_major_formatter(FuncFormatter(spell_tick))
        axes.set_xlabel("work up to there")
        axes.set_ylabel(report.what)
        figure.legend(loc="outside lower left", fontsize=8, handletextpad=0.6)

    width, height = _INCHES
    return inline("places", f"{report.what} against work", text, (width, height + _LINE * (2 + len(exits))), draw)

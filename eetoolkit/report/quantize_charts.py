"""A quantised bundle beside the float one: each segment's latency, and the answers that differ at each exit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eetoolkit.quantizing.report import QuantizationReport, SegmentChoice
from eetoolkit.report.chart import Chart, inline, spell_tick
from eetoolkit.showing.style import EARLY, FAINT, INK, LATE, WRONG, plain
from eetoolkit.tuning.wording import Wording, percent, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 3.6
_BAR = 0.36  # of the room between two segments
_SAY = Wording("accuracy", "ms")


def segments(report: QuantizationReport) -> Chart | None:
    """Returns the latency of each segment before and after; None where none was measured."""
    timed = [(each, each.before_ms) for each in report.segments if each.before_ms is not None]
    if not timed:
        return None

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        plain(axes, grid="x")
        places = [place - _BAR / 2 for place in range(len(timed))]
        axes.barh(places, [before for _, before in timed], _BAR, color=LATE, label="float")
        for name, colour, kept in ((report.weights, EARLY, False), ("tried, stays float", "none", True)):
            bars = [
                (place + _BAR / 2, each.after_ms)
                for place, (each, _) in enumerate(timed)
                if each.after_ms is not None and (each.method == "float") == kept
            ]
            if bars:
                places, widths = map(list, zip(*bars, strict=True))
                axes.barh(places, widths, _BAR, color=colour, edgecolor=EARLY, linewidth=0.8, label=name)
        _name_rows(axes, [each.name for each, _ in timed])
        axes.set_xlabel("robust mean of a visit, ms")
        figure.legend(loc="outside lower left", ncols=3, fontsize=8, handlelength=1, columnspacing=1)

    text = f"{'; '.join(_tell(each, before, report.weights) for each, before in timed)}."
    size = _WIDTH, 1.1 + 0.4 * len(timed)
    return inline("segments", "Latency of each segment, ms", text, size, draw)


def _tell(segment: SegmentChoice, before_ms: float, weights: str) -> str:
    """Returns a segment's latencies in words."""
    told = f"{short(segment.name)}: float {_SAY.amount(before_ms)}"
    if segment.after_ms is not None:
        told += f", {weights} {_SAY.amount(segment.after_ms)}"
    return told + (", stays float" if segment.method == "float" else "")


def exits(report: QuantizationReport) -> Chart | None:
    """Returns how much differs at each exit, with its interval and the bound; None where nothing was compared."""
    if not report.exits:
        return None
    differ = [1 - each.agreement.value for each in report.exits]
    what = "answers that differ" if report.classes else "mean relative difference"
    told = [f"{short(each.name)}: {percent(share)}" for each, share in zip(report.exits, differ, strict=True)]

    def draw(figure: Figure) -> None:
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        axes = figure.add_subplot()
        plain(axes, grid="x")
        axes.axvline(
            report.max_disagreement, color=FAINT, linewidth=1.2, linestyle="--", label=f"bound, {report.limit}"
        )
        for within, colour, name in ((True, EARLY, "within it"), (False, WRONG, "exceeds it")):
            some = [(place, each) for place, each in enumerate(report.exits) if each.within == within]
            if some:
                shares = [1 - each.agreement.value for _, each in some]
                below = [each.agreement.high - each.agreement.value for _, each in some]
                above = [each.agreement.value - each.agreement.low for _, each in some]
                axes.errorbar(
                    shares, [place for place, _ in some], xerr=[below, above], fmt="o", color=colour, markersize=6,
                    elinewidth=1.2, capsize=2.5, label=name,
                )  # fmt: skip
        _name_rows(axes, [each.name for each in report.exits])
        axes.set_xlim(left=-0.03 * axes.get_xlim()[1])
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(spell_tick))
        axes.set_xlabel(what)
        figure.legend(loc="outside lower left", ncols=3, fontsize=8, handlelength=1.4, columnspacing=1)

    text = f"{'; '.join(told)}. At most {report.limit} may. Bars are 95% intervals."
    title = f"{what[:1].upper()}{what[1:]} at each exit"
    return inline("agreement", title, text, (_WIDTH, 1.2 + 0.32 * len(report.exits)), draw)


def _name_rows(axes: Axes, names: list[str]) -> None:
    """Names the rows of a chart, the first one on top."""
    axes.set_yticks(range(len(names)), [short(name) for name in names], color=INK)
    axes.set_ylim(len(names) - 0.5, -0.5)

"""A profile as a picture: its segments one after the other as bars, where exits leave, and how many inputs do."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from eetoolkit.showing.style import EARLY, FAINT, INK, LATE, MIDDLE, plain, styled
from eetoolkit_runtime.errors import EEToolkitError
from eetoolkit_runtime.files.outfile import check_file, writing
from eetoolkit_runtime.printable import printable
from eetoolkit_runtime.profiling.profile import Profile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Transform

Kind = Literal["svg", "png"]
_SAVED = "#bfe3dd"  # a light EARLY
_BARS = "in the mean call", "only in a full path"
_LONGEST_NAME = 36
_BAR_INCHES = 0.34
_WIDTH_INCHES = 10.0


@dataclass(frozen=True)
class Bar:
    """One segment.

    Attributes:
        start_ms: What the segments before it take on a full path.
        full_ms: What it takes itself there: its robust mean, as often as it is visited.
        call_ms: What of that the mean call runs, which stops at the first confident exit.
        exit: The exit in it.
        share: Of the inputs that answered there; None where an earlier bar has said it, or without an exit.
        exit_ms: What the calls take that it answers, their robust mean; None where it answers none.
    """

    segment: str
    start_ms: float
    full_ms: float
    call_ms: float
    exit: str | None = None
    share: float | None = None
    exit_ms: float | None = None


def bars(found: Profile) -> tuple[Bar, ...]:
    """Returns a bar for each segment that an input came to, in the plan's order."""
    return tuple(_bars(found))


def _bars(found: Profile) -> Iterator[Bar]:
    start_ms = 0.0
    told: set[str] = set()
    for name, cost in found.segments.items():
        if cost.latency is None:
            continue
        met = 1.0 if found.full_path is None else cost.latency.runs / found.full_path.runs
        full_ms = cost.latency.robust_ms * met
        call_ms = min(full_ms, cost.latency.robust_ms * cost.visits)
        bar = Bar(name, start_ms, full_ms, call_ms, cost.exit)
        if cost.exit is not None and cost.exit not in told:
            told.add(cost.exit)  # an exit may stand in several segments
            exit_ = found.exits[cost.exit]
            bar = replace(bar, share=exit_.share, exit_ms=None if exit_.call is None else exit_.call.robust_ms)
        yield bar
        start_ms += full_ms


def draw(found: Profile, target: str | os.PathLike[str], kind: Kind, *, overwrite: bool = False) -> Path:
    """Draws a profile to `target` and returns its path.

    Raises:
        EEToolkitError: Something is there and `overwrite` is not set, or no input came to any segment.
    """
    path = check_file(target, overwrite=overwrite)
    from matplotlib.figure import Figure

    all_ = bars(found)
    if not all_:
        raise EEToolkitError("nothing to draw: no segment was run")
    with styled():
        inches = _BAR_INCHES * len(all_)
        figure = Figure(figsize=(_WIDTH_INCHES, 2 + inches), dpi=150, facecolor="white")
        axes = figure.add_axes((0.2, 1.1 / (2 + inches), 0.5, inches / (2 + inches)))
        _draw_bars(axes, all_)
        _draw_times(axes, found, all_)
        _draw_columns(axes, all_)
        _draw_title(axes, found)
        metadata = {"Date": None} if kind == "svg" else {}
        with writing(path, overwrite=overwrite) as file:
            figure.savefig(file, format=kind, bbox_inches="tight", pad_inches=0.2, metadata=metadata)
    return path


def spell_ms(value: float) -> str:
    """Returns milliseconds as people write them: 0.045 ms, 12.3 ms, 1.23 s."""
    if value >= 1000:
        return f"{value / 1000:.3g} s"
    return f"{value:.3g} ms" if value >= 1 else f"{value:.3f} ms"


def spell_exit(bar: Bar) -> str:
    """Returns which exit answers in a segment, how many inputs and how fast: exit0  83.3% in 0.045 ms."""
    if bar.exit is None:
        return ""
    share = "  as above" if bar.share is None else f"  {bar.share:.1%}"
    return f"{_short(bar.exit)}{share}" + ("" if bar.exit_ms is None else f" in {spell_ms(bar.exit_ms)}")


def _draw_bars(axes: Axes, all_: Sequence[Bar]) -> None:
    places, starts = range(len(all_)), [bar.start_ms for bar in all_]
    axes.barh(places, [bar.full_ms for bar in all_], left=starts, height=0.7, color=_SAVED, label=_BARS[1])
    axes.barh(places, [bar.call_ms for bar in all_], left=starts, height=0.7, color=EARLY, label=_BARS[0])
    axes.set_ylim(len(all_) - 0.5, -0.5)
    axes.set_yticks(places, [_short(bar.segment) for bar in all_], color=INK)
    plain(axes, grid="x")
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel("milliseconds, the segments one after the other; all are robust means")


def _draw_times(axes: Axes, found: Profile, all_: Sequence[Bar]) -> None:
    """Draws the mean call and the whole network as lines, and the legend, below the bars."""
    end_ms = all_[-1].start_ms + all_[-1].full_ms
    mean_ms = 0.0 if found.expected is None else found.expected.robust_ms
    if mean_ms:
        axes.axvline(mean_ms, color=MIDDLE, linewidth=1.4, linestyle="--", label=f"mean call {spell_ms(mean_ms)}")
    if found.whole is not None:
        whole_ms = found.whole.latency.robust_ms
        label = f"whole network {spell_ms(whole_ms)}"
        axes.axvline(whole_ms, color=LATE, linewidth=1.4, linestyle=":", label=label)
        end_ms = max(end_ms, whole_ms)
    axes.set_xlim(0, 1.02 * max(end_ms, mean_ms))
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda place: (labels[place] not in _BARS, labels[place] != _BARS[0], place))
    axes.legend(
        [handles[place] for place in order], [labels[place] for place in order], loc="upper left",
        bbox_to_anchor=(0, 0), bbox_transform=_points_below(axes, 34), ncols=4, borderaxespad=0,
        borderpad=0, handlelength=1.4, columnspacing=1.6,
    )  # fmt: skip


def _draw_columns(axes: Axes, all_: Sequence[Bar]) -> None:
    """Writes what each segment takes, and what leaves there, in columns to the right of the bars."""
    _write(axes, -0.9, 60, "right", "adds", FAINT)
    _write(axes, -0.9, 78, "left", "answers there", FAINT)
    for place, bar in enumerate(all_):
        _write(axes, place, 60, "right", spell_ms(bar.full_ms), INK)
        if bar.exit is not None:
            _write(axes, place, 78, "left", spell_exit(bar), MIDDLE if bar.share else FAINT)


def _draw_title(axes: Axes, found: Profile) -> None:
    threads = (
        "one thread per core" if found.threads is None else f"{found.threads} threads".replace("1 threads", "1 thread")
    )
    machine = f"{found.machine.processor}, {threads}, onnxruntime {found.machine.onnxruntime}, {found.rows} inputs"
    for points, text, size, weight, colour in (
        (46, printable(found.bundle), 13, "bold", INK),
        (30, printable(machine), 9, "normal", FAINT),
        (18, found.gaps or "", 9, "normal", LATE),
    ):
        axes.annotate(
            text, (0, 1), (0, points), xycoords="axes fraction", textcoords="offset points", ha="left", va="bottom",
            fontsize=size, fontweight=weight, color=colour,
        )  # fmt: skip


def _write(axes: Axes, place: float, points: float, side: str, text: str, colour: str) -> None:
    axes.annotate(
        text, (1, place), (points, 0), xycoords=("axes fraction", "data"), textcoords="offset points", ha=side,
        va="center", color=colour, annotation_clip=False,
    )  # fmt: skip


def _points_below(axes: Axes, points: float) -> Transform:
    """Returns the axes' coordinates, so many points further down."""
    from matplotlib.transforms import ScaledTranslation

    figure = axes.get_figure(root=True)
    if figure is None:
        return axes.transAxes
    return axes.transAxes + ScaledTranslation(0, -points / 72, figure.dpi_scale_trans)


def _short(name: str) -> str:
    """Returns a printable name with its middle left out where it is long: both of its ends tell names apart."""
    clean, half = printable(name), _LONGEST_NAME // 2
    return clean if len(clean) <= _LONGEST_NAME else f"{clean[:half]}...{clean[-half:]}"

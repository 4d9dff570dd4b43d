"""One look for all pictures: colours, sizes, lines."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, FAINT, GRID, PAPER = "#1f2933", "#616e7c", "#d8dee5", "#fefefe"
EARLY, MIDDLE, LATE = "#1f8a7d", "#b7791f", "#4f6bd8"
"""Mid-tones that stand out from white and from black."""
WRONG = "#c2374d"
"""For wrong answers and losses alone."""
_SETTINGS = {
    "text.parse_math": False,  # names are not mathematics
    "svg.hashsalt": "eetoolkit",  # the same picture gives the same file
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": FAINT,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": FAINT,
    "axes.edgecolor": GRID,
    "grid.color": GRID,
    "axes.facecolor": "none",
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.6,
}


@contextmanager
def styled(fonts: str = "path") -> Iterator[None]:
    """Sets the style for what is drawn inside; `fonts` is `none` (text) or `path` (shapes) in SVGs."""
    from matplotlib import rc_context

    settings: Any = _SETTINGS | {"svg.fonttype": fonts}  # matplotlib types the keys by their names
    with rc_context(settings), warnings.catch_warnings():
        # A browser has fonts for what matplotlib's own lacks; elsewhere a box says the same.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def plain(axes: Axes, *, grid: str = "both") -> None:
    """Takes from axes what is not data."""
    axes.grid(axis=grid, linewidth=0.7)  # type: ignore[arg-type] # "x", "y" or "both"
    axes.set_axisbelow(True)
    axes.tick_params(length=0)


def colours(count: int) -> list[str]:
    """Returns a colour for each of some exits, early to late."""
    from matplotlib.colors import LinearSegmentedColormap, to_hex

    if count == 1:
        return [EARLY]
    scale = LinearSegmentedColormap.from_list("exits", [EARLY, MIDDLE, LATE])
    return [to_hex(scale(place / (count - 1))) for place in range(count)]

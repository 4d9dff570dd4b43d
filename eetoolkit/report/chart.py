"""A chart as inline SVG: its text stays text, its colours are the page's, its ids are its own."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from eetoolkit_runtime.printable import printable

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, GRID, PAPER = "#1f2933", "#616e7c", "#d8dee5", "#fefefe"
GOOD, MIDDLE, BAD = "#1f8a7d", "#b7791f", "#c2374d"
"""Mid-tones that stand out from white and from black, here early, middle and late, or right and wrong."""
_THEME = {INK: "var(--ink)", FAINT: "var(--faint)", GRID: "var(--grid)", PAPER: "var(--paper)"}
_SETTINGS = {
    "text.parse_math": False,  # names are not mathematics
    "svg.hashsalt": "eetoolkit",  # the same report gives the same page
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": FAINT,
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
_POINTS_TO_PIXELS = 4 / 3
_LARGEST = 1.35  # how far a wide screen enlarges it
_REFERENCE = re.compile(r"url\(#([^)]+)\)")

Draw = Callable[["Figure"], None]


@dataclass(frozen=True)
class Chart:
    """A chart with its title and its alternative text; `svg` holds both too."""

    title: str
    text: str
    svg: Markup


def inline(name: str, title: str, text: str, inches: tuple[float, float], draw: Draw) -> Chart:
    """Returns a chart to stand in a page.

    Args:
        name: Unique in the page; its ids begin with it.
        title: What it shows.
        text: What it says, for those who do not see it.
        inches: Its width and height, which a page scales.
        draw: Draws on an empty figure.
    """
    from markupsafe import Markup

    file = io.BytesIO()
    with styled("none"):
        figure = _drawn(inches, draw)
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = _inlined(file.getvalue(), name, printable(title), printable(text), inches)
    return Chart(title, text, Markup(svg))  # noqa: S704 - matplotlib has escaped its texts, ElementTree ours


@contextmanager
def styled(fonts: str) -> Iterator[None]:
    """Sets the house's style for what is drawn inside; `fonts` is `none` (text) or `path` (shapes) in SVGs."""
    from matplotlib import rc_context

    settings: Any = _SETTINGS | {"svg.fonttype": fonts}  # matplotlib types the keys by their names
    with rc_context(settings), warnings.catch_warnings():
        # The browser has fonts for what matplotlib's own lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _drawn(inches: tuple[float, float], draw: Draw) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    figure = Figure(figsize=inches, layout="constrained", facecolor="none")
    draw(figure)
    for text in figure.findobj(Text):
        text.set_text(printable(text.get_text()))
    return figure


def plain(axes: Axes, *, grid: str = "both") -> None:
    """Takes from axes what is not data."""
    axes.grid(axis=grid, linewidth=0.7)  # type: ignore[arg-type] # "x", "y" or "both"
    axes.set_axisbelow(True)
    axes.tick_params(length=0)


def colours(count: int) -> list[str]:
    """Returns a colour for each of some exits, early to late."""
    from matplotlib.colors import LinearSegmentedColormap, to_hex

    if count == 1:
        return [GOOD]
    scale = LinearSegmentedColormap.from_list("exits", [GOOD, MIDDLE, BAD])
    return [to_hex(scale(place / (count - 1))) for place in range(count)]


def _inlined(svg: bytes, name: str, title: str, told: str, inches: tuple[float, float]) -> str:
    """Returns matplotlib's SVG without what a page has no use for: namespaces, metadata, a style for all elements."""
    root = ElementTree.fromstring(svg)  # noqa: S314 - our own
    for parent in root.iter():
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    given = [(key.rpartition("}")[2], value) for element in root.iter() for key, value in element.attrib.items()]
    used = {found for _, value in given for found in _REFERENCE.findall(value)}
    used |= {value.removeprefix("#") for key, value in given if key == "href"}
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        attributes = {key.rpartition("}")[2]: value for key, value in element.attrib.items()}
        own = attributes.pop("id", None)
        element.attrib.clear()
        element.attrib.update({key: _themed(value, name) for key, value in attributes.items()})
        if own in used:
            element.attrib["id"] = f"{name}-{own}"
        if "href" in attributes:
            element.attrib["href"] = f"#{name}-{attributes['href'].removeprefix('#')}"
    width = inches[0] * 72 * _POINTS_TO_PIXELS * _LARGEST
    box = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib.update({
        "viewBox": box, "style": f"max-width: {width:.0f}px", "role": "img",
        "aria-labelledby": f"{name}-title {name}-desc",
    })  # fmt: skip
    for place, (tag, words) in enumerate((("title", title), ("desc", told))):
        child = ElementTree.Element(tag, id=f"{name}-{tag}")
        child.text = words
        root.insert(place, child)
    return ElementTree.tostring(root, encoding="unicode")


def _themed(value: str, name: str) -> str:
    """Returns an attribute with the page's colours, and with references to the chart's own ids."""
    for colour, variable in _THEME.items():
        value = value.replace(colour, variable)
    return _REFERENCE.sub(rf"url(#{name}-\1)", value)

"""A chart as inline SVG: its text stays text, its colours are the page's, its ids are its own."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from eetoolkit.showing.style import FAINT, GRID, INK, PAPER, styled
from eetoolkit_runtime.printable import printable

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

_THEME = {INK: "var(--ink)", FAINT: "var(--faint)", GRID: "var(--grid)", PAPER: "var(--paper)"}
_POINTS_TO_PIXELS = 4 / 3
_LARGEST = 1.35  # how far a wide screen enlarges it
_REFERENCE = re.compile(r"url\(#([^)]+)\)")

Draw = Callable[["Figure"], object]


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


def spell_tick(share: float, _: object = None) -> str:
    """Returns a share in percent without zeros at its end, for an axis."""
    return f"{share:.4%}".rstrip("0%").rstrip(".") + "%"


def _drawn(inches: tuple[float, float], draw: Draw) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    figure = Figure(figsize=inches, layout="constrained", facecolor="none")
    draw(figure)
    for text in figure.findobj(Text):
        text.set_text(printable(text.get_text()))
    return figure


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

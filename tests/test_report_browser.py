"""The report in a real browser: every chart is drawn, nothing is fetched, nothing sticks out, light and dark."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from adapt_reports import small
from browser import Open, why_not
from quantization_reports import small as small_quantized
from test_report import made

from eetoolkit.report.page import render

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("page") / "report.html"
    found, shown = made(tmp_path_factory.mktemp("bundle"))
    target.write_text(render(found, shown), encoding="utf-8")
    return target


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_every_chart_is_drawn_and_nothing_is_fetched(open_tab: Open, report: Path, width: int, dark: bool) -> None:
    tab = open_tab(report.as_uri(), width=width, dark=dark)
    boxes = tab.page.evaluate(
        "[...document.querySelectorAll('svg')].map(s => [s.getBBox(), s.getBoundingClientRect()])"
        ".map(([b, r]) => [b.width, b.height, r.width, r.height, r.left, r.right])"
    )
    assert len(boxes) == 4 + 2 * 3
    for *sizes, left, right in boxes:
        assert min(sizes) > 50
        assert left >= 0
        assert right <= width
    texts = tab.page.evaluate("[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().width)")
    assert len(texts) > 50
    assert min(texts) > 0
    images = tab.page.evaluate("[...document.images].map(i => [i.complete, i.naturalWidth])")
    assert images
    assert all(complete and wide == 5 for complete, wide in images)
    assert [url for url in tab.requests if not url.startswith("data:")] == [report.resolve().as_uri()]
    assert tab.complaints == []
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the page of a network with many places whose names are long."""
    report = small(pays=True)
    named = tuple(
        msgspec.structs.replace(report.places[n in (3, 6)], name=f"{'layer_group_' * 5}norm:{n}", share=(n + 1) / 17)
        for n in range(16)
    )
    target = tmp_path_factory.mktemp("page") / "long.html"
    target.write_text(render(msgspec.structs.replace(report, places=named)), encoding="utf-8")
    return target


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the page of a quantised bundle with many segments and exits whose names are long."""
    report = small_quantized()
    many = {
        which: tuple(
            msgspec.structs.replace(getattr(report, which)[n % 2], name=f"{'layer_group_' * 5}norm:{n}")
            for n in range(16)
        )
        for which in ("segments", "exits")
    }
    target = tmp_path_factory.mktemp("page") / "quantized.html"
    target.write_text(render(msgspec.structs.replace(report, **many)), encoding="utf-8")
    return target


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("which", ["long", "quantized"])
def test_long_names_cover_no_figures(open_tab: Open, which: str, width: int, request: pytest.FixtureRequest) -> None:
    tab = open_tab(request.getfixturevalue(which).as_uri(), width=width)
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
    wide = tab.page.evaluate(
        "[...document.querySelectorAll('th, td')].filter(c => c.scrollWidth > c.clientWidth + 1).map(c => c.innerText)"
    )
    assert wide == []


@pytest.mark.parametrize("which", ["report", "long", "quantized"])
def test_texts_of_a_chart_do_not_stick_out_of_its_card(
    open_tab: Open, which: str, request: pytest.FixtureRequest
) -> None:
    tab = open_tab(request.getfixturevalue(which).as_uri(), width=360)
    out = tab.page.evaluate(
        "[...document.querySelectorAll('figure')].flatMap(f => { const card = f.getBoundingClientRect();"
        " return [...f.querySelectorAll('text')].filter(t => { const b = t.getBoundingClientRect();"
        " return b.left < card.left || b.right > card.right || b.top < card.top || b.bottom > card.bottom; })"
        ".map(t => t.textContent); })"
    )
    assert out == []


def test_the_columns_that_decide_are_in_sight_on_a_phone(open_tab: Open, report: Path) -> None:
    tab = open_tab(report.as_uri(), width=390)
    for table, column in (
        ("All choices", "drop, points"),
        ("Every exit's verdict", "pays"),
        ("Every class", "drop, points"),
    ):
        right = tab.page.evaluate(
            f"[...[...document.querySelectorAll('.scroll')].find(part => part.ariaLabel === {table!r})"
            f".querySelectorAll('thead th')].find(cell => cell.textContent === {column!r})"
            ".getBoundingClientRect().right"
        )
        assert right <= 390, table


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_words_stand_out_from_their_ground(open_tab: Open, report: Path, dark: bool) -> None:
    """At least 4.5 to 1 for text (WCAG 2.2, 1.4.3), and 3 to 1 for what charts draw (1.4.11)."""
    tab = open_tab(report.as_uri(), width=1200, dark=dark)
    pairs = tab.page.evaluate(
        "(() => { const of = (s, p) => getComputedStyle(document.querySelector(s))[p]; return ["
        "[of('p', 'color'), of('body', 'backgroundColor')], [of('.faint', 'color'), of('body', 'backgroundColor')],"
        "[of('.bad', 'color'), of('body', 'backgroundColor')], [of('a', 'color'), of('body', 'backgroundColor')],"
        "[of('figure p', 'color'), of('figure', 'backgroundColor')],"
        "[of('svg text', 'fill'), of('figure', 'backgroundColor')]]; })()"
    )
    for text, ground in pairs:
        assert contrast(text, ground) >= 4.5, (text, ground)
    ground = pairs[-1][1]
    for mark in ("rgb(31, 138, 125)", "rgb(183, 121, 31)", "rgb(79, 107, 216)", "rgb(194, 55, 77)"):
        assert contrast(mark, ground) >= 3, (mark, ground)


def contrast(one: str, other: str) -> float:
    """Returns the contrast ratio of two `rgb(...)` (WCAG 2.2)."""

    def luminance(colour: str) -> float:
        channels = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_that_check_would_notice_a_fetch_a_complaint_and_an_empty_chart(open_tab: Open, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text('<!doctype html><img src="file:///none.png"><svg width="0" height="0"></svg>')
    tab = open_tab(bad.as_uri(), width=360)
    assert "file:///none.png" in tab.requests
    assert any("ERR_FILE_NOT_FOUND" in text for text in tab.complaints)
    assert tab.page.evaluate("document.querySelector('svg').getBBox().width") == 0

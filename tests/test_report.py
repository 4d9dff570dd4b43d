"""The report: every section, nothing to fetch, names that do no harm, and no file overwritten unasked."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from test_tuning_tune import Easy, data

import eetoolkit as ee
from eetoolkit.cli import main
from eetoolkit.cli.frontier_chart import frontier_chart
from eetoolkit.report import row_charts
from eetoolkit.report.examples import pictures
from eetoolkit.report.exit_charts import merged
from eetoolkit.report.frontier import save_frontier
from eetoolkit.report.page import render, write_report
from eetoolkit.tuning.calibrate import Bin, Reliability
from eetoolkit.tuning.intervals import Interval
from eetoolkit.tuning.wording import Wording, percent, short
from eetoolkit_runtime.printable import printable

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

edit = msgspec.structs.replace
SECTIONS = (
    "choice", "next", "frontier", "exits", "verdict", "reliability", "confidence", "mistakes", "classes", "costs",
    "grounds",
)  # fmt: skip
CHARTS = 4 + 2 * 3  # frontier, shares, classes, costs; reliability and confidences of three exits
VOID = {"meta", "img", "br", "hr", "link", "input"}
ATTACK = "<script>alert(1)</script>\"'&\x00\x1b[31m\u202e\u200b"


class Pictured(torch.nn.Module):
    """`Easy`, whose twelve numbers are the first of twenty pixels."""

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        return Easy()(image.flatten(1)[:, :12])


def pixels(rows: int = 600) -> tuple[np.ndarray, np.ndarray]:
    x, labels = data(rows)
    return np.concatenate([x, np.zeros((rows, 8), np.float32)], axis=1).reshape(rows, 1, 4, 5), labels


def made(folder: Path) -> tuple[ee.TuningReport, dict[int, str]]:
    """Returns a report of a small tuned bundle, and the pictures of its mistakes."""
    x, labels = pixels()
    bundle = ee.export(Pictured().eval(), torch.from_numpy(x[:1]), folder / "it.ee", labels=["a", "b", "c", "d"])
    report = ee.tune(bundle, x, labels, max_accuracy_drop=0.05, threads=1)
    return report, pictures(bundle.manifest, x, [mistake.row for mistake in report.mistakes])


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> ee.TuningReport:
    return made(tmp_path_factory.mktemp("report"))[0]


class Outline(HTMLParser):
    """What a page is made of: headings and ids, what it points at, what is left open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.unnamed: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.ids += [value for key, value in attrs if key == "id" and value]
        self.links += [value or "" for key, value in attrs if key in ("src", "href", "srcset", "action", "xlink:href")]
        self.unnamed += [tag] * ((tag == "img" and not given.get("alt")) or (tag == "th" and "scope" not in given))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check(text: str) -> Outline:
    """Returns the outline of a page that is well-formed and fetches nothing."""
    outline = Outline(text)
    assert outline.open == []
    assert set(SECTIONS) <= set(outline.ids)
    assert len(outline.ids) == len(set(outline.ids))
    assert outline.unnamed == []
    assert outline.tags.count("h1") == 1
    assert not {"script", "link", "iframe", "object", "embed"} & set(outline.tags)
    for link in outline.links:
        assert link.startswith("data:image/png;base64,") or (link[0] == "#" and link[1:] in outline.ids), link
    assert re.findall(r"https?:|//[\w.]+/|@import|url\((?!#)", re.sub(r"base64,[\w+/=]+", "", text)) == []
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        root = ElementTree.fromstring(svg)  # noqa: S314 - our own
        assert [child.tag for child in root][:2] == ["title", "desc"]
        assert all(child.text for child in root[:2])
        own = {element.get("id") for element in root.iter()}
        assert set(re.findall(r"url\(#([^)]+)\)", svg)) <= own
        assert len(list(root.iter("path"))) > 3
        colours = re.findall(r"(?:fill|stroke): ?([^;\"]+)", svg)
        assert all(re.fullmatch(r"#[0-9a-f]{6}|none|var\(--\w+\)|url\(#[\w-]+\)|#fff|#000|white", c) for c in colours)
        assert {"#1f8a7d", "#c2374d", "var(--ink)", "var(--faint)"} & set(colours)
        assert len(list(root.iter("text"))) > 2
    return outline


@pytest.mark.parametrize(
    ("rows", "drawn"),
    [([0, 12, 30], [12, 30]), ([4, 0, 7, 20, 3], [11, 23]), ([2, 3], [5]), ([10, 10, 0], [10, 10])],
)
def test_neighbouring_bins_of_few_rows_are_drawn_as_one(rows: list[int], drawn: list[int]) -> None:
    bins = tuple(Bin(count, 0.1 * place, 0.2 * place) for place, count in enumerate(rows))
    points = merged(Reliability(temperature=1, ece=0, brier=0, log_loss=0, bins=bins))
    assert [point.rows for point in points] == drawn
    for name in ("confidence", "accuracy"):
        sums = [sum(each.rows * getattr(each, name) for each in some) for some in (bins, points)]
        assert sums[0] == pytest.approx(sums[1])


def test_the_page_has_every_section_and_chart_and_fetches_nothing(found: ee.TuningReport) -> None:
    text = render(found)
    assert check(text).tags.count("svg") == CHARTS
    say = Wording(found.metric, found.unit)
    for figure in (say.score(found.chosen.score.value), say.share(found.chosen.share.value), found.goal):
        assert figure in text
    for line in (str(found.verdict)[1:], *found.notes, f"{found.rows['test']} rows give every figure"):
        assert line.replace("'", "&#39;") in text
    for each in found.baselines:
        assert each.name.replace("'", "&#39;") in text
    assert render(found) == text


def test_names_of_users_are_escaped_everywhere(found: ee.TuningReport) -> None:
    evil = {name: f"{ATTACK}{name}" for name in found.chosen.exits}
    whole = msgspec.to_builtins(found)

    def renamed(value: object) -> object:
        if isinstance(value, dict):
            return {evil.get(key, key): renamed(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [renamed(each) for each in value]
        return evil.get(value, value) if isinstance(value, str) else value

    attacked = msgspec.convert(renamed(whole), ee.TuningReport)
    names = dict.fromkeys(("bundle", "goal", "costs", "unit", "metric"), ATTACK)
    attacked = edit(attacked, **names, labels=(ATTACK,) * 4, notes=(ATTACK,), constants={ATTACK: (1.0,)})
    text = render(attacked)
    check(text)
    assert "<script" not in text
    assert "\x00" not in text
    assert printable(text.replace("\n", "")) == text.replace("\n", "")
    assert "&lt;script&gt;" in text


def test_rows_that_are_pictures_are_shown_as_they_were(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    report, shown = made(tmp_path)
    assert report.mistakes
    assert set(shown) == {mistake.row for mistake in report.mistakes}
    x, _ = pixels()
    rows = x[sorted(shown)]
    for row, uri in shown.items():
        picture = np.asarray(image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
        expected = (x[row, 0].astype(np.float64) - rows.min()) / (rows.max() - rows.min()) * 255
        np.testing.assert_allclose(picture, expected, atol=1)
    target = write_report(report, tmp_path / "r.html", inputs=x)
    text = target.read_text(encoding="utf-8")
    assert check(text).tags.count("img") == len(report.mistakes)
    with pytest.raises(ee.InputError, match=r"the report speaks of row .*, inputs have 2: pass those it was made with"):
        write_report(report, target, inputs=x[:2], overwrite=True)
    assert target.read_text(encoding="utf-8") == text


def test_rows_that_are_no_pictures_are_listed_by_number(found: ee.TuningReport) -> None:
    text = render(found)
    assert "<img" not in text
    for mistake in found.mistakes:
        assert f'<th scope="row">{mistake.row}</th>' in text
    plan = ee.load(found.path).manifest
    flat = edit(plan, inputs=(edit(plan.inputs[0], shape=("batch", 20)),))
    assert pictures(flat, pixels()[0], [0]) == {}
    assert pictures(plan, iter(()), [0]) == {}
    assert pictures(plan, None, [0]) == {}


def test_less_data_makes_a_shorter_page_and_no_broken_one(found: ee.TuningReport) -> None:
    bare = edit(
        found, classes=(), mistakes=(), histograms=(), calibration=(), frontier=(), constants={}, by_label=False,
        metric="dice", unit="segments", labels=None,
    )  # fmt: skip
    text = render(bare)
    assert check(text).tags.count("svg") == 3
    assert "labels are not classes" in text
    many = edit(found, classes=tuple(edit(found.classes[n % 4], label=n) for n in range(1000)))
    text = render(many)
    check(text)
    assert "40 of 1000 classes, those that lose most" in text
    none = edit(found, chosen=edit(found.chosen, thresholds=dict.fromkeys(found.thresholds, "never")))
    assert "<td>never</td>" in render(none)


def test_the_goal_is_a_line_in_the_frontier_where_it_is_a_score_or_a_cost(found: ee.TuningReport) -> None:
    assert found.least_score == pytest.approx(found.whole.score.value - 0.05)
    assert found.most_cost is None
    for report, label in (
        (found, "goal: at least"),
        (edit(found, least_score=None, most_cost=0.5 * found.whole.cost.value), "goal: at most"),
        (edit(found, least_score=None), None),
    ):
        text = render(report)
        said = [each for each in ("goal: at least", "goal: at most") if each in text]
        assert said == ([label] if label else [])
        assert ("The dashed line is the goal." in text) is bool(label)
        assert "other rules" in text


def test_the_chart_of_costs_ends_at_p99_or_at_the_whole_network(
    found: ee.TuningReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    draws: list[Callable[[Figure], None]] = []
    monkeypatch.setattr(row_charts, "inline", lambda *given: draws.append(given[-1]))
    whole = found.whole.cost.value
    for p99 in (0.5 * whole, 3 * whole):
        rare = edit(found.spread, p99=p99, steps=(*found.spread.steps, (100 * whole, 0.001)))
        row_charts.costs(edit(found, spread=rare), Wording("accuracy", "ms"))
        figure = Figure()
        draws.pop()(figure)
        (axes,) = figure.axes
        assert axes.get_xlim() == pytest.approx((0, 1.05 * max(p99, whole)))


def test_a_guarantee_is_told_with_what_it_rests_on(tmp_path: Path) -> None:
    x, labels = pixels(2000)
    bundle = ee.export(Pictured().eval(), torch.from_numpy(x[:1]), tmp_path / "it.ee")
    report = ee.tune(bundle, x, labels, risk=0.05, calibrate=False, threads=1)
    assert report.guarantee is not None
    text = render(report)
    check(text)
    for line in report.guarantee.assumptions:
        assert line.replace("'", "&#39;") in text
    assert "showed the guarantee" in text


def test_nothing_is_overwritten_unasked_and_a_failure_leaves_what_was(found: ee.TuningReport, tmp_path: Path) -> None:
    target = tmp_path / "r.html"
    assert write_report(found, target) == target
    with pytest.raises(ee.EEToolkitError, match=r"r.html exists; pass overwrite=True \(--overwrite\) to replace it"):
        write_report(found, target)
    target.write_text("mine")
    with pytest.raises(AttributeError):
        write_report(edit(found, chosen=None), target, overwrite=True)
    assert target.read_text() == "mine"
    write_report(found, target, overwrite=True)
    assert target.read_text(encoding="utf-8") == render(found)
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


def test_one_command_gives_a_report_and_a_chart_on_the_terminal(found: ee.TuningReport, tmp_path: Path) -> None:
    x, labels = pixels()
    np.savez(tmp_path / "val.npz", image=x, labels=labels)
    command = ["tune", found.path, "--data", str(tmp_path / "val.npz"), "--threads", "1", "--max-accuracy-drop", "0.05"]
    command += ["--report"]
    done = CliRunner().invoke(main, [*command, str(tmp_path / "r.html")])
    assert done.exit_code == 0, done.output
    assert f"report in {tmp_path / 'r.html'}" in done.stdout
    assert "• frontier, ○ always exit there, ■ whole network, ◇ before, ◆ chosen" in done.stdout
    assert "<img" in (tmp_path / "r.html").read_text(encoding="utf-8")
    as_json = CliRunner().invoke(main, [*command, str(tmp_path / "j.html"), "--json"])
    assert msgspec.json.decode(as_json.stdout, type=ee.TuningReport).labels == ("a", "b", "c", "d")
    assert (tmp_path / "j.html").is_file()


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("there.html", "there.html exists; pass --overwrite to replace it"),
        ("folder", "folder is a folder; name a file, such as folder/NAME"),
        ("none/r.html", "none/r.html: the folder none does not exist"),
    ],
)
def test_a_wrong_target_is_one_line_before_any_work(
    target: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.html").write_text("mine")
    Path("folder").mkdir()
    done = CliRunner().invoke(main, ["tune", "no such bundle", "--data", "none", "--report", target])
    assert done.exit_code == 1
    assert done.stderr == f"error: {said}\n"
    assert Path("there.html").read_text() == "mine"
    undone = CliRunner().invoke(main, ["tune", "no such bundle", "--undo", "--report", target])
    assert undone.exit_code == 2


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_extra_is_named_before_any_work(package: str) -> None:
    script = (
        f"import sys; sys.modules['{package}'] = None; import eetoolkit.cli as cli; "
        "cli.main(['tune', 'no such bundle', '--data', 'none', '--report', 'never.html'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"error: this needs {package}: install the extra 'report' (README: Install)\n"


def test_the_frontier_is_drawn_into_a_file_of_its_own(found: ee.TuningReport, tmp_path: Path) -> None:
    png = save_frontier(found, tmp_path / "f.png", "png")
    assert png.read_bytes().startswith(b"\x89PNG")
    svg = save_frontier(found, tmp_path / "f.svg", "svg")
    assert save_frontier(found, tmp_path / "g.svg", "svg").read_bytes() == svg.read_bytes()
    with pytest.raises(ee.EEToolkitError, match=r"f.svg exists"):
        save_frontier(found, svg, "svg")


def test_the_terminal_chart_has_every_mark_in_its_place(found: ee.TuningReport) -> None:
    lines = list(frontier_chart(found, None))
    assert len(lines) == 11
    rows = lines[:8]
    high = max(each.score.value for each in (*found.always, found.whole, found.chosen, found.before))
    high = max(high, *(point.score for point in found.frontier))
    assert lines[0].startswith(f"{high:.1%} ┤")
    assert sum(line.count("◆") for line in rows) == 1
    assert any(line.endswith("■") for line in rows)
    assert all(len(line) <= 40 for line in list(frontier_chart(found, 40))[:10])
    flat = edit(found, frontier=(), always=(), before=found.whole, chosen=found.whole)
    assert sum(line.count("◆") for line in list(frontier_chart(flat, None))[:8]) == 1


@pytest.mark.parametrize(("share", "text"), [(1, "100%"), (0.974, "97.4%"), (0.0321, "3.21%"), (0.99583, "99.58%")])
def test_shares_have_the_digits_that_they_have_room_for(share: float, text: str) -> None:
    assert percent(share) == text


def test_figures_are_spelled_with_their_units_and_intervals() -> None:
    ms, work = Wording("accuracy", "ms"), Wording("dice", "multiply-adds", ("cat",))
    assert ms.score(Interval(0.5, 0.4, 0.6)) == "50.0% [40.0%, 60.0%]"
    assert ms.drop(Interval(0.004, 0.0, 0.0125)) == "+0.40 [0.00, +1.25] points"
    assert ms.drop(-1e-9) == "0.00 points"
    assert ms.difference(Interval(0.0, 0.0, 0.0)) == "0.00"  # headings say of what
    assert ms.cost(Interval(0.3123, 0.3, 1.5)) == "0.312 [0.300, 1.5] ms"
    assert ms.cost(12.3456) == "12.35 ms"
    assert work.score(0.12345) == "0.1235"
    assert work.cost(1_240_000) == "1.24 M multiply-adds"
    assert [work.label(0), work.label(7), ms.label(3)] == ["cat", "7", "3"]
    assert short("a_name_that_is_longer_than_most") == "a_name_that..._than_most"

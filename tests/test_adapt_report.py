"""What adapting a network tells: its report, the page, and how a bundle is held against others."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from adapt_reports import small
from plans import chain, row
from single_exit import digits_network
from test_report import ATTACK, Outline

import eetoolkit as ee
from eetoolkit.adapting import choosing
from eetoolkit.adapting.adapted import Adapted
from eetoolkit.adapting.report import AdaptReport
from eetoolkit.adapting.shorten import shorten
from eetoolkit.report.page import render, write_report
from eetoolkit.report.places_chart import places
from eetoolkit.tuning import pruning
from eetoolkit.tuning.intervals import Interval
from eetoolkit.tuning.placing import Tried
from eetoolkit_runtime.printable import printable

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

edit = msgspec.structs.replace
OWN_SECTIONS = {"places", "heads", "rows"}
TUNING_SECTIONS = {"choice", "frontier", "verdict", "costs", "grounds"}


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Adapted:
    net, (x, y) = digits_network()
    return ee.add_exits(
        net, x[:240], y[:240], validation=(x[240:], y[240:]), max_accuracy_drop=0.03, max_exits=2, threads=1,
        kinds=["mean", "mean+max+grid"],
        folder=tmp_path_factory.mktemp("features"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def found(adapted: Adapted, tmp_path_factory: pytest.TempPathFactory) -> AdaptReport:
    """Returns what is found by work alone, so that no clock is in it."""
    adapted.bundle(tmp_path_factory.mktemp("bundle") / "digits.ee", profile="multiply-adds")
    return adapted.report


def check(text: str) -> Outline:
    """Returns the outline of a page that is well-formed and runs nothing."""
    outline = Outline(text)
    assert outline.open == outline.unnamed == []
    assert len(outline.ids) == len(set(outline.ids))
    assert set(outline.ids) >= OWN_SECTIONS
    assert {link[1:] for link in outline.links if link[0] == "#"} <= set(outline.ids)
    assert outline.tags.count("h1") == 1
    assert "script" not in outline.tags
    return outline


def test_the_page_of_what_pays_says_so_and_has_all_that_the_tuning_page_has(found: AdaptReport) -> None:
    text = render(found)
    outline = check(text)
    assert set(outline.ids) >= TUNING_SECTIONS | {"placements"}
    assert found.pays
    assert f"Early exits pay: {found.reason}; goal: at most 3 points lost.".replace("'", "&#39;") in text
    assert "--apply" not in text  # it was
    assert found.tuning is not None
    assert outline.tags.count("svg") == 1 + render(found.tuning).count("<svg")
    assert "--apply" in render(found.tuning)


@pytest.mark.parametrize(
    ("pays", "said"),
    [(False, "Early exits do not pay: as a test wants it"), (None, "Whether early exits pay is unknown: as a test")],
)
def test_the_page_of_what_does_not_pay_says_why_and_shows_the_places(pays: bool | None, said: str) -> None:
    text = render(small(pays))
    outline = check(text)
    assert said in text
    assert not TUNING_SECTIONS & set(outline.ids)
    assert outline.tags.count("svg") == 1
    assert "No place became an exit" in text
    assert "a note" in text


def test_a_page_of_too_few_rows_says_how_many_would_do(found: AdaptReport) -> None:
    assert found.tuning is not None
    few = edit(found, pays=None, tuning=edit(found.tuning, rows_needed=733))
    assert "About 733 rows for choosing exits would do." in render(few)
    assert "rows for choosing exits would do" not in render(found)


def test_the_picture_has_the_chosen_places_with_their_kinds(found: AdaptReport) -> None:
    chosen = [(place.name, head.kind) for place in found.places for head in place.chosen]
    assert 1 <= len(chosen) <= 2
    drawn = places(found)
    for number, (name, kind) in enumerate(chosen, 1):
        assert f"exit {number}: {name}, {kind}" in drawn.svg
        assert f"{name}, {kind}: " in drawn.text
    assert "exit 1: " not in places(small()).svg
    assert "exit 1: body, mean" in places(small(pays=True)).svg


def test_every_head_that_was_tried_is_in_the_page(found: AdaptReport) -> None:
    text = render(found)
    for place in found.places:
        assert f'rowspan="{len(place.heads)}">{place.name}<' in text
        for head in place.heads:
            assert f"<td>{head.loss:.4f}</td>" in text


def test_names_of_networks_places_and_notes_are_escaped() -> None:
    report = small(pays=True)
    named = tuple(edit(place, name=f"{ATTACK}{place.name}") for place in report.places)
    tried = (Tried((named[0].name,), 0.9, 0.5),)
    text = render(
        edit(report, network=ATTACK, places=named, notes=(ATTACK,), reason=ATTACK, tried=tried, fixed=tried[0])
    )
    check(text)
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert printable(text.replace("\n", "")) == text.replace("\n", "")


def test_a_report_survives_json(found: AdaptReport) -> None:
    assert msgspec.json.decode(msgspec.json.encode(found), type=AdaptReport) == found


def test_write_report_takes_it_and_shows_the_rows_that_left_wrong(
    adapted: Adapted, found: AdaptReport, tmp_path: Path
) -> None:
    pytest.importorskip("PIL")
    assert found.tuning is not None
    assert Path(found.tuning.path).name == "digits.ee"  # not where it was tuned
    page = write_report(found, tmp_path / "page.html", inputs=adapted.rows.inputs)
    assert page.read_text("utf-8").count("<img") == len(found.tuning.mistakes) > 0


def test_a_prompt_shows_one_line(adapted: Adapted) -> None:
    places = len(adapted.places)
    said = f"<Adapted DigitsNetwork: heads at {places} places, 480 rows to choose by; {adapted.report.verdict}>"
    assert repr(adapted) == said


def test_the_text_has_the_verdict_first_and_all_places(found: AdaptReport) -> None:
    first, second, *rest = str(found).splitlines()
    assert first == f"DigitsNetwork: {found.verdict}"
    assert second == found.against_fixed
    for place in found.places:
        assert any(line.startswith(f"{place.name}: ") for line in rest)
    assert any(line.startswith("at most 1 exit: ") for line in rest)


def test_what_is_gained_against_one_exit_is_told() -> None:
    report = small(pays=True)
    assert report.against_fixed == ""
    tried = (Tried(("body",), 0.9, 0.5),)
    assert edit(report, tried=tried).against_fixed == "no fixed exit meets the goal at less than the network's cost"
    fixed = edit(report, tried=tried, fixed=Tried(("body.relu first",), 0.9, 0.75))
    assert fixed.against_fixed == "the best fixed exit, always body.relu first, has 75.0% of the network's cost"
    timed = edit(fixed, over_fixed=Interval(1.5, 1.25, 1.75))
    assert timed.against_fixed == "1.50 [1.25, 1.75] times the speed of the best fixed exit, always body.relu first"


def test_a_bundle_is_timed_against_the_network_and_the_best_fixed_exit(
    adapted: Adapted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[list[str]] = []

    def latencies(bundles: Sequence[ee.Bundle], rows: Sequence[object], _: int | None) -> np.ndarray:
        compared.extend(list(bundle.exits) for bundle in bundles)
        return np.broadcast_to(np.array([6.0, 3.0, 1.5])[:, None, None], (3, 4, len(rows)))

    monkeypatch.setattr(pruning, "latencies", latencies)
    monkeypatch.setattr(choosing, "_profile", lambda *_: None)
    adapted.bundle(tmp_path / "digits.ee")
    report = adapted.report
    assert report.fixed is not None
    whole, fixed, final = compared
    assert whole == ["final"]
    assert fixed == list(report.fixed.exits)
    assert final[:-1] == [head.exit for place in report.places for head in place.chosen]
    assert (report.speedup, report.over_fixed) == (Interval(4, 4, 4), Interval(2, 2, 2))
    assert report.verdict.startswith("early exits pay: 4.00 [4.00, 4.00] times the whole network's speed, ")
    assert report.against_fixed.startswith("2.00 [2.00, 2.00] times the speed of the best fixed exit, always ")


@pytest.mark.parametrize(
    ("final", "why"),
    [(8.0, "0.75 [0.75, 0.75] times the whole network's speed, "), (7.0, "what a call costs beside them outweighs")],
)
def test_a_bundle_that_is_slower_in_turns_does_not_pay(
    adapted: Adapted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, final: float, why: str
) -> None:
    times = np.array([6.0, 3.0, final])[:, None, None]
    monkeypatch.setattr(pruning, "latencies", lambda _, rows, __: np.broadcast_to(times, (3, 4, len(rows))))
    monkeypatch.setattr(choosing, "_profile", lambda *_: None)
    with pytest.raises(ee.TuneError, match="early exits do not pay") as raised:
        adapted.bundle(tmp_path / "slow.ee", force=True)
    assert why in str(raised.value)
    assert adapted.report.pays is False
    assert not (tmp_path / "slow.ee").exists()


def test_too_few_rows_are_told_with_how_many_would_do(adapted: Adapted, tmp_path: Path) -> None:
    goal = dataclasses.replace(adapted.goal, max_accuracy_drop=0.05)
    few = dataclasses.replace(adapted, rows=adapted.rows.take(np.arange(70)), goal=goal)
    with pytest.raises(ee.TuneError, match=r"^whether early exits pay is unknown: the drop is .*; force=True"):
        few.bundle(tmp_path / "few.ee", profile="multiply-adds")
    assert few.report.pays is None
    assert "rows in all" in few.report.verdict
    assert not (tmp_path / "few.ee").exists()
    assert few.bundle(tmp_path / "few.ee", profile="multiply-adds", force=True).exits


def test_a_bundle_ends_where_every_row_leaves(tmp_path: Path) -> None:
    long = ee.load(chain(0.5, 0.0, 0.5).save(tmp_path / "long.ee"))
    short = shorten(long, tmp_path / "short.ee")
    assert [(name, exit_.threshold) for name, exit_ in short.exits.items()] == [("exit0", 0.5), ("exit1", "always")]
    with ee.Runner(long, threads=1) as one, ee.Runner(short, threads=1) as other:
        for given in (row(0.6), row(0.4, 0.9), row(0.4, 0.0)):
            before, after = one.run(given), other.run(given)
            assert (before.exit, before.outputs["logits"].tolist()) == (after.exit, after.outputs["logits"].tolist())


@pytest.mark.parametrize("limit", [0.01, "never"])
def test_a_bundle_stays_as_it_is_where_some_row_could_go_on(tmp_path: Path, limit: float) -> None:
    bundle = ee.load(chain(0.5, limit).save(tmp_path / "long.ee"))
    assert shorten(bundle, tmp_path / "short.ee") is bundle
    assert not (tmp_path / "short.ee").exists()

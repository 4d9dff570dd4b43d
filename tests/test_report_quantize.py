"""The page of a quantised bundle, and what its report says in words."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from quantization_reports import edit, small
from test_report import ATTACK, SECTIONS, Outline, made

import eetoolkit as ee
from eetoolkit.quantizing.report import QuantizationReport
from eetoolkit.report import quantize_charts
from eetoolkit.report.page import render, write_report
from eetoolkit.tuning.intervals import Interval
from eetoolkit_runtime.printable import printable

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")


@pytest.fixture(scope="module")
def tuning(tmp_path_factory: pytest.TempPathFactory) -> ee.TuningReport:
    return made(tmp_path_factory.mktemp("report"))[0]


def check(text: str) -> Outline:
    """Returns the outline of a page that is well-formed and runs nothing."""
    outline = Outline(text)
    assert outline.open == outline.unnamed == []
    assert len(outline.ids) == len(set(outline.ids))
    assert set(outline.ids) >= {"segments", "rows"}
    assert {link[1:] for link in outline.links if link[0] == "#"} <= set(outline.ids)
    assert outline.tags.count("h1") == 1
    assert "script" not in outline.tags
    return outline


def test_the_page_has_all_that_is_printed() -> None:
    text = render(small())
    outline = check(text)
    assert '<p class="verdict good">0.52 times the time and 0.28 of the bytes of digits.</p>' in text
    for said in (
        "<dd>0.52<small>0.50 to 0.54</small><small>a call takes 0.130 ms, 0.250 ms as float; in turns on held-out",
        "<dd>0.28<small>81.0 kB, 0.29 MB as float</small>",
        "agreement at exit1</dt><dd>97.5%",
        "<td>blockwise</td><td>0.400</td><td>0.240</td><td>200,000</td><td>52,000</td>",
        "float: Erf, Softmax",
        "int8 is not faster",
        "at every exit at most 1% of the answers differ",
        '<td class="bad">exceeded</td>',
        "<td>0.0021 <small>p99 0.0312</small></td>",
        "`eetoolkit tune digits-int8.ee --data DATA --apply` chooses them anew",
        "static segments compute with uint8",
        "100 rows calibrated the ranges",
        "a note",
    ):
        assert said in text, said
    assert outline.tags.count("svg") == 2
    assert not set(SECTIONS) & set(outline.ids)


def test_the_page_of_what_does_not_pay_says_why_and_shows_what_was_tried() -> None:
    text = render(small(pays=False))
    outline = check(text)
    assert '<p class="verdict bad">No segment is faster with int8.</p>' in text
    assert outline.tags.count("svg") == 1
    assert "agreement" not in outline.ids
    assert "Next:" not in text
    assert "<dl" not in text


def test_the_page_of_a_tuned_bundle_has_all_that_the_tuning_page_has(tuning: ee.TuningReport) -> None:
    text = render(edit(small(), tuning=tuning))
    outline = check(text)
    assert set(outline.ids) >= set(SECTIONS)
    assert outline.tags.count("svg") == 2 + render(tuning).count("<svg")
    assert "What the tuning says" in text
    assert "By their number among the rows that tuned the thresholds, from 0" in text
    assert "--apply" not in text  # it was
    assert "--apply" in render(tuning)


def test_names_of_bundles_segments_exits_and_notes_are_escaped() -> None:
    report = small()
    text = render(
        edit(
            report, bundle=ATTACK, verdict=ATTACK, path=ATTACK, costs=ATTACK, notes=(ATTACK,),
            segments=tuple(edit(each, name=f"{ATTACK}{each.name}", why=ATTACK) for each in report.segments),
            exits=tuple(edit(each, name=f"{ATTACK}{each.name}") for each in report.exits),
        )
    )  # fmt: skip
    check(text)
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert printable(text.replace("\n", "")) == text.replace("\n", "")


def test_without_labels_latencies_or_rows_the_page_has_what_there_is() -> None:
    report = small()
    unlabelled = tuple(edit(each, before=None, after=None) for each in report.exits)
    untimed = tuple(edit(each, before_ms=None, after_ms=None) for each in report.segments)
    text = render(edit(report, exits=unlabelled, segments=untimed, classes=False, ratio=None, rows={}, costs=""))
    assert check(text).tags.count("svg") == 1
    assert "Mean relative difference at each exit" in text
    assert "robust means of a visit" not in text


def test_the_charts_show_before_and_after_and_the_bound() -> None:
    report = small()
    drawn = quantize_charts.segments(report)
    assert drawn is not None
    assert drawn.text.startswith("stem: float 0.020, int8 0.025, stays float; body: float 0.200, int8 0.080; tail: ")
    assert all(f">{said}<" in drawn.svg for said in ("float", "int8", "tried, stays float", "body"))
    never_tried = tuple(edit(each, after_ms=None) for each in small(pays=False).segments)
    alone = quantize_charts.segments(edit(report, segments=never_tried))
    assert alone is not None
    assert "tried" not in alone.svg
    lost = quantize_charts.exits(report)
    assert lost is not None
    assert lost.text == "exit0: 0%; exit1: 2.50%. At most 1% may. Bars are 95% intervals."
    assert all(f">{said}<" in lost.svg for said in ("bound, 1%", "within it", "exceeds it", "exit1"))
    assert quantize_charts.exits(edit(report, exits=())) is None


def test_write_report_takes_it(tmp_path: Path) -> None:
    page = ee.write_report(small(), tmp_path / "page.html")
    assert page.read_text("utf-8") == render(small())
    with pytest.raises(ee.EEToolkitError, match="overwrite"):
        write_report(small(), page)


def test_a_report_survives_json(tuning: ee.TuningReport) -> None:
    for report in (small(), small(pays=False), edit(small(), tuning=tuning)):
        assert msgspec.json.decode(msgspec.json.encode(report), type=QuantizationReport) == report


def test_the_text_has_the_verdict_first_and_every_choice(tuning: ee.TuningReport) -> None:
    first, *rest = str(edit(small(), tuning=tuning)).splitlines()
    assert first == "digits: 0.52 times the time and 0.28 of the bytes of digits"
    assert {
        "bytes: 81.0 kB, 0.28 of the float bundle's 0.29 MB",
        "stem: float (int8 is not faster)",
        "body: static (0.30% of what it reads saturates)",
        "exit1: agreement 97.5% [92.9%, 99.15%]",
        "bound: at every exit at most 1% of the answers differ; exceeded on held-out rows at exit1",
    } <= set(rest)
    assert edit(small(), tuning=tuning).gains["mean call"].endswith("on held-out rows, before tuning")
    assert rest[-len(str(tuning).splitlines()) :] == str(tuning).splitlines()


def test_what_is_left_to_do_with_the_thresholds_is_told(tuning: ee.TuningReport) -> None:
    report = small()
    chooses = "`eetoolkit tune 'a b.ee' --data DATA --apply` chooses them anew"
    assert edit(report, path="a b.ee").advice == f"thresholds are those of the float bundle; {chooses}"
    met, missed = (edit(tuning, goal_met=goal_met) for goal_met in (True, False))
    assert edit(report, tuning=met).advice is None
    never = edit(met.chosen, thresholds=dict.fromkeys(met.thresholds, "never"))
    assert "no exit answers early" in (edit(report, tuning=edit(met, chosen=never)).advice or "")
    assert "tune with more rows" in (edit(report, tuning=missed).advice or "")
    assert small(pays=False).advice is None
    assert edit(report, weights="float16").advice is None
    assert edit(report, exits=report.exits[:1]).advice is None  # there is nothing to choose


def test_gains_are_of_what_was_written_and_timed() -> None:
    assert list(small().gains) == ["bytes", "mean call"]
    assert small(pays=False).gains == {}
    slower = edit(
        small(pays=False), before_ms=Interval(0.2, 0.2, 0.2), after_ms=Interval(0.3, 0.3, 0.3),
        ratio=Interval(1.5, 1.4, 1.6),
    )  # fmt: skip
    said = "0.300 ms, 1.50 [1.40, 1.60] times the float bundle's 0.200 ms; in turns on held-out rows"
    assert slower.gains == {"mean call": said}

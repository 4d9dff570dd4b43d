"""What a prompt shows of the values that users hold, and what a notebook does."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from plans import chain

import eetoolkit as ee

X = np.random.default_rng(0).uniform(0, 1, (40, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ee.Bundle:
    return ee.load(chain(0.5, 0.5).save(tmp_path_factory.mktemp("repr") / "chain.ee"))


@pytest.fixture(scope="module")
def report(bundle: ee.Bundle) -> ee.TuningReport:
    return ee.tune(bundle, X, np.arange(40) % 4, min_accuracy=0, threads=1)


def test_a_bundle_says_what_it_is(bundle: ee.Bundle) -> None:
    assert repr(bundle) == f"<Bundle {bundle}>"
    assert re.fullmatch(r"<Bundle drafted: 3 segments, exits exit0, exit1, exit2, .* in .*chain\.ee>", repr(bundle))


def test_a_runner_says_of_what_it_is_and_what_is_open(bundle: ee.Bundle) -> None:
    with ee.Runner(bundle, threads=1) as runner:
        assert repr(runner) == f"<Runner {bundle}; open: none>"
        runner.run(np.array([[0.9, 0, 0, 0]], np.float32))
        assert repr(runner) == f"<Runner {bundle}; open: segment0>"
    assert repr(runner) == f"<Runner {bundle}; closed>"


def test_an_answer_says_where_it_left_and_only_the_shapes_of_its_arrays() -> None:
    logits = np.arange(1000, dtype=np.float32)[None]
    answer = ee.Answer({"logits": logits, "mask": np.zeros((1, 64, 64), bool)}, "exit0", 0.98765, ("a", "b"), 3)
    assert repr(answer) == (
        "<Answer exit0, confidence 0.9877, 2 of 3 segments; logits: float32[1, 1000], mask: bool[1, 64, 64]>"
    )


def test_a_profile_says_of_what_it_is_and_where_and_in_a_notebook_all_its_lines(bundle: ee.Bundle) -> None:
    found = ee.profile(bundle, X[:6], threads=1, seconds=0)
    assert re.fullmatch(r"<Profile drafted on .*, threads=1: 6 inputs, \d+ rounds>", repr(found))
    assert text_of(found._repr_html_()) == str(found)


def test_a_report_says_whether_the_goal_was_met_and_in_a_notebook_all_its_lines(report: ee.TuningReport) -> None:
    assert repr(report) == f"<TuningReport drafted: {report.outcome}>"
    assert "\n" not in repr(report)
    assert text_of(report._repr_html_()) == str(report)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def text_of(html: str) -> str:
    reader = _Reader()
    reader.feed(html)
    return reader.text

"""What goes through the streams: nothing of a stranger's is obeyed, and no stream makes a traceback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from shell import CALLS, WICKED, call, lay_out

import eetoolkit as ee
from eetoolkit.cli import terminal
from eetoolkit.drawing import dot, mermaid


@pytest.fixture(scope="module")
def wicked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Gives the working directory with a stranger's bundle in it."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("wicked")
        patch.chdir(folder)
        yield lay_out(folder, WICKED)


def obeyed(text: str) -> list[str]:
    """Returns the lines of a text that a terminal would not show as they are, or that a stranger made."""
    forged = ("error: forged", "forged", "\\rb")
    return [line for line in text.split("\n") if not line.isprintable() or line.startswith(forged)]


UNNAMED = {"help", "zoo", "pack", "pack json", "pack single file", "run bad", "run late"}
"""Calls that name nothing of the bundle."""


@pytest.mark.parametrize("name", CALLS)
def test_no_name_of_a_stranger_reaches_the_terminal_raw(wicked: Path, name: str) -> None:
    for columns in (None, 40):
        done = call(*CALLS[name], columns=columns)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        assert obeyed(done.output) == []
        if name not in UNNAMED:
            assert "\\x1b" in done.output or "\\u001b" in done.output
            assert "[red]</script><b>:0:" in done.output.replace("#lt;", "<").replace("#gt;", ">")
        if name.endswith("json"):
            assert (
                [json.loads(line) for line in done.stdout.splitlines()]
                if name == "run json"
                else json.loads(done.stdout)
            )


def test_the_check_of_what_is_obeyed_can_fail(wicked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "printable", str)
    assert any("\x9b2J" in line for line in obeyed(call(*CALLS["run"]).stdout))
    assert any(line.startswith("error: forged") for line in obeyed(call(*CALLS["inspect"]).stdout))


def test_what_verbs_write_holds_no_name_of_a_stranger_raw(wicked: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    written = call("profile", "--show", "p.json", "--svg", "p.svg", "--png", "p.png")
    assert (written.exit_code, obeyed(written.output)) == (0, [])
    assert obeyed((wicked / "p.svg").read_text("utf-8")) == []
    ElementTree.parse(wicked / "p.svg")  # noqa: S314 - our own
    written = call("tune", "b.ee", "--record", "r.npz", "--report", "page.html")
    page = (wicked / "page.html").read_text("utf-8")
    assert (written.exit_code, obeyed(written.output), obeyed(page)) == (0, [], [])
    assert "[red]</script><b>" not in page
    assert "[red]&lt;/script&gt;&lt;b&gt;" in page
    exit_ = WICKED + "exit1"
    for option in ([], ["-o", "short.ee"], ["-o", "short.ee", "--overwrite", "--json"]):
        written = call("truncate", "b.ee", "--at", exit_, *option)
        assert (written.exit_code, obeyed(written.output)) == (0, [])
    assert (wicked / "b-a-31m-2J-error-forged-b-red-script-b-0-e.ee").is_dir()


def test_values_drawings_and_errors_of_a_strangers_bundle_are_printable(wicked: Path) -> None:
    opened = ee.load("b.ee")
    rows = np.load("x.npy")
    with ee.Runner(opened) as runner:
        values = [opened, ee.verify(opened), ee.read_profile("p.json"), runner.run(rows[:1])]
    values += [*ee.examine(opened, seconds=0), ee.tune(opened, record="r.npz")]
    assert obeyed("\n".join(map(str, values))) == []
    assert obeyed(dot(opened.manifest) + mermaid(opened.manifest)) == []
    broken = json.loads((wicked / "b.ee" / "manifest.json").read_text("utf-8"))
    broken["start"] = WICKED
    (wicked / "broken.ee").mkdir()
    (wicked / "broken.ee" / "manifest.json").write_text(json.dumps(broken), "utf-8")
    for fail in (
        lambda: ee.load("broken.ee"),
        lambda: ee.load(WICKED),
        lambda: ee.truncate(opened, WICKED, "never.ee"),
        lambda: ee.Runner(opened).run(rows[:1], exit_at=WICKED),
        lambda: ee.Runner(opened).run(rows[:1], thresholds={WICKED: 1}),
        lambda: ee.Runner(opened).run({WICKED: rows[:1]}),
        lambda: ee.read_profile(WICKED),
    ):
        with pytest.raises(ee.EEToolkitError) as caught:
            fail()
        assert str(caught.value).isprintable()

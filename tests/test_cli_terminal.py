"""What goes through the streams: nothing of a stranger's is obeyed, and no stream makes a traceback."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TextIO
from xml.etree import ElementTree

import numpy as np
import pytest
from shell import CALLS, WICKED, bundle, call, laid_out

import eetoolkit as ee
from eetoolkit.cli import main, terminal
from eetoolkit.showing.drawing import mermaid


@pytest.fixture(scope="module")
def wicked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Gives the working directory with a stranger's bundle in it."""
    with laid_out(tmp_path_factory.mktemp("wicked"), WICKED) as folder:
        yield folder


def obeyed(text: str) -> list[str]:
    """Returns the lines of a text that a terminal would not show as they are, or that a stranger made."""
    forged = ("error: forged", "forged", "\\rb")
    return [line for line in text.split("\n") if not line.isprintable() or line.startswith(forged)]


UNNAMED = {
    "help", "zoo", "pack", "pack json", "pack single file", "run bad", "run late", "serve", "serve export"
}  # fmt: skip
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
        values = [opened, ee.verify(opened), ee.Profile.read("p.json"), runner.run(rows[:1])]
    values += [*ee.doctor(opened, seconds=0), ee.tune(opened, record="r.npz")]
    assert obeyed("\n".join((*map(str, values), *map(repr, values)))) == []
    assert obeyed(mermaid(opened.manifest)) == []
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
        lambda: ee.Profile.read(WICKED),
    ):
        with pytest.raises(ee.EEToolkitError) as caught:
            fail()
        assert str(caught.value).isprintable()


FOREIGN = "größer_猫_"
STREAMED = (
    "help", "inspect", "inspect json", "inspect mermaid", "run", "run json", "run exit", "verify", "doctor",
    "profile show", "profile compare", "tune", "truncate", "pack", "export", "serve",
    "zoo",
)  # fmt: skip
"""A call of every verb that needs no training, and of every way to print."""


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Gives the working directory with a bundle in it whose names few encodings have."""
    with laid_out(tmp_path_factory.mktemp("foreign"), FOREIGN) as folder:
        yield folder


def encoded(encoding: str) -> TextIO:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)


def full() -> TextIO:
    return Path("/dev/full").open("w", encoding="utf-8")


def left() -> TextIO:
    """Returns the end of a pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w", encoding="utf-8")


STREAMS: dict[str, tuple[Callable[[], TextIO | None], Callable[[], TextIO | None]]] = {
    **{name: (partial(encoded, name), partial(encoded, name)) for name in ("cp1252", "latin-1", "ascii")},
    "closed": (lambda: None, lambda: None),
    "stdout full": (full, partial(encoded, "utf-8")),
    "stderr full": (partial(encoded, "utf-8"), full),
    "both full": (full, full),
    "reader left": (left, partial(encoded, "utf-8")),
    "both left": (left, left),
}
"""What stdout and stderr may be, by a name; None is what Python makes of a stream that is closed."""


def status(arguments: Sequence[str], out: TextIO | None, err: TextIO | None) -> int:
    """Runs the command line with these streams and no stdin, and ends them as Python does; returns the exit status."""
    with pytest.MonkeyPatch.context() as patch:
        for name, stream in (("stdin", None), ("stdout", out), ("stderr", err)):
            patch.setattr(sys, name, stream)
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            stream.flush()
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            if not isinstance(stream.buffer, io.BytesIO):
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        return int(ended.value.code or 0)


def text_of(stream: TextIO | None) -> str:
    assert isinstance(stream, io.TextIOWrapper)
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode(stream.encoding)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
@pytest.mark.parametrize("streams", STREAMS)
@pytest.mark.parametrize("name", STREAMED)
def test_no_stream_makes_a_traceback(foreign: Path, name: str, streams: str) -> None:
    out, err = (make() for make in STREAMS[streams])
    mistake = name in ("run exit", "truncate")
    gone = streams.startswith(("stdout", "both", "reader"))
    assert status(CALLS[name], out, err) == (1 if mistake or gone else 0)
    if streams == "stdout full":
        assert text_of(err).endswith("error: cannot write to stdout: No space left on device\n") or mistake
    elif streams == "reader left":
        assert "error: " not in text_of(err) or mistake
    elif streams in ("cp1252", "latin-1", "ascii"):
        shown = text_of(err if mistake else out)
        assert ("\\u732b" in shown) == (name not in UNNAMED)
        if name.endswith("json"):
            assert FOREIGN in str(
                [json.loads(line) for line in ([shown] if name != "run json" else shown.splitlines())]
            )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        (("profile", "--show", "p.json", "-o", "kept.json", "--svg", "kept.svg"), ("kept.json", "kept.svg")),
        (("tune", "b.ee", "--record", "r.npz", "--report", "kept.html"), ("kept.html",)),
        (("pack", "b.ee", "-o", "kept.zip"), ("kept.zip",)),
        (("truncate", "b.ee", "--at", f"{FOREIGN}exit0", "-o", "kept.ee"), ("kept.ee/manifest.json",)),
        (("export", "net.onnx", "-o", "kept_too.ee"), ("kept_too.ee/manifest.json",)),
    ],
)
def test_what_was_asked_for_is_written_before_anything_is_printed(
    foreign: Path, arguments: tuple[str, ...], written: tuple[str, ...]
) -> None:
    pytest.importorskip("matplotlib")
    assert status(arguments, full(), encoded("utf-8")) == 1
    assert all((foreign / name).is_file() for name in written)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
@pytest.mark.parametrize(
    ("redirected", "expected"),
    [
        ("<&- >&-", ""),
        ("<&- >&- 2>&-", ""),
        (">/dev/full", "error: cannot write to stdout: No space left on device\n"),
        (">/dev/full 2>&1", ""),
        ("2>&1 | head -1", ""),
    ],
)
def test_a_process_of_its_own_says_nothing_of_streams_that_lead_nowhere(
    tmp_path: Path, redirected: str, expected: str
) -> None:
    command = f"'{sys.executable}' -m eetoolkit inspect '{bundle(tmp_path / 'b.ee')}' {redirected}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == expected
    assert done.stdout == ("name     drafted\n" if "head" in redirected else "")


def test_long_work_without_a_terminal_says_now_and_then_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    said, more = io.StringIO(), threading.Event()

    class Log(io.StringIO):
        def flush(self) -> None:
            said.write(self.getvalue())
            more.set()

    monkeypatch.setattr(terminal, "_EVERY_S", 0.001)
    monkeypatch.setattr(sys, "stderr", Log())
    with terminal.progress() as tell:
        tell("measuring \x1b[2J", 3, 20)
        assert more.wait(60)
    assert said.getvalue().splitlines()[0] == "measuring \\x1b[2J, 3 of 20, 0 s"


def test_progress_on_a_stream_that_is_full_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = threading.Event()

    class Full(io.StringIO):
        def write(self, _: str) -> int:
            tried.set()
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(terminal, "_EVERY_S", 0.001)
    monkeypatch.setattr(sys, "stderr", Full())
    with terminal.progress() as tell:
        tell("measuring", 0, 0)
        assert tried.wait(60)

"""Pages of documentation as tests read them: their blocks of code, links and headings."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner

import eetoolkit as ee
from eetoolkit.cli import main

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
WITH_TORCH = ("adapt", "demo", "export", "quantize")


class Block(NamedTuple):
    """One fenced block. `python` and `console` run; `text` is what the Python before it prints; `sh` is only shown."""

    language: str
    text: str


def name_of(page: Path) -> str:
    """Returns a page's path in the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """Returns the fenced blocks of a page that name a language, in order."""
    return [Block(*found) for found in re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)]


def prose(page: Path) -> str:
    """Returns a page without its fenced blocks and its code."""
    return re.sub(r"^```.*?^```$|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def links(page: Path) -> list[tuple[str, str]]:
    """Returns (path, heading) of every link of a page into the repository; the path is empty for the page itself."""
    found = re.findall(r"\]\(((?!\w+:)[^)#\s]*)(?:#([^)\s]*))?\)", prose(page))
    return [(path, heading) for path, heading in found if path or heading]


def headings(page: Path) -> set[str]:
    """Returns the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def masked(text: str) -> list[str]:
    """Returns the lines with numbers as # and runs of spaces as one, since timings and roundings vary.

    For that reason a chart's marks are left out too.
    """
    lines = [re.sub(r"[•○■◇◆ ]+$|(?<=[┤│])[•○■◇◆ ]+", "", line) for line in text.strip().splitlines()]
    return [re.sub(r"\s+", " ", re.sub(r"\d[\d.,]*(e[+-]?\d+)?", "#", line)).strip() for line in lines]


def run(page: Path, folder: Path) -> list[tuple[str, str]]:
    """Runs a page's blocks in a folder, in order; returns (what the page shows, what was printed) of each output."""
    names: dict[str, object] = {}
    found, printed = [], ""
    with contextlib.chdir(folder):
        for language, text in blocks(page):
            if language == "python":
                with contextlib.redirect_stdout(io.StringIO()) as output:
                    exec(text, names)  # noqa: S102 - the page's own code
                printed = output.getvalue()
            elif language == "text":
                found.append((text, printed))
            elif language == "console":
                command, _, expected = text.partition("\n")
                found.append((expected, call(command)))
    return found


def call(command: str) -> str:
    """Returns what `$ eetoolkit ...` prints in a terminal of 100 columns.

    A verb that needs torch, which takes seconds to import, runs in this process, which has it; others in their own.
    """
    program, *arguments = shlex.split(command.removeprefix("$ "))
    assert program == "eetoolkit", command
    if arguments[0] in WITH_TORCH:
        done = CliRunner().invoke(main, arguments, env={"COLUMNS": "100"})
        assert done.exit_code == 0, f"{command}\n{done.stderr}\n{done.exception!r}"
        return done.stdout
    run = subprocess.run(
        [sys.executable, "-m", "eetoolkit", *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "100", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert run.returncode == 0, f"{command}\n{run.stderr}"
    return run.stdout


def hasten(patch: pytest.MonkeyPatch) -> None:
    """Has each profile of this process take a second, whatever a page asks for, and calls be compared once."""
    profile = ee.profile

    def short(*arguments: Any, **options: Any) -> ee.Profile:
        return profile(*arguments, **options | {"seconds": 1})

    patch.setattr(ee, "profile", short)
    patch.setattr("eetoolkit.tuning.pruning.AGAIN", 0)

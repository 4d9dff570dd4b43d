"""The README is true: its code runs, and its output blocks are what is printed, numbers aside."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / "README.md").read_text(), flags=re.DOTALL | re.MULTILINE)


def masked(text: str) -> list[str]:
    """Returns the lines with numbers as # and runs of spaces as one, since timings and roundings vary.

    For that reason a chart's marks are left out too.
    """
    lines = [re.sub(r"[•○■◇◆ ]+$|(?<=[┤│])[•○■◇◆ ]+", "", line) for line in text.strip().splitlines()]
    return [re.sub(r"\s+", " ", re.sub(r"\d[\d.,]*(e[+-]?\d+)?", "#", line)).strip() for line in lines]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the README's Python has been run, its output compared block by block."""
    folder = tmp_path_factory.mktemp("readme")
    names: dict[str, object] = {}
    printed = ""
    with contextlib.chdir(folder):
        for language, text in BLOCKS:
            if language == "python":
                with contextlib.redirect_stdout(io.StringIO()) as output:
                    exec(text, names)  # noqa: S102 - the README's own code
                printed = output.getvalue()
            elif language == "text":
                assert masked(printed) == masked(text)
    return folder


def test_the_python_blocks_run_and_print_what_the_readme_says(folder: Path) -> None:
    assert (folder / "digits.ee" / "manifest.json").is_file()
    assert [language for language, _ in BLOCKS].count("text") >= 3


@pytest.mark.parametrize("block", [text for language, text in BLOCKS if language == "console"])
def test_a_console_block_prints_what_the_readme_says(block: str, folder: Path) -> None:
    command, _, expected = block.partition("\n")
    program, *arguments = command.removeprefix("$ ").split()
    assert program == "eetoolkit"
    where = folder / f"console-{arguments[0]}"
    where.mkdir()
    for name in ("digits.ee", "digits.npy", "val.npz"):
        if name in arguments:
            (where / name).symlink_to(folder / name)
    run = subprocess.run(
        [sys.executable, "-m", "eetoolkit", *arguments],
        cwd=where, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "100"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert masked(run.stdout) == masked(expected)


def test_every_file_that_the_readme_names_exists() -> None:
    text = (ROOT / "README.md").read_text()
    for path in re.findall(r"\]\(([\w./-]+)\)|`((?:tests|eetoolkit|benchmarks|docs)/[\w./-]+)`", text):
        name = path[0] or path[1]
        assert (ROOT / name).exists(), name


def test_the_map_names_every_module_of_the_two_lower_rooms_of_tuning_and_of_the_report() -> None:
    text = (ROOT / "README.md").read_text()
    for room in ("exporters/eetoolkit_exporters", "runtime/eetoolkit_runtime", "eetoolkit/tuning", "eetoolkit/report"):
        for module in (ROOT / room).rglob("*.py"):
            if module.stem not in ("__init__", "errors"):
                assert f"`{module.stem}`" in text, module.stem

"""Tables of every verb at every width: no digit and no name of them is cut, and each stands where it belongs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shell import CALLS, LONG, call, laid_out, words

import eetoolkit.demo
from eetoolkit.cli.table import Table
from eetoolkit.cli.terminal import cells

WIDTHS = (30, 40, 60, 80, 120)
CALLED = CALLS | {"demo": ("demo",)}
SHOWN = (
    "inspect",
    "verify",
    "run",
    "doctor",
    "profile show",
    "profile compare",
    "profiles",
    "tune",
    "quantize",
    "zoo",
    "demo",
)


@pytest.fixture(scope="module", params=["", LONG], ids=["short names", "long names"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Gives the working directory with a bundle in it, and what is measured afresh held fast."""
    from test_demo import reported

    with laid_out(tmp_path_factory.mktemp("tables"), request.param) as folder, pytest.MonkeyPatch.context() as patch:
        report = reported(folder)
        patch.setattr(eetoolkit.demo, "demo", lambda *_, **__: report)
        yield folder


def lost(whole: str, narrow: str) -> Counter[str]:
    """Returns the words of a text that another does not have whole, or not as often."""
    return Counter(words(whole)) - Counter(words(narrow))


@pytest.mark.parametrize("name", SHOWN)
def test_what_a_narrow_terminal_shows_has_every_cell_whole(folder: Path, name: str) -> None:
    whole = call(*CALLED[name])
    assert whole.exit_code == 0, whole.output
    for columns in WIDTHS:
        narrow = call(*CALLED[name], columns=columns).stdout
        assert not lost(whole.stdout, narrow), columns
        too_long = [line for line in narrow.splitlines() if len(line) > columns and len(line.split()) > 1]
        assert not too_long, columns


def test_the_check_finds_a_cell_that_is_cut(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, kept = call(*CALLED["inspect"]).stdout, Table.lines
    monkeypatch.setattr(Table, "lines", lambda self, width: [line[:width] for line in kept(self, None)])
    assert lost(whole, call(*CALLED["inspect"], columns=80).stdout)


HEADINGS = ("row", "parameters", "exit", "bytes", "what it does")
NAMES = st.text("abc_é猫", min_size=1, max_size=50)
NUMBERS = st.integers(0, 10**18).map("{:,}".format)
PROSE = st.lists(st.text("de", min_size=1, max_size=30), min_size=1, max_size=9).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(NAMES, NUMBERS, NAMES, NUMBERS, PROSE), min_size=1, max_size=4, unique_by=lambda row: row[0]),
    st.integers(16, 160),
)
def test_every_cell_stands_whole_beside_or_below_the_name_of_its_row(
    rows: list[tuple[str, str, str, str, str]], width: int
) -> None:
    table = Table(*HEADINGS, right=("parameters", "bytes"), prose=("what it does",))
    for row in rows:
        table.add(*row)
    assert [line.split() for line in table.lines(None)][1:] == [" ".join(row).split() for row in rows]
    lines = list(table.lines(width))
    assert all(cells(line) <= width or len(line.split()) == 1 for line in lines)
    blocks = [block.split("\n") for block in "\n".join(lines).split("\n\n")]
    found = [_record(block) for block in blocks] if lines[0].startswith("row:") else _joined(blocks)
    assert found == [dict(zip(HEADINGS, row, strict=True)) for row in rows]


def test_rows_of_one_name_are_told_apart_where_a_table_is_in_parts() -> None:
    table = Table("state", "looked at", "found")
    table.add("ok", "a" * 20, "b" * 20)
    table.add("ok", "c" * 20, "d" * 20)
    assert len(list(table.lines(80))) == 3
    a, c = (f"state: ok\n  looked at  {one * 20}\n  found      {two * 20}" for one, two in ("ab", "cd"))
    assert "\n".join(table.lines(40)) == f"{a}\n\n{c}"


def _record(lines: list[str]) -> dict[str, str]:
    """Returns what stands in a record, by heading."""
    found: dict[str, str] = {}
    heading = "row"
    for line in lines:
        begun = next((each for each in HEADINGS[1:] if line == f"  {each}" or line.startswith(f"  {each}  ")), None)
        heading = begun or heading
        text = line.removeprefix(f"  {begun}").removeprefix("row:")
        found[heading] = f"{found.get(heading, '')} {text.strip()}".strip()
    return found


def _joined(parts: list[list[str]]) -> list[dict[str, str]]:
    """Returns the rows that parts of a table make, each by heading."""
    rows: dict[str, dict[str, str]] = {}
    for heading, *lines in parts:
        shown = [each for each in HEADINGS[1:-1] if each in heading]
        for line in lines:
            cells = line.split()
            if not line.startswith(" "):
                row = rows.setdefault(cells[0], {"row": cells[0]})
                row |= dict(zip(shown, cells[1:], strict=False))
                cells = cells[1 + len(shown) :]
            if cells:
                row["what it does"] = " ".join([*row.get("what it does", "").split(), *cells])
    return list(rows.values())

"""`eetoolkit pack` and `eetoolkit truncate`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from plans import chain

import eetoolkit as ee
from eetoolkit.cli import main


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EETOOLKIT_CACHE", str(tmp_path / "cache"))
    return chain(weights=True).save(tmp_path / "chain.ee").parent


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_pack_writes_a_zip_beside_the_bundle_that_runs_as_well(here: Path) -> None:
    result = call("pack", "chain.ee")
    size = (here / "chain.ee.zip").stat().st_size
    assert result.stdout == f"chain.ee.zip: {size / 1e3:.1f} kB\n"
    assert ee.load(here / "chain.ee.zip").manifest == ee.load(here / "chain.ee").manifest


def test_pack_takes_a_name_a_trailing_slash_and_the_current_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("pack", "chain.ee/", "out.zip").exit_code == 0
    assert (here / "out.zip").is_file()
    monkeypatch.chdir(here / "chain.ee")
    assert call("pack", ".").exit_code == 0
    assert (here / "chain.ee.zip").is_file()


def test_pack_does_not_overwrite_silently(here: Path) -> None:
    call("pack", "chain.ee")
    assert call("pack", "chain.ee").stderr == (
        "error: chain.ee.zip exists; pass overwrite=True (--overwrite) to replace it\n"
    )
    found = json.loads(call("pack", "chain.ee", "--overwrite", "--json").stdout)
    assert found == {"path": "chain.ee.zip", "size_bytes": (here / "chain.ee.zip").stat().st_size}


def test_truncate_makes_a_bundle_that_always_answers_there(here: Path) -> None:
    result = call("truncate", "chain.ee", "--at", "exit1")
    assert result.stdout.startswith("drafted: 2 segments, exits exit0, exit1, ")
    assert result.stdout.endswith(" in chain-exit1.ee\n")
    assert list(ee.load("chain-exit1.ee").exits) == ["exit0", "exit1"]


def test_truncate_of_a_zip_writes_beside_the_zip(here: Path) -> None:
    call("pack", "chain.ee")
    assert json.loads(call("truncate", "chain.ee.zip", "--at", "exit0", "--json").stdout)["path"] == "chain-exit0.ee"
    assert (here / "chain-exit0.ee").is_dir()


def test_truncate_does_not_overwrite_silently_and_knows_the_exits(here: Path) -> None:
    call("truncate", "chain.ee", "--at", "exit0", "-o", "short.ee")
    again = call("truncate", "chain.ee", "--at", "exit0", "-o", "short.ee")
    assert (again.exit_code, again.stderr) == (
        1, "error: short.ee exists; pass overwrite=True (--overwrite) to replace it\n"
    )  # fmt: skip
    assert call("truncate", "chain.ee", "--at", "exit0", "-o", "short.ee", "--overwrite").exit_code == 0
    assert (
        call("truncate", "chain.ee", "--at", "no").stderr == "error: no exit 'no'; the exits are exit0, exit1, exit2\n"
    )

"""The committed cases, which every runner of any language must answer; here Python's."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from case_runner import answer_case
from portable import faults

import conformance
import eetoolkit as ee
from eetoolkit_runtime.plan.types import Criterion

FOLDER = Path(__file__).parents[1] / "runtime" / "conformance"
CASES = sorted(path.parent for path in FOLDER.glob("cases/*/case.json"))


@pytest.mark.parametrize("folder", CASES, ids=lambda folder: folder.name)
def test_the_runner_answers_as_the_case_says(folder: Path) -> None:
    found = answer_case(folder)
    assert (found.failures, found.ties) == ([], 0)
    assert found.runs > 0


@pytest.mark.parametrize("folder", CASES, ids=lambda folder: folder.name)
def test_graphs_hold_nothing_that_another_machine_cannot_take(folder: Path) -> None:
    assert faults(ee.load(folder / "bundle")) == []


def test_the_cases_show_what_a_plan_can_hold() -> None:
    names = {folder.name for folder in CASES}
    kinds = set(Criterion.__annotations__["kind"].__args__) - {"custom", "learned"}
    assert {f"criterion_{kind}" for kind in kinds} <= names
    answered = {folder.name: set() for folder in CASES}
    for folder in CASES:
        for run in msgspec.json.decode((folder / "case.json").read_bytes())["runs"]:
            answered[folder.name].add(run["answer"]["exit"] if "error" not in run else "error")
    assert {name for name in names if name.startswith("criterion") and len(answered[name]) < 2} == set()
    assert all("error" in answered[name] for name in ("switch", "switch_int32", "loop", "start_in_a_loop"))


def test_what_differs_is_noticed(tmp_path: Path) -> None:
    for side in ("made", "kept"):
        (tmp_path / side / "chain").mkdir(parents=True)
        conformance.write(conformance.cases()["chain"], tmp_path / side / "chain")
    assert list(conformance.differences(tmp_path / "made", tmp_path / "kept")) == []
    (tmp_path / "kept" / "chain" / "case.json").write_text("{}")
    (tmp_path / "kept" / "chain" / "more.json").write_text("{}")
    assert list(conformance.differences(tmp_path / "made", tmp_path / "kept")) == ["chain/case.json", "chain/more.json"]

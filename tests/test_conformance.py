"""The committed cases, which every runner of any language must answer; here Python's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from portable import faults

import conformance
import eetoolkit as ee
from eetoolkit_runtime.files.tensorfile import read_tensors
from eetoolkit_runtime.plan.types import Criterion

FOLDER = Path(__file__).parents[1] / "runtime" / "conformance"
CASES = sorted(path.parent for path in FOLDER.glob("cases/*/case.json"))
Array = np.ndarray[Any, Any]


def unlike(answer: ee.Answer, expected: dict[str, Any], tensors: dict[str, Array], tolerance: float) -> str | None:
    """Returns how an answer differs from what a case says; None where it does not."""
    for key, found in (
        ("exit", answer.exit), ("path", list(answer.path)), ("gates", [list(gate) for gate in answer.gates]),
        ("stopped_by", answer.stopped_by), ("prediction", answer.prediction),
    ):  # fmt: skip
        if found != expected[key]:
            return f"{key} is {found!r}, expected {expected[key]!r}"
    if answer.outputs.keys() != expected["outputs"].keys():
        return f"outputs {sorted(answer.outputs)}"
    pairs = [(name, array, tensors[expected["outputs"][name]]) for name, array in answer.outputs.items()]
    pairs.append(("confidence", np.float32(answer.confidence).reshape(1), tensors[expected["confidence"]]))
    for name, found, wanted in pairs:
        if (found.dtype, found.shape) != (wanted.dtype, wanted.shape):
            return f"{name} is {found.dtype}{list(found.shape)}, expected {wanted.dtype}{list(wanted.shape)}"
        near = np.allclose(found, wanted, rtol=0, atol=tolerance, equal_nan=True) if tolerance else False
        if not near and not np.array_equal(found, wanted, equal_nan=found.dtype.kind == "f"):
            return f"{name} is {found}, expected {wanted}"
    return None


@pytest.mark.parametrize("folder", CASES, ids=lambda folder: folder.name)
def test_the_runner_answers_as_the_case_says(folder: Path) -> None:
    case = msgspec.json.decode((folder / "case.json").read_bytes())
    tensors, _ = read_tensors((folder / "tensors.safetensors").read_bytes())
    with ee.Runner(folder / "bundle", threads=1, check="full") as runner:
        for number, run in enumerate(case["runs"]):
            inputs = {name: tensors[tensor] for name, tensor in run["inputs"].items()}
            asked = {"thresholds": run["thresholds"] or None, "exit_at": run["exit_at"]}
            if "error" in run:
                with pytest.raises(ee.RunError) as caught:
                    runner.run(inputs, **asked)
                assert str(caught.value) == run["error"]
                continue
            found, met = runner.run(inputs, **asked), runner.run_all_exits(inputs)
            assert len(met) == len(run["visits"])
            for answer, expected in ((found, run["answer"]), *zip(met, run["visits"], strict=True)):
                assert unlike(answer, expected, tensors, case["tolerance"]) is None, f"run {number}"


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
    assert "error" in answered["switch"] & answered["loop"]


def test_what_differs_is_noticed(tmp_path: Path) -> None:
    for side in ("made", "kept"):
        (tmp_path / side / "chain").mkdir(parents=True)
        conformance.write(conformance.cases()["chain"], tmp_path / side / "chain")
    assert list(conformance.differences(tmp_path / "made", tmp_path / "kept")) == []
    (tmp_path / "kept" / "chain" / "case.json").write_text("{}")
    (tmp_path / "kept" / "chain" / "more.json").write_text("{}")
    assert list(conformance.differences(tmp_path / "made", tmp_path / "kept")) == ["chain/case.json", "chain/more.json"]

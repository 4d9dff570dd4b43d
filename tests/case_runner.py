"""Answers the cases of a folder, `runtime/conformance/cases` or one like it, by Python's runner.

`python case_runner.py FOLDER` prints as JSON what each case found. It needs the device half and nothing else, so it
runs where a bundle runs. Golden samples of the bundles that have them are verified as well.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import RunError
from eetoolkit_runtime.files.tensorfile import read_tensors
from eetoolkit_runtime.plan.types import Threshold
from eetoolkit_runtime.running.answer import Answer
from eetoolkit_runtime.running.runner import Runner
from eetoolkit_runtime.verify import difference, verify

TIE = 1e-4
"""A confidence this near its threshold may be on either side of it on another processor."""


class Found(msgspec.Struct):
    """What a case found.

    Attributes:
        runs: How many rows were run.
        ties: How many left at another exit, as a confidence within `TIE` of its threshold lets them.
        difference: The largest absolute difference of an output.
        samples: Golden samples verified.
        failures: What was otherwise than it should be.
    """

    runs: int = 0
    ties: int = 0
    difference: float = 0.0
    samples: int = 0
    failures: list[str] = []


def answer_case(folder: Path) -> Found:
    """Runs all rows of the case in a folder, and verifies its bundle."""
    case = msgspec.json.decode((folder / "case.json").read_bytes())
    tensors, _ = read_tensors((folder / "tensors.safetensors").read_bytes())
    found = Found()
    with Runner(folder / "bundle", threads=1, check="full") as runner:
        for number, run in enumerate(case["runs"]):
            found.runs += 1
            found.failures += [f"run {number}: {text}" for text in _run(runner, run, tensors, case["tolerance"], found)]
        plan = runner.bundle.manifest
    if plan.golden is not None:
        report = verify(folder / "bundle")
        found.samples = report.samples
        found.failures += report.failures
    return found


def _run(
    runner: Runner, run: Mapping[str, Any], tensors: Mapping[str, Array], tolerance: float, found: Found
) -> Iterator[str]:
    inputs = {name: tensors[tensor] for name, tensor in run["inputs"].items()}
    try:
        answer = runner.run(inputs, thresholds=run["thresholds"] or None, exit_at=run["exit_at"])
        met = runner.run_all_exits(inputs)
    except RunError as error:
        if str(error) != run.get("error"):
            yield f"{error}, expected {run.get('error', 'an answer')}"
        return
    if "error" in run:
        yield f"{answer.exit} answered, expected {run['error']}"
        return
    if len(met) != len(run["visits"]):
        yield f"met {len(met)} exits, expected {len(run['visits'])}"
        return
    for each, expected in zip(met, run["visits"], strict=True):
        if text := unlike(each, expected, tensors, tolerance):
            yield f"{expected['exit']}: {text}"
        else:
            pairs = _pairs(each, expected, tensors)
            found.difference = max(found.difference, *(difference(said, wanted) for _, said, wanted in pairs))
    if text := unlike(answer, run["answer"], tensors, tolerance):
        limits = {name: exit_.threshold for name, exit_ in runner.bundle.exits.items()} | run["thresholds"]
        others = _tied(run["visits"], limits, tensors)
        if any(unlike(answer, visit, tensors, tolerance) is None for visit in others):
            found.ties += 1
        else:
            yield f"answer: {text}"


def _tied(
    visits: list[dict[str, Any]], limits: Mapping[str, Threshold], tensors: Mapping[str, Array]
) -> Iterator[dict[str, Any]]:
    """Yields the exits that may answer too where roundings decide: next to a threshold, or behind such an exit."""
    tied = False
    for visit in visits:
        confidence, limit = tensors[visit["confidence"]].item(), limits[visit["exit"]]
        near = not isinstance(limit, str) and abs(confidence - limit) <= TIE
        fires = not isinstance(limit, str) and confidence >= limit
        if near or (tied and (fires or visit is visits[-1])):
            yield visit
        tied |= near
        if fires and not near:
            return


def unlike(answer: Answer, expected: dict[str, Any], tensors: Mapping[str, Array], tolerance: float) -> str | None:
    """Returns how an answer differs from what a case says; None where it does not."""
    for key, said in (
        ("exit", answer.exit), ("path", list(answer.path)), ("gates", [list(gate) for gate in answer.gates]),
        ("stopped_by", answer.stopped_by), ("prediction", answer.prediction),
    ):  # fmt: skip
        if said != expected[key]:
            return f"{key} is {said!r}, expected {expected[key]!r}"
    if answer.outputs.keys() != expected["outputs"].keys():
        return f"outputs {sorted(answer.outputs)}"
    for name, said, wanted in _pairs(answer, expected, tensors):
        if (said.dtype, said.shape) != (wanted.dtype, wanted.shape):
            return f"{name} is {said.dtype}{list(said.shape)}, expected {wanted.dtype}{list(wanted.shape)}"
        near = np.allclose(said, wanted, rtol=0, atol=tolerance, equal_nan=True) if tolerance else False
        if not near and not np.array_equal(said, wanted, equal_nan=said.dtype.kind == "f"):
            return f"{name} is {said}, expected {wanted}"
    return None


def _pairs(
    answer: Answer, expected: dict[str, Any], tensors: Mapping[str, Array]
) -> Iterator[tuple[str, Array, Array]]:
    for name, array in answer.outputs.items():
        yield name, array, tensors[expected["outputs"][name]]
    yield "confidence", np.float32(answer.confidence).reshape(1), tensors[expected["confidence"]]


def main() -> int:
    """Prints what every case of a folder found, and by what; returns how many are not as they should be."""
    folder = Path(sys.argv[1])
    found = {path.parent.name: answer_case(path.parent) for path in sorted(folder.glob("*/case.json"))}
    by = {"python": platform.python_version(), "onnxruntime": ort.__version__, "numpy": np.__version__}
    print(msgspec.json.encode({"machine": platform.machine(), "by": by, "cases": found}).decode())
    return sum(bool(each.failures) for each in found.values())


if __name__ == "__main__":
    sys.exit(1 if main() else 0)

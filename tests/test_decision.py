"""One table of decisions, run over every path on which an exit may answer; other languages read it too."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import onnxruntime as ort
import pytest
from plans import Array, chain, graphs, row

import eetoolkit as ee
from eetoolkit.tuning.collect import collect
from eetoolkit.tuning.objective import Candidates, Objective
from eetoolkit.tuning.replay import answers, own_thresholds, stops
from eetoolkit_exporters.single_file.single_file import write_single_file
from eetoolkit_runtime.bundle.golden import Sample, Visit
from eetoolkit_runtime.plan.types import Criterion, Fallback, Threshold
from eetoolkit_runtime.running.decision import decide, in_float32, limit_of
from eetoolkit_runtime.running.interpret import interpret, visit_exits
from eetoolkit_runtime.verify import verify

ABOVE, BELOW = (float(np.nextafter(np.float32(0.5), np.float32(end))) for end in (1, 0))
MOST = float(np.finfo(np.float32).max)
SHARE = float(np.float32(0.7))
"""7 of 10, as a criterion that counts gives it and as the manifest holds its threshold."""


class Case(NamedTuple):
    """Three exits, the last of which ends the plan.

    Attributes:
        thresholds: Of the first two.
        confidences: Of all three.
        expected: The exit that answers.
        fallback: The plan's.
        exit_at: Asked of the call.
    """

    thresholds: tuple[Threshold, Threshold]
    confidences: tuple[float, float, float]
    expected: str
    fallback: Fallback = "last"
    exit_at: str | None = None


CASES = {
    "equal": Case((0.5, 0.5), (0.5, 0, 0), "exit0"),
    "the next float32 below": Case((0.5, 0.5), (BELOW, 0, 0), "exit2"),
    "the next float32 above": Case((0.5, 0.5), (ABOVE, 0, 0), "exit0"),
    "equal at the second": Case((0.5, 0.5), (0, 0.5, 0), "exit1"),
    "a float64 between two float32, not reached by the lower": Case((0.7, 0.5), (SHARE, 0, 0), "exit2"),
    "and reached by the upper": Case((0.7, 0.5), (float(np.nextafter(np.float32(0.7), np.float32(1))), 0, 0), "exit0"),
    "a count on its threshold": Case((2.0, 2.0), (1, 2, 0), "exit1"),
    "a share on its threshold": Case((SHARE, SHARE), (0.6, SHARE, 0), "exit1"),
    "NaN reaches nothing": Case((0.0, 0.5), (math.nan, 0.5, 0), "exit1"),
    "NaN at the last exit": Case((0.5, 0.5), (0, 0, math.nan), "exit2"),
    "below zero": Case((-1.0, 0.5), (-1, 0, 0), "exit0"),
    "infinite": Case((MOST, 0.5), (math.inf, 0, 0), "exit0"),
    "the largest threshold, which others do not reach": Case((MOST, 0.5), (1e38, 0, 0), "exit2"),
    "never": Case(("never", 0.5), (math.inf, 0, 0), "exit2"),
    "never twice": Case(("never", "never"), (1, 1, 0), "exit2"),
    "the last accepts everything": Case((0.5, 0.5), (0, 0, -math.inf), "exit2"),
    "asked for, below its threshold": Case((0.5, 0.5), (0, 0, 0), "exit1", exit_at="exit1"),
    "asked for, though another fires": Case((0.5, 0.5), (1, 0, 0), "exit1", exit_at="exit1"),
    "asked for with NaN": Case((0.5, 0.5), (math.nan, 0, 0), "exit0", exit_at="exit0"),
    "asked for, which never fires": Case(("never", 0.5), (0, 0, 0), "exit0", exit_at="exit0"),
    "the last asked for": Case((0.5, 0.5), (1, 1, 0), "exit2", exit_at="exit2"),
    "most confident": Case((0.9, 0.9), (0.5, 0.25, 0.125), "exit0", "most_confident"),
    "most confident, one fires": Case((0.9, 0.25), (0.5, 0.25, 0.125), "exit1", "most_confident"),
    "most confident, a tie goes to the later": Case((0.9, 0.9), (0.5, 0.5, 0.125), "exit1", "most_confident"),
    "most confident, a tie with the last": Case((0.9, 0.9), (0.5, 0.25, 0.5), "exit2", "most_confident"),
    "most confident, NaN ranks lowest": Case((0.9, 0.9), (math.nan, -1, math.nan), "exit1", "most_confident"),
    "most confident, NaN everywhere": Case((0.9, 0.9), (math.nan,) * 3, "exit2", "most_confident"),
    "most confident, never stands in for none": Case(("never", 0.9), (0.75, 0.25, 0.5), "exit2", "most_confident"),
    "most confident, unreachable may stand in": Case((MOST, 0.9), (0.75, 0.25, 0.5), "exit0", "most_confident"),
    "most confident, asked for": Case((0.9, 0.9), (0.75, 0.25, 0.5), "exit1", "most_confident", "exit1"),
}
every_case = pytest.mark.parametrize("name", CASES)
unforced = pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.exit_at is None])
"""For paths that force no exit."""
reachable = pytest.mark.parametrize("name", [name for name, case in CASES.items() if math.inf not in case.confidences])
"""For what needs a threshold that no confidence reaches."""
_COUNTED = ("a count", "a share")


def saved(name: str, folder: Path, thresholds: tuple[Threshold, Threshold] | None = None) -> tuple[ee.Bundle, Array]:
    """Returns the bundle of a case and its row."""
    case = CASES[name]
    draft = chain(*(thresholds or case.thresholds))
    draft.options["fallback"] = case.fallback
    if name.startswith(_COUNTED):
        for key, segment in draft.segments.items():
            assert segment.exit is not None
            counts = msgspec.structs.replace(segment.exit, criterion=Criterion(kind="patience", output="logits"))
            draft.segments[key] = msgspec.structs.replace(segment, exit=counts)
    return ee.load(draft.save(folder / "case.ee")), row(*case.confidences)


@every_case
def test_the_interpreter(name: str, tmp_path: Path) -> None:
    bundle, x = saved(name, tmp_path)
    found = interpret(bundle.manifest, {"x": x}, graphs(bundle.path), exit_at=CASES[name].exit_at)
    assert found.exit == CASES[name].expected


@every_case
@pytest.mark.parametrize("given", ["in the bundle", "in the call"])
def test_every_call_of_the_runner(name: str, given: str, tmp_path: Path) -> None:
    case = CASES[name]
    bundle, x = saved(name, tmp_path, None if given == "in the bundle" else (0.0, "never"))
    thresholds = None if given == "in the bundle" else dict(zip(("exit0", "exit1"), case.thresholds, strict=True))
    other = row(0.1, 0.2, 0.3)  # beside which the row must be told apart
    with ee.Runner(bundle, threads=1) as runner:
        run = runner.run(x, exit_at=case.exit_at, thresholds=thresholds)
        watched = runner.run(x, exit_at=case.exit_at, thresholds=thresholds, deadline_ms=1e6)
        three = np.concatenate([other, x, x])
        _, *batch = runner.run_batch(three, exit_at=case.exit_at, thresholds=thresholds)
        streamed = list(runner.stream([x, x], rows=2, exit_at=case.exit_at, thresholds=thresholds))
    exits = [answer.exit for answer in (run, watched, *batch, *streamed)]
    assert exits == [case.expected] * 6


@reachable
def test_refine_ends_with_what_answers_where_none_fires(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    bundle, x = saved(name, tmp_path)
    silent = [threshold if threshold == "never" else MOST for threshold in case.thresholds]
    plan = bundle.manifest
    unreached = dict(zip(("exit0", "exit1"), silent, strict=True))
    with ee.Runner(bundle, threads=1) as runner:
        *_, last = runner.refine(x)
    assert last.exit == interpret(plan, {"x": x}, graphs(bundle.path), unreached).exit


@unforced
def test_the_one_file(name: str, tmp_path: Path) -> None:
    bundle, x = saved(name, tmp_path)
    session = ort.InferenceSession(str(write_single_file(bundle, tmp_path / "one.onnx")))
    (index,) = session.run(["exit"], {"x": x})
    assert f"exit{int(index)}" == CASES[name].expected


@unforced
def test_the_replay_and_the_objective_of_the_search(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    bundle, x = saved(name, tmp_path)
    plan = bundle.manifest
    record = collect(bundle, x, np.zeros(1, np.int64), threads=1)
    limits = own_thresholds(plan)
    ended = stops(record, limits)
    answered = answers(record, limits, ended, plan.fallback)
    assert record.exits[record.exit[0, answered[0, 0]]] == case.expected
    # The objective knows settings only: one candidate an exit, its own threshold.
    own = tuple(np.zeros(0) if np.isnan(limit) else np.array([limit]) for limit in limits)
    right = (record.exit == record.exits.index(case.expected)).astype(float)
    objective = Objective(record, Candidates(own), right, np.ones(right.shape), plan.fallback)
    assert objective.at(np.zeros(3, int))[0] == 1


@unforced
def test_verify(name: str, tmp_path: Path) -> None:
    bundle, x = saved(name, tmp_path)
    plan = msgspec.structs.replace(bundle.manifest, fallback="last")
    met = [Visit(v.exit, v.outputs, v.confidence) for v in visit_exits(plan, {"x": x}, graphs(bundle.path))]
    report = verify(bundle, [Sample({"x": x}, tuple(met))], tolerance=1e-9)
    assert report.passed, str(report)
    if name.startswith(_COUNTED):
        assert sum(check.ties for check in report.exits) == 0


@pytest.mark.parametrize("confidence", [BELOW, 0.5, ABOVE, math.nan, math.inf, -math.inf])
def test_one_confidence_and_many_fire_alike(confidence: float) -> None:
    plan = chain(0.5, "never").plan()
    for at in (None, "exit0", "exit1"):
        decision = decide(plan.exits, exit_at=at)
        for index in range(3):
            one = decision.fires(index, confidence)
            many = decision.fires(index, np.array([confidence, 0.25]))
            assert bool(one) == bool(many[0])
            assert one == (at == f"exit{index}" or (at is None and index == 0 and confidence >= 0.5))


def test_limits() -> None:
    assert limit_of(0.25) == 0.25
    assert math.isnan(limit_of("never"))
    assert math.isnan(limit_of("always"))
    upper = np.nextafter(np.float32(0.7), np.float32(1))
    np.testing.assert_array_equal(in_float32([0.5, 0.7, math.nan, 1e300]), [np.float32(0.5), upper, np.nan, np.inf])

"""Every system of the zoo as a bundle, against eager PyTorch on all held-out digits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import native_build
import numpy as np
import onnxruntime as ort
import pytest
import torch
from halving import cuts_that_differ
from portable import faults

import eetoolkit as ee
from eetoolkit import zoo
from eetoolkit.demo.exporting import Trained, export_system, load_system
from eetoolkit_exporters.emitting.graphs import read_model
from eetoolkit_exporters.emitting.samples import source_samples
from eetoolkit_exporters.quantizing.kept import kept, weights_of
from eetoolkit_runtime.bundle.golden import Sample, read_golden
from eetoolkit_runtime.profiling.rounds import Row
from eetoolkit_runtime.running.answer import Answer
from eetoolkit_runtime.verify import difference, verify

TOLERANCE = 1e-5
DIGITS = 450
BATCH_ROWS = 64
MAX_TIES = 2
"""Digits of one system whose decision may hang on rounding; `near_a_decision` must say so of each."""


@dataclass(frozen=True)
class Shown:
    """A system, its bundle, and what that answers for every held-out digit.

    Attributes:
        answers: As a user gets them.
        to_the_end: The last exit's, none firing before it.
    """

    trained: Trained
    bundle: ee.Bundle
    answers: list[Answer]
    to_the_end: list[Answer]

    @property
    def rows(self) -> list[Row]:
        return self.trained.rows

    @cached_property
    def eager_decisions(self) -> list[list[int]] | None:
        decide = self.trained.system.decisions
        if decide is None:
            return None
        with torch.no_grad():
            return [decide(self.trained.network, self.trained.inputs(row, row + 1)) for row in range(len(self.rows))]

    @cached_property
    def ties(self) -> list[int]:
        """The digits for which the bundle decided otherwise than eager PyTorch, where either is right."""
        if self.eager_decisions is None:
            return []
        found = [[decision for _, decision in answer.gates] for answer in self.to_the_end]
        pairs = zip(found, self.eager_decisions, strict=True)
        return [row for row, (ours, eager) in enumerate(pairs) if ours != eager and near_a_decision(self.trained, row)]

    def without_ties(self, samples: list[Sample]) -> list[Sample]:
        name = self.bundle.manifest.inputs[0].name
        tied = [self.rows[row][0].tobytes() for row in self.ties]
        return [sample for sample in samples if sample.inputs[name].tobytes() not in tied]


def near_a_decision(trained: Trained, row: int) -> bool:
    """Whether eager PyTorch itself decides otherwise for inputs that differ by some roundings."""
    decide, inputs = trained.system.decisions, trained.inputs(row, row + 1)
    assert decide is not None
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        own = decide(trained.network, inputs)
        return any(decide(trained.network, tuple(shaken(tensor, noise) for tensor in inputs)) != own for _ in range(20))


def shaken(tensor: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
    return tensor + 1e-6 * torch.randn(tensor.shape, generator=noise) if tensor.is_floating_point() else tensor


def one(row: Row) -> np.ndarray | Row:
    return row[0] if len(row) == 1 else row


@pytest.fixture(scope="module", params=zoo.names())
def shown(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """Returns a system, exported and run once for all tests of this module."""
    trained = load_system(zoo.find(request.param))
    bundle = export_system(trained, tmp_path_factory.mktemp("zoo") / f"{request.param}.ee")
    with ee.Runner(bundle, threads=1) as runner:
        answers = [runner.run(one(row)) for row in trained.rows]
        to_the_end = [runner.run_all_exits(one(row))[-1] for row in trained.rows]
    return Shown(trained, bundle, answers, to_the_end)


def test_graphs_hold_nothing_that_another_machine_cannot_take(shown: Shown) -> None:
    assert faults(shown.bundle) == []


def test_both_halves_answer_as_the_whole_bit_for_bit(shown: Shown) -> None:
    rows = [one(row) for row in shown.trained.rows[:3]]
    differing, _ = cuts_that_differ(shown.bundle, rows, most=2)
    assert not differing


def test_its_one_file_answers_at_every_exit_as_eager_pytorch_on_the_golden_digits(shown: Shown, tmp_path: Path) -> None:
    report = ee.verify(ee.write_single_file(shown.bundle, tmp_path / "one.onnx"))
    assert report.passed, report
    assert report.samples == len(read_golden(shown.bundle))
    assert {check.exit for check in report.exits if check.samples} == set(shown.bundle.exits)


def test_a_bundle_gives_the_outputs_and_exits_of_eager_pytorch_on_all_digits(shown: Shown) -> None:
    inputs = tuple(np.concatenate(arrays) for arrays in zip(*shown.rows, strict=True))
    golden = len(source_samples(shown.bundle, shown.trained.exported, fresh=0))
    samples = source_samples(shown.bundle, shown.trained.exported, inputs=inputs, fresh=0)[golden:]
    assert len(samples) == DIGITS
    report = verify(shown.bundle, shown.without_ties(samples), tolerance=TOLERANCE)
    assert report.passed, report
    assert {check.exit for check in report.exits if check.samples} == set(shown.bundle.exits)


def test_a_bundle_decides_as_eager_pytorch_on_all_digits(shown: Shown) -> None:
    if shown.eager_decisions is None:
        assert not any(answer.gates for answer in shown.to_the_end), "what decides nothing has no gates"
        return
    assert len(shown.ties) <= MAX_TIES
    for row, (answer, eager) in enumerate(zip(shown.to_the_end, shown.eager_decisions, strict=True)):
        if row not in shown.ties:
            assert [decision for _, decision in answer.gates] == eager, row
    for answer, full in zip(shown.answers, shown.to_the_end, strict=True):
        assert answer.gates == full.gates[: len(answer.gates)], "an exit that fires only cuts the way short"


@pytest.mark.skipif(bool(native_build.why_not()), reason=native_build.why_not())
def test_the_native_runner_answers_and_verifies_as_python(shown: Shown, tmp_path: Path) -> None:
    names = [spec.name for spec in shown.bundle.manifest.inputs]
    rows = [dict(zip(names, row, strict=True)) for row in shown.rows[:50]]
    assert native_build.answers_alike(native_build.build(), tmp_path, shown.bundle, rows) == ""


def test_a_bundle_ponders_as_long_as_eager_pytorch(shown: Shown) -> None:
    costs = [answer.ponder_cost for answer in shown.answers]
    if "ponder_cost" not in shown.bundle.exits[shown.answers[0].exit].outputs:
        assert set(costs) == {None}
        return
    with torch.no_grad():
        for row, (answer, cost) in enumerate(zip(shown.answers, costs, strict=True)):
            if row in shown.ties:
                continue
            expected = shown.trained.network(*shown.trained.inputs(row, row + 1))[answer.exit]["ponder_cost"]
            assert cost == pytest.approx(float(expected), abs=TOLERANCE), row
    assert len({round(cost, 3) for cost in costs if cost is not None}) > 1


def test_less_is_run_than_there_is_and_what_is_skipped_is_not_opened(shown: Shown) -> None:
    plan = shown.bundle.manifest
    models = {name for name, segment in plan.segments.items() if segment.model is not None}
    assert len({answer.path for answer in shown.answers}) > 1, "digits differ in what they need"
    row, shortest = min(enumerate(shown.answers), key=lambda item: (len(item[1].visits), len(item[1].path)))
    if shortest.visits.keys() == models:
        bounds = {name: bound for name, segment in plan.segments.items() if (bound := segment.max_visits) is not None}
        assert any(shortest.visits[name] < bound for name, bound in bounds.items() if name in models), (
            "a loop ends early"
        )
        return
    with ee.Runner(shown.bundle, threads=1) as runner:
        runner.run(one(shown.rows[row]))
        assert set(runner.opened) == set(shortest.path) < models


def test_rows_together_give_what_each_gives_alone(shown: Shown) -> None:
    together = tuple(np.concatenate(arrays) for arrays in zip(*shown.rows[:BATCH_ROWS], strict=True))
    with ee.Runner(shown.bundle, threads=1) as runner:
        found = runner.run_batch(one(together))
    assert len(found) == BATCH_ROWS
    for row, (answer, alone) in enumerate(zip(found, shown.answers, strict=False)):
        assert (answer.exit, answer.path, answer.gates) == (alone.exit, alone.path, alone.gates), row
        assert answer.outputs.keys() == alone.outputs.keys()
        for name, array in answer.outputs.items():
            assert difference(array, alone.outputs[name]) <= TOLERANCE, (row, name)


def test_what_judges_and_what_decides_would_stay_float(shown: Shown) -> None:
    """Each segment's outputs that an exit or a gate looks at, back to the products that they hang on."""
    products = 0
    for segment in shown.bundle.manifest.segments.values():
        if segment.model is None:
            continue
        model = read_model(shown.bundle, segment.model)
        stays = kept(model, segment)
        looked_at = {*(segment.exit.outputs.values() if segment.exit else ()), getattr(segment.next, "on", None)}
        looked_at |= {segment.exit.confidence} if segment.exit else set()
        judged = {source.output for slot, source in segment.writes.items() if slot in looked_at}
        for node in reversed(list(model.graph)):
            read = [value.name in judged for value in node.outputs]
            behind = [
                use.node in stays and weights_of(use.node) is None for value in node.outputs for use in value.uses()
            ]
            assert (node in stays) == any(read + behind), node
            products += node in stays and weights_of(node) is not None
    assert products


@pytest.mark.parametrize("shown", ["skipnet", "act", "cascade", "routed_exits"], indirect=True)
def test_a_quantised_system_answers_as_its_own_one_session(shown: Shown, tmp_path: Path) -> None:
    """Behind gates, in a loop, in a cascade and where a route depends on the digit."""
    inputs = tuple(np.concatenate(arrays) for arrays in zip(*shown.rows, strict=True))
    report = ee.quantize(
        shown.bundle, one(inputs), tmp_path / "int8.ee", shown.trained.labels, segments="all", seconds=0, threads=1
    )
    assert {each.method for each in report.segments} & {"static", "blockwise"}
    assert report.after_bytes < 0.6 * report.before_bytes
    assert min(change.agreement.value for change in report.exits) > 0.97
    bundle = ee.load(tmp_path / "int8.ee")
    assert verify(bundle).passed
    path = ee.write_single_file(bundle, tmp_path / "one.onnx")
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    names, exits = [value.name for value in session.get_outputs()], list(bundle.exits)
    ways = set()
    with ee.Runner(bundle, threads=1) as runner:
        for row in shown.rows[:BATCH_ROWS]:
            answer = runner.run(one(row))
            whole = dict(zip(names, session.run(None, dict(zip(inputs_of(bundle), row, strict=True))), strict=True))
            assert exits[int(whole["exit"])] == answer.exit
            assert whole["confidence"] == pytest.approx(answer.confidence, abs=TOLERANCE)
            for name, array in answer.outputs.items():
                assert difference(whole[name], array) <= TOLERANCE
            ways.add(answer.path)
    assert len(ways) > 1, "digits differ in what they need"


def inputs_of(bundle: ee.Bundle) -> list[str]:
    return [spec.name for spec in bundle.manifest.inputs]

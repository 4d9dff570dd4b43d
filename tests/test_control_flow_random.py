"""Property: whatever the control flow, the plan is the whole graph. And that the generator makes what it is to make."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx_ir.passes.common import RemoveUnusedNodesPass
from program_property import VARIANTS, compiled, failure, first_difference, unoptimised_segments, whole
from random_programs import Program, random_program
from test_runner_plans import one_after_the_other

import eetoolkit as ee
from eetoolkit_exporters.gating import ranges
from eetoolkit_runtime.plan.types import Gate, Switch
from eetoolkit_runtime.running import workspace as workspaces

SHARDS, PER_SHARD = 8, 2
"""`make fuzz` runs many, each in every variant."""


@pytest.mark.parametrize("optimised", [False, True], ids=["exactly", "closely with optimisations"])
@pytest.mark.parametrize("shard", range(SHARDS))
def test_random_programs_compiled_equal_the_whole_graph(shard: int, optimised: bool, tmp_path: Path) -> None:
    first = 100_000 * optimised
    for seed in range(first + shard, first + SHARDS * PER_SHARD, SHARDS):
        variant = list(VARIANTS)[(seed // SHARDS + seed) % len(VARIANTS)]
        _, what = failure(seed, tmp_path, variant, optimised=optimised)
        assert what is None, f"seed {seed}, {variant}: {what}"


def test_random_programs_are_really_taken_apart(tmp_path: Path) -> None:
    """What would stay inside its segment would be equal too, and would prove nothing."""
    seen: Counter[str] = Counter()
    for seed in range(16):
        program = random_program(seed, tmp_path / "p.onnx")
        plan = compiled(program, tmp_path / "b", "always").manifest
        following = [segment.next for segment in plan.segments.values()]
        forks = {
            "gates": sum(isinstance(n, Gate) for n in following),
            "switches": sum(isinstance(n, Switch) for n in following),
        }
        visits = sum(segment.max_visits is not None for segment in plan.segments.values())
        once = bool(program.seen["if"] or program.seen["loop"] or program.seen["router"] or program.seen["elif"])
        seen.update(
            {"forked": any(forks.values()), "loops": visits > 0, "gates per row": program.rows and forks["gates"] > 0}
            | {"once": once, "has a loop": program.seen["loop"] > 0, "has rows": program.rows}
            | {"one row": plan.batch == 1, "switches": forks["switches"] > 0}
        )
    assert seen["forked"] >= 12, seen
    assert seen["loops"] >= 0.7 * seen["has a loop"] > 0, seen
    assert seen["gates per row"] >= 0.6 * seen["has rows"] > 0, seen
    assert seen["one row"] > 0, seen


# The generator


def _at(level: ort.GraphOptimizationLevel, program: Program, folder: Path | None = None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads, options.graph_optimization_level = 3, 1, level
    if folder is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(folder / "profile")
    return ort.InferenceSession(str(program.path), options, providers=["CPUExecutionProvider"])


def test_every_program_runs_and_stays_bounded(tmp_path: Path) -> None:
    for seed in range(40):
        program = random_program(seed, tmp_path / "p.onnx")
        for optimised in (False, True):
            session = whole(program, optimised=optimised)
            assert [value.name for value in session.get_outputs()] == list(program.exits)
            for x in program.feeds(seed, 3):
                for value in session.run(None, x):
                    assert value.shape == (1, 6)
                    assert np.abs(value).max() < 100


def test_programs_of_rows_give_each_row_what_it_gets_alone(tmp_path: Path) -> None:
    for seed in range(0, 80, 4):
        program = random_program(seed, tmp_path / "p.onnx")
        assert program.rows
        session = whole(program, optimised=False)
        for batch in program.feeds(seed, 3, rows=5):
            together = session.run(None, batch)
            alone = [session.run(None, {n: a[row : row + 1] for n, a in batch.items()}) for row in range(5)]
            for exit_, value in enumerate(together):
                np.testing.assert_allclose(value, np.concatenate([r[exit_] for r in alone]), atol=1e-5, rtol=1e-5)


COUNTED = 200
SHARES = {  # at least so many of a hundred programs hold this
    "if": 45, "if in depth 1": 20, "if in depth 2": 10, "if in a loop": 10, "branch captured": 25,
    "branch constant": 12, "results 3": 20, "work that one branch uses": 25, "names used twice": 18,
    "predicate of one element": 4,
    "router": 15, "elif": 10, "else with one If": 15, "loop": 45, "loop while": 20, "loop count": 12, "loop both": 12,
    "loop passed": 12, "loop in a branch": 18, "loop in a loop": 5, "no trips": 3, "computed trips": 15,
    "computed start": 25, "one start for two states": 6, "one result twice": 3, "states swapped": 12,
    "state that stays": 15, "state whose shape changes": 10, "iteration number": 20, "scan output": 6,
    "shape that depends on data": 45, "blend": 55, "blend in a branch or a loop": 20, "blend sum": 40,
    "blend where": 18, "blend scaled": 18, "blend with Expand": 18, "chain of blends": 12, "blend by a flag": 8,
    "near blend": 40,
    "near blend soft": 4, "near blend element": 4, "near blend input": 4, "near blend other": 4, "near blend levels": 4,
    "near blend unbounded": 4, "near blend one side": 4, "near blend column": 4, "near blend top": 4, "gate cast": 22,
    "gate and": 8, "gate round": 8, "gate one hot": 8, "gate product": 8, "gate closed": 8, "gate where": 8,
    "gate straight through": 8, "gate skipnet": 8, "gate assigned": 8, "experts": 12, "weighted gate": 2,
    "two comparisons": 8, "condition is a state": 3, "condition a round late": 4, "heavy": 12,
    "exit of a branch or a loop": 30,
    "exit that is used again": 60, "twins": 8, "twins apart": 3, "twins dependent": 2,
}  # fmt: skip


def test_the_generator_makes_every_form_often(tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    for seed in range(COUNTED):
        seen.update(random_program(seed, tmp_path / "p.onnx").seen.keys())
    rare = {what: seen[what] for what, share in SHARES.items() if seen[what] < share * COUNTED / 100}
    assert rare == {}


def test_most_of_a_program_is_used(tmp_path: Path) -> None:
    """What no exit needs is taken away before the passes that are tested."""
    before = after = 0
    for seed in range(60):
        program = random_program(seed, tmp_path / "p.onnx")
        model = ir.load(program.path)
        RemoveUnusedNodesPass()(model)
        before, after = before + program.nodes, after + sum(1 for _ in model.graph.all_nodes())
    assert after > 0.75 * before


def test_gates_and_branches_go_both_ways(tmp_path: Path) -> None:
    ways: Counter[str] = Counter()
    for seed in range(60):
        program = random_program(seed, tmp_path / "p.onnx")
        feeds = program.feeds(seed, 10)
        if program.gates:
            for values in _gate_values(program, feeds):
                ways.update(["gates", *(["gates both ways"] if set(values) == {0, 1} else [])])
        if program.seen["if"]:
            regions = _regions(program, feeds, tmp_path)
            choices = {region[:-5] for region in regions if region.endswith((".then", ".else"))}
            both = [choice for choice in choices if {f"{choice}.then", f"{choice}.else"} <= regions]
            ways.update({"branches": len(choices), "branches both ways": len(both)})
    assert ways["gates both ways"] > 0.6 * ways["gates"] > 15, ways
    assert ways["branches both ways"] > 0.4 * ways["branches"] > 30, ways


def _gate_values(program: Program, feeds: list[dict[str, Any]]) -> list[list[float]]:
    """Returns what every gate of the top-level graph is, for each input in turn."""
    model = ir.load(program.path)
    produced = {value.name: value for node in model.graph for value in node.outputs}
    for name in program.gates:
        if name not in program.exits:
            model.graph.outputs.append(produced[name])
    ir.save(model, program.path)
    session = _at(ort.GraphOptimizationLevel.ORT_DISABLE_ALL, program)
    found = [session.run(list(program.gates), x) for x in feeds]
    return [[float(values[index].item()) for values in found] for index in range(len(program.gates))]


def _regions(program: Program, feeds: list[dict[str, Any]], folder: Path) -> set[str]:
    """Returns the branches and bodies that were run, from onnxruntime's profile."""
    session = _at(ort.GraphOptimizationLevel.ORT_DISABLE_ALL, program, folder)
    for x in feeds:
        session.run(None, x)
    events = json.loads(Path(session.end_profiling()).read_text())
    return {event["name"].rpartition("/")[0] for event in events if event.get("cat") == "Node"}


# That the property can fail


def caught(tmp_path: Path, break_it: Callable[[], None], count: int = 15, form: str | None = None) -> int:
    """Returns how many programs (with a form), compiled while all was well, differ once something is broken."""
    ready: list[tuple[int, Program, ee.Bundle]] = []
    seeds = itertools.count(1)
    with unoptimised_segments():
        while len(ready) < count:
            seed = next(seeds)
            program = random_program(seed, tmp_path / f"{seed}.onnx")
            if form is not None and not program.seen[form]:
                continue
            ready.append((seed, program, compiled(program, tmp_path / f"{seed}.ee", "always")))
        break_it()
        return sum(_differs(program, bundle, seed) for seed, program, bundle in ready)


def _differs(program: Program, bundle: ee.Bundle, seed: int) -> bool:
    try:
        return first_difference(program, bundle, seed, optimised=False) is not None
    except ee.RunError:
        return True


def test_moves_done_one_after_the_other_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = workspaces.Workspace._point

    def sequential(self: workspaces.Workspace, step: workspaces.Step, outputs: dict[str, workspaces.Cell]) -> None:
        segment, step.segment = step.segment, one_after_the_other(step.segment)
        original(self, step, outputs)
        step.segment = segment

    def break_it() -> None:
        monkeypatch.setattr(workspaces.Workspace, "_point", sequential)

    assert caught(tmp_path, break_it, count=24, form="states swapped") > 1


def test_an_output_written_over_a_tensor_that_is_still_needed_would_be_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = workspaces.Workspace._place

    def careless(self: workspaces.Workspace, step: workspaces.Step, outputs: Any) -> dict[str, workspaces.Cell]:
        before, step.before = step.before, {}  # as if no slot pointed anywhere: never a spare buffer
        cells = original(self, step, outputs)
        step.before = before
        return cells

    assert caught(tmp_path, lambda: monkeypatch.setattr(workspaces.Workspace, "_place", careless)) > 3


def test_a_soft_gate_taken_for_a_hard_one_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ranges.RULES, "Sigmoid", lambda *_: [ranges.HARD])
    drawn = ((seed, random_program(seed, tmp_path / "p.onnx")) for seed in range(0, 800, 4))
    soft = [seed for seed, program in drawn if program.seen["near blend soft"]]
    assert sum(failure(seed, tmp_path, "always", optimised=False)[1] is not None for seed in soft[:6]) > 2

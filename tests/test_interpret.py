"""The plan followed in numpy goes where the runner goes."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
from plans import NETWORKS, graphs, looped, switched

from eetoolkit_runtime.bundle.bundle import load
from eetoolkit_runtime.errors import RunError
from eetoolkit_runtime.running import interpret
from eetoolkit_runtime.running.interpret import path_of
from eetoolkit_runtime.running.runner import Runner


@pytest.mark.parametrize("kind", sorted(NETWORKS))
def test_the_path_and_what_segments_give_are_the_runners(kind: str, tmp_path: Path) -> None:
    bundle = load(NETWORKS[kind]().save(tmp_path / kind))
    plan, run_graph = bundle.manifest, graphs(bundle.path)
    with Runner(bundle, threads=1) as runner:
        for seed in range(8):
            x = np.random.default_rng(seed).uniform(0, 2.9, (1, 4)).astype(np.float32)
            given: dict[str, np.ndarray] = {}

            def run(name: str, feeds: dict[str, np.ndarray], given: dict[str, np.ndarray] = given) -> dict:  # type: ignore[type-arg]
                found = run_graph(name, feeds)
                writes = plan.segments[name].writes.items()
                given |= {slot: found[s.output] for slot, s in writes if s.output is not None}
                return found

            last = runner.run_all_exits(x)[-1]
            assert path_of(plan, (x,), run) == last.path
            end = plan.segments[last.path[-1]]
            assert end.exit is not None
            own = {name: slot for name, slot in end.exit.outputs.items() if slot in end.writes}
            assert own
            for name, slot in own.items():
                np.testing.assert_array_equal(last.outputs[name], given[slot])


def test_a_switch_without_such_a_case_and_an_endless_loop_are_errors() -> None:
    x = np.array([[9, 0, 0, 0]], np.float32)
    with pytest.raises(RunError, match="the switch 'expert' is 9, expected 0 to 2"):
        path_of(switched().plan(), (x,), lambda name, feeds: {"expert": np.array([9])})
    with pytest.raises(RunError, match="segment 'step': more than max_visits 3 visits"):
        step = {"z": x, "j": np.array([1]), "more": np.array([True]), "progress": np.array([0])}
        path_of(looped(max_visits=3).plan(), (x,), lambda name, feeds: step)


def test_the_page_quotes_it() -> None:
    page = (Path(__file__).parents[1] / "docs/bundle-format.md").read_text()
    for function in (interpret.interpret, interpret.visit_exits, interpret._next):
        assert inspect.getsource(function) in page

"""What runs a segment may be anything that keeps the protocol: here plain numpy, bound once and called often."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from plans import Array, chain, gated, row

from eetoolkit_runtime.errors import RunError
from eetoolkit_runtime.plan.types import Manifest
from eetoolkit_runtime.running.answer import Answer
from eetoolkit_runtime.running.batch import Rows
from eetoolkit_runtime.running.decision import decide
from eetoolkit_runtime.running.executor import Bound, Executors
from eetoolkit_runtime.running.shared_state import SharedState
from eetoolkit_runtime.running.tensors import Cell
from eetoolkit_runtime.running.workspaces import Workspaces

Compute = Callable[[Mapping[str, Array]], dict[str, Array]]


class Double:
    """Runs a function of arrays, and counts."""

    may_loop = False

    def __init__(self, compute: Compute) -> None:
        self.compute = compute
        self.bound = 0
        self.calls = 0

    def bind(self, inputs: Mapping[str, Cell], outputs: Mapping[str, Cell]) -> Bound:
        self.bound += 1

        def call(_argument: Any, _options: Any) -> None:
            self.calls += 1
            found = self.compute({name: cell.array for name, cell in inputs.items()})
            for name, cell in outputs.items():
                if cell.fixed:
                    cell.array[...] = found[name]
                else:
                    cell.set(ort.OrtValue.ortvalue_from_numpy(found[name]))

        return Bound(call, None, self)

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array], options: ort.RunOptions) -> list[Array]:
        self.calls += 1
        found = self.compute(feeds)
        return [found[name] for name in outputs]


class Doubles(dict[str, Double]):
    """The executors of a plan."""

    def keep(self, names: Collection[str]) -> None:
        """Has nothing to let go of."""


def in_numpy() -> Doubles:
    """Returns what `plans.chain` computes."""

    def segment(k: int) -> Compute:
        before = "x" if k == 0 else "before"
        return lambda given: {"confidence": given["x"][:, k], "h": given[before] * np.float32(2)}

    return Doubles({f"segment{k}": Double(segment(k)) for k in range(3)})


def run(plan: Manifest, executors: Executors, x: Array) -> Callable[[Array], Answer]:
    workspaces = Workspaces(SharedState(plan, executors), ((x.shape, x.dtype),))
    decision = decide(plan.exits)
    return lambda inputs: workspaces.run((inputs,), decision)


def test_a_plan_runs_on_executors_of_any_kind() -> None:
    doubles = in_numpy()
    call = run(chain(0.5, 0.5).plan(), doubles, row(0))
    for values, exit_, deep in (((0.9,), "exit0", 2), ((0.1, 0.9), "exit1", 4), ((0.1, 0.1, 0.3), "exit2", 8)):
        answer = call(row(*values))
        assert answer.exit == exit_
        np.testing.assert_array_equal(answer.outputs["logits"], row(*values) * deep)
    assert [double.bound for double in doubles.values()] == [1, 1, 1]
    assert [double.calls for double in doubles.values()] == [3, 2, 1]


def test_rows_run_together_on_them_too() -> None:
    plan, doubles = chain(0.5, 0.5).plan(), in_numpy()
    rows = Rows(SharedState(plan, doubles))
    answers = rows.run((np.concatenate([row(0.9), row(0.1, 0.9), row(0.1, 0.1)]),), decide(plan.exits))
    assert [answer.exit for answer in answers] == ["exit0", "exit1", "exit2"]
    assert [double.calls for double in doubles.values()] == [1, 1, 1]


def test_a_gate_is_what_an_executor_says() -> None:
    draft = gated()
    doubles = Doubles(
        {
            "gate": Double(lambda given: {"open": given["x"][:, 0] > 0.5}),
            "block": Double(lambda given: {"y": -given["x"]}),
            "head": Double(lambda given: {"sure": given["x"][:, 3], "logits": given["y"]}),
        }
    )
    call = run(draft.plan(), doubles, row(0))
    assert call(row(0.9)).path == ("gate", "block", "head")
    assert call(row(0.1)).path == ("gate", "head")
    np.testing.assert_array_equal(call(row(0.9)).outputs["logits"], -row(0.9))


def test_what_an_executor_raises_names_the_segment() -> None:
    doubles = in_numpy()

    def broken(_given: Mapping[str, Array]) -> dict[str, Array]:
        raise RuntimeError("the line is dead")

    doubles["segment1"] = Double(broken)
    call = run(chain(0.5, 0.5).plan(), doubles, row(0))
    assert call(row(0.9)).exit == "exit0"
    with pytest.raises(RunError, match="segment 'segment1': the line is dead"):
        call(row(0.1))


def test_what_cannot_be_bound_is_named() -> None:
    class Unbound(Double):
        def bind(self, inputs: Mapping[str, Cell], outputs: Mapping[str, Cell]) -> Bound:
            raise RuntimeError("no line")

    doubles = in_numpy()
    doubles["segment1"] = Unbound(doubles["segment1"].compute)
    with pytest.raises(RunError, match="segment 'segment1': no line"):
        run(chain(0.5, 0.5).plan(), doubles, row(0))(row(0.1))

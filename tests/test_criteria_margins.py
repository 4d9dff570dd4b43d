"""Decisions that hang on rounding: how near they are, and that no sample rests on one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from networks.judged import network_of

from eetoolkit_exporters.capturing.onnx_source import OnnxSource
from eetoolkit_exporters.criteria.reference import exit_answer
from eetoolkit_exporters.criteria.resolve import choose_criteria
from eetoolkit_exporters.emitting.samples import golden_samples, meet, sample_rows
from eetoolkit_runtime.plan.types import Criterion

CLEAR, NEAR = [0.0, 2.0, 1.0], [0.0, 1.0, 1.0 + 1e-6]


def margins(criterion: Criterion, *exits: list[list[float]]) -> list[float]:
    """Returns the margin of the last exit for each row."""
    return exit_answer([({"logits": np.array(rows)}, criterion) for rows in exits]).margin.tolist()


@pytest.mark.parametrize("kind", ["patience", "vote"])
def test_the_margin_of_an_argmax_is_that_of_the_closest_exit_so_far(kind: str) -> None:
    found = margins(Criterion(kind=kind), [CLEAR, NEAR, CLEAR], [CLEAR, CLEAR, CLEAR], [CLEAR, CLEAR, NEAR])  # type: ignore[arg-type]
    assert found == pytest.approx([0.5, 1e-6, 1e-6], abs=1e-9)


def test_the_margin_in_regression_is_that_of_the_comparison_with_tau() -> None:
    chosen = Criterion(kind="patience", tau=0.25)
    assert margins(chosen, [[1.0], [1.0]]) == [np.inf, np.inf]
    assert margins(chosen, [[1.0], [1.0]], [[1.5], [1.2500001]]) == pytest.approx([0.25, 1e-7], abs=1e-9)


def test_the_margin_of_a_combination_is_that_of_its_closest_member() -> None:
    sure = np.exp(CLEAR[1]) / np.exp(CLEAR).sum()
    far, close = Criterion(kind="max_prob", threshold=0.5), Criterion(kind="max_prob", threshold=float(sure) + 1e-5)
    assert margins(Criterion(kind="any_of", members=(far,)), [CLEAR]) == pytest.approx([sure - 0.5])
    assert margins(Criterion(kind="any_of", members=(far, close)), [CLEAR]) == pytest.approx([1e-5], abs=1e-7)
    counted = Criterion(kind="patience", threshold=1)
    assert margins(Criterion(kind="any_of", members=(counted,)), [CLEAR], [CLEAR]) == [0.5]


@pytest.mark.parametrize("kind", ["max_prob", "entropy", "margin", "mean_ensemble", "geometric_ensemble"])
def test_what_is_continuous_has_no_margin(kind: str) -> None:
    assert margins(Criterion(kind=kind), [NEAR], [NEAR]) == [np.inf]  # type: ignore[arg-type]


def test_golden_samples_leave_out_rows_that_may_go_either_way_unless_all_do(tmp_path: Path) -> None:
    network = network_of(tmp_path, [{"logits": ("batch", 3)}] * 2)
    names = ["exit0_logits_in", "exit1_logits_in"]
    source = OnnxSource(tmp_path / "given.onnx", {name: np.zeros((2, 3), np.float32) for name in names})
    exits = {exit_.name: {"logits": f"{exit_.name}.logits"} for exit_ in network.exits}
    chosen = choose_criteria(network.exits, "patience")

    def kept(*rows: list[float]) -> int:
        inputs = dict.fromkeys(names, np.array(rows, np.float32))
        taken = sample_rows(source, dict.fromkeys(names, 0), inputs)
        return len(
            golden_samples(source, taken, [meet(source, row, exits, list(exits)) for row in taken], chosen, 1e-4)
        )

    assert kept(CLEAR, NEAR, CLEAR) == 2
    assert kept(NEAR, NEAR) == 2
    assert kept(*[CLEAR] * 20) == 8

"""How far two bundles agree at every exit: classes, dense classes, other outputs, and rows that take another way."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plans import chain, looped

import eetoolkit as ee
from eetoolkit.quantizing.agreement import Compared, answers, compare
from eetoolkit.quantizing.deciding import _counted
from eetoolkit.tuning.intervals import wilson
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.plan.types import ClassScores, Manifest, Scale
from eetoolkit_runtime.running.answer import Answer

PLAN = chain(0.5, 0.5).plan()  # exit0, exit1, exit2


def answer(
    values: Any, confidence: float = 0.5, exit_: str = "exit0", *, axis: int = 1, scale: Scale = "logits", **more: Array
) -> Answer:
    scores = ClassScores(output="logits", axis=axis, scale=scale)
    outputs = {"logits": np.asarray(values, np.float32)[None], **more}
    return Answer(outputs=outputs, exit=exit_, confidence=confidence, path=(), segments=1, scores=scores)


def plain(**outputs: Any) -> Answer:
    """An answer without classes."""
    arrays = {name: np.asarray(value, np.float32)[None] for name, value in outputs.items()}
    return Answer(outputs=arrays, exit="exit0", confidence=0.5, path=(), segments=1)


def first(before: list[Answer], after: list[Answer], labels: Array | None = None) -> Compared:
    """Returns how rows of one answer each compare."""
    return compare(PLAN, [[each] for each in before], [[each] for each in after], labels)["exit0"]


def test_another_class_disagrees() -> None:
    before = [answer([3, 1, 0]), answer([1, 3, 0]), answer([0, 1, 3]), answer([9, 1, 0])]
    after = [answer([2, 1, 0]), answer([1, 0, 3]), answer([0, 1, 5]), answer([9, 1, 0])]
    found = first(before, after, np.array([0, 2, 2, 1]))
    assert found.disagreement.tolist() == [0, 1, 0, 0]
    assert found.mean == 0.25
    assert found.standard_error == pytest.approx(math.sqrt(0.25 * 0.75 / 4))
    assert found.at_most == found.mean + found.standard_error
    change = found.exit_change(0.25)
    assert change.agreement == wilson(3, 4)
    assert (change.before, change.after) == (wilson(2, 4), wilson(3, 4))
    assert (change.rows, change.within) == (4, True)
    assert not found.exit_change(0.24).within


def test_the_shift_of_confidence_is_absolute_and_of_those_that_are_numbers() -> None:
    before = [answer([1, 0], 0.5), answer([1, 0], 0.5), answer([1, 0], 0.5), answer([1, 0], 0.5)]
    after = [answer([1, 0], 0.6), answer([1, 0], 0.3), answer([1, 0], 0.5), answer([1, 0], math.nan)]
    found = first(before, after)
    np.testing.assert_allclose(found.shift, [0.1, 0.2, 0.0])
    assert found.exit_change(1.0).shift == pytest.approx((0.1, np.quantile([0.1, 0.2, 0], 0.99)))


@pytest.mark.parametrize("scale", ["logits", "probs"])
def test_one_score_is_two_classes(scale: Scale) -> None:
    half = {"logits": 0.0, "probs": 0.5}[scale]
    before = [answer([half + d], scale=scale) for d in (0.1, 0.1, -0.1)]
    after = [answer([half + d], scale=scale) for d in (0.4, -0.1, -0.4)]
    found = first(before, after, np.array([1, 1, 0]))
    assert found.disagreement.tolist() == [0, 1, 0]
    assert found.after is not None
    assert found.after.tolist() == [1, 0, 1]


def test_a_vote_is_its_label() -> None:
    def voted(label: int) -> Answer:
        return answer([1, 0], label=np.array([label]))

    assert first([voted(2), voted(1), voted(-1)], [voted(2), voted(0), voted(-1)]).disagreement.tolist() == [0, 1, 1]


@pytest.mark.parametrize("axis", [1, 3, -1])
def test_dense_answers_disagree_by_their_share_of_positions(axis: int) -> None:
    def dense(classes: Any) -> Answer:
        scores = np.eye(3)[np.asarray(classes)]  # (2, 2, 3)
        return answer(np.moveaxis(scores, -1, 0) if axis == 1 else scores, axis=axis)

    before, after = [dense([[0, 1], [2, 2]])] * 2, [dense([[0, 1], [2, 0]]), dense([[0, 1], [2, 2]])]
    found = first(before, after, np.array([[[0, 1], [2, 0]], [[0, 0], [0, 2]]]))
    assert found.disagreement.tolist() == [0.25, 0]
    assert found.before is not None
    assert found.after is not None
    assert (found.before.tolist(), found.after.tolist()) == ([0.75, 0.5], [1, 0.5])
    assert found.exit_change(0.2).agreement.value == 0.875


@pytest.mark.parametrize("labels", [None, np.array([0.5, 0.5]), np.array([[0, 1], [1, 0]])])
def test_without_labels_that_fit_nothing_is_right(labels: Array | None) -> None:
    found = first([answer([1, 0])] * 2, [answer([1, 0])] * 2, labels)
    assert found.before is None
    assert found.exit_change(0.1).after is None


def test_answers_without_classes_differ_by_the_worst_of_their_outputs() -> None:
    before = [plain(box=[3, 4], size=[100, 0]), plain(box=[3, 4], size=[1, 0]), plain(box=[0, 0], size=[0, 0])]
    after = [plain(box=[3, 4.5], size=[100, 1]), plain(box=[30, 40], size=[1, 0]), plain(box=[0, 0], size=[0, 0])]
    found = first(before, after, np.array([0, 0, 0]))
    np.testing.assert_allclose(found.disagreement, [0.1, 1, 0])
    assert found.before is None
    assert first([plain(box=[0, 0])], [plain(box=[0, 1e-9])]).mean == 1
    assert first([plain(box=[0, 0])], [plain(box=[0, 0, 0])]).mean == 1


@pytest.mark.parametrize(
    "bad",
    [answer([math.nan, 1]), answer([1, 0], math.nan), answer([math.nan]), plain(box=[math.nan])],
    ids=["scores", "confidence", "one score", "no classes"],
)
def test_what_is_no_number_disagrees_even_with_itself(bad: Answer) -> None:
    good = answer([1, 0]) if bad.scores is not None else plain(box=[1.0])
    for before, after in ((bad, bad), (good, bad), (bad, good)):
        assert first([before], [after]).mean == 1


def test_a_row_that_meets_an_exit_in_one_bundle_only_disagrees_there() -> None:
    one, two = answer([1, 0]), answer([1, 0], exit_="exit1")
    found = compare(PLAN, [[one], [one, two], [one, two]], [[one, two], [one, two], [one]], np.zeros(3, np.int64))
    assert list(found) == ["exit0", "exit1"]  # no row meets exit2
    assert found["exit0"].disagreement.tolist() == [0, 0, 0]
    assert found["exit1"].disagreement.tolist() == [1, 0, 1]
    assert found["exit1"].before is not None
    assert found["exit1"].before.tolist() == [1]
    alone = compare(PLAN, [[one]], [[two]], np.zeros(1, np.int64))["exit1"].exit_change(0.5)
    assert (alone.rows, alone.agreement.value, alone.before, alone.shift) == (1, 0, None, (0, 0))


def test_of_several_visits_the_last_counts() -> None:
    early, late = answer([1, 0]), answer([0, 1])
    assert compare(PLAN, [[early, late]], [[late, late]])["exit0"].mean == 0
    assert compare(PLAN, [[early, late]], [[early, early, early]])["exit0"].mean == 1


def drawn(plan: Manifest, rows: int) -> list[tuple[Array, ...]]:
    draw = np.random.default_rng(0)
    return [(draw.uniform(size=(1, 4)).astype(np.float32),) for _ in range(rows)] if plan.inputs else []


def test_a_bundle_agrees_with_itself_and_tells_how_far_it_is(tmp_path: Path) -> None:
    for name, draft in {"chain": chain(0.5, 0.5), "loop": looped(leave_at=0.9)}.items():
        bundle = ee.load(draft.save(tmp_path / name))
        rows, told = drawn(bundle.manifest, 6), []
        found = answers(bundle, rows, threads=1, progress=lambda *each, told=told: told.append(each))  # type: ignore[misc]
        assert told == [("running rows", n, 6) for n in range(1, 7)]
        compared = compare(bundle.manifest, found, found)
        assert list(compared) == list(bundle.manifest.exits)
        assert all(each.mean == 0 and len(each.disagreement) == 6 for each in compared.values())
        turned = compare(bundle.manifest, found, found[1:] + found[:1])
        assert any(each.mean > 0 for each in turned.values())


def test_what_counts_against_the_bound_is_shown_to_hold_or_shown_to_be_broken() -> None:
    rows = np.zeros(400)
    rows[:8] = 1
    found = {
        name: Compared(name, np.roll(rows, n) * n, np.zeros(400), None, None)
        for n, name in enumerate(("exit0", "exit1"))
    }
    error = found["exit1"].standard_error
    assert _counted(found, shown=True) == {"exit0": 0, "exit1": pytest.approx(0.02 + error)}
    assert _counted(found, shown=False) == {"exit0": 0, "exit1": pytest.approx(0.02 - error), "all exits": 0.01}
    assert _counted({}, shown=False) == {}

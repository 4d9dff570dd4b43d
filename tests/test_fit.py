"""Heads fitted to labels and to the network's own answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import eetoolkit as ee
from eetoolkit_exporters.attaching import fit
from eetoolkit_exporters.attaching.attach import MultiExit
from eetoolkit_exporters.attaching.features import Features, gather_features
from eetoolkit_exporters.attaching.fit import Fit, Target, fit_all, fit_head, log_probabilities, target_of
from eetoolkit_exporters.attaching.heads import WHOLE, FeatureLayout, Gather, Head, classifier

Array = np.ndarray[tuple[Any, ...], np.dtype[Any]]

ROWS, WIDTH, CLASSES = 400, 6, 3
DRAW = np.random.default_rng(0)
LABELS = DRAW.integers(CLASSES, size=ROWS)
SEPARABLE = (DRAW.normal(size=(ROWS, WIDTH)) + 6 * np.eye(CLASSES, WIDTH)[LABELS]).astype(np.float32)
FIT, HELD_OUT = np.arange(80, ROWS), np.arange(80)


def head_of(width: int = WIDTH, *, hidden: bool = False) -> Head:
    gather = Gather("mean", FeatureLayout((None, width), 0, 1))
    return Head("mean", [("mean", gather)], classifier(width, CLASSES, hidden=hidden))


def target(labels: Array | None = LABELS, teacher: Array | None = None, share: float = 0.0, **more: Any) -> Target:
    of = None if teacher is None else torch.from_numpy(teacher)
    return Target(None if labels is None else torch.from_numpy(labels), of, share, **more)


def answers(head: Head, x: Array) -> Array:
    with torch.no_grad():
        found: Array = head(torch.from_numpy(x)).numpy()
    return found


@pytest.mark.parametrize("hidden", [False, True], ids=["linear", "mlp"])
def test_separable_rows_are_fitted(hidden: bool) -> None:
    head = head_of(hidden=hidden)
    found = fit_head(head, SEPARABLE.__getitem__, target(), FIT, HELD_OUT)
    assert head.fitted
    assert (answers(head, SEPARABLE).argmax(1) == LABELS).mean() > 0.99
    assert found.loss < 0.05


def test_the_loss_is_that_of_the_rows_that_fitted_nothing() -> None:
    head = head_of()
    found = fit_head(head, SEPARABLE.__getitem__, target(), FIT, HELD_OUT)
    own = torch.from_numpy(answers(head, SEPARABLE[HELD_OUT]))
    assert found.loss == pytest.approx(
        nn.functional.cross_entropy(own, torch.from_numpy(LABELS[HELD_OUT])).item(), 1e-4
    )


def test_answers_alone_teach_a_head() -> None:
    weight = DRAW.normal(size=(WIDTH, CLASSES)).astype(np.float32)
    teacher = log_probabilities(SEPARABLE @ weight)
    head = head_of()
    fit_head(head, SEPARABLE.__getitem__, target(None, teacher, 1.0), FIT, HELD_OUT)
    own = log_probabilities(answers(head, SEPARABLE))
    assert np.abs(np.exp(own) - np.exp(teacher)).max() < 0.05


def test_half_of_each_is_learned_where_labels_and_answers_contradict() -> None:
    teacher = log_probabilities(10 * np.eye(CLASSES)[(LABELS + 1) % CLASSES])
    head = head_of()
    fit_head(head, SEPARABLE.__getitem__, target(LABELS, teacher, 0.5), FIT, HELD_OUT)
    own = np.exp(log_probabilities(answers(head, SEPARABLE)))
    assert own[np.arange(ROWS), LABELS].mean() == pytest.approx(0.5, abs=0.05)
    assert own[np.arange(ROWS), (LABELS + 1) % CLASSES].mean() == pytest.approx(0.5, abs=0.05)


def test_noise_asks_for_more_decay_than_what_is_separable() -> None:
    noise = DRAW.normal(size=(ROWS, 200)).astype(np.float32)
    noisy = fit_head(head_of(200), noise.__getitem__, target(), FIT, HELD_OUT)
    clean = fit_head(head_of(), SEPARABLE.__getitem__, target(), FIT, HELD_OUT)
    assert noisy.decay > clean.decay


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_standardising_is_folded_into_the_weights(scale: float) -> None:
    x = (scale * (SEPARABLE + 20)).astype(np.float32)
    plain, moved = head_of(), head_of()
    fit_head(plain, SEPARABLE.__getitem__, target(), FIT, HELD_OUT)
    fit_head(moved, x.__getitem__, target(), FIT, HELD_OUT)
    own, other = (np.exp(log_probabilities(each)) for each in (answers(moved, x), answers(plain, SEPARABLE)))
    np.testing.assert_allclose(own, other, atol=0.01)
    found = fit_head(head_of(), x.__getitem__, target(), FIT, HELD_OUT)
    own = torch.from_numpy(answers(moved, x[HELD_OUT]))
    assert nn.functional.cross_entropy(own, torch.from_numpy(LABELS[HELD_OUT])).item() == pytest.approx(
        found.loss, 1e-3
    )


def test_constant_features_are_finite_and_count_for_nothing() -> None:
    x = np.concatenate([SEPARABLE, np.full((ROWS, 1), 3.7, np.float32), np.zeros((ROWS, 1), np.float32)], 1)
    head = head_of(WIDTH + 2)
    fit_head(head, x.__getitem__, target(), FIT, HELD_OUT)
    assert np.isfinite(answers(head, x)).all()
    assert (answers(head, x).argmax(1) == LABELS).mean() > 0.99


def test_a_feature_that_differs_by_rounding_alone_does_not_count() -> None:
    x = np.concatenate([SEPARABLE, 1000 + 1e-3 * DRAW.normal(size=(ROWS, 1))], 1).astype(np.float32)
    head = head_of(WIDTH + 1)
    fit_head(head, x.__getitem__, target(), FIT, HELD_OUT)
    moved = x.copy()
    moved[:, -1] += 1e-3
    np.testing.assert_allclose(answers(head, moved), answers(head, x), atol=1e-2)


def test_few_rows_choose_the_decay_on_those_they_fit() -> None:
    found = fit_head(head_of(), SEPARABLE[:2].__getitem__, target(LABELS[:2]), np.arange(2), np.arange(0))
    assert np.isfinite(found.loss)


@pytest.mark.parametrize(
    "what", [np.log, lambda p: np.log(p) + 5, lambda p: p], ids=["logs", "logits", "probabilities"]
)
def test_answers_are_log_probabilities_whether_logits_or_probabilities(what: Any) -> None:
    p = np.array([[0.2, 0.3, 0.5], [0.9, 0.05, 0.05]])
    np.testing.assert_allclose(np.exp(log_probabilities(what(p))), p, atol=1e-6)


def test_answers_are_shared_along_the_axis_of_classes() -> None:
    logits = DRAW.normal(size=(4, 5, CLASSES)).astype(np.float32)
    teacher = log_probabilities(DRAW.normal(size=(4, CLASSES, 5)))
    labels = DRAW.integers(CLASSES, size=(4, 5))
    rows = np.arange(4)
    own = log_probabilities(logits.swapaxes(1, 2))
    ce = -np.take_along_axis(own, labels[:, None], 1).mean()
    soft = -(np.exp(teacher) * own).sum(1).mean()
    found = target(labels, teacher, 0.25, classes=2).of(torch.from_numpy(logits), rows)
    assert found.item() == pytest.approx(0.75 * ce + 0.25 * soft, 1e-5)


@pytest.mark.parametrize("own", [False, True], ids=["ours", "the user's"])
def test_a_second_fit_of_a_hidden_layer_is_as_good_as_the_first(own: bool) -> None:
    x = 1e3 * SEPARABLE + 1e4
    head = head_of(hidden=True)
    if own:
        head.parts = (WHOLE,)
    first = fit_head(head, x.__getitem__, target(), FIT, HELD_OUT)
    again = fit_head(head, x.__getitem__, target(), FIT, HELD_OUT)
    assert again == first if not own else again.loss < 1.1 * first.loss + 1e-3
    assert (answers(head, x).argmax(1) == LABELS).mean() > 0.99


def test_a_module_of_the_users_own_begins_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    x = 1e3 * SEPARABLE + 1e4
    head = head_of(hidden=True)
    fit_head(head, x.__getitem__, target(), FIT, HELD_OUT)
    head.parts, before = (WHOLE,), answers(head, x)
    monkeypatch.setattr(fit, "_descend", lambda *_: None)
    fit_head(head, x.__getitem__, target(), FIT, HELD_OUT)
    np.testing.assert_allclose(answers(head, x), before, atol=1e-2)


def test_what_cannot_be_fitted_leaves_a_fitted_head_as_it_was() -> None:
    head = head_of()
    fit_head(head, SEPARABLE.__getitem__, target(), FIT, HELD_OUT)
    before = answers(head, SEPARABLE)
    with pytest.raises(IndexError):
        fit_head(head, SEPARABLE.__getitem__, target(LABELS + 1), FIT, HELD_OUT)
    np.testing.assert_array_equal(answers(head, SEPARABLE), before)


# fit_exits


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU())
        self.more = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.more(self.body(x)))
        return found


@pytest.fixture(scope="module")
def model() -> MultiExit:
    return ee.attach_exits(Net().eval(), ["body"], SEPARABLE[:1])


def test_a_fit_says_how_good_it_is(model: MultiExit) -> None:
    found = ee.fit_exits(model, torch.from_numpy(SEPARABLE), torch.from_numpy(LABELS), distill=False)
    assert found == {"body": Fit(found["body"].loss, found["body"].decay)}
    assert found["body"].loss < 0.1
    inputs = {"x": SEPARABLE}
    assert (model.run(inputs)["body"].argmax(1) == LABELS).mean() > 0.99
    ee.fit_exits(model, inputs)  # no labels: as the network
    run = model.run(inputs)
    assert (run["body"].argmax(1) == run["final"].argmax(1)).mean() > 0.9


def test_rows_that_neither_fit_nor_judge_are_not_read(
    model: MultiExit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = gather_features(model, {"x": SEPARABLE}, tmp_path)
    asked, of = [], Features.of
    monkeypatch.setattr(Features, "of", lambda self, of_, name, rows: asked.append(rows) or of(self, of_, name, rows))
    fit_all(model, found, target_of(found, LABELS, 0.5), FIT[:100], HELD_OUT)
    assert len(asked) == 2
    assert {*np.concatenate(asked)} == {*FIT[:100], *HELD_OUT}


@pytest.mark.parametrize("head", ["mean", "mean+mlp"])
def test_heads_are_float32_whatever_torch_makes_by_default(head: str, tmp_path: Path) -> None:
    net = Net().eval()
    torch.set_default_dtype(torch.float64)
    try:
        model = ee.attach_exits(net, ["body"], SEPARABLE[:1], head=head)
        ee.fit_exits(model, SEPARABLE, LABELS)
        ee.export(model, None, tmp_path / "b.ee")
    finally:
        torch.set_default_dtype(torch.float32)
    assert {parameter.dtype for parameter in model.heads["body"].parameters()} == {torch.float32}
    assert model.run({"x": SEPARABLE})["body"].dtype == np.float32


def test_a_loss_of_ones_own_counts_alone_unless_a_share_is_given(model: MultiExit) -> None:
    values = SEPARABLE[:, :CLASSES]
    found = ee.fit_exits(model, SEPARABLE, values, loss=nn.functional.mse_loss)
    run = model.run({"x": SEPARABLE})["body"]
    assert np.square(run - values).mean() == pytest.approx(found["body"].loss, 0.3)
    shared = ee.fit_exits(model, SEPARABLE, values, loss=nn.functional.mse_loss, distill=0.5)
    assert shared["body"].loss != found["body"].loss


BAD: dict[str, tuple[Any, Any, dict[str, Any], str]] = {
    "a label beyond the classes": (
        SEPARABLE, LABELS + 1, {}, r"head at 'body' cannot be fitted to labels \(\(400,\) torch.int64\): Target 3 is"
    ),
    "too few labels": (SEPARABLE, LABELS[:9], {}, r"labels have shape \[9\], expected one for each of 400 rows"),
    "one label": (SEPARABLE, 1, {}, r"labels have shape \[\], expected one for each of 400 rows"),
    "texts": (SEPARABLE, LABELS.astype(str), {}, "labels are <U21 such as [012], expected class indices"),
    "fractions": (SEPARABLE, LABELS + 0.5, {}, r"labels are float64 such as [012]\.5, expected class indices"),
    "columns": (SEPARABLE, np.eye(3, dtype=int)[LABELS], {}, r"labels \(\(400, 3\) torch.int64\): Expected floating"),
    "labels to ignore": (SEPARABLE, LABELS * 0 - 100, {}, "its loss is not a finite number"),
    "nothing to learn": (SEPARABLE, None, {"distill": False}, "there are no labels, and distill is off"),
    "a share beyond 1": (SEPARABLE, LABELS, {"distill": 2.0}, "distill is 2.0, expected 0 to 1"),
    "NaN": (np.where(np.arange(ROWS)[:, None] == 7, np.nan, SEPARABLE), LABELS, {}, "row 7 gives it NaN or infinity"),
    "no rows": (SEPARABLE[:0], LABELS[:0], {}, r"input 'x': got the empty shape \[0, 6\], expected x"),
    "other columns": (SEPARABLE[:, :5], LABELS, {}, r"got shape \[400, 5\], expected x: float32\[batch, 6\]"),
    "one row without a batch": (SEPARABLE[0], LABELS, {}, r"add the batch dimension: x\[None\]"),
    "another name": ({"z": SEPARABLE}, LABELS, {}, r"got inputs \['z'\], expected \['x'\]"),
    "two inputs": ((SEPARABLE, SEPARABLE), LABELS, {}, "got 2 inputs, expected 1"),
    "whole numbers": (SEPARABLE.astype(int), LABELS, {}, "got dtype int64, expected x: float32"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_heads_cannot_be_fitted_to_is_refused_in_one_line(what: str, model: MultiExit) -> None:
    inputs, labels, more, message = BAD[what]
    with pytest.raises(ee.EEToolkitError, match=message) as error:
        ee.fit_exits(model, inputs, labels, **more)
    assert "\n" not in str(error.value)


def test_fitting_takes_only_what_attach_exits_returned() -> None:
    with pytest.raises(ee.ExportError, match="fit_exits takes what attach_exits returned, got Net"):
        ee.fit_exits(Net(), SEPARABLE, LABELS)  # type: ignore[arg-type]

"""What an export notes because it may be a mistake: each is noted where it holds, and not where it does not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from networks.case import Array
from onnx import parser

import eetoolkit as ee
from eetoolkit_runtime.plan.types import Criterion

ROWS = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
WEIGHTS = "<float[4,3] A = {3,-2,1, -1,2,4, 2,-5,1, 1,1,-3}, float[4,1] B = {1, -2, 3, 0.5}, int64[1] last = {1}>"
THREE = WEIGHTS + " { a = MatMul (x, A) b = Neg (a) %s }"
ONE = WEIGHTS + " { a = MatMul (x, B) b = Neg (a) %s }"


def saved(folder: Path, body: str, classes: int = 3, dtype: str = "float") -> Path:
    """Returns a file of ONNX text: x (batch, 4), the exits y and z (batch, classes)."""
    text = (
        f'<ir_version: 9, opset_import: ["" : 20, "com.microsoft" : 1]>'
        f" net ({dtype}[batch,4] x) => ({dtype}[batch,{classes}] y, {dtype}[batch,{classes}] z) {body}"
    )
    onnx.save(parser.parse_model(text), folder / "n.onnx")
    return folder / "n.onnx"


def export(folder: Path, body: str, rows: Array = ROWS, **options: Any) -> ee.Bundle:
    path = saved(folder, body, 1 if "MatMul (x, B)" in body else 3)
    return ee.export(path, rows[:1], folder / "n.ee", golden_inputs=rows, overwrite=True, **options)


def notes_of(folder: Path, body: str, rows: Array = ROWS, **options: Any) -> Sequence[str]:
    """Returns what the user should look at, and sees that the bundle notes it too."""
    told: list[str] = []
    bundle = export(folder, body, rows, warn=told.append, **options)
    assert set(told) <= set(bundle.manifest.notes)
    return told


LIKE = "scores that look like probabilities are read as logits"
SAY = """if that is what they are, say scale='probs' (--criterion '{"kind": "max_prob", "scale": "probs"}')"""
PROBABILITIES = THREE % "y = Softmax <axis = 1> (a) z = Softmax <axis = 1> (b)"


def test_rows_that_sum_to_1_are_noted(tmp_path: Path) -> None:
    expected = f"exits 'y', 'z': {LIKE} (every row sums to 1); {SAY}"
    found = notes_of(tmp_path, PROBABILITIES)
    assert found[0] == expected
    assert found[1:] == ["exit 'y' never fires: its threshold is 0.9, and max_prob is at most 0.576117"]  # e / (e + 2)


@pytest.mark.parametrize("criterion", ["patience", Criterion(kind="max_prob", scale="probs")])
def test_what_is_the_same_of_probabilities_or_said_to_be_of_them_is_not_noted(criterion: Any, tmp_path: Path) -> None:
    assert notes_of(tmp_path, PROBABILITIES, criterion=criterion, threshold=0.5) == (
        ["exit 'y' never fires: its threshold is 0.5, and patience is at most 0"] if criterion == "patience" else []
    )


def test_the_note_is_of_the_exits_and_the_criterion_that_it_holds_for(tmp_path: Path) -> None:
    body = THREE % "y = Softmax <axis = 1> (a) z = Identity (b)"
    criterion = Criterion(kind="any_of", members=(Criterion(kind="patience"), Criterion(kind="margin", threshold=0.3)))
    found = notes_of(tmp_path, body, criterion=criterion)
    say = "if that is what they are, say scale='probs' in the member margin"
    assert found == [f"exit 'y': {LIKE} (every row sums to 1); {say}"]


def test_probabilities_of_half_precision_sum_to_1_by_their_own_rounding(tmp_path: Path) -> None:
    path = saved(tmp_path, "{ s = Softmax <axis = 1> (x) y = Identity (s) z = Neg (x) }", 4, "float16")
    rows = (3 * ROWS).astype(np.float16)
    told: list[str] = []
    ee.export(path, rows[:1], tmp_path / "n.ee", golden_inputs=rows, warn=told.append)
    assert told[0].startswith(f"exit 'y': {LIKE} (every row sums to 1)")


def test_scores_that_are_positive_and_no_distribution_are_logits(tmp_path: Path) -> None:
    assert notes_of(tmp_path, THREE % "y = Relu (a) z = Relu (b)") == []


SINGLE: dict[str, tuple[str, str]] = {
    "a sigmoid": ("y = Sigmoid (a)", "probabilities are read as logits (no input takes them out of 0 to 1)"),
    "a sigmoid in bytes": (
        ("s = Constant <value = float {0.00390625}> () o = Constant <value = uint8 {0}> () p = Sigmoid (a)"
        " q = QuantizeLinear (p, s, o) y = DequantizeLinear (q, s, o)"),
        "probabilities are read as logits (no input takes them out of 0 to 1)",
    ),
    "the logarithm of one": (
        "c = Softplus (b) y = Neg (c)",
        "logarithms of probabilities are read as logits (no input takes them above 0)",
    ),
    "a sigmoid written out": (
        "e = Exp (a) o = Constant <value = float {1}> () d = Add (e, o) y = Div (e, d)",
        "probabilities are read as logits (they are from 0 to 1 in 12 golden rows)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", SINGLE)
def test_one_score_that_looks_like_a_probability_is_noted_and_right_on_the_scale_that_the_note_names(
    what: str, tmp_path: Path
) -> None:
    nodes, why = SINGLE[what]
    body = ONE % f"{nodes} z = Identity (a)"
    (note, *_) = notes_of(tmp_path, body)
    assert note.startswith(f"exit 'y': scores that look like {why}; if that is what they are, say scale='")
    scale: Any = note.split("scale='")[1].split("'")[0]
    criterion = {"y": Criterion(kind="max_prob", scale=scale), "z": Criterion(kind="max_prob")}
    bundle = export(tmp_path, body, criterion=criterion)
    assert not any("look like" in note for note in bundle.manifest.notes)
    a = ort.InferenceSession(tmp_path / "n.onnx").run(["z"], {"x": ROWS})[0][:, 0].astype(np.float64)
    with ee.Runner(bundle, threads=1) as runner:
        for row, sure in zip(ROWS, 1 / (1 + np.exp(-abs(a))), strict=True):
            assert runner.run(row[None], exit_at="y").confidence == pytest.approx(sure, abs=3e-3)


def test_one_score_is_told_how_it_is_understood_for_information(tmp_path: Path) -> None:
    bundle = export(tmp_path, ONE % "y = Identity (a) z = Identity (b)")
    assert bundle.manifest.notes == (
        (
            "exits 'y', 'z': one score is taken for the logit of class 1; for a value of regression choose patience "
            "with tau"
        ),
    )
    assert notes_of(tmp_path, ONE % "y = Identity (a) z = Identity (b)") == []


def test_few_rows_of_one_score_show_nothing(tmp_path: Path) -> None:
    body = ONE % f"{SINGLE['a sigmoid written out'][0]} z = Identity (a)"
    assert notes_of(tmp_path, body, ROWS[:7]) == []


@pytest.mark.parametrize(("scale", "where"), [("probs", "below 0 or above 1"), ("log_probs", "above 0")])
def test_scores_that_are_not_on_the_scale_that_was_said_are_noted(scale: Any, where: str, tmp_path: Path) -> None:
    body = THREE % "y = Identity (a) z = Softmax <axis = 1> (b)"
    criterion = {"y": Criterion(kind="margin", scale=scale), "z": Criterion(kind="max_prob", scale="probs")}
    assert notes_of(tmp_path, body, criterion=criterion) == [
        (
            f"exit 'y': its scores go {where}, and margin reads them as {scale}; if they are logits, say "
            "scale='logits' (--criterion margin)"
        )
    ]


def test_nan_and_infinity_are_noted_and_come_out_the_same_on_a_device(tmp_path: Path) -> None:
    body = THREE % "y = Log (a) z = Identity (b)"
    with np.errstate(invalid="ignore"):
        first = np.log(ROWS @ np.array([[3, -2, 1], [-1, 2, 4], [2, -5, 1], [1, 1, -3]], np.float32))
    bad = np.isnan(first).any(axis=1)
    assert 0 < bad.sum() < len(ROWS)
    told: list[str] = []
    bundle = export(tmp_path, body, warn=told.append)
    rows = f"{bad.sum()} of {len(ROWS)} golden rows"
    assert told == [f"exit 'y' gives NaN or infinity for {rows}; a confidence of NaN never fires"]
    report = ee.verify(bundle, tmp_path / "n.onnx")
    assert report.passed, report
    with ee.Runner(bundle, threads=1) as runner:
        for row, nan in zip(ROWS, bad, strict=True):
            answer = runner.run(row[None], thresholds={"y": 0.0})
            assert answer.exit == ("z" if nan else "y")
        assert bad.tolist() == [np.isnan(answer.confidence) for answer in runner.run_batch(ROWS, exit_at="y")]


def test_a_network_that_gives_nan_alone_is_exported_and_verifies(tmp_path: Path) -> None:
    body = THREE % "c = Sub (a, a) d = Div (c, c) y = Identity (d) z = Add (d, b)"
    (note, other) = notes_of(tmp_path, body)
    assert note == "exit 'y' gives NaN or infinity for 12 of 12 golden rows; a confidence of NaN never fires"
    assert other.startswith("exit 'z' gives NaN")
    assert ee.verify(tmp_path / "n.ee").passed


def test_minus_infinity_rules_a_class_out_and_is_no_mistake(tmp_path: Path) -> None:
    body = THREE % (
        "o = Constant <value = float[1,3] {0, 0, 0}> () t = Constant <value = float[1,3] {1, 1, 0}> ()"
        " l = Log (t) y = Add (a, l) z = Add (b, o)"
    )
    assert notes_of(tmp_path, body) == []


LOGITS = THREE % "y = Identity (a) z = Identity (b)"


@pytest.mark.parametrize(
    ("criterion", "threshold", "note"),
    [
        ("entropy", 1.25, "never fires: its threshold is 1.25, and entropy is at most 1"),
        ("vote", None, ("always fires, and what lies behind it never answers: its threshold is 0.9, and vote is at "
         "least 1")),
        ("patience", None, "never fires: its threshold is 2, and patience is at most 0"),
        ("max_prob", 0.25, ("always fires, and what lies behind it never answers: its threshold is 0.25, and max_prob "
         "is at least 0.333333")),
        ("margin", 0.999, None),
    ],
)  # fmt: skip
def test_an_exit_that_cannot_decide_is_noted(
    criterion: Any, threshold: float | None, note: str | None, tmp_path: Path
) -> None:
    found = notes_of(tmp_path, LOGITS, criterion=criterion, threshold=threshold)
    assert found == ([] if note is None else [f"exit 'y' {note}"])
    bundle = ee.load(tmp_path / "n.ee")
    with ee.Runner(bundle, threads=1) as runner:
        exits = {answer.exit for answer in runner.run_batch(50 * np.random.default_rng(1).normal(size=(64, 4)))}
    assert exits == ({"y", "z"} if note is None else {"z"} if "never fires" in note else {"y"})


def test_an_exit_that_may_not_fire_and_the_last_one_need_no_threshold_that_can_be_reached(tmp_path: Path) -> None:
    assert notes_of(tmp_path, LOGITS, threshold=2.0, min_exit="z") == []


ONE_EXIT = "the network has one exit, so every row runs all of it; ee.attach_exits gives a torch network more"


def test_a_network_with_one_exit_is_noted(tmp_path: Path) -> None:
    assert notes_of(tmp_path, LOGITS, exits=["z"]) == [ONE_EXIT]


@pytest.mark.parametrize("lower", ["always", False])
def test_a_network_of_one_exit_whose_rows_part_at_a_gate_is_not(lower: Any, tmp_path: Path) -> None:
    """A blend that becomes a gate, and an If that stays inside its segment."""
    blend = (
        "i = Constant <value = float {0}> () s = ReduceSum <keepdims = 1> (x, last) c = Greater (s, i)"
        " g = Cast <to = 1> (c) o = Constant <value = float {1}> () n = Sub (o, g) p = Mul (g, a) q = Mul (n, b)"
        " z = Add (p, q) y = Identity (a)"
    )
    choice = (
        "i = Constant <value = float {0}> () s = ReduceSum <keepdims = 0> (x) c = Greater (s, i) y = Identity (a)"
        " z = If (c) <then_branch = t () => (float[batch,3] u) { u = Neg (b) },"
        " else_branch = e () => (float[batch,3] v) { v = Abs (b) }>"
    )
    told = notes_of(tmp_path, THREE % (choice if lower is False else blend), exits=["z"], lower_control_flow=lower)
    assert told == []


def test_what_was_lowered_is_for_information(tmp_path: Path) -> None:
    body = THREE % (
        "i = Constant <value = float {0}> () s = ReduceSum <keepdims = 0> (x) c = Greater (s, i) y = Identity (a)"
        " z = If (c) <then_branch = t () => (float[batch,3] u) { u = Neg (b) },"
        " else_branch = e () => (float[batch,3] v) { v = Abs (b) }>"
    )
    told: list[str] = []
    bundle = export(tmp_path, body, threshold=3.0, warn=told.append)
    assert told == ["exit 'y' never fires: its threshold is 3, and max_prob is at most 1"]
    assert any(note.startswith("If 'z' stays") for note in bundle.manifest.notes)
    assert set(told) < set(bundle.manifest.notes)

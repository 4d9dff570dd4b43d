"""The criteria as ONNX nodes, measured against their definitions in float64 at every scale, shape and extreme."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from networks import formulas
from networks.case import Array
from networks.formulas import confidence
from onnx import TensorProto, helper

import eetoolkit as ee
from eetoolkit_exporters.criteria import reference
from eetoolkit_runtime.plan.types import Constant, Criterion

TOLERANCE = 1e-6

KINDS = ("max_prob", "entropy", "margin")
SCALES = ("logits", "log_probs", "probs")
EXITS = {f"{kind}_of_{scale}": (kind, scale) for kind in KINDS for scale in SCALES}

_TYPES = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE, "float16": TensorProto.FLOAT16}

ExportScores = Callable[..., ee.Bundle]


@pytest.fixture(scope="module")
def export_scores(tmp_path_factory: pytest.TempPathFactory) -> ExportScores:
    """Returns a bundle with an input for each scale and, for each kind, an exit that is that very input."""
    done: dict[tuple[object, ...], ee.Bundle] = {}

    def export(
        shape: tuple[int | str, ...], opset: int = 20, dtype: str = "float32", axis: int = 1,
        quantile: float | None = None,
    ) -> ee.Bundle:  # fmt: skip
        key = (shape, opset, dtype, axis, quantile)
        if key not in done:
            done[key] = _export(tmp_path_factory.mktemp("scores"), shape, opset, dtype, axis, quantile)
        return done[key]

    return export


def _export(
    folder: Path, shape: tuple[int | str, ...], opset: int, dtype: str, axis: int, quantile: float | None
) -> ee.Bundle:
    graph = helper.make_graph(
        [helper.make_node("Identity", [scale], [name]) for name, (_, scale) in EXITS.items()],
        "scores",
        [helper.make_tensor_value_info(scale, _TYPES[dtype], shape) for scale in SCALES],
        [helper.make_tensor_value_info(name, _TYPES[dtype], shape) for name in EXITS],
    )
    path = folder / "scores.onnx"
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    drawn = np.random.default_rng(0).normal(0, 1, [size if isinstance(size, int) else 2 for size in shape])
    single = len(shape) == 1 or shape[axis] == 1
    return ee.export(
        path,
        _of_one_score(drawn, dtype) if single else _at_scales(drawn, axis, dtype),
        folder / "scores.ee",
        criterion={
            name: Criterion(kind=kind, scale=scale, axis=axis, quantile=quantile)
            for name, (kind, scale) in EXITS.items()
        },
    )


def _of_one_score(z: Array, dtype: str) -> dict[str, Array]:
    """Returns the same probabilities of class 1 on every scale."""
    logits = torch.from_numpy(np.asarray(z, np.float64))
    values = (logits, torch.nn.functional.logsigmoid(logits), torch.sigmoid(logits))
    return {name: value.numpy().astype(dtype) for name, value in zip(SCALES, values, strict=True)}


def _at_scales(logits: Array, axis: int, dtype: str = "float32") -> dict[str, Array]:
    """Returns the same distributions on every scale."""
    z = np.asarray(logits, np.float64)
    log_p = z - z.max(axis, keepdims=True)
    log_p = log_p - np.log(np.exp(log_p).sum(axis, keepdims=True))
    return {name: value.astype(dtype) for name, value in zip(SCALES, (z, log_p, np.exp(log_p)), strict=True)}


def _judge(bundle: ee.Bundle, scores: dict[str, Array], temperature: float = 1.0) -> dict[str, Array]:
    """Returns every exit's confidence for each row."""
    hot = {
        name: Constant(dtype=constant.dtype, shape=constant.shape, data=(temperature,))
        for name, constant in bundle.manifest.constants.items()
    }
    found: dict[str, list[float]] = {name: [] for name in EXITS}
    with ee.Runner(
        msgspec.structs.replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, constants=hot))
    ) as runner:
        for row in range(len(scores["logits"])):
            for answer in runner.run_all_exits({name: value[row : row + 1] for name, value in scores.items()}):
                found[answer.exit].append(answer.confidence)
    return {name: np.array(values) for name, values in found.items()}


def _assert_judged(
    bundle: ee.Bundle, scores: dict[str, Array], temperature: float = 1.0, axis: int = 1, quantile: float | None = None
) -> None:
    found = _judge(bundle, scores, temperature)
    for name, (kind, scale) in EXITS.items():
        expected = confidence(scores[scale], kind, scale, temperature, axis, quantile)
        atol = TOLERANCE + (_rounding(scores[scale], temperature) if scale == "logits" else 0)
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=atol, err_msg=name)


def _rounding(logits: Array, temperature: float) -> float:
    """Returns by how much the rounding of z / T to float32 may move a logit; 0 at T = 1 and in other precisions."""
    if temperature == 1 or logits.dtype != np.float32:
        return 0
    return float(np.spacing(np.abs(logits[np.isfinite(logits)], dtype=np.float32).max() / np.float32(temperature))) / 2


def _normal(rows: int, classes: int, spread: float = 3.0) -> Array:
    return np.random.default_rng(classes).normal(0, spread, (rows, classes))


INFINITE = -np.inf
VECTORS = {
    "ten_classes": _normal(8, 10),
    "two_classes": _normal(8, 2),
    "a_thousand_classes": _normal(4, 1000),
    "a_thousand_alike": np.zeros((1, 1000)),
    "ties": np.array([[1.0, 1.0, 1.0], [2.0, 2.0, -1.0], [0.0, 0.0, 0.0], [-5.0, 3.0, 3.0]]),
    "ten_thousand": np.array([[1e4, 9999.0, 9998.5], [-1e4, 1e4, 0.0], [1e4, 1e4, -1e4], [-1e4, -1e4, -10002.0]]),
    "minus_infinity": np.array([[INFINITE, 0.0, 1.0], [INFINITE, INFINITE, 2.0], [0.5, INFINITE, 0.5]]),
    "one_hot": np.array([[200.0, 0.0, 0.0], [0.0, 200.0, 0.0], [0.0, 0.0, 1000.0]]),
}


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0, 3.7, 0.1])
@pytest.mark.parametrize("opset", [13, 20])
@pytest.mark.parametrize("vectors", VECTORS)
def test_a_confidence_is_what_its_formula_says(
    vectors: str, opset: int, temperature: float, export_scores: ExportScores
) -> None:
    logits = VECTORS[vectors]
    bundle = export_scores(("batch", logits.shape[1]), opset)
    _assert_judged(bundle, _at_scales(logits, 1), temperature)


@pytest.mark.parametrize("opset", [13, 20])
def test_probabilities_of_exactly_0_and_1_are_certain(opset: int, export_scores: ExportScores) -> None:
    scores = dict.fromkeys(SCALES, np.eye(3, dtype=np.float32))
    scores["log_probs"] = np.where(scores["probs"] == 1, 0, INFINITE).astype(np.float32)
    found = _judge(export_scores(("batch", 3), opset), scores)
    for kind in KINDS:
        for scale in ("probs", "log_probs"):
            np.testing.assert_allclose(found[f"{kind}_of_{scale}"], [1, 1, 1], rtol=0, atol=TOLERANCE)


def test_a_uniform_distribution_has_no_confidence_by_entropy_and_margin(export_scores: ExportScores) -> None:
    found = _judge(export_scores(("batch", 10)), _at_scales(np.zeros((1, 10)), 1))
    for scale in SCALES:
        assert found[f"entropy_of_{scale}"] == pytest.approx(0, abs=TOLERANCE)
        assert found[f"margin_of_{scale}"] == 0
        assert found[f"max_prob_of_{scale}"] == pytest.approx(0.1, abs=TOLERANCE)


@pytest.mark.parametrize("opset", [13, 20])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_have_no_confidence(bad: float, opset: int, export_scores: ExportScores) -> None:
    scores = _at_scales(np.array([[1.0, 2.0, 3.0]] * 3), 1)
    for scale in SCALES:
        scores[scale][np.arange(3), np.arange(3)] = bad
    found = _judge(export_scores(("batch", 3), opset), scores)
    for name in EXITS:
        assert np.isnan(found[name]).all(), name


@pytest.mark.parametrize("opset", [13, 20])
def test_one_bad_number_among_many_classes_leaves_no_confidence(opset: int, export_scores: ExportScores) -> None:
    scores = _at_scales(_normal(4, 1000), 1)
    for scale in SCALES:
        scores[scale][np.arange(4), [0, 17, 500, 999]] = np.nan
    found = _judge(export_scores(("batch", 1000), opset), scores)
    for name in EXITS:
        assert np.isnan(found[name]).all(), name


@pytest.mark.parametrize("opset", [13, 20])
@pytest.mark.parametrize("quantile", [None, 0.0, 0.1, 0.29, 0.5, 1.0])
def test_a_dense_output_is_judged_by_position_and_reduced(
    quantile: float | None, opset: int, export_scores: ExportScores
) -> None:
    logits = np.random.default_rng(1).normal(0, 3, (3, 4, 5, 6))
    bundle = export_scores(("batch", 4, 5, 6), opset, quantile=quantile)
    _assert_judged(bundle, _at_scales(logits, 1), 1.7, quantile=quantile)


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (10, 10)])
@pytest.mark.parametrize("quantile", [None, 0.25])
def test_a_dense_output_may_be_of_any_size(
    quantile: float | None, size: tuple[int, int], export_scores: ExportScores
) -> None:
    logits = np.random.default_rng(2).normal(0, 3, (2, 4, *size))
    bundle = export_scores(("batch", 4, "height", "width"), quantile=quantile)
    _assert_judged(bundle, _at_scales(logits, 1), quantile=quantile)


@pytest.mark.parametrize("opset", [13, 20])
@pytest.mark.parametrize("quantile", [None, 0.5])
def test_classes_may_stand_at_the_last_axis(quantile: float | None, opset: int, export_scores: ExportScores) -> None:
    logits = np.random.default_rng(3).normal(0, 3, (3, 9, 5))
    bundle = export_scores(("batch", "step", 5), opset, axis=-1, quantile=quantile)
    _assert_judged(bundle, _at_scales(logits, -1), 0.8, axis=-1, quantile=quantile)


@pytest.mark.parametrize("quantile", [None, 0.0, 0.5, 1.0])
def test_one_bad_position_leaves_no_confidence(quantile: float | None, export_scores: ExportScores) -> None:
    bundle = export_scores(("batch", 4, 5, 6), quantile=quantile)
    scores = _at_scales(np.random.default_rng(4).normal(0, 3, (3, 4, 5, 6)), 1)
    for scale in SCALES:
        scores[scale][[0, 1, 2], 1, [0, 2, 4], [0, 3, 5]] = np.nan
    found = _judge(bundle, scores)
    for name in EXITS:
        assert np.isnan(found[name]).all(), name


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("vectors", ["ten_classes", "two_classes", "a_thousand_classes", "ties", "minus_infinity"])
def test_scores_may_be_of_half_or_double_precision(vectors: str, dtype: str, export_scores: ExportScores) -> None:
    logits = VECTORS[vectors]
    bundle = export_scores(("batch", logits.shape[1]), dtype=dtype)
    _assert_judged(bundle, _at_scales(logits, 1, dtype), 1.3)


def test_logits_of_double_precision_keep_what_float32_would_round_away(export_scores: ExportScores) -> None:
    logits = np.array([[1e4 + 1 / 3, 1e4, 1e4 - 1 / 7], [-1e6, -1e6 - 0.01, -1e6 - 5]])
    bundle = export_scores(("batch", 3), dtype="float64")
    _assert_judged(bundle, _at_scales(logits, 1, "float64"))


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_a_confidence_is_one_float32_for_each_row(dtype: str, export_scores: ExportScores) -> None:
    plan = export_scores(("batch", 3), dtype=dtype).manifest
    for exit_ in plan.exits.values():
        slot = plan.slots[exit_.confidence]
        assert (slot.dtype, slot.shape) == ("float32", ("batch",))


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.7])
@pytest.mark.parametrize("vectors", VECTORS)
@pytest.mark.parametrize("name", EXITS)
def test_the_reference_in_numpy_follows_the_same_formulas(name: str, vectors: str, temperature: float) -> None:
    kind, scale = EXITS[name]
    scores = _at_scales(VECTORS[vectors], 1, "float64")[scale]
    found = reference.confidence(scores, Criterion(kind=kind, scale=scale), temperature)
    np.testing.assert_allclose(found, confidence(scores, kind, scale, temperature), rtol=0, atol=1e-12)


@pytest.mark.parametrize("quantile", [None, 0.0, 0.29, 0.5, 1.0])
def test_the_reference_in_numpy_reduces_positions_alike(quantile: float | None) -> None:
    logits = np.random.default_rng(5).normal(0, 3, (3, 4, 101))
    for kind in KINDS:
        found = reference.confidence(logits, Criterion(kind=kind, quantile=quantile))
        np.testing.assert_allclose(found, confidence(logits, kind, quantile=quantile), rtol=0, atol=1e-12)


def test_the_reference_in_numpy_has_no_confidence_where_a_score_is_bad() -> None:
    for kind in KINDS:
        for scale in SCALES:
            found = reference.confidence(np.array([[0.2, np.nan, 0.3]]), Criterion(kind=kind, scale=scale))
            assert np.isnan(found).all(), (kind, scale)


LOGITS_OF_ONE = np.array([-1e4, -80, -20, -3, -0.5, -1e-3, 0, 1e-3, 0.5, 3, 20, 80, 1e4])


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.7])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize(("shape", "opset"), [(("batch", 1), 20), (("batch", 1), 13), (("batch",), 20)])
def test_one_score_is_judged_as_two_classes(
    shape: tuple[int | str, ...], opset: int, dtype: str, temperature: float, export_scores: ExportScores
) -> None:
    given = {
        scale: score.reshape(-1, *[1] * (len(shape) - 1))
        for scale, score in _of_one_score(LOGITS_OF_ONE, dtype).items()
    }
    found = _judge(export_scores(shape, opset, dtype), given, temperature)
    for name, (kind, scale) in EXITS.items():
        two = np.array([formulas.two(float(score), scale) for score in given[scale].reshape(-1)])
        expected = confidence(two, kind, scale, temperature)
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=TOLERANCE, err_msg=name)
        own = reference.confidence(given[scale], Criterion(kind=kind, scale=scale), temperature)
        np.testing.assert_allclose(own, expected, rtol=0, atol=1e-12, err_msg=name)


def test_one_logit_is_as_sure_as_torchs_sigmoid_says(export_scores: ExportScores) -> None:
    z = np.array([-np.inf, -30.0, -2.5, 0.0, 0.7, 12.0, np.inf, np.nan])
    found = _judge(export_scores(("batch", 1)), _of_one_score(z[:, None], "float32"))
    p = torch.sigmoid(torch.from_numpy(z)).numpy()
    np.testing.assert_allclose(found["max_prob_of_logits"], np.maximum(p, 1 - p), atol=TOLERANCE)
    np.testing.assert_allclose(found["margin_of_logits"], abs(2 * p - 1), atol=TOLERANCE)
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = np.where(np.isin(p, (0, 1)), 0, -p * np.log2(p) - (1 - p) * np.log2(1 - p))
    np.testing.assert_allclose(found["entropy_of_logits"], 1 - bits, atol=TOLERANCE)
    for name in ("max_prob_of_probs", "max_prob_of_log_probs"):
        np.testing.assert_allclose(found[name], np.maximum(p, 1 - p), atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize("quantile", [None, 0.25])
def test_one_score_at_every_position_is_judged_there_and_reduced(
    quantile: float | None, export_scores: ExportScores
) -> None:
    z = np.random.default_rng(6).normal(0, 3, (3, 1, 5, 6))
    given = _of_one_score(z, "float32")
    found = _judge(export_scores(("batch", 1, 5, 6), quantile=quantile), given)
    for name, (kind, scale) in EXITS.items():
        two = np.stack([[formulas.two(float(s), scale) for s in row.reshape(-1)] for row in given[scale]])
        expected = confidence(two, kind, scale, axis=2, quantile=quantile)
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=TOLERANCE, err_msg=name)

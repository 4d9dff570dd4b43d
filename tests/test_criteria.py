"""The criteria with state, the learned and the combined ones: ONNX and numpy against their formulas, row by row."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from networks import formulas
from networks.case import Array
from networks.judged import TOLERANCE, Found, Outputs, Shape, assert_alike, in_numpy, in_onnx, network_of

from eetoolkit_exporters.criteria.resolve import default_threshold, stored_threshold
from eetoolkit_runtime.plan.criteria import KINDS
from eetoolkit_runtime.plan.types import Criterion

EXITS = 4
TEMPERATURES = (1.0, 0.5, 3.0, 1.7)
OPSETS = (13, 17, 20)
SCALES = ("logits", "log_probs", "probs")
NAN, INF = math.nan, math.inf


def scores_of_rows(scale: str, dtype: str = "float32") -> list[Outputs]:
    """Returns scores of four exits, (rows, 5): a batch of ordinary and of nasty rows, each another at every exit."""
    rng = np.random.default_rng(7)
    ordinary = rng.normal(0, 2, (EXITS, 24, 5))
    ordinary[1:, :8] = ordinary[:1, :8] + rng.normal(0, 0.8, (EXITS - 1, 8, 5))  # exits that mostly agree
    nasty = {
        "ties": [[1, 1, 0, 0, 0], [0, 2, 2, 0, 0], [1, 1, 0, 0, 0], [3, 0, 0, 0, 3]],
        "all alike": np.zeros((EXITS, 5)),
        "large": [[1e4, 9999, 0, -1e4, 0], [-1e4, 1e4, 9998, 0, 0], [1e4, 1e4, 0, 0, 0], [0, 1e4, -1e4, 0, 1]],
        "impossible classes": [[-INF, 1, 0, 2, -INF], [0, -INF, 3, 0, 1], [-INF, -INF, -INF, 0, -INF], [1, 0, 0, 0, 0]],
        "votes that tie": np.eye(5)[[2, 0, 0, 2]] * 3,
        "votes that part": np.eye(5)[[2, 0, 4, 1]] * 3,
        "one for all": np.eye(5)[[3, 3, 3, 3]] * 9,
        "back and forth": np.eye(5)[[3, 1, 3, 3]] * 9,
        "bad at first": [[NAN, 1, 0, 0, 0], [0, 1, 0, 0, 0], [0, 1, 0, 0, 0], [0, 1, 0, 0, 0]],
        "bad in between": [[0, 1, 0, 0, 0], [0, 1, NAN, 0, 0], [0, 1, 0, 0, 0], [0, 1, 0, 0, 0]],
        "bad at last": [[0, 1, 0, 0, 0], [0, 1, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, INF]],
        "no class possible": [[0, 1, 0, 0, 0], [-INF] * 5, [0, 1, 0, 0, 0], [0, 1, 0, 0, 0]],
    }
    z = np.concatenate([ordinary, np.stack([np.asarray(rows, float) for rows in nasty.values()], axis=1)], axis=1)
    if scale != "logits":
        with np.errstate(invalid="ignore"):
            z = z - z.max(axis=2, keepdims=True)
            z = z - np.log(np.exp(z).sum(axis=2, keepdims=True))
            z = np.where(np.isnan(z).any(axis=2, keepdims=True), np.nan, z)
    values = np.exp(z) if scale == "probs" else z
    return [{"logits": exit_.astype(dtype)} for exit_ in values]


def expected_of(kind: str, given: list[Outputs], scale: str, temperatures: tuple[float, ...]) -> Found:
    """Returns what the formulas say for every exit and row."""
    rows, classes = given[0]["logits"].shape
    confidences = np.zeros((EXITS, rows))
    answers: list[Outputs] = [dict(outputs) for outputs in given]
    other = np.zeros((EXITS, rows, classes))
    labels = np.zeros((EXITS, rows), np.int64)
    for row in range(rows):
        scores = [outputs["logits"][row] for outputs in given]
        voted = [formulas.first_largest(z, scale) for z in scores]
        log_p = [formulas.log_probabilities(z, scale, t) for z, t in zip(scores, temperatures, strict=True)]
        for count in range(1, EXITS + 1):
            if kind == "patience":
                confidences[count - 1, row] = formulas.patience(voted)[count - 1]
            elif kind == "vote":
                confidences[count - 1, row], labels[count - 1, row] = formulas.vote(voted)[count - 1]
            else:
                q = (
                    formulas.mean_of_p(log_p[:count])
                    if kind == "mean_ensemble"
                    else formulas.geometric(log_p[:count], weights_of(count), list(BIAS))
                )
                other[count - 1, row] = q
                confidences[count - 1, row] = max(formulas.softmax(q), key=lambda p: (math.isnan(p), p))
    for number, answer in enumerate(answers):
        if kind == "vote":
            answer["label"] = labels[number]
        elif kind != "patience":
            answer["logits"] = other[number]
    return list(zip(answers, confidences, strict=True))


BIAS = (0.1, -0.2, 0.3, 0.0, -0.4)


def weights_of(count: int) -> list[float]:
    """Returns weights of the exits so far, one of them 0."""
    return [0.9, 0.0, 0.35, 0.6][:count]


def criteria_of(kind: str, scale: str, temperatures: tuple[float, ...]) -> dict[str, Criterion]:
    """Returns the criterion of every exit."""
    found = {}
    for number, temperature in enumerate(temperatures):
        options: dict[str, Any] = {"temperature": temperature}
        if kind == "geometric_ensemble":
            options |= {"weights": tuple(weights_of(number + 1)), "bias": BIAS}
        found[f"exit{number}"] = Criterion(kind=kind, scale=scale, **options)  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("temperatures", [(1.0,) * EXITS, TEMPERATURES], ids=["plain", "tempered"])
@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", sorted(kind for kind, its in KINDS.items() if its.stateful))
def test_state_runs_from_exit_to_exit_as_the_formula_says(
    kind: str, scale: str, opset: int, temperatures: tuple[float, ...], tmp_path: Path
) -> None:
    given = scores_of_rows(scale)
    network = network_of(tmp_path, [{"logits": ("batch", 5)}] * EXITS, opset)
    chosen = criteria_of(kind, scale, temperatures)
    expected = expected_of(kind, given, scale, temperatures)
    assert_alike(in_numpy(network, given, chosen), expected)
    assert_alike(in_onnx(network, given, chosen), expected)


def single_scores(scale: str, shape: Shape) -> list[Outputs]:
    """Returns one score of each row at four exits: ordinary ones, one half, certain ones, and some that are bad."""
    z = np.random.default_rng(11).normal(0, 3, (EXITS, 30))
    z[:, :7] = np.array([
        [0, 0, 0, 0], [-9, 9, 9, -9], [40, -40, 40, 40], [INF, 2, -INF, 1], [NAN, 1, 1, 1], [-1, NAN, -1, 1],
        [-1, 2, 3, NAN],
    ]).T  # fmt: skip
    with np.errstate(over="ignore", invalid="ignore"):
        p = 1 / (1 + np.exp(-z))
        values = {"logits": z, "probs": p, "log_probs": -np.logaddexp(0, -z)}[scale].astype(np.float32)
    return [{"logits": exit_.reshape([-1, *[1] * (len(shape) - 1)])} for exit_ in values]


CUTS = {"logits": np.float32(0), "probs": np.float32(0.5), "log_probs": np.float32(math.log(0.5))}


@pytest.mark.parametrize("shape", [("batch", 1), ("batch",), ("batch", 1, 1, 1)], ids=["column", "vector", "image"])
@pytest.mark.parametrize("opset", [13, 20])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", sorted(kind for kind, its in KINDS.items() if its.stateful))
def test_state_takes_one_score_for_two_classes(kind: str, scale: str, opset: int, shape: Shape, tmp_path: Path) -> None:
    given = single_scores(scale, shape)
    network = network_of(tmp_path, [{"logits": shape}] * EXITS, opset)
    bias = (0.2, -0.1)
    chosen = criteria_of(kind, scale, TEMPERATURES)
    if kind == "geometric_ensemble":
        chosen = {name: msgspec.structs.replace(own, bias=bias) for name, own in chosen.items()}
    expected: Found = [({**outputs}, np.zeros(30)) for outputs in given]
    for row in range(30):
        scores = [outputs["logits"].reshape(-1)[row] for outputs in given]
        voted = [None if math.isnan(score) else int(score >= CUTS[scale]) for score in scores]
        two = [np.array(formulas.two(float(score), scale)) for score in scores]
        log_p = [formulas.log_probabilities(z, scale, t) for z, t in zip(two, TEMPERATURES, strict=True)]
        for number, (answer, confidence) in enumerate(expected):
            if kind == "patience":
                confidence[row] = formulas.patience(voted)[number]
            elif kind == "vote":
                confidence[row], label = formulas.vote(voted)[number]
                answer.setdefault("label", np.zeros(30, np.int64))[row] = label
            else:
                seen = log_p[: number + 1]
                mean = kind == "mean_ensemble"
                q = formulas.mean_of_p(seen) if mean else formulas.geometric(seen, weights_of(number + 1), list(bias))
                confidence[row] = max(formulas.softmax(q), key=lambda p: (math.isnan(p), p))
                if row == 0:
                    answer["logits"] = np.zeros(given[0]["logits"].shape)
                answer["logits"].reshape(-1)[row] = q[1] - q[0]
    assert_alike(in_numpy(network, given, chosen), expected)
    assert_alike(in_onnx(network, given, chosen), expected)


def test_an_exit_of_one_score_and_one_of_two_classes_vote_together(tmp_path: Path) -> None:
    given = [
        {"logits": np.array([[2.0], [-2.0], [1.0]], np.float32)},
        {"logits": np.eye(2, dtype=np.float32)[[1, 0, 0]]},
    ]
    network = network_of(tmp_path, [{"logits": ("batch", 1)}, {"logits": ("batch", 2)}])
    expected: Found = [(given[0], np.zeros(3)), (given[1], np.array([1.0, 1.0, 0.0]))]
    assert_alike(in_numpy(network, given, "patience"), expected)
    assert_alike(in_onnx(network, given, "patience"), expected)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("shape", [("batch", 1), ("batch",)], ids=["column", "vector"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_patience_in_regression_counts_answers_closer_than_tau(
    dtype: str, shape: Shape, opset: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(0, 0.4, (EXITS, 40)).astype(dtype)
    values[:, :5] = [[1, 1, 5, NAN, 2], [1.25, 1, 5, 1, 2], [1.5, 2, 5, 1, INF], [1.5, 2, NAN, 1, INF]]
    given = [{"logits": exit_.reshape(-1, 1) if len(shape) == 2 else exit_} for exit_ in values]
    network = network_of(tmp_path, [{"logits": shape}] * EXITS, opset, dtype)
    counters = [formulas.patience_in_regression([float(y) for y in row], 0.25) for row in values.T]
    expected: Found = [(outputs, np.array([row[number] for row in counters])) for number, outputs in enumerate(given)]
    chosen = Criterion(kind="patience", tau=0.25)
    assert_alike(in_numpy(network, given, chosen), expected)
    assert_alike(in_onnx(network, given, chosen), expected)


def test_exits_may_be_chained_that_hold_other_scales_and_have_other_criteria(tmp_path: Path) -> None:
    kinds = {"exit0": ("max_prob", "logits"), "exit1": ("margin", "probs"), "exit2": ("vote", "log_probs")}
    scales = [*(scale for _, scale in kinds.values()), "logits"]
    given = [scores_of_rows(scale)[number] for number, scale in enumerate(scales)]
    chosen: dict[str, Any] = {
        name: Criterion(kind=kind, scale=scale, temperature=TEMPERATURES[number])  # type: ignore[arg-type]
        for number, (name, (kind, scale)) in enumerate(kinds.items())
    }
    chosen["exit3"] = Criterion(kind="mean_ensemble", temperature=TEMPERATURES[3])
    network = network_of(tmp_path, [{"logits": ("batch", 5)}] * EXITS)
    reference, found = in_numpy(network, given, chosen), in_onnx(network, given, chosen)
    assert_alike(found, reference)
    rows = range(len(given[0]["logits"]))
    means = [
        formulas.mean_of_p([
            formulas.log_probabilities(outputs["logits"][row], scale, temperature)
            for outputs, scale, temperature in zip(given, scales, TEMPERATURES, strict=True)
        ])
        for row in rows
    ]  # fmt: skip
    np.testing.assert_allclose(found[3][0]["logits"], means, rtol=2e-6, atol=5e-6)
    votes = [
        formulas.vote([formulas.first_largest(given[n]["logits"][row], scales[n]) for n in range(3)])[2] for row in rows
    ]
    np.testing.assert_allclose(found[2][1], [share for share, _ in votes], atol=TOLERANCE)
    np.testing.assert_array_equal(found[2][0]["label"], [label for _, label in votes])


@pytest.mark.parametrize("dtype", ["float64", "float16"])
@pytest.mark.parametrize("kind", sorted(kind for kind, its in KINDS.items() if its.stateful))
def test_scores_with_state_may_be_of_half_or_double_precision(kind: str, dtype: str, tmp_path: Path) -> None:
    given = scores_of_rows("logits", dtype)
    network = network_of(tmp_path, [{"logits": ("batch", 5)}] * EXITS, dtype=dtype)
    expected = expected_of(kind, given, "logits", TEMPERATURES)
    found = in_onnx(network, given, criteria_of(kind, "logits", TEMPERATURES))
    assert_alike(found, expected)
    assert all(confidence.dtype == np.float32 for _, confidence in found)


def test_the_weights_of_a_geometric_ensemble_are_equal_and_its_bias_0_where_nothing_is_said(tmp_path: Path) -> None:
    given = scores_of_rows("logits")
    network = network_of(tmp_path, [{"logits": ("batch", 5)}] * EXITS)
    found = in_onnx(network, given, "geometric_ensemble")
    for row, z in enumerate(given[2]["logits"]):
        log_p = [formulas.log_probabilities(outputs["logits"][row], "logits", 1.0) for outputs in given[:3]]
        q = formulas.geometric(log_p, [1 / 3] * 3, [0.0] * len(z))
        np.testing.assert_allclose(found[2][0]["logits"][row], q, rtol=2e-6, atol=5e-6)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize(("shape", "dtype"), [
    (("batch",), "float32"), (("batch", 1), "float32"), (("batch", 1, 1), "float64"), (("batch", 1), "float16"),
])  # fmt: skip
def test_a_learned_confidence_is_the_networks_own_output(
    shape: Shape, dtype: str, invert: bool, opset: int, tmp_path: Path
) -> None:
    u = np.array([0.25, 0.0, 1.0, NAN, 0.9], dtype)
    given = [{"logits": np.ones((5, 3), dtype), "sure": u.reshape([5, *shape[1:]])}]
    network = network_of(tmp_path, [{"logits": ("batch", 3), "sure": shape}], opset, dtype)
    chosen = Criterion(kind="learned", output="sure", invert=invert)
    expected: Found = [(given[0], (1 - u if invert else u).astype(np.float64))]
    assert_alike(in_numpy(network, given, chosen), expected)
    assert_alike(in_onnx(network, given, chosen), expected)


def members() -> tuple[Criterion, ...]:
    """Returns members with and without state, each with a threshold of its own."""
    return (
        Criterion(kind="max_prob", threshold=0.5, temperature=2.0),
        Criterion(kind="entropy", threshold=0.3),
        Criterion(kind="patience", threshold=1),
        Criterion(kind="vote", threshold=0.7),
    )


def fired(given: list[Outputs]) -> Array:
    """Returns which of `members` fire, shape (exits, rows, members), by the formulas."""
    rows = len(given[0]["logits"])
    found = np.zeros((EXITS, rows, 4), bool)
    for row in range(rows):
        scores = [outputs["logits"][row] for outputs in given]
        voted = [formulas.first_largest(z, "logits") for z in scores]
        counters, votes = formulas.patience(voted), formulas.vote(voted)
        for number, z in enumerate(scores):
            warm, plain = (formulas.probabilities(z, "logits", t) if not bad(z) else [NAN] * 5 for t in (2.0, 1.0))
            found[number, row] = [
                formulas.of_vector(warm, "max_prob") >= 0.5,
                formulas.of_vector(plain, "entropy") >= 0.3,
                counters[number] >= 1,
                votes[number][0] >= 0.7,
            ]
    return found


def bad(scores: Array) -> bool:
    """Whether scores are no distribution."""
    return bool(np.isnan(scores).any() or np.isinf(scores.max()))


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(("kind", "options"), [("all_of", {}), ("any_of", {}), ("at_least", {"n": 3})])
def test_a_combination_is_as_sure_as_the_share_of_its_members_that_fire(
    kind: str, options: dict[str, Any], opset: int, tmp_path: Path
) -> None:
    given = scores_of_rows("logits")
    network = network_of(tmp_path, [{"logits": ("batch", 5)}] * EXITS, opset)
    chosen = Criterion(kind=kind, members=members(), **options)  # type: ignore[arg-type]
    expected: Found = list(zip(given, fired(given).mean(axis=2), strict=True))
    reference, found = in_numpy(network, given, chosen), in_onnx(network, given, chosen)
    assert_alike(reference, expected)
    assert_alike(found, expected)
    needed = {"all_of": 4, "any_of": 1, "at_least": 3}[kind]
    limit = default_threshold(chosen)
    for (_, confidence), row_fired in zip(found, fired(given), strict=True):
        np.testing.assert_array_equal(confidence.astype(np.float64) >= limit, row_fired.sum(axis=1) >= needed)


def test_combinations_may_hold_combinations(tmp_path: Path) -> None:
    given = scores_of_rows("logits")
    network = network_of(tmp_path, [{"logits": ("batch", 5)}] * EXITS)
    a, b, c, d = members()
    inner = Criterion(kind="any_of", members=(c, d), threshold=0.5)
    chosen = Criterion(kind="all_of", members=(a, b, inner))
    fires = fired(given)
    share = np.stack([fires[..., 0], fires[..., 1], fires[..., 2] | fires[..., 3]]).mean(axis=0)
    expected: Found = list(zip(given, share, strict=True))
    assert_alike(in_numpy(network, given, chosen), expected)
    assert_alike(in_onnx(network, given, chosen), expected)


def test_every_share_reaches_the_threshold_that_is_the_same_fraction(tmp_path: Path) -> None:
    """7/10 in float32 is less than 0.7 in float64."""
    for count in range(1, 13):
        parts = tuple(Criterion(kind="max_prob", threshold=0.5) for _ in range(count))
        for n in range(1, count + 1):
            share = np.float32(n) / np.float32(count)
            assert share >= default_threshold(Criterion(kind="at_least", n=n, members=parts))
            assert share >= stored_threshold(Criterion(kind="vote"), n / count)
            assert (
                share < default_threshold(Criterion(kind="at_least", n=min(n + 1, count), members=parts)) or n == count
            )
    assert stored_threshold(Criterion(kind="max_prob"), 0.7) == 0.7

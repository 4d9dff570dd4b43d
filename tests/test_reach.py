"""How sure an exit can be, against the formulas at the corners of what its scores may be and at random within."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from networks import formulas
from networks.case import Array
from networks.judged import in_numpy, network_of
from onnx import parser

from eetoolkit_exporters.capturing.capture import Network, capture
from eetoolkit_exporters.capturing.onnx_source import OnnxSource
from eetoolkit_exporters.criteria.facts import Facts, facts
from eetoolkit_exporters.criteria.reach import fires_always, fires_never, reach
from eetoolkit_exporters.criteria.resolve import choose_criteria, stored_threshold
from eetoolkit_exporters.gating.ranges import Range
from eetoolkit_runtime.plan.types import Criterion

INF = math.inf


def clipped(folder: Path, bounds: list[tuple[float, float]], classes: int) -> Network:
    """Returns a network whose exits' scores, (batch, classes), lie between bounds."""
    names = [f"y{n}" for n in range(len(bounds))]
    body = " ".join(
        f"l{n} = Constant <value = float {{{low}}}> () h{n} = Constant <value = float {{{high}}}> ()"
        f" y{n} = Clip (x, l{n}, h{n})"
        for n, (low, high) in enumerate(bounds)
    )
    outputs = ", ".join(f"float[batch,{classes}] {name}" for name in names)
    text = f'<ir_version: 9, opset_import: ["" : 20]> net (float[batch,{classes}] x) => ({outputs}) {{ {body} }}'
    onnx.save(parser.parse_model(text), folder / "n.onnx")
    example = np.zeros((1, classes), np.float32)
    return capture(OnnxSource(folder / "n.onnx", example), {name: {"logits": name} for name in names})


def known_of(network: Network, criterion: Any) -> Facts:
    return facts(network, choose_criteria(network.exits, criterion), [], 1e-4)


def of_scores(scores: Array, kind: str, temperature: float) -> Array:
    if scores.shape[1] == 1:
        scores = np.array([formulas.two(float(score), "logits") for score in scores[:, 0]])
    return formulas.confidence(scores, kind, temperature=temperature)


@pytest.mark.parametrize("kind", ["max_prob", "margin", "entropy"])
@pytest.mark.parametrize("classes", [1, 2, 3, 7])
@pytest.mark.parametrize(("low", "high", "temperature"), [(0.0, 1.0, 1.0), (-2.0, 3.0, 0.5), (-0.25, 0.0, 4.0)])
def test_bounded_scores_are_as_sure_as_their_corners_and_never_surer(
    kind: Any, classes: int, low: float, high: float, temperature: float, tmp_path: Path
) -> None:
    network = clipped(tmp_path, [(low, high)], classes)
    criterion = Criterion(kind=kind, temperature=temperature)
    found = reach(known_of(network, criterion), criterion, 0)
    corners = np.array(list(itertools.product((low, high), repeat=classes)))
    assert found.high == pytest.approx(of_scores(corners, kind, temperature).max(), abs=1e-9)
    inside = of_scores(np.random.default_rng(0).uniform(low, high, (500, classes)), kind, temperature)
    assert inside.max() <= found.high
    assert inside.min() >= found.low


def test_probabilities_taken_for_logits_are_at_most_e_over_e_plus_the_other_classes(tmp_path: Path) -> None:
    for classes in (2, 10, 1000):
        known = known_of(clipped(tmp_path, [(0, 1)], classes), "max_prob")
        assert reach(known, known.criteria["y0"], 0).high == pytest.approx(math.e / (math.e + classes - 1))


@pytest.mark.parametrize("scale", ["probs", "log_probs"])
def test_scores_on_another_scale_and_scores_without_bounds_may_be_certain(scale: Any, tmp_path: Path) -> None:
    known = known_of(clipped(tmp_path, [(0, 1)], 5), Criterion(kind="max_prob", scale=scale))
    assert reach(known, known.criteria["y0"], 0) == Range(1 / 5, 1)
    known = known_of(network_of(tmp_path, [{"logits": ("batch", 4)}]), "entropy")
    assert reach(known, known.criteria["exit0"], 0) == Range(0, 1)


def test_a_mean_of_distributions_is_as_sure_as_the_mean_of_the_surest(tmp_path: Path) -> None:
    bounds = [(0.0, 1.0), (-1.0, 2.0), (0.0, 0.5)]
    known = known_of(clipped(tmp_path, bounds, 4), "mean_ensemble")
    surest = [formulas.softmax([high, low, low, low])[0] for low, high in bounds]
    for place in range(3):
        expected = math.fsum(surest[: place + 1]) / (place + 1)
        assert reach(known, known.criteria[f"y{place}"], place) == pytest.approx((1 / 4, expected, False))


VOTERS = [{"logits": ("batch", 3)}] * 5


@pytest.mark.parametrize("kind", ["patience", "vote", "geometric_ensemble", "mean_ensemble"])
def test_state_reaches_as_far_as_every_row_of_answers_does(kind: Any, tmp_path: Path) -> None:
    """All ways in which five exits can answer three classes, as good as certain."""
    network = network_of(tmp_path, [dict(outputs) for outputs in VOTERS])  # type: ignore[arg-type]
    ways = np.array(list(itertools.product(range(3), repeat=5)))
    given: Any = [{"logits": 60 * np.eye(3, dtype=np.float32)[ways[:, place]]} for place in range(5)]
    known = known_of(network, kind)
    for place, (_, confidence) in enumerate(in_numpy(network, given, kind)):
        found = reach(known, known.criteria[f"exit{place}"], place)
        assert found.high == pytest.approx(confidence.max(), abs=1e-6)
        assert confidence.min() >= found.low - 1e-6
        if kind in ("patience", "vote"):
            assert found.low == pytest.approx(confidence.min(), abs=1e-6)


def test_a_patience_of_p_takes_p_plus_1_exits(tmp_path: Path) -> None:
    known = known_of(network_of(tmp_path, [dict(outputs) for outputs in VOTERS]), "patience")  # type: ignore[arg-type]
    for patience in (1, 2, 4):
        never = [fires_never(reach(known, Criterion(kind="patience"), place), patience) for place in range(5)]
        assert never == [place < patience for place in range(5)]


def test_a_combination_fires_as_its_members_can(tmp_path: Path) -> None:
    network = clipped(tmp_path, [(0, 1)] * 3, 4)
    members = (
        Criterion(kind="patience", threshold=2), Criterion(kind="max_prob", threshold=0.9),
        Criterion(kind="max_prob", threshold=0.45), Criterion(kind="entropy", threshold=-1.0),
    )  # fmt: skip
    assert formulas.softmax([1, 0, 0, 0])[0] == pytest.approx(0.4754, abs=1e-4)
    for kind, n in (("all_of", None), ("any_of", None), ("at_least", 3)):
        criterion = Criterion(kind=kind, n=n, members=members)  # type: ignore[arg-type]
        known = known_of(network, criterion)
        found = [reach(known, criterion, place)[:2] for place in range(3)]
        assert found == [(0.25, 0.5), (0.25, 0.5), (0.25, 0.75)]
    wanted = stored_threshold(Criterion(kind="at_least"), 3 / 4)
    assert [fires_never(Range(*ends), wanted) for ends in found] == [True, True, False]


def test_a_share_of_seven_in_ten_reaches_seven_in_ten(tmp_path: Path) -> None:
    members = tuple(Criterion(kind="patience", threshold=float(n >= 7)) for n in range(10))
    criterion = Criterion(kind="at_least", n=7, members=members)
    found = reach(known_of(clipped(tmp_path, [(0, 1)], 4), criterion), criterion, 0)
    share = stored_threshold(criterion, 0.7)
    assert not fires_never(found, share)
    assert fires_always(found, share)
    assert fires_never(found, stored_threshold(criterion, 0.8))


@pytest.mark.parametrize(("invert", "expected"), [(False, (0.2, 0.7)), (True, (0.3, 0.8))])
def test_a_learned_confidence_lies_where_the_graph_bounds_it(
    invert: bool, expected: tuple[float, float], tmp_path: Path
) -> None:
    known = known_of(clipped(tmp_path, [(0.2, 0.7)], 1), Criterion(kind="learned", output="logits", invert=invert))
    assert reach(known, known.criteria["y0"], 0)[:2] == pytest.approx(expected)


def test_nothing_is_claimed_of_a_function_of_ones_own(tmp_path: Path) -> None:
    known = known_of(clipped(tmp_path, [(0, 1)], 3), lambda logits: logits.sum(1))
    assert reach(known, known.criteria["y0"], 0)[:2] == (-INF, INF)


def test_what_is_rounded_to_1_reaches_1() -> None:
    assert not fires_never(Range(0, 1 - 1e-9), 1.0)
    assert fires_never(Range(0, 1), 1 + 1e-9)
    assert not fires_always(Range(0.9 - 1e-9, 1), 0.9)

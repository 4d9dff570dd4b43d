"""Temperatures and reliability, against the formulas in plain Python and against the graphs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm

import eetoolkit as ee
from eetoolkit.tuning.calibrate import BINS, fit_temperature, fit_temperatures, raw_scores, reliability
from eetoolkit.tuning.collect import collect
from eetoolkit.tuning.manifest import with_constants


def drawn(temperature: float, rows: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits and labels drawn from softmax(z / T)."""
    draw = np.random.default_rng(0)
    z = draw.normal(size=(rows, 5)) * 4
    noise = draw.gumbel(size=z.shape)
    return z, (z / temperature + noise).argmax(axis=1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_labels_were_drawn_by_is_found(temperature: float) -> None:
    z, labels = drawn(temperature)
    found = fit_temperature(z, labels)
    assert found == pytest.approx(temperature, rel=0.06)
    losses = [reliability(z, labels, found * by).log_loss for by in (0.9, 1.0, 1.1)]
    assert losses[1] == min(losses)


def test_reliability_is_that_of_a_plain_loop() -> None:
    z, labels = drawn(2.0, rows=300)
    found = reliability(z, labels, 1.5)
    losses, squares, bins = [], [], [[] for _ in range(BINS)]
    for scores, label in zip(z.tolist(), labels.tolist(), strict=True):
        total = sum(math.exp(score / 1.5) for score in scores)
        p = [math.exp(score / 1.5) / total for score in scores]
        losses.append(-math.log(p[label]))
        squares.append(sum((share - (k == label)) ** 2 for k, share in enumerate(p)))
        k = next(k for k in range(BINS) if max(p) <= (k + 1) / BINS)
        bins[k].append((max(p), p.index(max(p)) == label))
    gaps = [abs(sum(right for _, right in own) - sum(sure for sure, _ in own)) for own in bins]
    assert found.log_loss == pytest.approx(np.mean(losses))
    assert found.brier == pytest.approx(np.mean(squares))
    assert found.ece == pytest.approx(sum(gaps) / 300)
    assert [each.rows for each in found.bins] == [len(own) for own in bins]


def test_calibrating_helps_where_a_network_is_too_sure() -> None:
    z, labels = drawn(3.0)
    before, after = reliability(z, labels, 1.0), reliability(z, labels, fit_temperature(z, labels))
    assert after.ece < 0.3 * before.ece
    assert after.brier < before.brier


@pytest.mark.parametrize("rows", [10, 100, 1000])
def test_the_temperature_is_the_likeliest_beforehand_and_by_the_rows_together(rows: int) -> None:
    z, labels = drawn(2.0, rows=rows)
    grid = np.linspace(0.5, 4, 3501)
    by_rows = [-rows * reliability(z, labels, t).log_loss for t in grid.tolist()]
    likeliest = grid[np.argmax(norm.logpdf(np.log(grid), 0, 0.5) + by_rows)]
    assert fit_temperature(z, labels) == pytest.approx(likeliest, abs=2e-3)


@pytest.mark.parametrize("margin", [3.0, 8.0, 20.0])
def test_few_rows_that_are_all_right_make_an_exit_neither_certain_nor_less_sure(margin: float) -> None:
    labels = np.arange(50) % 5
    found = fit_temperature(np.eye(5)[labels] * margin, labels)
    assert 0.4 < found <= 1


class Sure(torch.nn.Module):
    """Three exits that are far too sure of themselves."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(6, 6) for _ in range(3))
        self.heads = torch.nn.ModuleList(torch.nn.Linear(6, 4) for _ in range(3))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        found = []
        for layer, head in zip(self.layers, self.heads, strict=True):
            x = torch.relu(layer(x)) + x
            found.append(8 * head(x))
        return found


@pytest.mark.parametrize("criterion", ["max_prob", "entropy", "patience", "mean_ensemble"])
def test_new_temperatures_in_the_manifest_are_the_graphs_confidences(criterion: str, tmp_path: Path) -> None:
    bundle = ee.export(Sure().eval(), torch.randn(1, 6), tmp_path / "it.ee", criterion=criterion)
    x = np.random.default_rng(0).normal(size=(80, 6)).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, 4, 80)
    record = collect(bundle, x, labels, threads=1)
    found = fit_temperatures(record, bundle.manifest)
    if criterion in ("patience", "mean_ensemble"):  # no temperature there, or scores that the answers do not show
        assert found == {}
        assert (raw_scores(record, bundle.manifest, "exit1") is None) == (criterion == "mean_ensemble")
        return
    assert list(found) == ["exit0", "exit1", "exit2"]
    assert all(t > 2 for _, t in found.values())
    changed = with_constants(bundle, {constant: (t,) for constant, t in found.values()})
    again = collect(changed, x, labels, threads=1)
    for e, (_, t) in enumerate(found.values()):
        z = record.outputs["logits"][:, e].astype(float) / np.float32(t)
        p = np.exp(z - z.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        expected = p.max(1) if criterion == "max_prob" else 1 + (p * np.log(p)).sum(1) / math.log(4)
        np.testing.assert_allclose(again.confidence[:, e], expected, atol=2e-6)

"""A user's own criteria: torch functions as a user would write them, in the graph and as the reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks.judged import Found, assert_alike, in_numpy, in_onnx, network_of

from eetoolkit_runtime.plan.types import Criterion

OPSETS = (13, 17, 20)


def energy(logits: torch.Tensor) -> torch.Tensor:
    """Returns a squashed log-sum-exp (energy score)."""
    return torch.sigmoid(torch.logsumexp(logits, dim=1) - 2)


def agreement(outputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Returns how much of one output's distribution the other shares, as (batch, 1)."""
    both = torch.minimum(outputs["logits"].softmax(1), outputs["other"].softmax(1))
    return both.sum(1, keepdim=True)


def largest_region(logits: torch.Tensor) -> torch.Tensor:
    """Returns the mean over positions of the largest probability, for dense scores."""
    return logits.softmax(1).amax(1).mean((1, 2))


def share_above(logits: torch.Tensor) -> torch.Tensor:
    """Returns a boolean."""
    return (logits > 0).sum(1) > 2


class Weighted(torch.nn.Module):
    """A criterion with a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(5) / 5)

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        """Returns a weighted sum of probabilities."""
        return logits.softmax(1) @ self.weight


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("function", [energy, share_above, Weighted()], ids=["energy", "share_above", "module"])
def test_a_function_of_the_user_is_appended_to_the_graph(function: Any, opset: int, tmp_path: Path) -> None:
    given = [{"logits": np.random.default_rng(n).normal(0, 2, (9, 5)).astype(np.float32)} for n in range(2)]
    network = network_of(tmp_path, [{"logits": ("batch", 5)}] * 2, opset)
    with torch.no_grad():
        values = [np.asarray(function(torch.from_numpy(outputs["logits"])), np.float64) for outputs in given]
    expected: Found = list(zip(given, values, strict=True))
    assert_alike(in_numpy(network, given, function), expected)
    assert_alike(in_onnx(network, given, function), expected)


@pytest.mark.parametrize("opset", OPSETS)
def test_a_function_of_the_user_takes_all_outputs_of_an_exit_by_name(opset: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    given = [{name: rng.normal(0, 2, (4, 3)).astype(np.float32) for name in ("logits", "other")}]
    network = network_of(tmp_path, [{"logits": ("batch", 3), "other": ("batch", 3)}], opset)
    tensors = {name: torch.from_numpy(array) for name, array in given[0].items()}
    expected: Found = [(given[0], agreement(tensors)[:, 0].double().numpy())]
    assert_alike(in_numpy(network, given, {"exit0": agreement}), expected)
    assert_alike(in_onnx(network, given, {"exit0": agreement}), expected)


def test_a_function_of_the_user_takes_sizes_that_vary(tmp_path: Path) -> None:
    network = network_of(tmp_path, [{"logits": ("batch", 3, "height", "width")}])
    given = [{"logits": np.random.default_rng(0).normal(0, 2, (4, 3, 6, 9)).astype(np.float32)}]
    expected: Found = [(given[0], largest_region(torch.from_numpy(given[0]["logits"])).double().numpy())]
    assert_alike(in_onnx(network, given, largest_region), expected)


def test_a_function_of_the_user_may_be_a_member(tmp_path: Path) -> None:
    given = [{"logits": np.random.default_rng(5).normal(0, 2, (30, 5)).astype(np.float32)}]
    network = network_of(tmp_path, [{"logits": ("batch", 5)}])
    own, other = Criterion(kind="custom", function=energy, threshold=0.6), Criterion(kind="max_prob", threshold=0.5)
    chosen = Criterion(kind="all_of", members=(own, other))
    with torch.no_grad():
        z = torch.from_numpy(given[0]["logits"])
        fires = torch.stack([energy(z) >= 0.6, z.softmax(1).amax(1) >= 0.5])
    assert len(fires.unique(dim=1).T) > 2
    expected: Found = [(given[0], fires.double().mean(0).numpy())]
    assert_alike(in_numpy(network, given, chosen), expected)
    assert_alike(in_onnx(network, given, chosen), expected)

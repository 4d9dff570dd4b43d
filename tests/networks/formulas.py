"""The criteria written out in float64, straight from their definitions, one row at a time.

`max_prob` is max p, `margin` the largest p less the second largest (CALM, section 3.5), `entropy` is 1 - H(p) / ln C
(BranchyNet, section 4.1, on the scale on which higher is surer), with p = softmax(z / T) over C classes.
"""

from __future__ import annotations

import math

import numpy as np

from networks.case import Array


def probabilities(scores: Array, scale: str, temperature: float) -> list[float]:
    """Returns p of one vector of scores, which are z, log p or p itself up to the temperature."""
    z = [float(score) for score in scores]
    if any(map(math.isnan, z)):
        return [math.nan] * len(z)
    if scale == "probs":
        powers = [score ** (1 / temperature) for score in z]
    else:
        powers = [math.exp((score - max(z)) / temperature) for score in z]
    total = math.fsum(powers)
    return [power / total for power in powers]


def of_vector(p: list[float], kind: str) -> float:
    """Returns the confidence of one distribution."""
    if any(map(math.isnan, p)):
        return math.nan
    if kind == "max_prob":
        return max(p)
    if kind == "margin":
        first, second = sorted(p, reverse=True)[:2]
        return first - second
    if kind == "entropy":
        return 1 - math.fsum(-value * math.log(value) for value in p if value > 0) / math.log(len(p))
    raise ValueError(kind)


def confidence(
    scores: Array, kind: str, scale: str = "logits", temperature: float = 1.0, axis: int = 1,
    quantile: float | None = None,
) -> Array:  # fmt: skip
    """Returns one confidence a row, float64; dense scores are judged at every position and then reduced.

    A quantile is the value at rank floor(q (n - 1)) of the n sorted positions.
    """
    found = []
    for row in np.moveaxis(np.asarray(scores, np.float64), axis, -1):
        positions = [of_vector(probabilities(z, scale, temperature), kind) for z in row.reshape(-1, row.shape[-1])]
        if any(map(math.isnan, positions)):
            found.append(math.nan)
        elif quantile is None:
            found.append(math.fsum(positions) / len(positions))
        else:
            found.append(sorted(positions)[math.floor(quantile * (len(positions) - 1))])
    return np.array(found)

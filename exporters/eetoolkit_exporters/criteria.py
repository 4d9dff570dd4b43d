"""The criteria in plain numpy: the reference that `judge`'s ONNX nodes and the golden samples are measured against."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from eetoolkit_runtime.plan import Criterion

Array = npt.NDArray[Any]

DEFAULT_THRESHOLD = {"max_prob": 0.9, "entropy": 0.9, "margin": 0.9}


def confidence(scores: Array, criterion: Criterion, temperature: float = 1.0) -> Array:
    """Returns one confidence per row, float64 of shape (batch,), higher is surer.

    With p = softmax(z / T) over C classes: `max_prob` is max p (SDN; MSDNet), `entropy` is 1 - H(p) / ln C with H in
    nats (BranchyNet's H < t is the threshold 1 - t / ln C; FastBERT's u < s is 1 - s), `margin` is the largest p less
    the second largest (CALM, section 3.5). Dense scores are judged per position and reduced by mean or quantile.

    Args:
        scores: Shape (batch, C, ...), or with the classes at `criterion.axis`.
        criterion: Which confidence, on which scale.
        temperature: T.
    """
    z = np.moveaxis(np.asarray(scores, np.float64), criterion.axis, -1)
    if criterion.scale == "probs":
        with np.errstate(divide="ignore"):
            z = np.log(z)
    z = z / temperature
    z = z - z.max(axis=-1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
    p = np.exp(log_p)
    if criterion.kind == "max_prob":
        found = p.max(axis=-1)
    elif criterion.kind == "margin":
        two = np.sort(p, axis=-1)[..., -2:]
        found = two[..., 1] - two[..., 0]
    else:
        terms = np.where(p > 0, p * np.where(p > 0, log_p, 0), p)
        found = 1 + terms.sum(axis=-1) / np.log(p.shape[-1])
    positions = found.reshape(len(found), -1)
    if criterion.quantile is None:
        return np.asarray(positions.mean(axis=1))
    return np.asarray(np.quantile(positions, criterion.quantile, axis=1, method="lower"))

"""How class scores are read: which of an exit's outputs holds them, and which class they say.

Class scores have an axis of two classes or more. One score is those of two: with p = sigmoid(z), exp(z) or z itself, as
`scale` says, class 1 has p and class 0 has 1 - p. So whatever reads classes reads one score too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.plan.types import ClassScores, Criterion, Scale

LOGITS = "logits"
"""What the output of an exit is called that is one tensor."""
LABEL = "label"
"""The output that `vote` adds: the class voted for, int64 of shape (batch,); -1 where no exit could vote."""

CUT: dict[Scale, float] = {"logits": 0.0, "log_probs": math.log(0.5), "probs": 0.5}
"""From where on one score means class 1: p is one half there."""


def parts(criterion: Criterion) -> Iterator[Criterion]:
    """Yields a criterion and the members in it, at every level."""
    yield criterion
    for member in criterion.members:
        yield from parts(member)


def predicted(outputs: Mapping[str, Array], scores: ClassScores | None) -> int | None:
    """Returns the class that the answer for one row says; None where it says none, or is NaN.

    Args:
        outputs: The answer's.
        scores: The exit's.
    """
    label = outputs.get(LABEL)
    if label is not None and label.size == 1 and label.dtype.kind in "iu":
        voted = int(label.item())
        return voted if voted >= 0 else None
    found = None if scores is None else outputs.get(scores.output)
    if found is None or scores is None or found.ndim == 0 or np.isnan(found).any():
        return None
    if found.size == 1:
        return int(means_one(found, scores.scale).item()) if found.dtype.kind == "f" else None  # a class already
    return int(np.argmax(found)) if found.ndim == 2 and len(found) == 1 else None


def means_one(score: Array, scale: Scale) -> Array:
    """Returns where one score means class 1, of its shape: at one half too, and never where it is NaN."""
    known = score.astype(np.float32) if score.dtype == np.float16 else score
    return np.asarray(known >= CUT[scale])


def two_classes(score: Array, scale: Scale) -> Array:
    """Returns one score, float64 of shape (..., 1), as those of the classes 0 and 1 on the same scale, (..., 2)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if scale == "logits":
            return np.asarray(np.minimum(score * [-1.0, 1.0], 0))  # [0, z] less the larger, so that infinity is certain
        rest = 1 - score if scale == "probs" else np.log(np.maximum(-np.expm1(score), 0))
    return np.concatenate([rest, score], axis=-1)

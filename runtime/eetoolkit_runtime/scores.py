"""How class scores are read: which of an exit's outputs holds them, and which class they say.

Class scores have an axis of two classes or more. One score is those of two: with p = sigmoid(z), exp(z) or z itself, as
`scale` says, class 1 has p and class 0 has 1 - p. So whatever reads classes reads one score too.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping

import numpy as np

from eetoolkit_runtime.inputs import Array
from eetoolkit_runtime.plan import Criterion, CriterionKind, Scale

LOGITS = "logits"
"""What the output of an exit is called that is one tensor."""
LABEL = "label"
"""The output that `vote` adds: the class voted for, int64 of shape (batch,); -1 where no exit could vote."""

COMBINED: frozenset[CriterionKind] = frozenset({"all_of", "any_of", "at_least"})
ENSEMBLES: frozenset[CriterionKind] = frozenset({"mean_ensemble", "geometric_ensemble"})
"""Kinds whose answer is another one than the exit's own: logits, whatever the exit's scale."""
READ_NO_SCORES: frozenset[CriterionKind] = COMBINED | {"learned", "custom"}
"""Kinds that read no class scores themselves, though their members may."""

CUT: dict[Scale, float] = {"logits": 0.0, "log_probs": math.log(0.5), "probs": 0.5}
"""From where on one score means class 1: p is one half there."""


def parts(criterion: Criterion) -> Iterator[Criterion]:
    """Yields a criterion and the members in it, at every level."""
    yield criterion
    for member in criterion.members:
        yield from parts(member)


def reading(criterion: Criterion, kind: CriterionKind | None = None) -> Criterion:
    """Returns the criterion that says how an exit's class scores are read.

    It is the exit's own, or a member of it: one of `kind`, else the first that reads class scores.
    """
    found = list(parts(criterion))
    same = [part for part in found if part.kind == kind]
    return (same or [part for part in found if part.kind not in READ_NO_SCORES] or found)[0]


def class_output(criterion: Criterion | None, names: Collection[str]) -> str | None:
    """Returns which of an exit's outputs holds its class scores; None where several may and none is called `logits`."""
    own = criterion.output if criterion is not None else None
    if criterion is not None and own is not None and criterion.kind != "learned":
        return own
    left = [name for name in names if name != own]
    if LOGITS in left:
        return LOGITS
    return left[0] if len(left) == 1 else None


def predicted(outputs: Mapping[str, Array], criterion: Criterion | None) -> int | None:
    """Returns the class that the answer for one row says; None where it says none, or is NaN.

    Args:
        outputs: The answer's.
        criterion: The exit's; None: one score is a logit.
    """
    label = outputs.get(LABEL)
    if label is not None and label.size == 1 and label.dtype.kind in "iu":
        voted = int(label.item())
        return voted if voted >= 0 else None
    part = None if criterion is None else reading(criterion)
    scores = outputs.get(class_output(part, outputs) or "")
    if scores is None or scores.ndim == 0 or np.isnan(scores).any():
        return None
    if scores.size == 1:
        if scores.dtype.kind != "f" or (part is not None and part.tau is not None):
            return None  # a class already, or a value of regression
        return int(means_one(scores, scale_of(criterion)).item())
    return int(np.argmax(scores)) if scores.ndim == 2 and len(scores) == 1 else None


def scale_of(criterion: Criterion | None) -> Scale:
    """Returns the scale of the class scores in an exit's answer."""
    return "logits" if criterion is None or criterion.kind in ENSEMBLES else reading(criterion).scale


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

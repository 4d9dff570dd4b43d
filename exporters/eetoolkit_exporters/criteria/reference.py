"""The criteria in plain numpy: the reference for the ONNX nodes of `confidences`, and the golden samples' own answers.

Every row stands alone. NaN, or an infinity that leaves no distribution, gives NaN, which never fires.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from eetoolkit_exporters.criteria.custom import evaluate
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import ExportError
from eetoolkit_runtime.plan.criteria import kind_of
from eetoolkit_runtime.plan.types import ClassScores, Criterion, CriterionKind
from eetoolkit_runtime.running.scores import LABEL, LOGITS, means_one, parts, two_classes

Seen = Sequence[tuple[Mapping[str, Array], Criterion]]
"""The exits that a row has met: what each gave, and its criterion with numbers in place of constants' names."""

FLOOR = -1e30
"""The least log p in an ensemble: finite, so that a weight of 0 silences it and sums of several stay finite."""


@dataclass(frozen=True)
class ExitAnswer:
    """What an exit answers and how sure it is.

    Attributes:
        outputs: The answer, by name.
        confidence: Shape (batch,), float64.
        margin: Shape (batch,): how far the nearest discrete decision behind the confidence (an argmax, a comparison) is
            from going the other way, relative to the largest score above 1; infinity where there is none.
    """

    outputs: dict[str, Array]
    confidence: Array
    margin: Array


def exit_answer(seen: Seen) -> ExitAnswer:
    """Returns what the last of the exits in `seen` says; what came before it matters to the criteria with state.

    The formulas, with p = softmax(z / T), exits j = 0..k met so far, and C classes; one score is that of two classes,
    p = sigmoid(z / T) and 1 - p, and an ensemble answers it with one again, the logit of class 1:

    - `max_prob`, `entropy`, `margin`: see `confidence`.
    - `patience` (PABEE, arXiv 2006.04152, section 3.2): the number of exits in a row, up to this one, whose argmax is
      that of the exit before; in regression, whose answer is closer than tau to it.
    - `vote`: votes of the most voted class over k + 1 (voting of internal classifiers, Sun et al., arXiv 2105.13792);
      the answer's `label` is that class, among equals the one voted for last. The first exit always agrees with itself.
    - `mean_ensemble`: m = 1 / (k + 1) sum p_j, the confidence is max m and the answer log m (Wisdom of Committees,
      arXiv 2012.01988, section 3).
    - `geometric_ensemble`: q = sum w_j log p_j + b, the confidence is max softmax(q) and the answer q (Zero Time Waste,
      arXiv 2106.05409, section 3.2).
    - `learned`: an output of the exit, or 1 less it (BERxiT, section 3.2; JEI-DNN).
    - `all_of`, `any_of`, `at_least`: the share of the members whose confidence reaches their threshold.
    - `custom`: the user's function.

    Raises:
        ExportError: An exit without class scores, or a custom function that fails.
    """
    outputs, criterion = seen[-1]
    found, margin = _confidence_of(criterion, seen)
    answer = dict(outputs)
    if criterion.kind == "vote":
        answer[LABEL] = _label(_chain(criterion, seen))
    elif kind_of(criterion).ensemble:
        name = class_output(criterion, tuple(outputs))
        q, own = _ensemble(criterion, seen), np.asarray(outputs[name])
        answer[name] = ((q[:, 1] - q[:, 0]).reshape(own.shape) if _one_per_row(own) else q).astype(np.float32)
    return ExitAnswer(answer, found, margin)


def confidence(scores: Array, criterion: Criterion, temperature: float = 1.0) -> Array:
    """Returns one confidence per row, float64 of shape (batch,), higher is surer.

    With p = softmax(z / T) over C classes: `max_prob` is max p (SDN, arXiv 1810.07052; MSDNet, arXiv 1703.09844),
    `entropy` is 1 - H(p) / ln C with H in nats (the H < t of BranchyNet, arXiv 1709.01686, and DeeBERT, arXiv
    2004.12993, is the threshold 1 - t / ln C; the u < s of FastBERT, arXiv 2004.02178, is 1 - s), `margin` is the
    largest p less the second largest (CALM, arXiv 2207.07061, section 3.5). Dense scores are judged per position and
    reduced by mean or quantile. One score is that of two classes (`scores.two_classes`).

    Args:
        scores: Shape (batch, C, ...), or with the classes at `criterion.axis`; or one a row, (batch,) or (batch, 1).
        criterion: Which confidence, on which scale.
        temperature: T.
    """
    log_p = _log_p(scores, criterion, temperature)
    p = np.exp(log_p)
    if criterion.kind == "margin":
        two = np.sort(p, axis=-1)[..., -2:]
        found = two[..., 1] - two[..., 0]
    elif criterion.kind == "entropy":
        terms = np.where(p > 0, p * np.where(p > 0, log_p, 0), p)
        found = 1 + terms.sum(axis=-1) / np.log(p.shape[-1])
    else:
        found = p.max(axis=-1)
    positions = found.reshape(len(found), -1)
    if criterion.quantile is None:
        return np.asarray(positions.mean(axis=1))
    return np.asarray(np.quantile(positions, criterion.quantile, axis=1, method="lower"))


def reading(criterion: Criterion, kind: CriterionKind | None = None) -> Criterion:
    """Returns the criterion that says how an exit's class scores are read.

    It is the exit's own, or a member of it: one of `kind`, else the first that reads class scores.
    """
    found = list(parts(criterion))
    same = [part for part in found if part.kind == kind]
    return (same or [part for part in found if kind_of(part).reads_scores] or found)[0]


def scores_of(criterion: Criterion, names: Collection[str]) -> ClassScores | None:
    """Returns which of an exit's outputs holds the class scores of its answer; None where none says a class."""
    part = reading(criterion)
    output = _class_output(part, names)
    if output is None or part.tau is not None:  # a value of regression
        return None
    scale = "logits" if kind_of(criterion).ensemble else part.scale
    return ClassScores(output=output, scale=scale, axis=part.axis)


def _class_output(criterion: Criterion, names: Collection[str]) -> str | None:
    own = criterion.output
    if own is not None and criterion.kind != "learned":
        return own
    left = [name for name in names if name != own]
    if LOGITS in left:
        return LOGITS
    return left[0] if len(left) == 1 else None


def class_output(criterion: Criterion, names: Collection[str]) -> str:
    """Returns which of an exit's outputs holds its class scores.

    Raises:
        ExportError: None is called `logits`, and there are several.
    """
    found = _class_output(criterion, names)
    if found is None:
        raise ExportError(f"of the outputs {', '.join(names)} none is called {LOGITS!r}, which the criteria read")
    return found


def _chain(criterion: Criterion, seen: Seen) -> Seen:
    return [(outputs, reading(other, criterion.kind)) for outputs, other in seen]


def _confidence_of(criterion: Criterion, seen: Seen) -> tuple[Array, Array]:
    """Returns confidence and margin of the last exit by `criterion`, which is its own or a member of it."""
    outputs = seen[-1][0]
    match criterion.kind:
        case "learned":
            given = np.asarray(outputs[criterion.output or "confidence"], np.float64)
            found = given.reshape(len(given), -1)[:, 0]
            found = 1 - found if criterion.invert else found
        case "custom":
            found = evaluate(criterion.function, outputs)
        case "patience":
            return _patience(criterion, _chain(criterion, seen))
        case "vote":
            chain = _chain(criterion, seen)
            share = _votes(chain).max(axis=1) / len(chain)
            return np.where(_class_of(*chain[-1]) < 0, np.nan, share), _argmax_margin(chain)
        case "mean_ensemble" | "geometric_ensemble":
            found = np.exp(_softmax(_ensemble(criterion, seen)).max(axis=1))
        case "all_of" | "any_of" | "at_least":
            return _combine(criterion, seen)
        case _:
            scores = outputs[class_output(criterion, tuple(outputs))]
            found = confidence(scores, criterion, _number(criterion.temperature, 1.0))
    return found, np.full(len(found), np.inf)


def _patience(criterion: Criterion, seen: Seen) -> tuple[Array, Array]:
    if criterion.tau is None:
        answers = [_class_of(*exit_) for exit_ in seen]
        agrees = [now == before for before, now in pairwise(answers)]
        bad = answers[-1] < 0
        margin = _argmax_margin(seen)
    else:
        tau = np.float32(_number(criterion.tau, 0.0))
        values = [np.asarray(_class_scores(*exit_), np.float64).reshape(-1) for exit_ in seen]
        with np.errstate(invalid="ignore"):
            steps = [abs(now - before) for before, now in pairwise(values)]
        agrees = [step < tau for step in steps]
        bad = np.isnan(values[-1])
        gaps = [np.nan_to_num(abs(step - tau), nan=np.inf, posinf=np.inf) for step in steps]
        margin = np.min([np.full(len(bad), np.inf), *gaps], axis=0)
    count = np.zeros(len(bad))
    for agree in agrees:
        count = np.where(agree, count + 1, 0)
    return np.where(bad, np.nan, count), margin if len(seen) > 1 else np.full(len(bad), np.inf)


def _combine(criterion: Criterion, seen: Seen) -> tuple[Array, Array]:
    fired, margins = [], []
    for member in criterion.members:
        found, margin = _confidence_of(member, seen)
        limit = np.float32(_number(member.threshold, np.nan))
        fired.append(found.astype(np.float32) >= limit)
        margins.append(margin)
        if not kind_of(member).counted:
            margins.append(np.nan_to_num(abs(found - limit), nan=np.inf))
    share = np.mean(fired, axis=0, dtype=np.float64)
    return np.asarray(share), np.asarray(np.min(margins, axis=0))


def _class_scores(outputs: Mapping[str, Array], criterion: Criterion) -> Array:
    return np.asarray(outputs[class_output(criterion, tuple(outputs))])


def _classes(scores: Array, criterion: Criterion) -> Array:
    """Returns scores in float64, on their scale, with two classes or more at the last axis."""
    known = np.asarray(scores, np.float64)
    known = known.reshape(-1, 1) if _one_per_row(known) else np.moveaxis(known, criterion.axis, -1)
    return two_classes(known, criterion.scale) if known.shape[-1] == 1 else known


def _one_per_row(scores: Array) -> bool:
    return scores.ndim > 0 and all(size == 1 for size in scores.shape[1:])


def _class_of(outputs: Mapping[str, Array], criterion: Criterion) -> Array:
    """Returns the argmax, the first among equals, int64 of shape (batch,); -1 where the scores are no distribution.

    Of one score it is 1 at one half.
    """
    scores = _class_scores(outputs, criterion)
    bad = np.isnan(_log_p(scores, criterion, 1.0)).any(axis=-1)
    if _one_per_row(scores):
        return np.where(bad, -1, means_one(scores.reshape(-1), criterion.scale))
    return np.where(bad, -1, scores.argmax(axis=1))


def _votes(seen: Seen) -> Array:
    """Returns how many of the exits voted for each class, shape (batch, C)."""
    classes = _classes(_class_scores(*seen[-1]), seen[-1][1]).shape[-1]
    return np.asarray(np.sum([_class_of(*exit_)[:, None] == np.arange(classes) for exit_ in seen], axis=0))


def _label(seen: Seen) -> Array:
    votes = _votes(seen)
    label = np.full(len(votes), -1)
    for exit_ in seen:  # the latest vote for a class with the most votes stands
        voted = _class_of(*exit_)
        most = votes[np.arange(len(votes)), voted] == votes.max(axis=1)
        label = np.where((voted >= 0) & most, voted, label)
    return label


def _argmax_margin(seen: Seen) -> Array:
    gaps = []
    for exit_ in seen:
        scores = np.nan_to_num(_classes(_class_scores(*exit_), exit_[1]))
        two = np.sort(scores, axis=1)[:, -2:]
        gaps.append((two[:, 1] - two[:, 0]) / np.maximum(1, abs(two).max(axis=1)))
    return np.asarray(np.min(gaps, axis=0))


def _ensemble(criterion: Criterion, seen: Seen) -> Array:
    """Returns the log of the mean of p, or q, shape (batch, C)."""
    log_p = np.stack([
        np.maximum(_log_p(_class_scores(*exit_), exit_[1], _number(exit_[1].temperature, 1.0)), FLOOR)
        for exit_ in _chain(criterion, seen)
    ])  # fmt: skip
    if criterion.kind == "mean_ensemble":
        with np.errstate(invalid="ignore"):
            return np.asarray(np.logaddexp.reduce(log_p, axis=0) - np.log(len(seen)))
    weights = np.full(len(seen), 1 / len(seen)) if criterion.weights is None else np.array(criterion.weights, float)
    bias = 0.0 if criterion.bias is None else np.array(criterion.bias, float)
    return np.asarray(np.tensordot(weights, log_p, axes=1) + bias)


def _log_p(scores: Array, criterion: Criterion, temperature: float) -> Array:
    """Returns log softmax(z / T) in float64, the classes at the last axis."""
    z = _classes(scores, criterion)
    if criterion.scale == "probs":
        with np.errstate(divide="ignore"):
            z = np.log(np.maximum(z, 0))
    return _softmax(z / temperature)


def _softmax(z: Array) -> Array:
    """Returns log softmax(z) over the last axis."""
    with np.errstate(invalid="ignore", divide="ignore"):
        z = z - z.max(axis=-1, keepdims=True)
        return np.asarray(z - np.log(np.exp(z).sum(axis=-1, keepdims=True)))


def _number(value: float | str | None, default: float) -> float:
    return default if value is None else float(value)

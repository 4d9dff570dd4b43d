"""Bounds of an exit's confidence for every input: from its criterion, classes, place and bounds of its scores."""

from __future__ import annotations

import math

import numpy as np

from eetoolkit_exporters.capturing.capture import NetworkExit
from eetoolkit_exporters.criteria.facts import Facts
from eetoolkit_exporters.criteria.reference import reading
from eetoolkit_exporters.gating.ranges import UNKNOWN, Range
from eetoolkit_runtime.plan.types import Criterion, CriterionKind

_ROUNDING = 1e-6


def reach(known: Facts, criterion: Criterion, place: int) -> Range:
    """Returns the least and the greatest confidence that the exit at a place can have; NaN, which never fires, aside.

    Args:
        known: The network.
        criterion: The exit's, or a member of it.
        place: The exit's number in the order in which a row meets them, from 0: it has seen `place` exits before.
    """
    exit_ = known.exits[place]
    classes = next((scores.classes for _, scores in known.read(exit_, criterion)), 1)
    found = UNKNOWN
    match criterion.kind:
        case "patience":
            found = Range(0, place)
        case "vote":
            votes = math.ceil((place + 1) / classes)  # of the class that has the most, at the least
            found = Range(float(np.float32(votes / (place + 1))), 1)
        case "learned":
            found = known.range_of(exit_.outputs[str(criterion.output)])
            found = Range(1 - found.high, 1 - found.low) if criterion.invert else found
        case "all_of" | "any_of" | "at_least":
            found = _share(known, criterion, place)
        case "mean_ensemble":
            read = [(other, reading(known.criteria[other.name], "mean_ensemble")) for other in known.exits[: place + 1]]
            found = Range(1 / classes, float(np.mean([_sharpest(known, *each, "max_prob") for each in read])))
        case "geometric_ensemble":
            found = Range(1 / classes, 1)
        case "max_prob" | "entropy" | "margin" as kind:
            found = Range(1 / classes if kind == "max_prob" else 0, _sharpest(known, exit_, criterion, kind))
    return found


def fires_never(found: Range, threshold: float) -> bool:
    """Whether a confidence never reaches a threshold; one near 1 may be rounded to it."""
    return found.high + (_ROUNDING if found.high < 1 else 0) < threshold


def fires_always(found: Range, threshold: float) -> bool:
    """Whether a confidence always reaches a threshold."""
    return found.low >= threshold


def _share(known: Facts, criterion: Criterion, place: int) -> Range:
    """Returns the share of the members that always fire, and of those that may."""
    found = [(reach(known, member, place), float(member.threshold or 0.0)) for member in criterion.members]
    least = np.mean([fires_always(*member) for member in found])
    most = np.mean([not fires_never(*member) for member in found])
    return Range(float(np.float32(least)), float(np.float32(most)))


def _sharpest(known: Facts, exit_: NetworkExit, part: Criterion, kind: CriterionKind) -> float:
    """Returns the confidence of the sharpest distribution that scores between their bounds have.

    Its classes have the greatest score or the least, and s = (greatest - least) / T is their distance. With one class
    of C at the greatest, p is 1 / (1 + (C - 1) e^-s); the least entropy may be with k of them there. So where
    probabilities, from 0 to 1, are taken for logits, p is at most e / (e + C - 1).
    """
    scores = next((scores for own, scores in known.read(exit_, part) if own is part), None)
    if scores is None or part.scale != "logits":
        return 1.0
    low, high, _ = known.range_of(scores.value)
    s = (max(abs(low), abs(high)) if scores.single else high - low) / float(part.temperature or 1.0)
    if not math.isfinite(s):
        return 1.0
    count, small = scores.classes, math.exp(-s)
    if kind == "entropy":
        k = np.arange(1, count)
        total = k + (count - k) * small
        return float(1 - (np.log(total) + (count - k) * s * small / total).min() / math.log(count))
    return (1 - small if kind == "margin" else 1.0) / (1 + (count - 1) * small)

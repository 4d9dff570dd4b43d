"""What an export allows and what may be a mistake: scores of another scale, NaN, exits that can never fire."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from eetoolkit_exporters.capturing.capture import Network, NetworkExit
from eetoolkit_exporters.capturing.source import Array, Visits
from eetoolkit_exporters.gating.hardness import value_ranges
from eetoolkit_exporters.gating.ranges import UNIT, UNKNOWN, Range
from eetoolkit_exporters.judging.confidences import Scores, class_scores
from eetoolkit_exporters.judging.criteria import class_output
from eetoolkit_runtime.errors import ExportError
from eetoolkit_runtime.plan import Criterion, CriterionKind
from eetoolkit_runtime.scores import COMBINED, ENSEMBLES, parts, reading

_BY_SOFTMAX: frozenset[CriterionKind] = ENSEMBLES | {"max_prob", "entropy", "margin"}
"""Kinds that take probabilities for logits otherwise than for what they are; a vote of several classes is the same."""
_ROWS = 8  # of one score each, by which numbers from 0 to 1 are taken for probabilities where the graph shows nothing
_SUM_OFF = {"float16": 1e-2}  # how far rounding takes the sum of a row of probabilities from 1
_USUAL_SUM_OFF = 1e-4
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Facts:
    """What is known of a network before it is judged, which gives exits other outputs.

    Attributes:
        exits: In the order in which a row meets them.
        criteria: Each exit's, with numbers.
        ranges: Between which numbers values lie, whatever the inputs.
        met: What the exits gave for each of some rows.
    """

    exits: Sequence[NetworkExit]
    criteria: Mapping[str, Criterion]
    ranges: Mapping[ir.Value, Range]
    met: Sequence[Visits]

    def seen(self, exit_: NetworkExit, value: ir.Value) -> list[Array]:
        """Returns what an output of an exit was for each row that met it."""
        output = next(name for name, own in exit_.outputs.items() if own is value)
        return [np.asarray(outputs[output]) for row in self.met for name, outputs in row if name == exit_.name]


def facts(network: Network, criteria: Mapping[str, Criterion], met: Sequence[Visits]) -> Facts:
    """Returns what is known of a network that is not judged yet."""
    exits = [NetworkExit(exit_.name, dict(exit_.outputs)) for exit_ in network.exits]
    return Facts(exits, criteria, value_ranges(network.graph), met)


def remarks(known: Facts, thresholds: Mapping[str, float], disabled: Collection[str]) -> list[str]:
    """Returns what the user should look at, a sentence each.

    Args:
        known: The network.
        thresholds: Each exit's.
        disabled: Exits that may not fire.
    """
    probable = {
        scores.value
        for exit_ in known.exits
        for _, scores in _read(exit_, known.criteria[exit_.name])
        if _are_probabilities(known, exit_, scores)
    }
    found = [
        *_of_other_scales(known, probable),
        *_not_finite(known),
        *_that_never_fire(known, thresholds, disabled, probable),
        *_of_other_sizes(known.exits),
    ]
    return list(dict.fromkeys(found))


def single_scores(known: Facts) -> list[str]:
    """Returns how scores that stand alone were understood, since no graph tells a logit from a value of regression."""
    names = [
        exit_.name
        for exit_ in known.exits
        if any(scores.single and part.scale == "logits" for part, scores in _read(exit_, known.criteria[exit_.name]))
    ]
    text = "one score is taken for the logit of class 1; for a value of regression choose patience with tau"
    return [f"{_spell(names)}: {text}"] if names else []


def _read(exit_: NetworkExit, criterion: Criterion) -> Iterator[tuple[Criterion, Scores]]:
    """Yields the parts of an exit's criterion that read class scores, with these."""
    for part in parts(criterion):
        if part.kind in COMBINED | {"learned", "custom"} or part.tau is not None:
            continue
        try:
            value = exit_.outputs[class_output(part, tuple(exit_.outputs))]
            yield part, class_scores(exit_.name, value, part, part.kind)
        except ExportError:
            continue  # `judge` refuses them


def _are_probabilities(known: Facts, exit_: NetworkExit, scores: Scores) -> bool:
    """Whether class scores are probabilities: by their rows, or where one stands alone by the graph or by many rows."""
    seen = known.seen(exit_, scores.value)
    if scores.single:
        inside = len(seen) >= _ROWS and all(((array >= 0) & (array <= 1)).all() for array in seen)
        return inside or known.ranges.get(scores.value, UNKNOWN).unit
    return bool(seen) and all(_add_up_to_1(array, scores.axis) for array in seen)


def _add_up_to_1(array: Array, axis: int) -> bool:
    off = _SUM_OFF.get(array.dtype.name, _USUAL_SUM_OFF)
    return bool((array >= 0).all() and (abs(array.astype(np.float64).sum(axis=axis) - 1) <= off).all())


def _of_other_scales(known: Facts, probable: Collection[ir.Value]) -> Iterator[str]:
    taken: dict[CriterionKind, dict[str, None]] = {}
    for exit_ in known.exits:
        for part, scores in _read(exit_, known.criteria[exit_.name]):
            if part.scale == "logits" and scores.value in probable and (scores.single or part.kind in _BY_SOFTMAX):
                taken.setdefault(part.kind, {})[exit_.name] = None
            elif part.scale == "probs" and any(
                ((array < -_USUAL_SUM_OFF) | (array > 1 + _USUAL_SUM_OFF)).any()
                for array in known.seen(exit_, scores.value)
            ):
                yield f"exit {exit_.name!r}: scale='probs', and its scores go below 0 or above 1; logits have no scale"
    for kind, names in taken.items():
        option = f"""--criterion '{{"kind": "{kind}", "scale": "probs"}}'"""
        yield f"{_spell(names)}: probabilities are taken for logits; say scale='probs' ({option})"


def _not_finite(known: Facts) -> Iterator[str]:
    """Yields which exits give NaN or infinity; minus infinity only rules a class out."""
    bad: dict[str, int] = {}
    for row in known.met:
        for name in dict.fromkeys(name for name, _ in row):
            floats = [a for own, outputs in row if own == name for a in outputs.values() if a.dtype.kind == "f"]
            bad[name] = bad.get(name, 0) + any((np.isnan(array) | (array == np.inf)).any() for array in floats)
    for name, count in bad.items():
        if count:
            yield (
                f"exit {name!r} gives NaN or infinity for {count} of {len(known.met)} golden rows; a confidence of NaN "
                "never fires"
            )


def _that_never_fire(
    known: Facts, thresholds: Mapping[str, float], disabled: Collection[str], probable: Collection[ir.Value]
) -> Iterator[str]:
    """Yields which exits cannot reach their threshold, whatever the input; the last one needs none."""
    most: dict[str, float] = {}
    for place, exit_ in enumerate(known.exits):
        reached = _most(known, known.criteria[exit_.name], place, probable)
        most[exit_.name] = max(reached, most.get(exit_.name, -math.inf))
    for name in most:
        if name not in {*disabled, known.exits[-1].name} and not _reaches(most[name], thresholds[name]):
            kind, threshold = known.criteria[name].kind, thresholds[name]
            yield f"exit {name!r} never fires: its threshold is {threshold:g}, and {kind} is at most {most[name]:.4g}"


def _reaches(most: float, threshold: float) -> bool:
    return most + _ROUNDING >= threshold if most < 1 else most >= threshold


def _most(known: Facts, criterion: Criterion, place: int, probable: Collection[ir.Value]) -> float:
    """Returns the greatest confidence that the exit at a place can have; infinity where nothing is known of it."""
    exit_ = known.exits[place]
    match criterion.kind:
        case "patience":
            return float(place)
        case "vote" | "geometric_ensemble":
            return 1.0
        case "custom":
            return math.inf
        case "learned":
            found = known.ranges.get(exit_.outputs[str(criterion.output)], UNKNOWN)
            return 1 - found.low if criterion.invert else found.high
        case "all_of" | "any_of" | "at_least":
            fire = [
                _reaches(_most(known, member, place, probable), float(member.threshold or 0.0))
                for member in criterion.members
            ]
            return float(np.float32(np.mean(fire)))
        case "mean_ensemble":
            before = known.exits[: place + 1]
            read = [(other, reading(known.criteria[other.name], "mean_ensemble")) for other in before]
            return float(np.mean([_sharpest(known, other, part, "max_prob", probable) for other, part in read]))
        case kind:
            return _sharpest(known, exit_, criterion, kind, probable)


def _sharpest(
    known: Facts, exit_: NetworkExit, part: Criterion, kind: CriterionKind, probable: Collection[ir.Value]
) -> float:
    """Returns the confidence of the sharpest distribution that scores between their bounds have.

    Its classes have the greatest score or the least, and s = (greatest - least) / T is their distance. With one class
    of C at the greatest, p is 1 / (1 + (C - 1) e^-s); the least entropy may be with k of them there.
    """
    scores = next((scores for own, scores in _read(exit_, part) if own is part), None)
    if scores is None or part.scale != "logits":
        return 1.0
    low, high, _ = UNIT if scores.value in probable else known.ranges.get(scores.value, UNKNOWN)
    s = (max(abs(low), abs(high)) if scores.single else high - low) / float(part.temperature or 1.0)
    if not math.isfinite(s):
        return 1.0
    count, small = scores.classes, math.exp(-s)
    if kind == "entropy":
        k = np.arange(1, count)
        total = k + (count - k) * small
        return float(1 - (np.log(total) + (count - k) * s * small / total).min() / math.log(count))
    return (1 - small if kind == "margin" else 1.0) / (1 + (count - 1) * small)


def _of_other_sizes(exits: Sequence[NetworkExit]) -> Iterator[str]:
    *earlier, last = exits
    for exit_ in earlier:
        for name, value in exit_.outputs.items():
            other = last.outputs.get(name)
            if other is not None and list(other.shape or ())[1:] != list(value.shape or ())[1:]:
                yield f"{name!r} of exit {exit_.name!r} has the shape {value.shape}, of the last {other.shape}"


def _spell(names: Collection[str]) -> str:
    return f"exit{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}"

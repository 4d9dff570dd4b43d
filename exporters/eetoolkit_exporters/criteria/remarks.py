"""What may be a mistake and is no error: scores of another scale, NaN, exits that never or always fire."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from eetoolkit_exporters.capturing.capture import NetworkExit
from eetoolkit_exporters.criteria.facts import Facts
from eetoolkit_exporters.criteria.reach import fires_always, fires_never, reach
from eetoolkit_exporters.criteria.stateless import Scores
from eetoolkit_exporters.gating.ranges import Range, join
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.plan.criteria import kind_of
from eetoolkit_runtime.plan.types import CriterionKind, Scale, Threshold

_ROWS = 8  # of one score each, by which numbers from 0 to 1 look like probabilities where the graph shows nothing


def remarks(known: Facts, thresholds: Mapping[str, Threshold]) -> list[str]:
    """Returns what the user should look at, a sentence each.

    Args:
        known: The network.
        thresholds: Each exit's.
    """
    found = [
        *_taken_for_logits(known),
        *_of_other_scales(known),
        *_not_finite(known),
        *_that_cannot_decide(known, thresholds),
        *_of_other_sizes(known.exits),
    ]
    return list(dict.fromkeys(found))


def single_scores(known: Facts) -> list[str]:
    """Returns how scores that stand alone were understood, since no graph tells a logit from a value of regression."""
    names = [
        exit_.name
        for exit_ in known.exits
        if any(scores.single and part.scale == "logits" for part, scores in known.read(exit_))
    ]
    text = "one score is taken for the logit of class 1; for a value of regression choose patience with tau"
    return [f"{_spell(names)}: {text}"] if names else []


def _taken_for_logits(known: Facts) -> Iterator[str]:
    """Yields which exits give probabilities, or logarithms of one, that are read as logits."""
    taken: dict[tuple[CriterionKind, bool, Scale, str], dict[str, None]] = {}
    for exit_ in known.exits:
        for part, scores in known.read(exit_):
            scale, why = _looks_like(known, exit_, scores)
            if part.scale == "logits" and scale != "logits" and (scores.single or kind_of(part).softmax):
                own = part is known.criteria[exit_.name]
                taken.setdefault((part.kind, own, scale, why), {})[exit_.name] = None
    for (kind, own, scale, why), names in taken.items():
        option = f""" (--criterion '{{"kind": "{kind}", "scale": "{scale}"}}')""" if own else f" in the member {kind}"
        what = "probabilities" if scale == "probs" else "logarithms of probabilities"
        yield (
            f"{_spell(names)}: scores that look like {what} are read as logits ({why}); if that is what they are, say "
            f"scale='{scale}'{option}"
        )


def _looks_like(known: Facts, exit_: NetworkExit, scores: Scores) -> tuple[Scale, str]:
    """Returns the scale that an exit's class scores seem to have, and by what."""
    seen = known.seen(exit_, scores.value)
    if not scores.single:
        sums = bool(seen) and all(_sum_to_1(array, scores.axis, known.tolerance) for array in seen)
        return ("probs", "every row sums to 1") if sums else ("logits", "")
    found = known.range_of(scores.value)
    if found.unit:
        return "probs", "no input takes them out of 0 to 1"
    if found.high <= 0:
        return "log_probs", "no input takes them above 0"
    unit = len(seen) >= _ROWS and not any(_outside(array, "probs", 0.0) for array in seen)
    return ("probs", f"they are from 0 to 1 in {len(seen)} golden rows") if unit else ("logits", "")


def _sum_to_1(array: Array, axis: int, tolerance: float) -> bool:
    return bool((array >= 0).all() and (abs(array.astype(np.float64).sum(axis=axis) - 1) <= tolerance).all())


def _of_other_scales(known: Facts) -> Iterator[str]:
    """Yields which exits give scores that are not on the scale that their criterion names."""
    for exit_ in known.exits:
        for part, scores in known.read(exit_):
            if any(_outside(array, part.scale, known.tolerance) for array in known.seen(exit_, scores.value)):
                where = "below 0 or above 1" if part.scale == "probs" else "above 0"
                yield (
                    f"exit {exit_.name!r}: its scores go {where}, and {part.kind} reads them as {part.scale}; if they "
                    f"are logits, say scale='logits' (--criterion {part.kind})"
                )


def _outside(array: Array, scale: Scale, tolerance: float) -> bool:
    """Whether scores are not of a scale."""
    too_high = {"logits": np.inf, "log_probs": tolerance, "probs": 1 + tolerance}[scale]
    return bool((array > too_high).any() or (scale == "probs" and (array < -tolerance).any()))


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


def _that_cannot_decide(known: Facts, thresholds: Mapping[str, Threshold]) -> Iterator[str]:
    """Yields which exits reach their threshold for no input or for all; the last one needs none."""
    reached: dict[str, Range] = {}
    for place, exit_ in enumerate(known.exits):
        found = reach(known, known.criteria[exit_.name], place)
        reached[exit_.name] = join(found, reached.get(exit_.name, found))
    for name, found in reached.items():
        kind, threshold = known.criteria[name].kind, thresholds[name]
        if isinstance(threshold, str) or name == known.exits[-1].name:
            continue
        if fires_never(found, threshold):
            yield f"exit {name!r} never fires: its threshold is {threshold:g}, and {kind} is at most {found.high:.6g}"
        elif fires_always(found, threshold):
            yield (
                f"exit {name!r} always fires, and what lies behind it never answers: its threshold is {threshold:g}, "
                f"and {kind} is at least {found.low:.6g}"
            )


def _of_other_sizes(exits: Sequence[NetworkExit]) -> Iterator[str]:
    *earlier, last = exits
    for exit_ in earlier:
        for name, value in exit_.outputs.items():
            other = last.outputs.get(name)
            if other is not None and list(other.shape or ())[1:] != list(value.shape or ())[1:]:
                yield f"{name!r} of exit {exit_.name!r} has the shape {value.shape}, of the last {other.shape}"


def _spell(names: Collection[str]) -> str:
    return f"exit{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}"

"""What every exit answers for some rows, and how far two bundles agree there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eetoolkit.quantizing.report import ExitChange
from eetoolkit.tuning.collect import Progress
from eetoolkit.tuning.intervals import mean_of
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.plan.types import Manifest
from eetoolkit_runtime.profiling.rounds import Row
from eetoolkit_runtime.running.answer import Answer
from eetoolkit_runtime.running.runner import Runner
from eetoolkit_runtime.running.scores import LABEL, means_one

_NO_CLASS = -1
_SEED = 0  # of the bootstrap


@dataclass(frozen=True, eq=False)
class Compared:
    """One exit in two bundles.

    Attributes:
        name: The exit.
        disagreement: Of each row that meets it in either, in 0 to 1, (N,); 1 where only one meets it.
        shift: The absolute change of its confidence, of rows that meet it in both and where it is finite.
        before: The share of positions that the first has right, of rows that meet it in both; None: there are no labels
            or no classes.
        after: The same of the second.
    """

    name: str
    disagreement: Array
    shift: Array
    before: Array | None
    after: Array | None

    @property
    def mean(self) -> float:
        """The mean disagreement."""
        return float(self.disagreement.mean())

    @property
    def standard_error(self) -> float:
        """That of the mean disagreement."""
        return float(self.disagreement.std() / math.sqrt(len(self.disagreement)))

    @property
    def at_most(self) -> float:
        """The mean disagreement and one standard error, by which methods are chosen."""
        return self.mean + self.standard_error

    def exit_change(self, bound: float) -> ExitChange:
        """Returns it as the report has it; `bound` is that of the mean disagreement."""
        middle, far = np.quantile(self.shift, (0.5, 0.99)).tolist() if len(self.shift) else (0.0, 0.0)
        return ExitChange(
            name=self.name,
            rows=len(self.disagreement),
            agreement=mean_of(1 - self.disagreement, _SEED),
            before=None if self.before is None else mean_of(self.before, _SEED),
            after=None if self.after is None else mean_of(self.after, _SEED),
            shift=(middle, far),
            within=self.mean <= bound,
        )


def answers(
    bundle: Bundle, rows: Sequence[Row], threads: int | None = None, progress: Progress | None = None
) -> list[list[Answer]]:
    """Returns what all exits answer that each row meets, in the order met.

    Args:
        bundle: The bundle.
        rows: The rows, each its inputs in the plan's order.
        threads: As the `Runner`'s.
        progress: Is told (what, done, total) for every row.

    Raises:
        InputError: A row that the bundle does not take.
        RunError: onnxruntime failed.
    """
    found = []
    with Runner(bundle, threads=threads) as runner:
        for row in rows:
            found.append(runner.run_all_exits(row))
            if progress is not None:
                progress("running rows", len(found), len(rows))
    return found


def compare(
    plan: Manifest, before: Sequence[Sequence[Answer]], after: Sequence[Sequence[Answer]], labels: Array | None = None
) -> dict[str, Compared]:
    """Returns each exit that some row meets, in the plan's order.

    A row that meets an exit several times, in a loop, counts by the last. A row that meets it in one bundle only took
    another way in the other: it disagrees. So does an answer with NaN in it.

    Args:
        plan: The bundle's.
        before: What `answers` gives of the float bundle.
        after: The same of the other one.
        labels: A class for each row, (N,), or for each position, (N, ...); None, or what is neither: nothing is right.
    """
    found = {}
    for name in plan.exits:
        pairs = [(_last(one, name), _last(other, name)) for one, other in zip(before, after, strict=True)]
        met = [n for n, pair in enumerate(pairs) if pair != (None, None)]
        both = [(n, one, other) for n, (one, other) in enumerate(pairs) if one is not None and other is not None]
        if not met:
            continue
        shift = np.array([abs(other.confidence - one.confidence) for _, one, other in both])
        found[name] = Compared(
            name=name,
            disagreement=np.array([disagreement(*pairs[n]) for n in met]),
            shift=shift[np.isfinite(shift)],
            before=_right([(n, one) for n, one, _ in both], labels),
            after=_right([(n, other) for n, _, other in both], labels),
        )
    return found


def _last(met: Sequence[Answer], name: str) -> Answer | None:
    return next((answer for answer in reversed(met) if answer.exit == name), None)


def disagreement(before: Answer | None, after: Answer | None) -> float:
    """Returns how far two answers differ, in 0 to 1: their classes, or where they have none, their outputs."""
    if before is None or after is None or math.isnan(before.confidence) or math.isnan(after.confidence):
        return 1.0
    one, other = _classes(before), _classes(after)
    if one is None or other is None:
        if before.outputs.keys() != after.outputs.keys():  # of other exits
            return 1.0
        return max((_distance(array, after.outputs[name]) for name, array in before.outputs.items()), default=0.0)
    if one.shape != other.shape:
        return 1.0
    return float(np.mean((one != other) | (one == _NO_CLASS)))


def _distance(before: Array, after: Array) -> float:
    """Returns the L2 norm of the difference over that of `before`, at most 1; 1 where shapes differ or one is NaN."""
    if before.shape != after.shape:
        return 1.0
    one, other = before.astype(np.float64), after.astype(np.float64)
    error = float(np.linalg.norm(other - one))
    if error == 0:
        return 0.0
    size = float(np.linalg.norm(one))
    return min(1.0, error / size) if size > 0 and math.isfinite(error) else 1.0


def _classes(answer: Answer) -> Array | None:
    """Returns the class at each position of a row, `_NO_CLASS` where it is NaN; None where the exit has no classes."""
    voted = answer.outputs.get(LABEL)
    if voted is not None and voted.size == 1 and voted.dtype.kind in "iu":
        return np.maximum(voted.astype(np.int64).reshape(1), _NO_CLASS)
    scores = answer.scores
    found = None if scores is None else answer.outputs.get(scores.output)
    if scores is None or found is None:
        return None
    if found.dtype.kind != "f":  # classes already
        return found
    if found.ndim <= scores.axis or found.shape[scores.axis] == 1:
        return np.where(np.isnan(found), _NO_CLASS, means_one(found, scores.scale))
    return np.where(np.isnan(found).any(scores.axis), _NO_CLASS, np.argmax(found, scores.axis))


def _right(answers: Sequence[tuple[int, Answer]], labels: Array | None) -> Array | None:
    """Returns the share of each row's positions that are right, (N,); None where labels and answers are no classes."""
    if labels is None or labels.dtype.kind not in "iub" or not answers:
        return None
    shares = []
    for n, answer in answers:
        classes = _classes(answer)
        if classes is None or classes.size != labels[n].size:
            return None
        shares.append(np.mean(classes.reshape(-1) == labels[n].reshape(-1)))
    return np.array(shares, np.float64)

"""Replay: where every row answers under any thresholds, as the runner has it, and what that gives in the mean."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from eetoolkit.tuning.record import NO_EXIT, Record
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.plan.types import Fallback, Manifest
from eetoolkit_runtime.running.decision import in_float32, limit_of

_CELLS = 1 << 21  # rows x settings that are looked at together, so that they stay in the cache


def own_thresholds(plan: Manifest) -> Array:
    """Returns the plan's own thresholds, float64 (E,); NaN for an exit that never fires, and for the last."""
    return np.array([limit_of(exit_.threshold) for exit_ in plan.exits.values()])


def stops(record: Record, thresholds: npt.ArrayLike) -> Array:
    """Returns the visit with which each row's run ends, int16 (N, S); the last one where none fires.

    An exit fires where its float32 confidence, widened to float64, reaches the threshold (`docs/bundle-format.md`, "A
    run"); NaN never does.

    Args:
        record: N rows.
        thresholds: (S, E), or (E,) for one setting; NaN: the exit is disabled; infinity: it never fires.
    """
    limits = np.atleast_2d(in_float32(thresholds))
    found = np.empty((len(record), len(limits)), np.int16)
    for rows, part in _parts(record, limits):
        found[rows] = part
    return found


def answers(record: Record, thresholds: npt.ArrayLike, ended: Array, fallback: Fallback = "last") -> Array:
    """Returns the visit that answers, int16 (N, S), of runs that `ended` (N, S) where `stops` says.

    With the fallback `most_confident`, where none fired the surest of the enabled exits, NaN ranking lowest and the
    later one first among equals.
    """
    if fallback == "last":
        return ended
    limits = np.atleast_2d(np.asarray(thresholds, np.float64))
    found = ended.copy()
    last = record.last[:, None]
    for pattern in np.unique(np.isnan(limits), axis=0):
        same = np.flatnonzero((np.isnan(limits) == pattern).all(axis=1))
        best = most_confident(record, ~pattern)[:, None]
        found[:, same] = np.where(ended[:, same] == last, best, ended[:, same])
    return found


def most_confident(record: Record, enabled: Array) -> Array:
    """Returns each row's surest visit of an enabled exit, int16 (N,); `enabled` is bool (E,), the end always is."""
    lowest = np.finfo(np.float64).min
    sure = np.nan_to_num(record.confidence.astype(np.float64), nan=lowest, neginf=lowest, posinf=np.inf)
    visit = np.arange(record.exit.shape[1])
    allowed = (enabled[record.exit] & (record.exit != NO_EXIT)) | (visit == record.last[:, None])
    ranked = np.where(allowed, sure, -np.inf)[:, ::-1]
    return np.asarray(ranked.shape[1] - 1 - ranked.argmax(axis=1), np.int16)


def means(
    record: Record, thresholds: npt.ArrayLike, values: Array, costs: Array, fallback: Fallback = "last"
) -> tuple[Array, Array]:
    """Returns the mean value of the answers and the mean cost of the runs, float64 (S,) each.

    Args:
        record: N rows.
        thresholds: (S, E), as `stops` takes them.
        values: What an answer at each visit scores, (N, V).
        costs: What a run that ends at each visit costs, (N, V).
        fallback: What answers where none fired.
    """
    limits = np.atleast_2d(in_float32(thresholds))
    score, cost = np.zeros(len(limits)), np.zeros(len(limits))
    values, costs = values.astype(np.float64, copy=False), costs.astype(np.float64, copy=False)
    for rows, ended in _parts(record, limits):
        part = record.take(rows) if fallback != "last" else None
        chosen = ended if part is None else answers(part, thresholds, ended, fallback)
        score += np.take_along_axis(values[rows], chosen, axis=1).sum(axis=0)
        cost += np.take_along_axis(costs[rows], ended, axis=1).sum(axis=0)
    return score / len(record), cost / len(record)


def _parts(record: Record, limits: npt.NDArray[np.float32]) -> Iterator[tuple[Array, Array]]:
    """Yields rows (n,) that meet the same exits in the same order, and the visits that end their runs, (n, S)."""
    patterns, which = np.unique(record.exit, axis=0, return_inverse=True)
    at_once = max(1, _CELLS // len(limits))
    for number, pattern in enumerate(patterns):
        same = np.flatnonzero(which.reshape(-1) == number)
        last = int((pattern != NO_EXIT).sum()) - 1
        for start in range(0, len(same), at_once):
            rows = same[start : start + at_once]
            ended = np.full((len(rows), len(limits)), last, np.int16)
            for visit in range(last - 1, -1, -1):
                fires = record.confidence[rows, visit, None] >= limits[None, :, pattern[visit]]
                np.copyto(ended, np.int16(visit), where=fires)
            yield rows, ended

"""Disjoint parts of the data: temperatures, thresholds, a guarantee and the reported figures each get their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import TuneError

SHARES: Mapping[str, float] = {"calibrate": 0.15, "tune": 0.35, "guarantee": 0.25, "test": 0.25}
"""What each part gets of the rows; a part that is not needed leaves its share to the others."""


def spread(count: int, most: int) -> Array:
    """Returns places among so many rows, at most `most`, evenly from all of them: they may lie class by class."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Splits:
    """Places of rows, ascending, by part; every row is in exactly one.

    Attributes:
        calibrate: For temperatures.
        tune: For thresholds, or for the path of thresholds that a guarantee walks.
        guarantee: For the guarantee's draw alone.
        test: For all reported figures.
        seed: Of the shuffle.
        by_label: Whether every part has each label's share.
    """

    calibrate: Array
    tune: Array
    guarantee: Array
    test: Array
    seed: int
    by_label: bool

    @property
    def by_name(self) -> dict[str, Array]:
        """The parts by their names."""
        return {name: getattr(self, name) for name in SHARES}


def split(labels: npt.ArrayLike, *, calibrate: bool, guarantee: bool, seed: int) -> Splits:
    """Returns the parts of N rows, stratified by label where these are classes of two rows or more.

    With a guarantee they are not: its rows must be drawn independently.

    Args:
        labels: (N,), or (N, ...), which cannot be stratified.
        calibrate: Whether temperatures need a part.
        guarantee: Whether a guarantee needs one.
        seed: Of the shuffle; the same rows and seed give the same parts.

    Raises:
        TuneError: Too few rows for every part to have one.
    """
    right = np.asarray(labels)
    parts = _parts(calibrate=calibrate, guarantee=guarantee)
    if len(right) < len(parts):
        raise TuneError(f"{len(right)} rows leave a part empty; the parts are {', '.join(parts)}: pass more rows")
    edges = np.cumsum([0.0, *parts.values()]) / sum(parts.values())
    by_label = not guarantee and _repeat(right)
    shuffled, position = _dealt(right, seed, by_label=by_label)
    part = np.searchsorted(edges, position, side="right") - 1
    names = list(parts)
    found = {name: np.sort(shuffled[part == names.index(name)]) if name in parts else _NONE for name in SHARES}
    for name in parts:
        if not len(found[name]):
            raise TuneError(f"{len(right)} rows leave the part {name!r} empty; pass more rows")
    return Splits(**found, seed=seed, by_label=by_label)


def shuffled_rows(labels: npt.ArrayLike, seed: int) -> Array:
    """Returns the numbers of N rows, shuffled so that every stretch has about each label's share, as in `split`."""
    right = np.asarray(labels)
    shuffled, position = _dealt(right, seed, by_label=_repeat(right))
    return np.asarray(shuffled[np.argsort(position, kind="stable")])


def share_of(part: str, *, guarantee: bool) -> float:
    """Returns what a part gets of the rows where temperatures are fitted, without or with a guarantee."""
    parts = _parts(calibrate=True, guarantee=guarantee)
    return parts[part] / sum(parts.values())


def _parts(*, calibrate: bool, guarantee: bool) -> dict[str, float]:
    """Returns the shares of the parts that are needed, which together may be less than 1."""
    wanted = {"calibrate": calibrate, "tune": True, "guarantee": guarantee, "test": True}
    return {name: share for name, share in SHARES.items() if wanted[name]}


def _repeat(labels: Array) -> bool:
    """Whether labels are classes of two rows or more in the mean."""
    return labels.ndim == 1 and labels.dtype.kind in "iub" and len(np.unique(labels)) * 2 <= len(labels)


def _dealt(labels: Array, seed: int, *, by_label: bool) -> tuple[Array, Array]:
    """Returns the numbers of N rows, shuffled, and the place in [0, 1) of each."""
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    if not by_label:
        return shuffled, (np.arange(len(labels)) + 0.5) / len(labels)
    # Each label's rows lie in a row now; dealing them out by a low-discrepancy sequence gives every part its share.
    return shuffled[np.argsort(labels[shuffled], kind="stable")], _spread(len(labels))


_NONE = np.zeros(0, np.int64)
_GOLDEN = (np.sqrt(5) - 1) / 2


def _spread(count: int) -> Array:
    """Returns `count` numbers in [0, 1) of which any that follow each other are spread evenly.

    The multiples of the golden ratio modulo 1 (Kronecker's sequence), which does that best of all such sequences.
    """
    return np.asarray((0.5 + _GOLDEN * np.arange(count)) % 1)

"""Disjoint parts of the user's rows: heads are fitted to one, their kinds chosen on another, the rest is tuned on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eetoolkit_runtime.arrays import Array

FIT_SHARE = 0.5
"""Of all rows, where none are given for tuning; a fifth of it chooses kinds and weight decays."""


@dataclass(frozen=True, eq=False)
class Parts:
    """Numbers of rows.

    Attributes:
        fit: Heads are fitted to these.
        choose: Kinds of heads and weight decays are chosen on these.
        tune: Places and thresholds are chosen on these, and all figures are of a part of them.
    """

    fit: Array
    choose: Array
    tune: Array


def part_rows(count: int, own: int, *, held_out: float, seed: int) -> Parts:
    """Returns the parts of `count` rows, the last `own` of which are for tuning; where that is 0, half of all are."""
    draw = np.random.default_rng(seed)
    given = draw.permutation(count - own)
    fitted = len(given) if own else round(len(given) * FIT_SHARE)
    chosen = round(fitted * held_out)
    rest = np.arange(count - own, count) if own else np.sort(given[fitted:])
    return Parts(fit=np.sort(given[chosen:fitted]), choose=np.sort(given[:chosen]), tune=rest)

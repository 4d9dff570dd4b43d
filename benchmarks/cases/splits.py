"""Train, validation and test: disjoint, stratified by label, and the same on every call."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SEED = 0


@dataclass(frozen=True)
class Splits:
    """Row numbers of each part, int64, ascending."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def split(labels: NDArray[np.int64], validation: int, test: int) -> Splits:
    """Returns all rows parted; `validation` and `test` are numbers of rows, train has the rest.

    Raises:
        ValueError: Not enough rows.
    """
    from sklearn.model_selection import train_test_split

    if validation + test >= len(labels):
        raise ValueError(f"{len(labels)} rows cannot be parted into {validation} and {test} and some to train on")
    every = np.arange(len(labels), dtype=np.int64)
    seen, tested = train_test_split(every, test_size=test, stratify=labels, random_state=SEED)
    trained, validated = train_test_split(seen, test_size=validation, stratify=labels[seen], random_state=SEED)
    return Splits(np.sort(trained), np.sort(validated), np.sort(tested))

"""The benchmark of adding exits: what is run of each row, and when targets are met."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks import adapting
from benchmarks.adapting_process import MASK, rows_of

LABELS = np.zeros(2, np.int64)


def test_rows_keep_the_steps_that_count() -> None:
    tokens = np.array([[5, 6, 7], [8, 0, 0]])
    mask = np.array([[1, 1, 1], [1, 0, 0]])
    first, second = rows_of(({"input_ids": tokens, MASK: mask}, LABELS))
    assert [array.tolist() for array in first] == [[[5, 6, 7]], [[1, 1, 1]]]
    assert [array.tolist() for array in second] == [[[8]], [[1]]]


def test_rows_without_a_mask_stay_as_they_are() -> None:
    images = np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2)
    assert [row[0].tolist() for row in rows_of((images, LABELS))] == [images[:1].tolist(), images[1:].tolist()]


def _row(over: float, drop: float, seconds: float = 10.0) -> dict[str, Any]:
    peer = {"bundle_over": over, "low": over, "high": over, "mean_ms": 1.0}
    return {
        "name": "reviews-0", "goal": 0.005, "places": 6, "features_s": 500.0, "heads_s": seconds, "bundle_s": seconds,
        "accuracy": 0.9, "whole_accuracy": 0.9, "drop_points": drop, "last_differs": 1e-6,
        "peers": {"bundle": peer, "whole": peer, "fixed": peer},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "met"),
    [
        ([_row(0.5, 0.6), _row(0.5, 0.3)], True),
        ([_row(0.5, 0.8), _row(0.5, 0.3)], False),
        ([_row(0.5, 0.0), _row(0.7, 0.0)], False),
        ([_row(0.5, 0.0, 100.0), _row(0.5, 0.0)], False),
        ([_row(0.1, 0.0), {**_row(0.1, 0.0), "peers": None}], False),
    ],
)
def test_the_seeds_meet_their_targets_together(rows: list[dict[str, Any]], met: bool) -> None:
    assert adapting.of_seeds(rows)["met"] is met


def test_every_row_has_a_cell_in_every_column() -> None:
    refused = {**_row(0.5, 0.0), "met": None, "verdict": "no place", "peers": None, "accuracy": None, "exits": None}
    cells = [spell(refused) for _, spell in adapting.SECTION.columns]
    assert cells[-1] == "no place"
    assert "-" in cells

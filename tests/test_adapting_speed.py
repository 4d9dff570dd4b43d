"""A bundle's speed beside the whole network's: measured until chance explains it no more, or by work."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import nn

from eetoolkit.adapting import choosing
from eetoolkit.adapting.choosing import Found
from eetoolkit.tuning import pruning
from eetoolkit.tuning.intervals import Interval

Times = np.ndarray
NOISY = np.array([[1.0, 9.0, 1.0, 9.0], [2.0, 2.0, 2.0, 2.0]])
"""Of the whole network and of a bundle, by round: now one is faster, now the other."""
CLEAR = np.array([[4.0, 4.0, 4.0, 4.0], [2.0, 2.0, 2.0, 2.0]])


def measured(monkeypatch: pytest.MonkeyPatch, *turns: Times) -> list[Times]:
    """Has each measurement give the next of some times, the last one for good; returns those that were given."""
    given: list[Times] = []

    def latencies(_bundles: Sequence[object], rows: Sequence[object], _: int | None) -> Times:
        given.append(turns[min(len(given), len(turns) - 1)])
        return np.repeat(given[-1][:, :, None], len(rows), axis=2)

    monkeypatch.setattr(pruning, "latencies", latencies)
    return given


def ratio() -> Interval:
    bundle: Any = None  # nothing runs
    (found,) = pruning.ratios_in_turns([bundle, bundle], [()] * 5, threads=1, seed=0)
    return found


def test_a_clear_difference_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    given = measured(monkeypatch, CLEAR)
    assert ratio() == Interval(2, 2, 2)
    assert len(given) == 1


def test_a_busy_machine_is_asked_again_until_chance_explains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    given = measured(monkeypatch, NOISY, CLEAR)
    assert ratio().low > 1
    assert 1 < len(given) <= 5


def test_what_stays_unclear_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    given = measured(monkeypatch, NOISY)
    assert ratio().low <= 1
    assert len(given) == 5


def test_a_speed_that_chance_explains_is_no_verdict() -> None:
    known = Found(pays=False, reason="", costs="")
    tuning: Any = SimpleNamespace(chosen=SimpleNamespace(share=Interval(1, 1, 1)))
    busy = choosing._not_faster(tuning, known, Interval(1.9, 0.6, 8.8))
    assert busy.pays is None
    assert busy.reason == (
        "1.90 [0.60, 8.80] times the whole network's speed: the machine is too busy to tell; run it again"
    )
    slow = choosing._not_faster(tuning, known, Interval(0.98, 0.95, 1.02))
    assert slow.pays is False
    assert slow.reason.endswith("cuts and heads cost what exits save")


def test_the_work_of_heads_is_known_by_the_names_in_the_bundle() -> None:
    model: Any = SimpleNamespace(heads={"1": nn.Linear(4, 3), "body": nn.Linear(8, 3)})
    bundle: Any = SimpleNamespace(manifest=SimpleNamespace(titles={"_1": "1"}))
    assert choosing._multiply_adds(model, bundle) == {"_1": 12, "body": 24}

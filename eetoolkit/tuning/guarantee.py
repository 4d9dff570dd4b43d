"""A guarantee for a bundle: the path of thresholds from one part of the rows, how far to go along it from another."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from eetoolkit.tuning.dataset import TuningData
from eetoolkit.tuning.evaluate import Subset, objective_of
from eetoolkit.tuning.replay import answers, stops
from eetoolkit.tuning.risk import METHODS, Method, guarantee_of, last_passing, least_rows, losses
from eetoolkit.tuning.search import Search
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.plan.types import Guarantee, Manifest

_STEPS = 100  # settings of a path, at most
_BEYOND = 3.0  # how far past the risk that is asked for, by the rows that it is built on, a path goes on


@dataclass(frozen=True, eq=False)
class GuaranteedChoice:
    """A guarantee and the thresholds (E,) that it is of; `needed`: how many rows any guarantee would take."""

    guarantee: Guarantee
    thresholds: Array
    needed: int


def follow_path(
    whole: Subset, found: TuningData, plan: Manifest, risk: float, delta: float
) -> dict[Method, GuaranteedChoice]:
    """Returns what each method guarantees, by method.

    The path is the frontier of risk against cost on the tuning rows, from safe to fast; where no setting passes, all
    exits are disabled, and the whole network answers.

    Args:
        whole: All rows.
        found: Which of them the path may be built on, and which the guarantee is drawn from.
        plan: The bundle's.
        risk: At most this.
        delta: Except with this probability.

    Raises:
        TuneError: A metric that has no loss from 0 to 1.
    """
    path = risk_path(whole.take(found.tune), plan, risk)
    # In random order, which the bets rely on, whatever the order of the data.
    drawn = whole.take(np.random.default_rng(whole.seed).permutation(found.guarantee))
    ended = stops(drawn.record, path) if len(path) else np.zeros((len(drawn.record), 0), np.int16)
    loss = losses(drawn, answers(drawn.record, path, ended, drawn.fallback) if len(path) else ended)
    guaranteed: dict[Method, GuaranteedChoice] = {}
    for method in METHODS:
        passing = last_passing(method, loss, risk, delta) if len(path) else 0
        guarantee = guarantee_of(method, loss, passing, risk, delta)
        thresholds = path[passing - 1] if passing else np.full(len(plan.exits), np.nan)
        guaranteed[method] = GuaranteedChoice(guarantee, thresholds, least_rows(method, risk, delta))
    return guaranteed


def risk_path(subset: Subset, plan: Manifest, risk: float) -> Array:
    """Returns thresholds (S, E) from safe to fast.

    Args:
        subset: The rows to build it on.
        plan: The bundle's.
        risk: The path goes on to some times as much by these rows.
    """
    visits = np.broadcast_to(np.arange(subset.record.exit.shape[1]), subset.record.exit.shape)
    visits = np.minimum(visits, subset.record.last[:, None])
    safe = replace(subset, score=1 - losses(subset, visits))
    objective = objective_of(plan, safe)
    points = Search(objective).frontier()
    near = np.flatnonzero(1 - points.score <= _BEYOND * risk)
    near = near[(points.settings[near] != objective.choices.never).any(axis=1)]
    kept = (
        near[np.unique(np.linspace(0, len(near) - 1, min(_STEPS, len(near))).round().astype(int))]
        if len(near)
        else near
    )
    return objective.choices.spell(points.settings[kept[::-1]])

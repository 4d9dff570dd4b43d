"""Evaluating choices of thresholds on one part of the data, each with its intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eetoolkit.tuning.intervals import (
    Figures,
    Interval,
    Point,
    Thresholds,
    difference_of,
    mean_of,
    percentile,
    ratio_of,
)
from eetoolkit.tuning.manifest import may_fire
from eetoolkit.tuning.objective import Candidates, Metric, Objective, candidates, run_ends, score_at
from eetoolkit.tuning.record import Record
from eetoolkit.tuning.replay import means
from eetoolkit.tuning.search import Points
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.plan.types import Fallback, Manifest

_CANDIDATES = 100  # thresholds that an exit may get
_FEW_CANDIDATES = 16  # the same where every setting costs a call of the user's metric
_FRONTIER = 48  # points that a report keeps, at most
_METRIC_DRAWS = 200  # a metric that is no mean is asked anew for every draw


@dataclass(frozen=True, eq=False)
class Subset:
    """Rows with what answers score and runs cost.

    Attributes:
        record: N rows.
        score: Of the answer at each visit, (N, V); None where only a whole of answers has one.
        cost: Of a run that ends at each visit, (N, V).
        metric: For where `score` is None.
        fallback: What answers where none fired.
        seed: Of all draws.
    """

    record: Record
    score: Array | None
    cost: Array
    metric: Metric | None
    fallback: Fallback
    seed: int

    def take(self, rows: Array) -> Subset:
        """Returns some rows of it."""
        score = None if self.score is None else self.score[rows]
        return Subset(self.record.take(rows), score, self.cost[rows], self.metric, self.fallback, self.seed)

    def ends(self, thresholds: Array) -> tuple[Array, Array]:
        """Returns which visit answers and which ends the run, (N,) each, by thresholds (E,)."""
        return run_ends(self.record, thresholds, self.fallback)

    def always(self, exit_: int) -> tuple[Array, Array]:
        """Returns the same where one exit always answers, the last where a row's path does not meet it."""
        here = self.record.exit == exit_
        visit = np.where(here.any(axis=1), here.argmax(axis=1), self.record.last)
        return visit, visit

    def means(self, ends: tuple[Array, Array]) -> tuple[float, float]:
        """Returns score and cost of runs whose answers and ends are these visits."""
        rows, (answered, ended) = np.arange(len(self.record)), ends
        return score_at(self.record, self.score, self.metric, answered), float(self.cost[rows, ended].mean())

    def means_at(self, settings: Array) -> tuple[Array, Array]:
        """Returns score and cost under settings of thresholds (S, E), (S,) each."""
        if self.score is not None:
            return means(self.record, settings, self.score, self.cost, self.fallback)
        score, cost = np.array([self.means(self.ends(thresholds)) for thresholds in settings]).T
        return score, cost

    @property
    def full_cost(self) -> float:
        """What a run of the whole network costs in the mean."""
        return float(self.cost[np.arange(len(self.record)), self.record.last].mean())

    def objective(self, choices: Candidates) -> Objective:
        """Returns what a search over these candidates makes best, with costs as shares of the whole network's."""
        share = self.cost / self.full_cost
        return Objective(self.record, choices, self.score, share, self.fallback, self.metric)

    def drops(self, answered: Array) -> Array | None:
        """Returns how much less each row's answer scores than the whole network's, (N,); None where rows have none."""
        rows = np.arange(len(self.record))
        return None if self.score is None else self.score[rows, self.record.last] - self.score[rows, answered]

    def score_and_drop(self, answered: Array) -> tuple[Interval, Interval]:
        """Returns both with their intervals."""
        rows = np.arange(len(self.record))
        drops = self.drops(answered)
        if self.score is not None and drops is not None:
            return mean_of(self.score[rows, answered], self.seed), difference_of(drops, self.seed)
        draw = np.random.default_rng(self.seed)
        found = []
        for n in range(_METRIC_DRAWS + 1):
            some = rows if n == 0 else draw.integers(0, len(rows), len(rows))
            drawn = self.record.take(some)
            whole = score_at(drawn, None, self.metric, drawn.last)
            score = score_at(drawn, None, self.metric, answered[some])
            found.append((score, whole - score))
        (score, drop), *others = found
        draws = np.array(others)
        return percentile(score, draws[:, 0]), percentile(drop, draws[:, 1])


@dataclass(frozen=True, eq=False)
class Evaluator:
    """Writes figures: of the held-out rows, beside those of the part that choices were made on.

    Attributes:
        test: The held-out rows, of which the figures are.
        tune: The rows that choices were made on.
        choices: The candidates.
        plan: The bundle's.
        whole: What each test row costs in the whole network, (N,), where that is not its last visit's cost: shares are
            of it.
    """

    test: Subset
    tune: Subset
    choices: Candidates
    plan: Manifest
    whole: Array | None = None

    def choice(self, name: str, thresholds: Array) -> Figures:
        """Returns the figures of thresholds (E,)."""
        by_exit = self._by_exit(thresholds)
        silent = all(threshold == "never" for threshold in by_exit.values())
        return self._measure(name, self.test.ends(thresholds), self.tune.ends(thresholds), by_exit, whole=silent)

    def always(self, name: str, exit_: int | None) -> Figures:
        """Returns the figures of always exiting at one exit; None: of the whole network."""
        if exit_ is None:
            last, there = self.test.record.last, self.tune.record.last
            return self._measure(name, (last, last), (there, there), {}, whole=True)
        ends = [e for e, each in enumerate(self.plan.exits.values()) if each.ends]
        return self._measure(name, self.test.always(exit_), self.tune.always(exit_), {}, whole=ends == [exit_])

    def frontier(self, found: Points) -> tuple[Point, ...]:
        """Returns points evenly along a frontier."""
        kept = np.unique(np.linspace(0, len(found.cost) - 1, min(_FRONTIER, len(found.cost))).round().astype(int))
        limits = self.choices.spell(found.settings[kept])
        score, cost = self.test.means_at(limits)
        _, tune_cost = self.tune.means_at(limits)
        return tuple(
            Point(
                thresholds=self._by_exit(limits[n]),
                tune_score=float(found.score[place]),
                tune_cost=float(tune_cost[n]),
                score=float(score[n]),
                cost=float(cost[n]),
            )
            for n, place in enumerate(kept.tolist())
        )

    def _measure(
        self, name: str, ends: tuple[Array, Array], tuned: tuple[Array, Array], thresholds: Thresholds, *, whole: bool
    ) -> Figures:
        """Returns the figures of runs whose answers and ends on the two parts are these visits.

        `whole`: they are the whole network's by definition, which then loses nothing against itself, for sure.
        """
        test, (answered, ended) = self.test, ends
        rows = np.arange(len(test.record))
        score, drop = test.score_and_drop(answered)
        costs = test.cost[rows, ended]
        full = test.cost[rows, test.record.last] if self.whole is None else self.whole
        tune_score, tune_cost = self.tune.means(tuned)
        met = test.record.exit[rows, answered]
        return Figures(
            name=name,
            thresholds=thresholds,
            score=score,
            drop=Interval(0.0, 0.0, 0.0) if whole else drop,
            cost=mean_of(costs, test.seed),
            share=ratio_of(costs, full, test.seed),
            exits={exit_: float((met == e).mean()) for e, exit_ in enumerate(test.record.exits)},
            tune_score=tune_score,
            tune_cost=tune_cost,
        )

    def _by_exit(self, thresholds: Array) -> Thresholds:
        """Returns thresholds (E,) by name, `never` for NaN, without the exits that end the plan."""
        return {
            name: "never" if np.isnan(limit) else limit
            for (name, exit_), limit in zip(self.plan.exits.items(), thresholds.tolist(), strict=True)
            if not exit_.ends
        }


def objective_of(plan: Manifest, subset: Subset, also: npt.ArrayLike = ()) -> Objective:
    """Returns the search's objective on a part of the rows, with costs as shares of the whole network's.

    Args:
        plan: The bundle's.
        subset: The rows.
        also: Thresholds (S, E) that must be among what is searched, whatever quantiles are.
    """
    allowed = np.array(may_fire(plan))
    most = _CANDIDATES if subset.score is not None else _FEW_CANDIDATES
    return subset.objective(candidates(subset.record, plan, allowed, most, also))

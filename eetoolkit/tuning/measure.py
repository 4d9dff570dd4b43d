"""Measuring choices of thresholds on one part of the data, each with its intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eetoolkit.tuning.figures import Interval, difference_of, mean_of, percentile, ratio_of
from eetoolkit.tuning.objective import Metric, run_ends, worth_at
from eetoolkit.tuning.record import Array, Record
from eetoolkit.tuning.report import Figures, Thresholds
from eetoolkit_runtime.plan import Fallback

_METRIC_DRAWS = 200  # a metric that is no mean is asked anew for every draw


@dataclass(frozen=True, eq=False)
class Part:
    """Rows with what answers are worth and runs cost.

    Attributes:
        record: N rows.
        worth: Of the answer at each visit, (N, V); None where only a whole of answers has one.
        cost: Of a run that ends at each visit, (N, V).
        metric: For where `worth` is None.
        fallback: What answers where none fired.
        seed: Of all draws.
    """

    record: Record
    worth: Array | None
    cost: Array
    metric: Metric | None
    fallback: Fallback
    seed: int

    def take(self, rows: Array) -> Part:
        """Returns some rows of it."""
        worth = None if self.worth is None else self.worth[rows]
        return Part(self.record.take(rows), worth, self.cost[rows], self.metric, self.fallback, self.seed)

    def ends(self, thresholds: Array) -> tuple[Array, Array]:
        """Returns which visit answers and which ends the run, (N,) each, by thresholds (E,)."""
        return run_ends(self.record, thresholds, self.fallback)

    def always(self, exit_: int) -> tuple[Array, Array]:
        """Returns the same where one exit always answers, the last where a row's path does not meet it."""
        here = self.record.exit == exit_
        visit = np.where(here.any(axis=1), here.argmax(axis=1), self.record.last)
        return visit, visit

    def means(self, ends: tuple[Array, Array]) -> tuple[float, float]:
        """Returns worth and cost of runs whose answers and ends are these visits."""
        rows, (answered, ended) = np.arange(len(self.record)), ends
        return worth_at(self.record, self.worth, self.metric, answered), float(self.cost[rows, ended].mean())

    def drops(self, answered: Array) -> Array | None:
        """Returns what each row's answer is worth less than the whole network's, (N,); None where rows have none."""
        rows = np.arange(len(self.record))
        return None if self.worth is None else self.worth[rows, self.record.last] - self.worth[rows, answered]

    def worth_and_drop(self, answered: Array) -> tuple[Interval, Interval]:
        """Returns both with their intervals."""
        rows = np.arange(len(self.record))
        drops = self.drops(answered)
        if self.worth is not None and drops is not None:
            return mean_of(self.worth[rows, answered], self.seed), difference_of(drops, self.seed)
        draw = np.random.default_rng(self.seed)
        found = []
        for n in range(_METRIC_DRAWS + 1):
            some = rows if n == 0 else draw.integers(0, len(rows), len(rows))
            part = self.record.take(some)
            whole = worth_at(part, None, self.metric, part.last)
            worth = worth_at(part, None, self.metric, answered[some])
            found.append((worth, whole - worth))
        (worth, drop), *others = found
        draws = np.array(others)
        return percentile(worth, draws[:, 0]), percentile(drop, draws[:, 1])


def measure(
    name: str, test: Part, tune: Part, ends: tuple[Array, Array], tuned: tuple[Array, Array], thresholds: Thresholds
) -> Figures:
    """Returns the figures of a choice whose answers and ends on the two parts are these visits."""
    answered, ended = ends
    rows = np.arange(len(test.record))
    worth, drop = test.worth_and_drop(answered)
    costs, full = test.cost[rows, ended], test.cost[rows, test.record.last]
    tune_worth, tune_cost = tune.means(tuned)
    met = test.record.exit[rows, answered]
    return Figures(
        name=name,
        thresholds=thresholds,
        worth=worth,
        drop=drop,
        cost=mean_of(costs, test.seed),
        share=ratio_of(costs, full, test.seed),
        exits={exit_: float((met == e).mean()) for e, exit_ in enumerate(test.record.exits)},
        tune_worth=tune_worth,
        tune_cost=tune_cost,
    )


def by_exit(exits: Sequence[str], thresholds: Array, stop: frozenset[str]) -> Thresholds:
    """Returns thresholds (E,) by name, None for NaN, without the exits that end the plan."""
    return {
        name: None if np.isnan(limit) else float(limit)
        for name, limit in zip(exits, thresholds.tolist(), strict=True) if name not in stop
    }  # fmt: skip

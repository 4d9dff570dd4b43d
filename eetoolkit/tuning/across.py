"""Tuning for a share of a fleet: the cost that counts is that of the device at a quantile, whichever device that is.

Which device is there hangs on the thresholds: one device gains more from an early exit than another. So the search
orders the devices anew for every setting that it looks at, and nothing is assumed of their order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from eetoolkit.fleet.quantile import Quantile
from eetoolkit.fleet.tuned import DeviceOutcome, FleetOutcome
from eetoolkit.tuning.choose import Task
from eetoolkit.tuning.costs import Costs
from eetoolkit.tuning.evaluate import Subset, objective_of
from eetoolkit.tuning.objective import Candidates, Objective, run_ends
from eetoolkit.tuning.record import Record
from eetoolkit.tuning.replay import means, own_thresholds
from eetoolkit.tuning.search import Constraint, Search
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import TuneError

_AT_GOAL = 1e-9  # beyond a budget, relative: rounding


@dataclass(frozen=True, eq=False, kw_only=True)
class FleetObjective(Objective):
    """An objective whose cost is the `rank`th least of those of several devices.

    Attributes:
        parts: What all costs are sums of, (N, V) each.
        of_parts: How much of each part each device's cost has, (D, P).
        rank: From 1 on.
    """

    parts: tuple[Array, ...]
    of_parts: Array
    rank: int

    @property
    def costs(self) -> tuple[Array, ...]:
        """The parts."""
        return self.parts

    def counted(self, costs: Array) -> Array:
        """Returns the `rank`th least by the means of all parts, (P, ...)."""
        return at_rank(self.of_parts @ costs, self.rank)


@dataclass(frozen=True, eq=False)
class FleetSubset(Subset):
    """Rows whose mean cost is the `rank`th least of those of several devices.

    Attributes:
        kinds: Which kind of run each visit ends, (N, V): runs of a kind cost the same on any one device.
        by_kind: What a run of each kind costs on each device, (D, K).
        rank: From 1 on.
    """

    kinds: Array
    by_kind: Array
    rank: int

    def take(self, rows: Array) -> Subset:
        """Returns some rows of it."""
        score = None if self.score is None else self.score[rows]
        return replace(self, record=self.record.take(rows), score=score, cost=self.cost[rows], kinds=self.kinds[rows])

    def means(self, ends: tuple[Array, Array]) -> tuple[float, float]:
        """Returns score and cost of runs whose answers and ends are these visits."""
        score, _ = super().means(ends)
        return score, float(at_rank(mean_costs(self.kinds, self.by_kind, ends[1]), self.rank))

    def means_at(self, settings: Array) -> tuple[Array, Array]:
        """Returns score and cost under settings of thresholds (S, E), (S,) each."""
        if self.score is None:
            return super().means_at(settings)
        parts, of_parts = self._parts(1.0)
        found = [means(self.record, settings, self.score, part, self.fallback) for part in parts]
        return found[0][0], at_rank(of_parts @ [cost for _, cost in found], self.rank)

    @property
    def full_cost(self) -> float:
        """What a run of the whole network costs in the mean."""
        return float(at_rank(mean_costs(self.kinds, self.by_kind, self.record.last), self.rank))

    def objective(self, choices: Candidates) -> Objective:
        """Returns what a search over these candidates makes best, with costs as shares of the whole network's."""
        full = self.full_cost
        parts, of_parts = self._parts(full)
        return FleetObjective(
            self.record, choices, self.score, self.cost / full, self.fallback, self.metric,
            parts=parts, of_parts=of_parts, rank=self.rank,
        )  # fmt: skip

    def _parts(self, unit: float) -> tuple[tuple[Array, ...], Array]:
        """Returns what all devices' costs are sums of, (N, V) each, and how much of each, (D, P): what is fewer.

        Each device's cost is a part, or each kind of run is one, which the visits have that end such a run.

        Args:
            unit: Of the costs.
        """
        devices, kinds = self.by_kind.shape
        if devices <= kinds:
            return tuple(costs[self.kinds] / unit for costs in self.by_kind), np.eye(devices)
        return tuple((self.kinds == kind).astype(np.float64) for kind in range(kinds)), self.by_kind / unit


@dataclass(frozen=True, eq=False)
class FleetTask(Task):
    """What is tuned for a quantile of a fleet. `costs` are those of the device there where no exit fires.

    Attributes:
        devices: What runs cost on each device, by its name.
        quantile: Which.
    """

    devices: dict[str, Costs]
    quantile: Quantile

    @property
    def rank(self) -> int:
        """Of its device, from 1 on."""
        return self.quantile.rank(len(self.devices))

    @cached_property
    def _kinds(self) -> tuple[Array, Array]:
        """Which kind of run each visit ends, (N, V), and what each costs on each device, (D, K)."""
        return kinds_of(self.data.record, list(self.devices.values()))

    @cached_property
    def _scale(self) -> Array:
        """By what costs are divided on each device, (D,): for a share of the whole network's cost, by that."""
        kinds, by_kind = self._kinds
        if self.goal.kind != "budget_share":
            return np.ones(len(by_kind))
        tuned, last = self.data.tune, self.data.record.last
        return mean_costs(kinds[tuned], by_kind, last[tuned])

    def rows_of(self, record: Record) -> Subset:
        """Returns all rows of a record with their scores, and with the costs of the devices that matter."""
        return self._subset(record, self.rank)

    def _subset(self, record: Record, rank: int) -> Subset:
        plain, (kinds, by_kind) = super().rows_of(record), self._kinds
        scaled = by_kind / self._scale[:, None]
        full = mean_costs(kinds, scaled, record.last)
        usual = scaled[np.argsort(full, kind="stable")[rank - 1]]
        some, among = contenders(scaled, rank)
        return FleetSubset(
            plain.record, plain.score, usual[kinds], plain.metric, plain.fallback, plain.seed,
            kinds, scaled[some], among,
        )  # fmt: skip

    def check_met(self, constraint: Constraint, reached: tuple[float, float]) -> None:
        """Refuses a choice that misses the goal; of a budget it says on how many devices any can keep it."""
        if constraint.least_score is not None:
            super().check_met(constraint, reached)
        elif not constraint.met(np.array(reached[0]), np.array(reached[1])):
            count, kept = len(self.devices), self._most_kept()
            best = "none" if not kept else f"{kept} of {count} ({kept / count:.0%})"
            raise TuneError(
                f"{self.goal.asked} cannot be met on {self.rank} of {count} devices, as {self.quantile.name} asks: "
                f"thresholds can keep it on {best}; allow more, or ask for fewer devices"
            )

    def _most_kept(self) -> int:
        """Returns on how many devices some thresholds keep the budget, by halving."""
        low, high = 0, self.rank
        while high - low > 1:
            rank = (low + high) // 2
            rows = self._subset(self.data.record, rank).take(self.data.tune)
            constraint = self.goal.constraint((0.0, rows.full_cost))
            objective = objective_of(self.plan, rows)
            score, cost = objective.at(Search(objective).best(constraint))
            low, high = (rank, high) if constraint.met(np.array(score), np.array(cost)) else (low, rank)
        return low

    def on_device(self, thresholds: Array) -> tuple[Task, FleetOutcome]:
        """Returns the task on the device that is at the quantile on the held-out rows, and what all devices gain.

        Args:
            thresholds: The choice, (E,).
        """
        names = list(self.devices)
        chosen, whole = self._held_out(self.data.record, thresholds)
        before, _ = self._held_out(self.data.first, own_thresholds(self.plan))
        relative = self.goal.kind == "budget_share"
        figure = chosen / whole if relative else chosen
        here = int(np.lexsort((chosen, figure.round(12)))[self.rank - 1])
        within = self.goal.value * (1 + _AT_GOAL) if self.goal.kind in ("budget_ms", "budget_share") else None
        outcomes = tuple(
            DeviceOutcome(
                name=name, whole_ms=whole[d].item(), before_ms=before[d].item(), tuned_ms=chosen[d].item(),
                keeps=None if within is None else bool(figure[d] <= within),
            )
            for d, name in enumerate(names)
        )  # fmt: skip
        outcome = FleetOutcome(quantile=self.quantile.name, needed=self.rank, device=names[here], devices=outcomes)
        own = self.devices[names[here]]
        source = f"{names[here]}, the {self.quantile.name} of {len(names)}: {own.source}"
        return Task(self.goal, self.plan, self.data, replace(own, source=source), self.metric, self.seed), outcome

    def _held_out(self, record: Record, thresholds: Array) -> tuple[Array, Array]:
        """Returns what runs cost by thresholds (E,) and in the whole network on each device's held-out rows, (D,)."""
        kinds, by_kind = self._kinds if record is self.data.record else kinds_of(record, list(self.devices.values()))
        rows = self.data.test
        ended = run_ends(record.take(rows), thresholds, self.plan.fallback)[1]
        return mean_costs(kinds[rows], by_kind, ended), mean_costs(kinds[rows], by_kind, record.last[rows])


def kinds_of(record: Record, devices: list[Costs]) -> tuple[Array, Array]:
    """Returns which kind of run each visit ends, (N, V), and what a run of each costs on each device, (D, K).

    What a run costs hangs on its way and on the exit that it ends at alone.
    """
    ends = record.way.astype(np.int64) * (len(record.exits) + 1) + record.exit + 1
    _, first, kinds = np.unique(ends, return_index=True, return_inverse=True)
    rows, visits = np.divmod(first, ends.shape[1])
    some = record.take(rows)  # one row of each kind tells all
    by_kind = np.array([costs.of_visits(some)[np.arange(len(rows)), visits] for costs in devices])
    return kinds.reshape(ends.shape), by_kind


def mean_costs(kinds: Array, by_kind: Array, ended: Array) -> Array:
    """Returns what runs cost in the mean on each device, (D,), by the visits that end them, (N,)."""
    counts = np.bincount(kinds[np.arange(len(ended)), ended], minlength=by_kind.shape[1])
    return np.asarray(by_kind @ counts / len(ended))


def at_rank(costs: Array, rank: int) -> Array:
    """Returns the `rank`th least, from 1 on, along the first axis: (D, ...) to (...)."""
    return np.asarray(np.partition(costs, rank - 1, axis=0)[rank - 1])


def contenders(by_kind: Array, rank: int) -> tuple[Array, int]:
    """Returns which devices can be at a rank by any thresholds, (d,), and what rank that is among them.

    A device that takes no more than another for a run of any kind takes no more in any mean. One that is before too
    many others, or behind too many, is never there. Mostly one device is left, since a slower one is slower in all.

    Args:
        by_kind: What a run of each kind costs on each device, (D, K).
        rank: From 1 on.
    """
    no_more = np.array([(one <= by_kind).all(axis=1) for one in by_kind])  # the first takes no more than the second
    left = np.arange(len(by_kind))
    while True:
        among = no_more[np.ix_(left, left)]
        before, behind = among.sum(axis=1) - 1, among.sum(axis=0) - 1
        low, high = before > len(left) - rank, behind >= rank
        if low.any():
            left, rank = np.delete(left, low.argmax()), rank - 1
        elif high.any():
            left = np.delete(left, high.argmax())
        else:
            return left, rank

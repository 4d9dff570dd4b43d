"""Where to split: what runs cost if a server goes on behind an exit, and the thresholds that are best there.

Neurosurgeon (Kang et al. 2017) asks before which layer a network hands over to a server. Here rows leave at early
exits too, so each place has thresholds of its own: the search runs for each, and the best place wins. A plan is cut
only before a segment that every way behind it leads through once (`plan.halves`). So a run that goes on there crosses
the link once, and its cost is still a sum: the device's segments, one request, the server's segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from eetoolkit.tuning.choose import Choice, Task, choose
from eetoolkit.tuning.costs import Costs
from eetoolkit.tuning.evaluate import Subset
from eetoolkit.tuning.goal import GoalSpec
from eetoolkit.tuning.record import NO_EXIT, Record
from eetoolkit.tuning.static import AS_GOOD
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import TuneError
from eetoolkit_runtime.plan.flow import closure, successors
from eetoolkit_runtime.plan.types import Manifest

HERE = "on the device"
ALL_THERE = "all on the server"


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A place to split a plan at, and what crosses there for one row.

    Attributes:
        segment: The first that runs on the server; None: all of them do, and the inputs cross.
        exit: The exit whose answer stands in; None with the segment.
        at: What `split` calls the place.
        sent_bytes: To the server.
        received_bytes: From it, the most that an exit behind the cut answers.
    """

    segment: str | None
    exit: str | None
    at: str
    sent_bytes: int
    received_bytes: int

    @property
    def name(self) -> str:
        """What reports call it."""
        return ALL_THERE if self.segment is None else f"split at {self.at}"


@dataclass(frozen=True, eq=False, kw_only=True)
class SplitCosts(Costs):
    """What runs cost that go on at a server where a plan is cut; `of` has each segment's where it runs.

    What the device takes is scaled as runs are that end there, what the server takes as its own runs to the end.

    Attributes:
        behind: Which segments run on the server, bool (S,).
        exits_behind: Which exits stand there alone, bool (E,).
        link_ms: What one request takes beside its segments.
        device_scale: By exit, of what the device takes of a run that ends there, (E,).
        server_scale: The same of the server.
    """

    behind: Array = field(default_factory=lambda: np.zeros(0, bool))
    exits_behind: Array = field(default_factory=lambda: np.zeros(0, bool))
    link_ms: float = 0.0
    device_scale: Array = field(default_factory=lambda: np.zeros(0))
    server_scale: Array = field(default_factory=lambda: np.zeros(0))

    def crossed(self, record: Record) -> Array:
        """Returns whether a run that ends at each visit crosses the link, bool (N, V)."""
        by_way = record.ways[:, self.behind].sum(axis=1) > 0
        return np.asarray((by_way[record.way] | np.append(self.exits_behind, False)[record.exit]) & _met(record))

    def of_visits(self, record: Record) -> Array:
        """Returns what a run that ends at each visit costs, (N, V); see `Costs.of_visits`."""
        super().of_visits(record)  # refuses what is not known
        of = np.nan_to_num(self.of)
        device, server = (record.ways[:, here] @ of[here] for here in (~self.behind, self.behind))
        scales = [np.append(scale, 1.0)[record.exit] for scale in (self.device_scale, self.server_scale)]
        there = server[record.way] * scales[1] + self.link_ms
        return np.asarray(device[record.way] * scales[0] + np.where(self.crossed(record), there, 0.0))


def split_costs(plan: Manifest, cut: Cut, device: Costs, server: Costs, record: Record, link_ms: float) -> SplitCosts:
    """Returns what runs cost with a cut.

    Args:
        plan: The whole bundle's.
        cut: One of its places.
        device: What segments cost on the device, in milliseconds.
        server: What they cost on the server.
        record: Names segments and exits.
        link_ms: What one request takes beside its segments.
    """
    moved = _behind(plan, cut)
    behind = np.array([name in moved for name in record.segments], bool)
    stands: dict[str, list[bool]] = {name: [] for name in record.exits}
    for name, segment in plan.segments.items():
        if segment.exit is not None:
            stands[segment.exit.name].append(name in moved)
    exits_behind = np.array([all(stands[name]) for name in record.exits], bool)
    ones = np.ones(len(record.exits))
    device_scale = ones if device.scale is None else device.scale
    handed = ones[0] if cut.exit is None else device_scale[record.exits.index(cut.exit)]
    heads = {name: cost for name, cost in device.heads.items() if not exits_behind[record.exits.index(name)]}
    heads |= {name: cost for name, cost in server.heads.items() if exits_behind[record.exits.index(name)]}
    jitter = None if device.jitter is None else np.where(exits_behind[:, None], 1.0, device.jitter)
    return SplitCosts(
        of=np.where(behind, server.of, device.of),
        each=device.each,
        unit=device.unit,
        source=f"{device.source}; behind {cut.at}, {server.source} and the link",
        heads=heads,
        jitter=jitter,
        behind=behind,
        exits_behind=exits_behind,
        link_ms=link_ms,
        device_scale=np.where(exits_behind, handed, device_scale),
        server_scale=ones if server.scale is None else server.scale,
    )


@dataclass(frozen=True, eq=False)
class Placed:
    """The best thresholds for one place to split at.

    Attributes:
        cut: The place; None: nothing crosses.
        task: What was tuned, with the costs of this place.
        choice: What was chosen by the tuning rows; None: nothing keeps the goal here.
        why: What it says where nothing does.
    """

    cut: Cut | None
    task: Task
    choice: Choice | None
    why: str = ""

    @property
    def point(self) -> tuple[float, float]:
        """Score and cost of the choice on the tuning rows."""
        if self.choice is None:
            raise ValueError(f"{self.name}: {self.why}")
        return self.task.tuned.means(self.task.tuned.ends(self.choice.thresholds))

    @property
    def sends(self) -> bool:
        """Whether it is a split, and a tuning row goes on behind it."""
        if self.choice is None or self.cut is None or self.cut.segment is None:
            return False
        return self.sent(self.task.tuned, self.choice.thresholds) > 0

    def sent(self, rows: Subset, thresholds: Array) -> float:
        """Returns the share of some rows that cross the link, by thresholds (E,)."""
        if not isinstance(self.task.costs, SplitCosts):
            return 0.0
        _, ended = rows.ends(thresholds)
        return float(self.task.costs.crossed(rows.record)[np.arange(len(ended)), ended].mean())

    @property
    def name(self) -> str:
        """What reports call it."""
        return HERE if self.cut is None else self.cut.name


def place(task: Task, costs: Sequence[tuple[Cut | None, Costs]]) -> list[Placed]:
    """Returns the best thresholds for each place.

    A guarantee is shown later, of the place that was chosen: its own rows have no say here, so it holds as it would
    without a choice of places. Until then a risk counts as a drop.

    Args:
        task: What is tuned.
        costs: Of runs, by place.
    """
    goal = task.goal if task.goal.kind != "risk" else GoalSpec("max_accuracy_drop", task.goal.value, task.goal.accuracy)
    return [_placed(replace(task, costs=own, goal=goal), cut, task.goal) for cut, own in costs]


def _placed(task: Task, cut: Cut | None, goal: GoalSpec) -> Placed:
    try:
        choice = choose(task, None)
    except TuneError as error:
        return Placed(cut, replace(task, goal=goal), None, str(error))
    return Placed(cut, replace(task, goal=goal), choice)


def best_place(places: Sequence[Placed], goal: GoalSpec) -> Placed:
    """Returns the place at which the goal is reached at the least cost, or within a budget with the best score.

    By the tuning rows. A split at which no row goes on is none, and one that costs no less than `AS_GOOD` says is not
    worth a server: then all stays on the device. What crosses as inputs, without a split, is held against them and is
    no choice.

    Raises:
        TuneError: The goal cannot be met at any place.
    """
    possible = [each for each in places if each.choice is not None and (each.cut is None or each.sends)]
    if not possible:
        raise TuneError(f"wherever the network is split: {places[0].why}")
    budget = goal.kind in ("budget_ms", "budget_share")

    def key(each: Placed) -> tuple[float, float]:
        score, cost = each.point
        cost /= 1.0 if each.cut is not None else AS_GOOD
        return (-round(score, 12), round(cost, 12)) if budget else (round(cost, 12), -round(score, 12))

    return min(possible, key=key)


def _behind(plan: Manifest, cut: Cut) -> set[str]:
    """Returns the segments that run on the server."""
    if cut.segment is None:
        return set(plan.segments)
    return closure((cut.segment,), {name: successors(segment) for name, segment in plan.segments.items()})


def _met(record: Record) -> Array:
    return np.asarray(record.exit != NO_EXIT)


def mean_behind(task: Task, costs: SplitCosts, thresholds: Array) -> float | None:
    """Returns what the server's segments take for a tuning row that crosses, the mean; None where none does."""
    record = task.tuned.record
    rows = np.arange(len(record))
    _, ended = task.tuned.ends(thresholds)
    crossed = costs.crossed(record)[rows, ended]
    if not crossed.any():
        return None
    there = record.ways[:, costs.behind] @ np.nan_to_num(costs.of)[costs.behind]
    scale = np.append(costs.server_scale, 1.0)[record.exit[rows, ended]]
    return float((there[record.way[rows, ended]] * scale)[crossed].mean())

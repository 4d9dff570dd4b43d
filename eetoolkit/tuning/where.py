"""Where to split, as a report holds it: every place with its best thresholds, on the held-out rows."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from eetoolkit.tuning.choose import Task
from eetoolkit.tuning.costs import Costs, choose_costs
from eetoolkit.tuning.crossing import cuts_of
from eetoolkit.tuning.dataset import RowSource
from eetoolkit.tuning.evaluate import Evaluator
from eetoolkit.tuning.goal import GoalSpec
from eetoolkit.tuning.intervals import Figures, Interval, Thresholds
from eetoolkit.tuning.link import Link, read_link
from eetoolkit.tuning.replay import own_thresholds
from eetoolkit.tuning.splitting import Cut, Placed, SplitCosts, best_place, mean_behind, place, split_costs
from eetoolkit.tuning.wording import Wording
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.errors import TuneError
from eetoolkit_runtime.files.paths import shown
from eetoolkit_runtime.printable import printable, spell_figure
from eetoolkit_runtime.profiling.link import LinkCost
from eetoolkit_runtime.profiling.profile import Profile

Server = Profile | str | os.PathLike[str] | float


class PlaceFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One place to split at, with the thresholds that are best there, measured on the held-out rows.

    Attributes:
        name: What it is.
        at: What `split` calls the place; None: nothing is split.
        exit: The exit whose answer stands in there.
        segment: The first segment that runs on the server.
        sent_bytes: What one row sends.
        received_bytes: What it gets back, at most.
        link_ms: What one request takes beside its segments.
        thresholds: By exit; empty where no thresholds keep the goal here.
        sent: The share of rows that go on at the server.
        score: Accuracy, or the metric; None where no thresholds keep the goal here.
        cost: Of a run in the mean, in milliseconds.
        exits: Which share of the rows answers where.
        tune_score: The same on the rows that it was chosen on.
        tune_cost: The same there.
        reason: Why no thresholds keep the goal here.
    """

    name: str
    at: str | None = None
    exit: str | None = None
    segment: str | None = None
    sent_bytes: int = 0
    received_bytes: int = 0
    link_ms: float = 0.0
    thresholds: Thresholds = {}
    sent: float | None = None
    score: Interval | None = None
    cost: Interval | None = None
    exits: dict[str, float] = {}
    tune_score: float | None = None
    tune_cost: float | None = None
    reason: str = ""


class WhereToSplit(msgspec.Struct, frozen=True, kw_only=True):
    """Where a network is best split between this device and a server.

    Attributes:
        chosen: The place.
        places: All of them, that without a split first, in the plan's order, and last all on the server.
        link: What a request costs.
        server: Where the server's costs come from.
        command: What splits the bundle there, once thresholds are applied; None where nothing is to be split.
    """

    chosen: PlaceFigures
    places: tuple[PlaceFigures, ...]
    link: Link
    server: str
    command: str | None = None

    def __str__(self) -> str:
        if self.chosen.at is None:
            return f"best {self.chosen.name}: nothing is split ({self.link})"
        sent = "" if self.chosen.sent is None else f", {self.chosen.sent:.1%} of the rows go on at the server"
        size = f"{self.chosen.sent_bytes} bytes each"
        return printable(f"best {self.chosen.name}{sent}, {size} ({self.link}); then: {self.command}")


@dataclass(frozen=True, eq=False)
class SplitTask:
    """What is tuned at the place that is best, beside all others.

    Attributes:
        best: It.
        places: All of them.
        link: What a request costs.
        server: Where the server's costs come from.
    """

    best: Placed
    places: list[Placed]
    link: Link
    server: str

    @property
    def task(self) -> Task:
        """What is tuned, with the costs of that place."""
        return self.best.task


def check_split(link: object, server: object, goal: GoalSpec, *, latencies: bool) -> None:
    """Refuses what where to split cannot be told by, before anything is run.

    Raises:
        TuneError: What to pass.
    """
    if link is None:
        if server is not None:
            raise TuneError("server= (--server-profile, --server-speedup) goes with link= (--link)")
        return
    if server is None:
        raise TuneError(
            "link= (--link) needs what segments cost on the server: pass server=FILE (--server-profile FILE), a "
            "profile of this bundle taken there, or server=10 (--server-speedup 10), how many times as fast it is"
        )
    if not latencies:
        raise TuneError("link= (--link) needs latencies of this device: pass profile=FILE (--profile FILE)")
    if goal.kind == "budget_share":
        raise TuneError(
            f"{goal.asked}: with link= (--link) the whole network costs another thing wherever it is split; "
            "pass budget_ms=MS (--budget-ms MS)"
        )


def split_task(
    source: RowSource,
    task: Task,
    given: Link | Profile | Mapping[str, Any] | str | os.PathLike[str],
    server: Server,
    *,
    force: bool = False,
) -> SplitTask:
    """Returns the task at the place where the goal is reached best, with the best thresholds of every place.

    Args:
        source: Where rows come from, of which one tells what crosses.
        task: What is tuned, with the costs of the device.
        given: The link.
        server: A profile of the bundle taken on the server, or how many times as fast as the device it is.
        force: Whether to accept a profile of another bundle.

    Raises:
        TuneError: No link, no profile of this bundle, or the goal cannot be met at any place.
    """
    plan, record = task.plan, task.data.record
    read = read_link(given)
    there = _server_costs(task, server, force=force)
    link = Link(round_trip_ms=1.0) if isinstance(read, LinkCost) else read
    cuts = cuts_of(source, link)
    if isinstance(read, LinkCost):
        link = _of_measured(read, task, there, cuts)
    costs = [
        (cut, split_costs(plan, cut, task.costs, there, record, link.expected_ms(cut.sent_bytes, cut.received_bytes)))
        for cut in cuts
    ]
    source.progress("searching where to split", 0, 0)
    places = place(task, [(None, task.costs), *costs])
    return SplitTask(best_place(places, task.goal), places, link, there.source)


def where_to_split(found: SplitTask, bundle: Bundle, chosen: Figures) -> WhereToSplit:
    """Returns what a report says of it.

    Args:
        found: All places.
        bundle: That is to be split.
        chosen: The figures of the choice at the best place, which a guarantee may have changed.
    """
    figures = {id(each): _figures(each, chosen if each is found.best else None) for each in found.places}
    best = figures[id(found.best)]
    words = ["eetoolkit", "split", str(shown(bundle.archive or bundle.path)), "--at", best.at or ""]
    words += ["--out-device", f"{bundle.manifest.name}-device.ee", "--out-server", f"{bundle.manifest.name}-server"]
    crossing = found.link.crossing
    words += [] if crossing == "float32" else ["--crossing", crossing, "--data", "DATA"]
    return WhereToSplit(
        chosen=best,
        places=tuple(figures.values()),
        link=found.link,
        server=found.server,
        command=None if best.at is None else shlex.join(words),
    )


def _figures(placed: Placed, known: Figures | None) -> PlaceFigures:
    cut, task = placed.cut, placed.task
    place_ = PlaceFigures(name=placed.name)
    if cut is not None and isinstance(task.costs, SplitCosts):
        place_ = PlaceFigures(
            name=placed.name, at=cut.at if cut.segment else None, exit=cut.exit, segment=cut.segment,
            sent_bytes=cut.sent_bytes, received_bytes=cut.received_bytes, link_ms=task.costs.link_ms,
        )  # fmt: skip
    if placed.choice is None:
        return msgspec.structs.replace(place_, reason=placed.why)
    evaluator = Evaluator(task.test, task.tuned, placed.choice.objective.choices, task.plan)
    figures = evaluator.choice(placed.name, placed.choice.thresholds) if known is None else known
    limits = np.array([_limit(figures.thresholds, name) for name in task.data.record.exits])
    sent = placed.sent(task.test, limits)
    return msgspec.structs.replace(
        place_, thresholds=figures.thresholds, sent=sent, score=figures.score, cost=figures.cost, exits=figures.exits,
        tune_score=figures.tune_score, tune_cost=figures.tune_cost,
    )  # fmt: skip


def _limit(thresholds: Thresholds, name: str) -> float:
    limit = thresholds.get(name, "never")
    return limit if isinstance(limit, int | float) else np.nan


def _server_costs(task: Task, server: Server, *, force: bool) -> Costs:
    """Returns what segments cost on the server."""
    if isinstance(server, int | float):
        if not 0 < server < np.inf:
            raise TuneError(f"server={server:g} (--server-speedup {server:g}): expected a number above 0")
        return _faster(task.costs, float(server))
    profile = server if isinstance(server, Profile) else Profile.read(server)
    try:
        return choose_costs(task.plan, task.data.record, profile, profile.providers, force=force)
    except TuneError as error:
        raise TuneError(f"server: {error}") from error


def _faster(device: Costs, times: float) -> Costs:
    heads = {name: cost / times for name, cost in device.heads.items()}
    source = f"a server said to be {times:g} times as fast"
    return Costs(device.of / times, device.each / times, "ms", source, heads, device.scale)


def _of_measured(read: LinkCost, task: Task, server: Costs, cuts: list[Cut]) -> Link:
    """Returns a measured link: what its server took beyond the segments there is what a request takes in itself."""
    request_ms = 0.0
    cut = next((each for each in cuts if each.segment is not None and read.at in (each.at, each.exit)), None)
    if cut is not None:
        costs = split_costs(task.plan, cut, task.costs, server, task.data.record, 0.0)
        own_ms = mean_behind(task, costs, own_thresholds(task.plan))
        request_ms = 0.0 if own_ms is None else max(0.0, read.server_ms - own_ms)
    return Link(
        round_trip_ms=read.round_trip_ms, up_mbit_s=read.up_mbit_s, down_mbit_s=read.down_mbit_s,
        request_ms=request_ms, encoded=read.encoded,
    )  # fmt: skip


def place_rows(where: WhereToSplit, metric: str) -> list[tuple[str, ...]]:
    """Returns the places as rows of texts, for people: name, score, cost, share sent, bytes, the link's ms."""
    say = Wording(metric, "ms")
    rows: list[tuple[str, ...]] = []
    for each in where.places:
        if each.score is None or each.cost is None or each.sent is None:
            told = (each.name, "-", "-", "-")
        else:
            told = (each.name, say.score(each.score.value), say.amount(each.cost.value), f"{each.sent:.1%}")
        crossing = (str(each.sent_bytes), spell_figure(each.link_ms, 4)) if each.sent_bytes else ("-", "-")
        rows.append((*told, *crossing))
    return rows

"""Tuning, read top to bottom: collect, split, choose on one part, tell from another."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from eetoolkit.tuning.checks import check_record
from eetoolkit.tuning.collect import Data, Progress, collect
from eetoolkit.tuning.costs import Costs, choose_costs
from eetoolkit.tuning.figures import rows_needed
from eetoolkit.tuning.manifest import may_fire
from eetoolkit.tuning.measure import Part, by_exit, measure
from eetoolkit.tuning.objective import Metric, Objective, candidates, worth_of
from eetoolkit.tuning.record import Record, check_bundle, read_record
from eetoolkit.tuning.replay import means, own_thresholds
from eetoolkit.tuning.report import Figures, Point, TuningReport
from eetoolkit.tuning.search import Goal, Search
from eetoolkit.tuning.splits import split
from eetoolkit_runtime.bundle import Bundle, load
from eetoolkit_runtime.errors import TuneError
from eetoolkit_runtime.plan import Manifest
from eetoolkit_runtime.profile import Profile, decode

DEFAULT_DROP = 0.01
"""The `max_accuracy_drop` where no goal is given."""
_FRONTIER = 48  # points that a report keeps, at most
_TOLD = 0.01  # how close a drop should be known where no drop was asked for


@dataclass(frozen=True)
class Wish:
    """What the user asks for: exactly one is given."""

    kind: Literal["max_accuracy_drop", "min_accuracy", "budget_ms", "budget_share"]
    value: float

    def __str__(self) -> str:
        match self.kind:
            case "max_accuracy_drop":
                return f"least cost at a drop of at most {self.value:g} against the last exit"
            case "min_accuracy":
                return f"least cost at {self.value:g} or better"
            case "budget_ms":
                return f"best answers within {self.value:g} ms a run in the mean"
            case "budget_share":
                return f"best answers within {self.value:g} of the whole network's cost in the mean"

    def goal(self, whole: tuple[float, float], costs: Costs) -> Goal:
        """Returns the goal in terms of the tune part, where the whole network has this worth and cost."""
        worth, cost = whole
        if self.kind == "budget_ms" and costs.unit != "ms":
            raise TuneError(
                f"budget_ms needs latencies, and costs are {costs.unit} here; pass a profile, or budget_share"
            )
        match self.kind:
            case "max_accuracy_drop":
                return Goal(least_worth=worth - self.value)
            case "min_accuracy":
                return Goal(least_worth=self.value)
            case "budget_ms":
                return Goal(most_cost=self.value / cost)
            case "budget_share":
                return Goal(most_cost=self.value)


def tune(  # noqa: PLR0913 - what a choice depends on
    bundle: str | os.PathLike[str] | Bundle,
    inputs: Data | None = None,
    labels: npt.ArrayLike | None = None,
    *,
    max_accuracy_drop: float | None = None,
    min_accuracy: float | None = None,
    budget_ms: float | None = None,
    budget_share: float | None = None,
    metric: Metric | None = None,
    profile: Profile | str | os.PathLike[str] | None = None,
    force: bool = False,
    record: Record | str | os.PathLike[str] | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> TuningReport:
    """Returns the thresholds that reach a goal at the least cost, or the best within a budget, and how good they are.

    The data is split: thresholds are chosen on one part, and every figure of the report is from another. The bundle is
    left as it is until `TuningReport.apply`.

    Args:
        bundle: A `Bundle`, or its path.
        inputs: Any number of labelled rows; see `collect`. None: they are in `record`.
        labels: The right class of every row, or what `metric` takes.
        max_accuracy_drop: The goal: least cost at most so much below the last exit, 0.01 for one point; where no goal
            is given, 0.01.
        min_accuracy: The goal: least cost at this accuracy.
        budget_ms: The goal: the best answers within so many milliseconds a run in the mean.
        budget_share: The goal: the best answers within so much of the whole network's cost.
        metric: Instead of accuracy: from the answers' outputs by name (N, ...) and the labels to a number, higher is
            better, or to one number for each row, which is much faster to search.
        profile: What segments cost, a `Profile` or its file; None: the manifest's latencies, else multiply-adds.
        force: Takes a profile of another bundle.
        record: A `Record`, or its file: with `inputs` where to save it, and where to go on after an interrupt.
        seed: Of the split.
        threads: As the `Runner`'s.
        progress: Is told (what, done, total).

    Raises:
        BundleError: The bundle cannot be opened.
        InputError: Inputs that it does not take, or another number of labels.
        TuneError: Labels or confidences that cannot be used, too few rows, a profile of another bundle, a goal that
            cannot be met; it says the best that can.
    """
    wish = _wish(
        max_accuracy_drop=max_accuracy_drop, min_accuracy=min_accuracy, budget_ms=budget_ms, budget_share=budget_share
    )
    opened = load(bundle)
    plan = opened.manifest
    tell = progress or (lambda _what, _done, _total: None)
    taken = _read_profile(profile)
    found = _record(opened, inputs, labels, record, threads=threads, progress=tell)
    check_record(found, classes=metric is None)
    costs = choose_costs(plan, found, taken, force=force)
    parts = split(found.label, calibrate=False, guarantee=False, seed=seed)
    whole = Part(found, worth_of(found, metric), costs.of_visits(found), metric, plan.fallback, seed)
    tuned, test = whole.take(parts.tune), whole.take(parts.test)
    tell("searching", 0, 0)
    objective = _objective(plan, tuned)
    scale = tuned.means((tuned.record.last, tuned.record.last))
    goal = wish.goal(scale, costs)
    search = Search(objective)
    setting = search.best(goal)
    _check_met(wish, goal, objective.at(setting), scale[1], costs)
    choices = objective.choices
    chosen = _measure("tuned", test, tuned, choices.spell(setting), plan)
    rows = {name: len(getattr(parts, name)) for name in ("calibrate", "tune", "guarantee", "test")}
    return TuningReport(
        bundle=plan.name,
        path=str(opened.path),
        files=dict(found.files),
        goal=str(wish),
        metric="accuracy" if metric is None else getattr(metric, "__name__", "metric"),
        unit=costs.unit,
        costs=costs.source,
        seed=seed,
        rows={name: count for name, count in rows.items() if count},
        by_label=parts.by_label,
        chosen=chosen,
        before=_measure("before", test, tuned, own_thresholds(plan), plan),
        whole=_measure_always("whole network", test, tuned, None),
        always=tuple(_measure_always(f"always {name}", test, tuned, e) for e, name in enumerate(found.exits)),
        frontier=_frontier(search, objective, test, tuned, plan),
        notes=tuple(_notes(wish, test, chosen, choices.spell(setting), len(found))),
    )


def _wish(**goals: float | None) -> Wish:
    given = [Wish(name, value) for name, value in goals.items() if value is not None]  # type: ignore[arg-type] # the names are its kinds
    if len(given) > 1:
        raise TuneError(f"one goal at a time: got {' and '.join(wish.kind for wish in given)}")
    wish = given[0] if given else Wish("max_accuracy_drop", DEFAULT_DROP)
    if not np.isfinite(wish.value) or wish.value < 0:
        raise TuneError(f"{wish.kind} is {wish.value}, expected a number from 0")
    return wish


def _read_profile(profile: Profile | str | os.PathLike[str] | None) -> Profile | None:
    if profile is None or isinstance(profile, Profile):
        return profile
    try:
        return decode(Path(profile).read_bytes(), str(profile))
    except OSError as error:
        raise TuneError(f"cannot read the profile {profile}: {error.strerror or error}") from error


def _record(
    bundle: Bundle,
    inputs: Data | None,
    labels: npt.ArrayLike | None,
    record: Record | str | os.PathLike[str] | None,
    *,
    threads: int | None,
    progress: Progress,
) -> Record:
    if inputs is None:
        if record is None:
            raise TuneError("nothing to tune by: pass inputs and labels, or a record")
        found = record if isinstance(record, Record) else read_record(record)
        check_bundle(found, bundle.manifest)
        return found
    if isinstance(record, Record):
        raise TuneError("pass inputs or a record; with both, `record` is the file to save to")
    return collect(bundle, inputs, labels, file=record, threads=threads, progress=progress)


def _objective(plan: Manifest, part: Part) -> Objective:
    rows = np.arange(len(part.record))
    scale = part.cost[rows, part.record.last].mean()
    allowed = np.array(may_fire(plan))
    always = np.array([exit_.threshold is None for exit_ in plan.exits.values()])
    most = 100 if part.worth is not None else 16
    return Objective(
        part.record, candidates(part.record, plan, allowed, most), part.worth, part.cost / scale, part.fallback,
        allowed | always, part.metric,
    )  # fmt: skip


def _check_met(wish: Wish, goal: Goal, found: tuple[float, float], full_cost: float, costs: Costs) -> None:
    worth, share = found
    if goal.met(np.array(worth), np.array(share)):
        return
    if goal.least_worth is not None:
        raise TuneError(
            f"{wish.kind} {wish.value:g} cannot be met: of the tune part's rows the best thresholds reach {worth:.4g}, "
            f"at {share:.3g} of the whole network's cost"
        )
    raise TuneError(
        f"{wish.kind} {wish.value:g} cannot be met: the cheapest thresholds cost {share:.3g} of the whole network, "
        f"{share * full_cost:.4g} {costs.unit}, and reach {worth:.4g}"
    )


def _stop_exits(plan: Manifest) -> frozenset[str]:
    return frozenset(name for name, exit_ in plan.exits.items() if exit_.threshold is None)


def _measure(name: str, test: Part, tuned: Part, limits: npt.NDArray[np.float64], plan: Manifest) -> Figures:
    thresholds = by_exit(test.record.exits, limits, _stop_exits(plan))
    return measure(name, test, tuned, test.ends(limits), tuned.ends(limits), thresholds)


def _measure_always(name: str, test: Part, tuned: Part, exit_: int | None) -> Figures:
    if exit_ is None:
        ends, there = (test.record.last, test.record.last), (tuned.record.last, tuned.record.last)
    else:
        ends, there = test.always(exit_), tuned.always(exit_)
    return measure(name, test, tuned, ends, there, {})


def _frontier(search: Search, objective: Objective, test: Part, tuned: Part, plan: Manifest) -> tuple[Point, ...]:
    found = search.frontier()
    kept = np.unique(np.linspace(0, len(found.cost) - 1, min(_FRONTIER, len(found.cost))).round().astype(int))
    limits = objective.choices.spell(found.settings[kept])
    if test.worth is None:
        points = [test.means(test.ends(one)) for one in limits]
        worth, cost = np.array(points).T
    else:
        worth, cost = means(test.record, limits, test.worth, test.cost, test.fallback)
    scale = tuned.means((tuned.record.last, tuned.record.last))[1]
    return tuple(
        Point(
            thresholds=by_exit(test.record.exits, limits[n], _stop_exits(plan)),
            tune_worth=float(found.worth[place]),
            tune_cost=float(found.cost[place]) * scale,
            worth=float(worth[n]),
            cost=float(cost[n]),
        )
        for n, place in enumerate(kept.tolist())
    )


def _notes(wish: Wish, test: Part, chosen: Figures, limits: npt.NDArray[np.float64], rows: int) -> list[str]:
    """Returns what is said aloud: too little data, a drop on the test part beyond what was asked."""
    notes = []
    within = wish.value if wish.kind == "max_accuracy_drop" and wish.value > 0 else _TOLD
    drops = test.drops(test.ends(limits)[0])
    half = (chosen.drop.high - chosen.drop.low) / 2
    if drops is not None and half > within:
        needed = rows_needed(drops, within)
        notes.append(
            f"{len(drops)} test rows tell the drop to +-{half:.2g} only; +-{within:g} takes about {needed} of them, "
            f"{int(np.ceil(needed * rows / len(drops)))} rows in all"
        )
    if wish.kind == "max_accuracy_drop" and chosen.drop.value > wish.value:
        notes.append(
            f"on the test part the drop is {chosen.drop.value:.4g}, more than {wish.value:g}: see its interval"
        )
    if wish.kind == "min_accuracy" and chosen.worth.value < wish.value:
        notes.append(f"on the test part it is {chosen.worth.value:.4g}, less than {wish.value:g}: see its interval")
    return notes

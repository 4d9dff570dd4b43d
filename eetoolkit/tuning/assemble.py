"""The report put together: the choice and its rivals on the held-out rows, the verdict, and what a page shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from eetoolkit.tuning import report_data
from eetoolkit.tuning.calibrate import Calibration, calibrations, temperatures_of
from eetoolkit.tuning.choose import Choice, Task
from eetoolkit.tuning.costs import overheads_of
from eetoolkit.tuning.evaluate import Evaluator
from eetoolkit.tuning.guarantee import GuaranteedChoice
from eetoolkit.tuning.intervals import Figures, Point
from eetoolkit.tuning.outcome import Outcome, goal_outcome
from eetoolkit.tuning.pruning import choose_gone, without_overheads
from eetoolkit.tuning.record import criterion_values, values_of
from eetoolkit.tuning.remarks import budget_slack, labels_off, less_reliable, margin_used, remarks
from eetoolkit.tuning.replay import own_thresholds
from eetoolkit.tuning.report import TuningReport
from eetoolkit.tuning.risk import Method
from eetoolkit.tuning.search import Constraint
from eetoolkit.tuning.static import WHOLE
from eetoolkit.tuning.verdict import Verdict, exit_verdicts
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.bundle import Bundle


@dataclass(frozen=True, eq=False)
class Results:
    """Figures of the choice and of all that it is held against.

    Attributes:
        chosen: The choice.
        before: The bundle's own thresholds, with the temperatures that it had.
        whole: The whole network.
        always: Every exit always.
        rivals: What other rules choose.
        pruned: The choice without the exits that do not pay; None where there are none.
        frontier: By rising cost on the tuning rows.
        overheads: What a visit of each exit costs, (E,).
    """

    chosen: Figures
    before: Figures
    whole: Figures
    always: tuple[Figures, ...]
    rivals: tuple[Figures, ...]
    pruned: Figures | None
    frontier: tuple[Point, ...]
    overheads: Array


def evaluate(task: Task, choice: Choice, guaranteed: Mapping[Method, GuaranteedChoice]) -> Results:
    """Returns the figures.

    Args:
        task: What is tuned.
        choice: The choice.
        guaranteed: What each method guarantees.
    """
    evaluator = Evaluator(task.test, task.tuned, choice.objective.choices, task.plan)
    rivals = [*choice.rivals, *((f"guaranteed by {name}", each.thresholds) for name, each in guaranteed.items())]
    overheads = overheads_of(task.plan, task.costs, task.data.record.exits)
    return Results(
        chosen=evaluator.choice("tuned", choice.thresholds),
        before=_before(task, choice),
        whole=evaluator.always(WHOLE, None),
        always=tuple(evaluator.always(f"always {name}", e) for e, name in enumerate(task.data.record.exits)),
        rivals=tuple(evaluator.choice(name, thresholds) for name, thresholds in rivals),
        pruned=_pruned(task, evaluator, choice.thresholds, overheads) if choice.passed else None,
        frontier=evaluator.frontier(choice.search.frontier()),
        overheads=overheads,
    )


def assemble(
    bundle: Bundle,
    task: Task,
    choice: Choice,
    results: Results,
    guaranteed: GuaranteedChoice | None,
    notes: Iterable[str],
) -> TuningReport:
    """Returns the report.

    Args:
        bundle: What was tuned.
        task: For what, and by what.
        choice: What was chosen.
        results: Its figures.
        guaranteed: The guarantee, if one was asked for.
        notes: What the reader must know beside what the figures show.
    """
    plan, data, test, limits = task.plan, task.data, task.test, choice.thresholds
    rows = sum(data.rows.values())
    outcome = goal_outcome(task.goal, test, limits, results.chosen, results.whole, rows, guaranteed)
    calibration, whole, asked = _calibration(task), results.whole, _asked(task, results.whole)
    return TuningReport(
        bundle=plan.name,
        path=str(bundle.archive or bundle.path),
        files=dict(data.record.files),
        goal=str(task.goal),
        goal_met=outcome.met,
        goal_reason=outcome.reason,
        rows_needed=outcome.rows_needed or (choice.rows_to_show if choice.unshown else None),
        least_score=asked.least_score,
        most_cost=None if asked.most_cost is None else asked.most_cost * whole.cost.value,
        metric="accuracy" if task.metric is None else getattr(task.metric, "__name__", "metric"),
        unit=task.costs.unit,
        costs=task.costs.source,
        seed=task.seed,
        rows=data.rows,
        by_label=data.by_label,
        chosen=results.chosen,
        before=results.before,
        whole=results.whole,
        always=results.always,
        baselines=results.rivals,
        frontier=results.frontier,
        verdict=_verdict(task, choice, results, outcome),
        calibration=calibration,
        histograms=tuple(report_data.histograms(test)),
        classes=tuple(report_data.by_class(test, limits)),
        mistakes=report_data.mistakes(test, limits),
        spread=report_data.spread(test, limits, task.costs.jitter),
        labels=plan.labels,
        titles={name: plan.titles[name] for name in plan.exits if name in plan.titles},
        constants=criterion_values(plan, data.record.constants),
        guarantee=None if guaranteed is None else guaranteed.guarantee,
        pruned=results.pruned,
        notes=(
            *labels_off(task.rows),
            *margin_used(None if choice.static.wins else choice.margin, task.goal, task.tuned),
            *budget_slack(task.goal, results.chosen, results.whole),
            *data.notes,
            *(less_reliable(calibration) if "calibrate" in data.rows else ()),
            *notes,
            *remarks(task.goal, test, results.chosen, limits, rows, outcome, static=choice.static.wins),
        ),
    )


def _asked(task: Task, whole: Figures) -> Constraint:
    """Returns what the goal asks of the held-out rows; a risk asks nothing of the figures.

    It bounds what is wrong early and right in the whole network.
    """
    if task.goal.kind == "risk":
        return Constraint()
    return task.goal.constraint((whole.score.value, whole.cost.value))


def _verdict(task: Task, choice: Choice, results: Results, outcome: Outcome) -> Verdict:
    """Returns whether early exit pays, and each exit."""
    static, exits = choice.static, choice.objective.exits
    costs = {each.name: each.cost.value for each in (*results.always, results.whole)}
    return Verdict(
        exits=exit_verdicts(task.test, task.tuned, choice.thresholds, exits, results.overheads),
        best_static=static.name,
        static_exit=static.exit,
        static_cost=costs[static.name],
        pays=not static.wins,
        undecided=_undecided(task, choice, outcome),
    )


def _undecided(task: Task, choice: Choice, outcome: Outcome) -> str | None:
    """Returns why nothing can be said of early exit, and about how many rows would do; None where something can."""
    if not choice.passed:
        return "no early exit passed the guarantee"
    if outcome.met is False:
        return "the goal is missed on the held-out rows"
    needed = choice.rows_to_show
    if choice.unshown and needed is None:
        return "no number of rows shows that an early exit loses nothing; allow a drop above 0"
    if choice.unshown:
        few = f"{len(task.tuned.record)} tuning rows are too few to show that an early exit keeps the goal"
    elif outcome.met is None:
        few = "the held-out rows are too few to know whether the goal is met"
    else:
        return None
    enough = max(needed or 0, outcome.rows_needed or 0)
    return few + (f"; about {enough} rows in all would do" if enough else "")


def _pruned(task: Task, evaluator: Evaluator, limits: Array, overheads: Array) -> Figures | None:
    """Returns the figures of the choice without the exits that do not pay; None where there are none.

    A guarantee was shown of the choice as it is: with one, only exits that never fire go.
    """
    exits = np.array([not exit_.ends for exit_ in task.plan.exits.values()])
    least, firing = task.constraint.least_score, task.goal.kind != "risk"
    gone = choose_gone(task.tuned, limits, exits, overheads, least, firing=firing)
    if not gone.any():
        return None
    saved, test = np.where(gone, overheads, 0.0), task.test
    fewer = replace(
        evaluator,
        test=without_overheads(test, saved),
        tune=without_overheads(task.tuned, saved),
        whole=test.cost[np.arange(len(test.record)), test.record.last],
    )
    return fewer.choice("pruned", np.where(gone, np.nan, limits))


def _before(task: Task, choice: Choice) -> Figures:
    """Returns the figures of the bundle's own thresholds, with the temperatures that they had."""
    rows, data = task.rows_of(task.data.first), task.data
    evaluator = Evaluator(rows.take(data.test), rows.take(data.tune), choice.objective.choices, task.plan)
    return evaluator.choice("before", own_thresholds(task.plan))


def _calibration(task: Task) -> tuple[Calibration, ...]:
    """Returns each exit's reliability on the held-out rows, with the temperatures before and after."""
    if task.metric is not None:
        return ()
    before, after = (
        temperatures_of(task.plan, values) for values in (values_of(task.plan), task.data.record.constants)
    )
    return tuple(calibrations(task.test.record, task.plan, before, after))

"""Tuning, read top to bottom: gather, choose on one part of the rows, tell from another."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from eetoolkit.tuning import details
from eetoolkit.tuning.baselines import baselines
from eetoolkit.tuning.calibrate import Calibration, calibrations, temperatures_of
from eetoolkit.tuning.caution import margin, spared
from eetoolkit.tuning.checks import check_labels
from eetoolkit.tuning.choice import Figures
from eetoolkit.tuning.collect import Data, Progress, as_labels
from eetoolkit.tuning.costs import Costs, choose_costs, overheads_of
from eetoolkit.tuning.evidence import Evidence, gather
from eetoolkit.tuning.manifest import may_fire
from eetoolkit.tuning.measure import Part, Sheet, objective_of
from eetoolkit.tuning.notes import labels_off, less_reliable, margin_kept, notes, threads_differ
from eetoolkit.tuning.objective import Metric, Objective, settings_of, worth_of
from eetoolkit.tuning.outcome import judge_goal
from eetoolkit.tuning.promises import Promise, follow_path
from eetoolkit.tuning.pruning import choose_gone, without_overheads
from eetoolkit.tuning.record import Array, Record, judging_values, values_of
from eetoolkit.tuning.replay import own_thresholds
from eetoolkit.tuning.report import TuningReport
from eetoolkit.tuning.risk import RAREST, Method
from eetoolkit.tuning.search import Goal, Search
from eetoolkit.tuning.static import WHOLE, best_static
from eetoolkit.tuning.verdict import Verdict, judge_exits
from eetoolkit.tuning.wish import Wish, choose_wish
from eetoolkit_runtime.arguments import checked
from eetoolkit_runtime.bundle import Bundle, load
from eetoolkit_runtime.errors import TuneError
from eetoolkit_runtime.plan import Manifest
from eetoolkit_runtime.profiling.profile import Profile, saved_profile
from eetoolkit_runtime.providers import Provider, choose_providers, expected_providers

_SEEDS = 1 << 53  # as many as every reader of JSON tells apart


@checked(TuneError)
def tune(  # noqa: PLR0913 - what a choice depends on
    bundle: str | os.PathLike[str] | Bundle,
    inputs: Data | None = None,
    labels: npt.ArrayLike | None = None,
    *,
    max_accuracy_drop: float | None = None,
    min_accuracy: float | None = None,
    budget_ms: float | None = None,
    budget_share: float | None = None,
    risk: float | None = None,
    delta: float = 0.05,
    method: Method = "ltt",
    metric: Metric | None = None,
    profile: Profile | str | os.PathLike[str] | None = None,
    force: bool = False,
    calibrate: bool | None = None,
    record: Record | str | os.PathLike[str] | None = None,
    seed: int = 0,
    threads: int | None = None,
    providers: str | Sequence[Provider] | None = None,
    progress: Progress | None = None,
) -> TuningReport:
    """Returns the thresholds that reach a goal at the least cost, or the best within a budget, and how good they are.

    The rows are split: temperatures, thresholds and a guarantee each have a part of their own, and every figure of the
    report is from yet another. The bundle is left as it is until `TuningReport.apply`.

    Args:
        bundle: A `Bundle`, or its path.
        inputs: Any number of labelled rows; see `collect`. None: they are in `record`.
        labels: The right class of every row, or what `metric` takes.
        max_accuracy_drop: The goal: least cost at most so much below the last exit, 0.01 for one point; where no goal
            is given, 0.01.
        min_accuracy: The goal: least cost at this accuracy.
        budget_ms: The goal: the best answers within so many milliseconds a run in the mean.
        budget_share: The goal: the best answers within so much of the whole network's cost.
        risk: The goal: least cost while it is guaranteed that at most this share of inputs is answered wrong early and
            right by the whole network.
        delta: The guarantee may fail with this probability over the draw of the rows.
        method: How it is shown: `ltt` (Learn then Test), `ucb` (betting bound), or `crc` (conformal risk control, of
            the expected loss, without delta). All three are reported.
        metric: Instead of accuracy: from the answers' outputs by name (N, ...) and the labels to a number, higher is
            better, or to one number for each row, which is much faster to search.
        profile: What segments cost, a `Profile`, its file, or a bundle that one is saved in; None: the one that is
            saved in this bundle, else multiply-adds.
        force: Takes a profile of another bundle, or of other providers.
        calibrate: Whether to fit a temperature for each exit first; None: where that is possible, by 30 rows or more.
        record: A `Record`, or its file: with `inputs` where to save it, and where to go on after an interrupt; what
            the fitted temperatures give is then kept beside it, in `.calibrated.npz`.
        seed: Of the split.
        threads: As the `Runner`'s.
        providers: What the bundle is to run on, as the `Runner`'s: here too, and in the profile.
        progress: Is told (what, done, total).

    Raises:
        BundleError: The bundle cannot be opened.
        InputError: Inputs that it does not take, or another number of labels.
        EEToolkitError: `record` cannot be written.
        TuneError: No exit may fire; labels or confidences that cannot be used, too few rows, a profile of another
            bundle or of other providers, a goal that cannot be met; it says the best that can.
    """
    wish = choose_wish(
        accuracy=metric is None, max_accuracy_drop=max_accuracy_drop, min_accuracy=min_accuracy, budget_ms=budget_ms,
        budget_share=budget_share, risk=risk,
    )  # fmt: skip
    if not (RAREST <= delta < 1 and (risk is None or RAREST <= risk < 1)):
        raise TuneError(f"risk {risk} and delta {delta} must lie between 0 and 1, at {RAREST:g} or above")
    if not 0 <= seed < _SEEDS:
        raise TuneError(f"seed is {seed}, expected 0 to {_SEEDS - 1}")
    opened = load(bundle)
    plan = opened.manifest
    if not any(may_fire(plan)):
        disabled = [name for name, exit_ in plan.exits.items() if not exit_.ends]
        fix = f"; enable {' or '.join(disabled)} in its manifest" if disabled else ""
        raise TuneError(f"no exit of {plan.name!r} may leave early, so there is nothing to tune{fix}")
    chosen_providers = choose_providers(providers)
    taken = _read_profile(profile) or saved_profile(opened)
    wish.check_costs(latencies=taken is not None or plan.profile is not None)
    if labels is not None and metric is None:
        check_labels(as_labels(labels))
    tell = progress or (lambda _what, _done, _total: None)
    found = gather(
        opened, inputs, labels, record, classes=metric is None, calibrate=calibrate, guarantee=risk is not None,
        seed=seed, threads=threads, providers=chosen_providers, progress=tell,
    )  # fmt: skip
    costs = choose_costs(plan, found.record, taken, expected_providers(chosen_providers), force=force)
    worth = worth_of(found.record, metric)
    whole = Part(found.record, worth, costs.of_visits(found.record), metric, plan.fallback, seed)
    tuned, test = whole.take(found.tune), whole.take(found.test)
    tell("searching", 0, 0)
    scale = tuned.means((tuned.record.last, tuned.record.last))
    goal = wish.goal(scale)
    extra = _extra(plan, tuned, wish, goal)
    rivals = [*baselines(tuned, plan, np.array(may_fire(plan)), goal)]
    others = np.array([thresholds for _, thresholds in rivals])
    objective = objective_of(plan, tuned, others)
    sheet = Sheet(test, tuned, objective.choices, plan)
    search = Search(objective)
    promised: dict[Method, Promise] = {}
    if wish.kind == "risk":
        promised = follow_path(whole, found, plan, wish.value, delta)
        limits = promised[method].thresholds
    else:
        limits, reached = _best(objective, search, goal.stricter(extra or 0.0), others)
        wish.check_met(goal, reached, scale[1], costs)
    static = best_static(wish, goal, tuned, objective, limits)
    limits = static.thresholds if static.wins else limits
    chosen = sheet.choice("tuned", limits)
    always = tuple(sheet.always(f"always {name}", e) for e, name in enumerate(found.record.exits))
    whole_network = sheet.always(WHOLE, None)
    rivals += [("greedy coordinate descent", objective.choices.spell(Search(objective).greedy(goal)))]
    rivals += [(f"guaranteed by {name}", each.thresholds) for name, each in promised.items()]
    overheads = overheads_of(plan, costs, found.record.exits)
    allowed = not promised or promised[method].guarantee.passed
    outcome = judge_goal(wish, test, limits, chosen, whole_network, sum(found.rows.values()), promised.get(method))
    calibration = _calibration(found, plan, classes=metric is None)
    return TuningReport(
        bundle=plan.name,
        path=str(opened.archive or opened.path),
        files=dict(found.record.files),
        goal=str(wish),
        goal_met=outcome.met,
        goal_reason=outcome.reason,
        rows_needed=outcome.rows_needed,
        metric="accuracy" if metric is None else getattr(metric, "__name__", "metric"),
        unit=costs.unit,
        costs=costs.source,
        seed=seed,
        rows=found.rows,
        by_label=found.by_label,
        chosen=chosen,
        before=_before(found, plan, costs, metric, objective, seed),
        whole=whole_network,
        always=always,
        baselines=tuple(sheet.choice(name, thresholds) for name, thresholds in rivals),
        frontier=sheet.frontier(search.frontier(), scale[1]),
        verdict=Verdict(
            exits=judge_exits(test, tuned, limits, objective.exits, overheads),
            best_static=static.name,
            static_exit=static.exit,
            static_cost=next(each.cost.value for each in (*always, whole_network) if each.name == static.name),
            pays=not static.wins,
            undecided=outcome.undecided if allowed else "no early exit passed the guarantee, so there is none to judge",
        ),
        calibration=calibration,
        histograms=tuple(details.histograms(test)),
        classes=tuple(details.by_class(test, limits)),
        mistakes=details.mistakes(test, limits),
        spread=details.spread(test, limits, costs.jitter),
        labels=plan.labels,
        constants=judging_values(plan, found.record.constants),
        guarantee=promised[method].guarantee if promised else None,
        pruned=_pruned(sheet, limits, overheads, goal, firing=wish.kind != "risk") if allowed else None,
        notes=(
            *labels_off(whole),
            *margin_kept(None if static.wins else extra, wish, len(tuned.record)),
            *found.notes,
            *(less_reliable(calibration) if "calibrate" in found.rows else ()),
            *threads_differ(taken, threads),
            *notes(wish, test, chosen, limits, sum(found.rows.values()), outcome, static=static.wins),
        ),
    )


def _extra(plan: Manifest, tuned: Part, wish: Wish, goal: Goal) -> float | None:
    """Returns how much more than the goal to ask of the rows that choose, so that others meet it; None: not told."""
    if goal.most_cost is not None:
        return spared(tuned, goal.most_cost)
    if tuned.worth is None or wish.kind == "risk":
        return None
    return margin(plan, tuned, wish.value, drop=wish.kind == "max_accuracy_drop")


def _best(objective: Objective, search: Search, goal: Goal, others: Array) -> tuple[Array, tuple[float, float]]:
    """Returns the best thresholds (E,) for a goal, with their worth and cost on the tune part.

    Thresholds of `others` (S, E) are searched from too.

    The whole network, all exits disabled, is none of the search's settings where the fallback is `most_confident`:
    there exits that never fire may still answer.
    """
    if goal.least_worth == np.inf:
        return np.full(len(objective.choices.never), np.nan), objective.full
    setting = search.best(goal, settings_of(objective.record, objective.choices, others))
    reached = objective.full, objective.at(setting)
    if goal.best(*np.array(reached).T) == 0:
        return np.full(len(setting), np.nan), reached[0]
    return objective.choices.spell(setting), reached[1]


def _pruned(sheet: Sheet, limits: Array, overheads: Array, goal: Goal, *, firing: bool) -> Figures | None:
    """Returns the figures of the choice without the exits that do not pay; None where there are none.

    A guarantee was shown of the choice as it is: with one, only exits that never fire go (`firing` is False).
    """
    exits = np.array([not exit_.ends for exit_ in sheet.plan.exits.values()])
    gone = choose_gone(sheet.tune, limits, exits, overheads, goal.least_worth, firing=firing)
    if not gone.any():
        return None
    saved = np.where(gone, overheads, 0.0)
    test, rows = sheet.test, np.arange(len(sheet.test.record))
    fewer = replace(
        sheet,
        test=without_overheads(test, saved),
        tune=without_overheads(sheet.tune, saved),
        whole=test.cost[rows, test.record.last],
    )
    return fewer.choice("pruned", np.where(gone, np.nan, limits))


def _before(
    found: Evidence, plan: Manifest, costs: Costs, metric: Metric | None, objective: Objective, seed: int
) -> Figures:
    """Returns the figures of the bundle's own thresholds, with the temperatures that they had."""
    record = found.first
    whole = Part(record, worth_of(record, metric), costs.of_visits(record), metric, plan.fallback, seed)
    sheet = Sheet(whole.take(found.test), whole.take(found.tune), objective.choices, plan)
    return sheet.choice("before", own_thresholds(plan))


def _calibration(found: Evidence, plan: Manifest, *, classes: bool) -> tuple[Calibration, ...]:
    if not classes:
        return ()
    before, after = (temperatures_of(plan, values) for values in (values_of(plan), found.record.constants))
    return tuple(calibrations(found.record.take(found.test), plan, before, after))


def _read_profile(profile: Profile | str | os.PathLike[str] | None) -> Profile | None:
    if profile is None or isinstance(profile, Profile):
        return profile
    return Profile.read(profile)

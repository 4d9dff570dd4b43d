"""Tuning, read top to bottom: collect, choose on one part of the rows, evaluate on another, report."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy.typing as npt

from eetoolkit.fleet.fleet import Fleet, is_fleet, read_fleet
from eetoolkit.reading.samples import Data, as_labels
from eetoolkit.tuning.across import FleetTask
from eetoolkit.tuning.assemble import assemble, evaluate
from eetoolkit.tuning.checks import check_labels
from eetoolkit.tuning.choose import Task, choose
from eetoolkit.tuning.collect import Progress
from eetoolkit.tuning.costs import choose_costs
from eetoolkit.tuning.dataset import RowSource, gather
from eetoolkit.tuning.fleet import check_fleet, choose_quantile, fleet_task, for_fleet, profile_notes
from eetoolkit.tuning.goal import GoalSpec, choose_goal
from eetoolkit.tuning.guarantee import follow_path
from eetoolkit.tuning.link import Link
from eetoolkit.tuning.manifest import check_whole, may_fire
from eetoolkit.tuning.objective import Metric
from eetoolkit.tuning.record import Record
from eetoolkit.tuning.report import TuningReport
from eetoolkit.tuning.risk import RAREST, Method
from eetoolkit.tuning.where import check_split, split_task, where_to_split
from eetoolkit_runtime.arguments import checked
from eetoolkit_runtime.bundle.bundle import Bundle, load
from eetoolkit_runtime.errors import BundleError, TuneError
from eetoolkit_runtime.plan.types import MOST_EXACT, Manifest
from eetoolkit_runtime.profiling.profile import Profile, saved_profile
from eetoolkit_runtime.running.providers import Providers, choose_providers, expected_providers


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
    profile: Profile | Fleet | str | os.PathLike[str] | None = None,
    for_: str | None = None,
    link: Link | Profile | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    server: Profile | str | os.PathLike[str] | float | None = None,
    force: bool = False,
    calibrate: bool | None = None,
    record: Record | str | os.PathLike[str] | None = None,
    seed: int = 0,
    threads: int | None = None,
    providers: Providers | None = None,
    progress: Progress | None = None,
) -> TuningReport:
    """Returns the thresholds that reach a goal at the least cost, or the best within a budget, and their figures.

    The rows are split: temperatures, thresholds, a guarantee and the report's figures each have a part of their own.
    The bundle is unchanged until `TuningReport.apply`.

    Args:
        bundle: A `Bundle`, or its path.
        inputs: Any number of labelled rows; see `collect`. None: they are in `record`.
        labels: The right class of every row, or what `metric` takes.
        max_accuracy_drop: The goal: least cost; accuracy drops by at most this below the last exit's, 0.01 for one
            point. The default goal, with 0.01.
        min_accuracy: The goal: least cost at this accuracy or above.
        budget_ms: The goal: best accuracy within this mean latency.
        budget_share: The goal: best accuracy within this share of the whole network's cost.
        risk: The goal: least cost, with a guarantee: at most this share of inputs is answered wrong early and right by
            the whole network.
        delta: The probability, over the draw of the rows, that the guarantee fails.
        method: How the guarantee is shown: `ltt` (Learn then Test), `ucb` (betting bound), or `crc` (conformal risk
            control, of the expected loss, without delta). All three are reported.
        metric: Instead of accuracy: from the answers' outputs by name (N, ...) and the labels to a number, higher is
            better, or to one number for each row, which is much faster to search.
        profile: Segment latencies: a `Profile`, its file, or a bundle that one is saved in; None: the profile saved in
            this bundle, else multiply-adds. Or those of a fleet: a `Fleet`, or a folder that `read_fleet` takes.
        for_: With a fleet, whose cost counts: `pN-device`, such as `p90-device`, `median-device` or `slowest-device`.
            N % of the devices, rounded up, take no more than that one. A budget is kept on as many; else the cost of
            that device is the least. Which one is there is found anew for all thresholds.
        link: To a server that could go on: then where to split is chosen too, and `TuningReport.split` tells. A `Link`,
            its figures by name, a profile that measured one, or a file of either.
        server: With `link`, what segments cost there: a profile of this bundle taken on the server, its file, or a
            number: how many times as fast as this device you say it is.
        force: Whether to accept a profile of another bundle, or of other providers.
        calibrate: Whether to fit a temperature for each exit first; None: where that is possible, by 30 rows or more.
        record: A `Record`, or its file. With `inputs`, the file to save it in and to resume from; the answers with
            fitted temperatures are saved beside it, in `.calibrated.npz`.
        seed: Of the split.
        threads: As the `Runner`'s.
        providers: What the bundle is to run on, as the `Runner`'s: here too, and in the profile.
        progress: Is told (what, done, total).

    Raises:
        BundleError: The bundle cannot be opened.
        InputError: Inputs that it does not take, or another number of labels.
        EEToolkitError: `record` cannot be written.
        TuneError: No exit may fire; a device's half of a bundle; labels or confidences that cannot be used, too few
            rows, a profile of another bundle or of other providers, a link without a server; a goal that cannot be met:
            it says the best that can.
    """
    goal = choose_goal(
        accuracy=metric is None, max_accuracy_drop=max_accuracy_drop, min_accuracy=min_accuracy, budget_ms=budget_ms,
        budget_share=budget_share, risk=risk,
    )  # fmt: skip
    _check_numbers(risk, delta, seed)
    opened = load(bundle)
    plan = opened.manifest
    check_tunable(plan)
    backend = choose_providers(providers)
    measured = _saved(opened) if profile is None else _given(profile)
    quantile = choose_quantile(measured, for_)
    if quantile is not None and link is not None:
        raise TuneError(
            "link= (--link) goes with the profile of one device, and profile is a fleet; tune for one device at a time"
        )
    if isinstance(measured, Fleet) and not force:  # before rows are collected, which may take long
        check_fleet(measured, plan, expected_providers(backend))
    goal.check_costs(latencies=measured is not None or plan.profile is not None)
    check_split(link, server, goal, latencies=measured is not None or plan.profile is not None)
    if labels is not None and metric is None:
        check_labels(as_labels(labels))
    tell = progress or (lambda _what, _done, _total: None)
    source = RowSource(opened, inputs, labels, record, threads, backend, tell)
    single = None if isinstance(measured, Fleet) else measured
    task = prepare_task(source, goal, single, metric=metric, calibrate=calibrate, force=force, seed=seed)
    if isinstance(measured, Fleet) and quantile is not None:
        task = fleet_task(task, measured, quantile)
    tell("searching", 0, 0)
    split = None
    if link is not None and server is not None:
        split = split_task(source, task, link, server, force=force)
        task = split.task
    guaranteed = follow_path(task.rows, task.data, plan, goal.value, delta) if goal.kind == "risk" else {}
    own = guaranteed.get(method)
    known = None if split is None or goal.kind == "risk" else split.best.choice
    choice = choose(task, own) if known is None else known
    told, fleet = task.on_device(choice.thresholds) if isinstance(task, FleetTask) else (task, None)
    results = evaluate(told, choice, guaranteed)
    report = assemble(opened, told, choice, results, own, profile_notes(measured, threads))
    if split is not None:
        return msgspec.structs.replace(report, split=where_to_split(split, opened, results.chosen))
    return report if fleet is None else for_fleet(report, fleet)


def prepare_task(
    source: RowSource,
    goal: GoalSpec,
    measured: Profile | None,
    *,
    metric: Metric | None = None,
    calibrate: bool | None = None,
    force: bool = False,
    seed: int = 0,
) -> Task:
    """Returns what is to be tuned, its rows collected and in their parts; see `tune`."""
    plan = source.bundle.manifest
    data = gather(source, classes=metric is None, calibrate=calibrate, guarantee=goal.kind == "risk", seed=seed)
    costs = choose_costs(plan, data.record, measured, expected_providers(source.providers), force=force)
    return Task(goal, plan, data, costs, metric, seed)


def _saved(bundle: Bundle) -> Profile | None:
    """Returns the profile in a bundle; None where there is none, or none of this version: then its latencies count."""
    try:
        return saved_profile(bundle)
    except BundleError:
        return None


def _check_numbers(risk: float | None, delta: float, seed: int) -> None:
    """Refuses numbers outside their ranges."""
    if not (RAREST <= delta < 1 and (risk is None or RAREST <= risk < 1)):
        raise TuneError(f"risk {risk} and delta {delta} must lie between 0 and 1, at {RAREST:g} or above")
    if not 0 <= seed <= MOST_EXACT:
        raise TuneError(f"seed is {seed}, expected 0 to {MOST_EXACT}")


def check_tunable(plan: Manifest) -> None:
    """Refuses a plan in which no exit may leave early, and a device's half, which knows no answer of the server's.

    Raises:
        TuneError: It says what to enable, or what to tune instead.
    """
    check_whole(plan, "tuned", "tune")
    if not any(may_fire(plan)):
        disabled = [name for name, exit_ in plan.exits.items() if not exit_.ends]
        fix = f"; enable {' or '.join(disabled)} in its manifest" if disabled else ""
        raise TuneError(f"no exit of {plan.name!r} may leave early, so there is nothing to tune{fix}")


def _given(profile: Profile | Fleet | str | os.PathLike[str]) -> Profile | Fleet:
    if isinstance(profile, Profile | Fleet):
        return profile
    return read_fleet(profile) if is_fleet(profile) else Profile.read(profile)

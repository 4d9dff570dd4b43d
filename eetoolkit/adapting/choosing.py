"""From candidates at every place to the bundle that pays: export, profile, place, prune, tune, compare."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import eetoolkit as ee
from eetoolkit.adapting.rows import Rows
from eetoolkit.adapting.shorten import shorten
from eetoolkit.tuning.choose import Task
from eetoolkit.tuning.collect import Progress
from eetoolkit.tuning.costs import estimated_overheads
from eetoolkit.tuning.dataset import RowSource
from eetoolkit.tuning.goal import choose_goal
from eetoolkit.tuning.intervals import Interval
from eetoolkit.tuning.placing import Tried, place
from eetoolkit.tuning.pruning import ROUNDS, ratios_in_turns
from eetoolkit.tuning.report import TuningReport
from eetoolkit.tuning.splits import spread
from eetoolkit.tuning.tune import prepare_task
from eetoolkit.tuning.wording import percent, spell_times
from eetoolkit_exporters.attaching.attach import MultiExit
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.errors import TuneError
from eetoolkit_runtime.profiling.profile import Profile
from eetoolkit_runtime.profiling.rounds import Row
from eetoolkit_runtime.running.providers import choose_providers

MULTIPLY_ADDS = "multiply-adds"

Measured = Profile | str | os.PathLike[str] | Callable[[Bundle], Profile] | None
"""What a bundle's segments cost: a profile of the candidates, its file, what measures one, or multiply-adds.

None measures on this machine.
"""

_PROFILED_ROWS = 256
_COMPARED_ROWS = 50, 200  # at least and at most, as many as there is time for
_COMPARED_S = 15.0
_LITTLE = 1.2  # times the speed: an interval up to there says that little is gained
_LATE = 0.75  # of the work: exits behind that save little


@dataclass(frozen=True)
class Goal:
    """What is asked for.

    Attributes:
        max_accuracy_drop: Accuracy may drop by this much below the network's.
        max_exits: How many exits may stay.
        seed: Of all draws.
        threads: As the `Runner`'s.
        lost: Accuracy that fine-tuning has cost the whole network; it counts as dropped. Negative: it gained.
    """

    max_accuracy_drop: float
    max_exits: int
    seed: int
    threads: int | None
    lost: float = 0.0


@dataclass(frozen=True)
class Found:
    """What was chosen.

    Attributes:
        pays: Whether early exits pay; None: the rows are too few to know.
        reason: What is gained, or why they do not pay.
        costs: Where costs come from.
        tried: The best placement of at most 1, 2, ... exits.
        fixed: The cheapest exit that meets the goal if it always answers, on the tuning rows.
        exits: Those that stay.
        tuning: Of the bundle with these.
        speedup: The whole network's mean latency over the bundle's.
        over_fixed: That of always answering at `fixed`, over the bundle's.
        bundle: The tuned bundle; None where early exits do not pay.
    """

    pays: bool | None
    reason: str
    costs: str
    tried: tuple[Tried, ...] = ()
    fixed: Tried | None = None
    exits: tuple[str, ...] = ()
    tuning: TuningReport | None = None
    speedup: Interval | None = None
    over_fixed: Interval | None = None
    bundle: Bundle | None = None


def choose(  # noqa: PLR0911 - read top to bottom, with a return for each reason
    model: MultiExit, rows: Rows, goal: Goal, folder: Path, measured: Measured, options: Mapping[str, Any],
    seconds: float, tell: Progress,
) -> Found:  # fmt: skip
    """Returns the bundle of those candidates that pay, written somewhere in `folder`.

    Args:
        model: The network with fitted heads.
        rows: Labelled rows, which fitted nothing.
        goal: What is asked for.
        folder: For bundles on the way.
        measured: What segments cost.
        options: Of the export.
        seconds: How long each profile may take.
        tell: Is told (what, done, total).
    """
    drop = min(goal.max_accuracy_drop - goal.lost, 1.0)
    if drop < 0:
        return Found(False, f"fine-tuning costs {100 * goal.lost:.2f} points of accuracy; leave finetune at 0", "")
    tell("exporting the candidates", 0, 0)
    samples = rows.take(slice(0, 16)).inputs
    candidates = ee.export(model, None, folder / "candidates.ee", golden_inputs=samples, **options)
    early = [name for name, exit_ in candidates.exits.items() if not exit_.ends]
    profile = _profile(candidates, rows, measured, goal, seconds, tell)
    seed, threads = goal.seed, goal.threads
    source = RowSource(candidates, rows.inputs, rows.labels, None, threads, choose_providers(None), tell)
    task = prepare_task(source, choose_goal(accuracy=True, max_accuracy_drop=drop), profile, seed=seed)
    heads = {} if task.costs.unit == "ms" else _multiply_adds(model, candidates)
    overheads = estimated_overheads(candidates.manifest, task.costs, task.data.record.exits, heads)
    tell("choosing places", 0, 0)
    placement = place(task, overheads, goal.max_exits)
    if not placement.exits:  # for want of rows, it may be: then tuning says how many would do
        placement = place(task, overheads, goal.max_exits, margin=False)
    fixed, tried = placement.fixed, placement.tried
    known = Found(
        pays=False,
        reason="",
        costs=task.costs.source,
        tried=tuple(_titled(each, candidates) for each in tried),
        fixed=None if fixed is None else _titled(fixed, candidates),
        exits=_titles(placement.exits, candidates),
    )
    if not placement.exits:
        return replace(known, reason=_why_not(model, task, goal, overheads))
    tell("pruning", 0, 0)
    chosen = ee.prune(candidates, [name for name in early if name not in placement.exits], folder / "chosen.ee")
    again = _profile(chosen, rows, measured, goal, seconds, tell) if measured is None or callable(measured) else None
    try:
        tuning = ee.tune(
            chosen, rows.inputs, rows.labels, max_accuracy_drop=drop, profile=again, seed=seed, threads=threads,
            progress=tell,
        )  # fmt: skip
    except TuneError as error:
        return replace(known, reason=str(error))
    known, verdict = replace(known, tuning=tuning), tuning.verdict
    if verdict.undecided is None and not verdict.pays and verdict.static_exit is None:
        return replace(known, reason="the whole network meets the goal and costs no more")
    gone = [name for name, limit in tuning.thresholds.items() if limit == "never"]
    if verdict.undecided is not None and len(gone) == len(tuning.thresholds):
        return replace(known, pays=None, reason=verdict.undecided)
    if verdict.pays or verdict.undecided is not None:
        tuned = tuning.apply(force=True)
        final = shorten(ee.prune(tuned, gone, folder / "tuned.ee") if gone else tuned, folder / "final.ee")
    else:
        final = _always(candidates, early, verdict.static_exit or "", folder)
    leave = tuple(name for name in final.exits if name in early)
    known = replace(known, bundle=final, exits=_titles(leave, candidates))
    if measured is None:
        tell("comparing with the whole network", 0, 0)
        others = [ee.prune(candidates, early, folder / "whole.ee")]
        if fixed is not None and len(final.exits) > 1:
            others.append(_always(candidates, early, fixed.exits[0], folder))
        count = _rows_in_time(tuning.whole.cost.value, len(others) + 1)
        ratios = ratios_in_turns(
            (*others, final), _spread(rows, task.data.record.row[task.data.test], count), threads, seed
        )
        known = replace(known, speedup=ratios[0], over_fixed=ratios[1] if ratios[1:] else None)
    if verdict.undecided is not None:
        sure = tuning.goal_met is False and tuning.rows_needed is None
        missed = "the goal is missed, " if tuning.goal_met is False else ""
        return replace(known, pays=False if sure else None, reason=missed + tuning.goal_reason)
    if known.speedup is not None and known.speedup.low <= 1:
        return _not_faster(tuning, known, known.speedup)
    always = "" if verdict.pays else f"always answering at {verdict.static_exit} is best: "
    return replace(known, pays=True, reason=always + _gain(tuning, known.speedup, goal.lost))


def _not_faster(tuning: TuningReport, known: Found, speedup: Interval) -> Found:
    """Returns that a bundle is not faster, or that nobody knows."""
    if speedup.high > _LITTLE:
        busy = f"{spell_times(speedup)} the whole network's speed: the machine is too busy to tell; run it again"
        return replace(known, pays=None, reason=busy)
    return replace(known, reason=_too_slow(tuning, speedup), bundle=None)


def _rows_in_time(whole_ms: float, bundles: int) -> int:
    """Returns how many rows are compared by, if each bundle takes as long as the whole network for each."""
    least, most = _COMPARED_ROWS
    return min(most, max(least, int(_COMPARED_S * 1e3 / (ROUNDS * bundles * whole_ms))))


def _spread(rows: Rows, numbers: Array, count: int) -> list[Row]:
    """Returns some of the rows of these numbers, evenly from all of them: they may lie class by class."""
    some = numbers[spread(len(numbers), count)]
    return [tuple(rows.take([int(row)]).inputs.values()) for row in some]


def _always(candidates: Bundle, early: Sequence[str], exit_: str, folder: Path) -> Bundle:
    """Returns the network up to one exit."""
    alone = ee.prune(candidates, [name for name in early if name != exit_], folder / "alone.ee")
    return ee.truncate(alone, exit_, folder / "fixed.ee")


def _titled(tried: Tried, candidates: Bundle) -> Tried:
    return replace(tried, exits=_titles(tried.exits, candidates))


def _titles(exits: Iterable[str], candidates: Bundle) -> tuple[str, ...]:
    """Returns what the network with heads calls a bundle's exits."""
    titles = candidates.manifest.titles
    return tuple(titles.get(name, name) for name in exits)


def _profile(
    bundle: Bundle, rows: Rows, measured: Measured, goal: Goal, seconds: float, tell: Progress
) -> Profile | None:
    if measured == MULTIPLY_ADDS:
        return None
    if isinstance(measured, Profile):
        return measured
    if measured is not None:
        return measured(bundle) if callable(measured) else Profile.read(measured)
    some = rows.take(spread(len(rows), _PROFILED_ROWS))
    return ee.profile(bundle, some.inputs, threads=goal.threads, seconds=seconds, progress=tell)


def _multiply_adds(model: MultiExit, candidates: Bundle) -> dict[str, float]:
    """Returns those of each head, by the bundle's names."""
    names = {title: name for name, title in candidates.manifest.titles.items()}
    return {
        names.get(exit_, exit_): float(sum(part.numel() for part in head.parameters() if part.ndim > 1))
        for exit_, head in model.heads.items()
    }


def _why_not(model: MultiExit, task: Task, goal: Goal, overheads: Array) -> str:
    """Returns why no placement pays: the heads, the places, or what heads and cuts cost."""
    free = place(task, overheads, goal.max_exits, added=np.zeros(len(overheads)))
    if free.exits:
        return f"heads and cuts cost more than exits save; without that cost {percent(1 - free.cost)} would be saved"
    first = min(found.share for found in model.places.values())
    if first > _LATE:
        return f"no place is early enough: the first comes after {percent(first)} of the work"
    return f"no head is sure enough, early enough, to keep within {100 * goal.max_accuracy_drop:g} points"


def _too_slow(tuning: TuningReport, speedup: Interval) -> str:
    """Returns what runs took, and what the latencies of segments promised."""
    said = f"{spell_times(speedup)} the whole network's speed"
    promised = 1 / tuning.chosen.share.value
    if promised <= speedup.high:
        return f"{said}: cuts and heads cost what exits save"
    return f"{said}, {promised:.2f} by its segments alone: what a call costs beside them outweighs what exits save"


def _gain(tuning: TuningReport, speedup: Interval | None, lost: float) -> str:
    """Returns what is gained, beside the network as it was."""
    points = 100 * (tuning.chosen.drop.value + lost)
    change = (
        f"{abs(points):.2f} points {'lost' if points > 0 else 'gained'}" if abs(points) >= 0.005 else "nothing lost"
    )
    if speedup is not None:
        return f"{spell_times(speedup)} the whole network's speed, {change}"
    share = tuning.chosen.share
    what = "latency" if tuning.unit == "ms" else tuning.unit
    return (
        f"{percent(share.value)} [{percent(share.low)}, {percent(share.high)}] of the whole network's {what}, {change}"
    )

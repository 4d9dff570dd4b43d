"""What is said aloud: too little data, labels that seem wrong, a search stricter than the goal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.stats import binom

from eetoolkit.tuning.calibrate import Calibration
from eetoolkit.tuning.evaluate import Subset
from eetoolkit.tuning.goal import GoalSpec
from eetoolkit.tuning.intervals import Figures, rows_needed
from eetoolkit.tuning.objective import NEVER_REACHED
from eetoolkit.tuning.outcome import Outcome
from eetoolkit.tuning.safety_margin import FOLDS, LEAST_ROWS
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.profiling.profile import Profile

_TOLD = 0.01  # how closely a drop should be known where none was asked for
_GUESSED = 0.05  # the probability of as many right by guessing from which labels are remarked on
_WORSE = 1.02  # how many times the log loss that is remarked on


def remarks(
    goal: GoalSpec, test: Subset, chosen: Figures, thresholds: Array, rows: int, outcome: Outcome, *, static: bool
) -> Iterator[str]:
    """Yields what the reader of a report must know.

    Args:
        goal: What was asked for.
        test: The held-out rows.
        chosen: The choice's figures.
        thresholds: The choice, (E,).
        rows: How many rows there are in all.
        outcome: Whether the goal was met; what it says already is not said again.
        static: Whether one exit always answers; then the verdict says what lies behind it.
    """
    within = goal.value if goal.kind in ("max_accuracy_drop", "risk") and goal.value > 0 else _TOLD
    answered, ended = test.ends(thresholds)
    drops = test.drops(answered)
    half = (chosen.drop.high - chosen.drop.low) / 2
    if drops is not None and float(f"{half:.2g}") > within and outcome.rows_needed is None:
        needed = rows_needed(drops, within)
        if needed > len(drops):  # else they all but know it, by another interval
            yield (
                f"with {len(drops)} held-out rows the drop is known to +-{_points(half, test)}; "
                f"+-{_points(within, test)} needs about {needed} held-out rows, "
                f"{math.ceil(needed * rows / len(drops))} rows in all"
            )
    silent = [test.record.exits[e] for e in np.flatnonzero(thresholds == NEVER_REACHED)]
    if silent:
        yield (
            f"no finite confidence reaches the threshold of {' and '.join(silent)}, which may still answer where no "
            "exit fires (fallback most_confident)"
        )
    deepest = int(ended.max())
    if not static and deepest < test.record.last.min() and (test.record.exit == test.record.exit[0]).all():
        name = test.record.exits[test.record.exit[0, deepest]]
        yield f"no held-out row goes beyond {name}: what lies behind it was not run, and a device does not load it"


def labels_off(whole: Subset) -> Iterator[str]:
    """Yields that the labels seem to be of other rows or classes, if the whole network is no better than guessing.

    Args:
        whole: All rows.
    """
    record, rows = whole.record, len(whole.record)
    if whole.metric is not None:
        return
    hits = int(np.asarray(whole.score)[np.arange(rows), record.last].sum())
    classes = max(int(record.label.max()), int(record.prediction.max())) + 1
    if is_guessing(hits, rows, classes):
        yield (
            f"the whole network is right for {hits} of {rows} rows, no more than by guessing among {classes} classes: "
            "check that the labels belong to these rows and are numbered as the network's classes"
        )


def is_guessing(hits: int, rows: int, classes: int) -> bool:
    """Whether guessing would be right as often at least, with a probability of one in twenty or more: a binomial test.

    Args:
        hits: How many rows are right.
        rows: How many there are.
        classes: Among how many one would guess.
    """
    return bool(binom.sf(hits - 1, rows, 1 / classes) > _GUESSED)


def margin_used(margin: float | None, goal: GoalSpec, tuned: Subset) -> Iterator[str]:
    """Yields how much stricter than the goal the search was, and why; nothing where no margin is measured (None)."""
    if margin is None:
        return
    rows = len(tuned.record)
    if rows < LEAST_ROWS:
        yield f"{rows} tuning rows are too few for a safety margin; {LEAST_ROWS} are needed"
    if margin == 0:
        return
    if margin == math.inf:
        yield f"no thresholds kept the goal in {FOLDS}-fold cross-validation: the whole network answers"
    elif goal.kind in ("budget_ms", "budget_share"):
        share = f"{margin:.2%} of the whole network's cost"
        yield f"the search used a budget smaller by {share}, so that held-out rows keep the goal"
    else:
        why = f"the loss in {FOLDS}-fold cross-validation plus one standard error"
        yield f"the search used a goal stricter by {_points(margin, tuned)}: {why}"


def budget_slack(goal: GoalSpec, chosen: Figures, whole: Figures) -> Iterator[str]:
    """Yields that the whole network keeps the budget too, if it does and is better; the tuning rows did not show that.

    Among choices that are as good on the tuning rows the search takes the cheapest.
    """
    most = {"budget_ms": goal.value, "budget_share": goal.value * whole.cost.value}.get(goal.kind)
    if most is not None and whole.cost.value <= most and chosen.score.value < whole.score.value:
        yield (
            "the whole network keeps this budget too, and is better on the held-out rows; to say what early exit may "
            "lose, tune for a drop (--max-accuracy-drop)"
        )


def threads_differ(profile: Profile | None, threads: int | None) -> Iterator[str]:
    """Yields that a profile was measured with other threads than tuning was told, if it was."""
    if profile is not None and profile.threads != threads:
        yield (
            f"costs are those of a runner with {_workers(profile.threads)}, as profiled; without the same `threads` "
            f"(--threads) yours has {_workers(threads)}"
        )


def profile_lacks(profile: Profile | None) -> Iterator[str]:
    """Yields which figures a profile had no time for, if any, and what costs then are."""
    if profile is None or not profile.no_time_for:
        return
    without = {"exits": "exits are told by their segments", "passing": "heads cost nothing"}
    counted = [told for part, told in without.items() if part in profile.no_time_for]
    yield f"in the profile {profile.gaps}" + (f"; here {' and '.join(counted)}" if counted else "")


def less_reliable(calibrations: Sequence[Calibration]) -> Iterator[str]:
    """Yields which exits' temperatures make their probabilities worse on the held-out rows."""
    worse = [each for each in calibrations if each.after.log_loss > _WORSE * each.before.log_loss]
    if worse:
        told = ", ".join(f"{each.exit} from {each.before.log_loss:.3g} to {each.after.log_loss:.3g}" for each in worse)
        fix = "calibrate=False (--no-calibrate) fits none"
        yield f"the temperatures raise the log loss on the held-out rows: {told}; {fix}"


def _points(score: float, subset: Subset) -> str:
    """Returns a difference of scores, in points where they are accuracies."""
    if subset.metric is not None:
        return f"{score:.2g}"
    number = f"{100 * score:.2g}"
    return f"{number} point" if number == "1" else f"{number} points"


def _workers(threads: int | None) -> str:
    """Returns how many workers a runner has."""
    if threads is None:
        return "a worker for each core"
    return "one thread" if threads == 1 else f"{threads} workers"

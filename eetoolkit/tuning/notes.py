"""What is said aloud: too little data, labels that seem wrong, and what was asked beyond the goal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.stats import binom

from eetoolkit.tuning.calibrate import Calibration
from eetoolkit.tuning.caution import FOLDS, LEAST_ROWS
from eetoolkit.tuning.choice import Figures
from eetoolkit.tuning.figures import rows_needed
from eetoolkit.tuning.measure import Part
from eetoolkit.tuning.outcome import Outcome
from eetoolkit.tuning.record import Array
from eetoolkit.tuning.wish import Wish
from eetoolkit_runtime.profiling.profile import Profile

_TOLD = 0.01  # how closely a drop should be known where none was asked for
_GUESSED = 0.05  # the probability of as many right by guessing from which labels are remarked on
_WORSE = 1.02  # how many times the log loss that is remarked on


def notes(
    wish: Wish, test: Part, chosen: Figures, thresholds: Array, rows: int, outcome: Outcome, *, static: bool
) -> Iterator[str]:
    """Yields what the reader of a report must know.

    Args:
        wish: What was asked for.
        test: The test part.
        chosen: The choice's figures.
        thresholds: The choice, (E,).
        rows: How many rows there are in all.
        outcome: Whether the goal was met; what it says already is not said again.
        static: Whether one exit always answers; then the verdict says what lies behind it.
    """
    within = wish.value if wish.kind in ("max_accuracy_drop", "risk") and wish.value > 0 else _TOLD
    answered, ended = test.ends(thresholds)
    drops = test.drops(answered)
    half = (chosen.drop.high - chosen.drop.low) / 2
    if drops is not None and float(f"{half:.2g}") > within and outcome.rows_needed is None:
        needed = rows_needed(drops, within)
        yield (
            f"{len(drops)} test rows tell the drop to +-{half:.2g} only; +-{within:g} takes about {needed} of them, "
            f"{math.ceil(needed * rows / len(drops))} rows in all"
        )
    deepest = int(ended.max())
    if not static and deepest < test.record.last.min() and (test.record.exit == test.record.exit[0]).all():
        name = test.record.exits[test.record.exit[0, deepest]]
        yield f"no test row goes beyond {name}: `eetoolkit truncate BUNDLE --at {name}` leaves out what lies behind"


def labels_off(whole: Part) -> Iterator[str]:
    """Yields that the labels seem to be of other rows or classes, if the whole network is no better than guessing.

    That is where guessing among as many classes would be right as often at least, with a probability of one in twenty
    or more (the binomial test).

    Args:
        whole: All rows.
    """
    record, rows = whole.record, len(whole.record)
    if whole.metric is not None:
        return
    hits = int(np.asarray(whole.worth)[np.arange(rows), record.last].sum())
    classes = max(int(record.label.max()), int(record.prediction.max())) + 1
    if binom.sf(hits - 1, rows, 1 / classes) > _GUESSED:
        yield (
            f"the whole network is right for {hits} of {rows} rows, as often as guessing among {classes} classes would "
            "be: are these the labels of these rows, in the order of the network's classes?"
        )


def margin_kept(extra: float | None, wish: Wish, rows: int) -> Iterator[str]:
    """Yields how much more than the goal was asked of the rows that choose (so many), and why; None: of no number."""
    if extra is None:
        return
    if rows < LEAST_ROWS:
        yield f"{rows} rows choose: it takes {LEAST_ROWS} to tell what thresholds lose on others, and ask for more"
    if extra == 0:
        return
    if extra == math.inf:
        yield f"no thresholds kept the goal on rows left out of the search ({FOLDS} folds): the whole network answers"
    elif wish.kind in ("budget_ms", "budget_share"):
        yield f"the rows that choose leave {extra:.2g} of the whole network's cost, so that others keep the budget too"
    else:
        lost = f"what thresholds lose on others ({FOLDS} folds), and a standard error"
        yield f"of the rows that choose {extra:.2g} more is asked than the goal: {lost}"


def threads_differ(profile: Profile | None, threads: int | None) -> Iterator[str]:
    """Yields that a profile was measured with other threads than tuning was told, if it was."""
    if profile is not None and profile.threads != threads:
        yield (
            f"costs are those of a runner with {_workers(profile.threads)}, as the profile was measured; tuning was "
            f"told {_workers(threads)}"
        )


def less_reliable(calibrations: Sequence[Calibration]) -> Iterator[str]:
    """Yields which exits' temperatures make their probabilities worse on the test part."""
    worse = [each for each in calibrations if each.after.log_loss > _WORSE * each.before.log_loss]
    if worse:
        told = ", ".join(f"{each.exit} from {each.before.log_loss:.3g} to {each.after.log_loss:.3g}" for each in worse)
        fix = "calibrate=False (--no-calibrate) fits none"
        yield f"the temperatures raise the log loss on the test part: {told}; {fix}"


def _workers(threads: int | None) -> str:
    """Returns how many workers a runner has."""
    if threads is None:
        return "a worker for each core"
    return "one thread" if threads == 1 else f"{threads} workers"

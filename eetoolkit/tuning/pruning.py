"""Exits that do not pay: which ones, what runs cost without them, and the bundle without them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import msgspec
import numpy as np

from eetoolkit.tuning.evaluate import Subset
from eetoolkit.tuning.intervals import Interval, ratio_in_turns
from eetoolkit.tuning.manifest import golden_under
from eetoolkit.tuning.record import NO_CLASS, NO_EXIT
from eetoolkit.tuning.verdict import effect_of
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.errors import BundleError
from eetoolkit_runtime.profiling.rounds import Row, rows_of
from eetoolkit_runtime.running.answer import Answer
from eetoolkit_runtime.running.inputs import Inputs
from eetoolkit_runtime.running.runner import Runner
from eetoolkit_runtime.verify import DEFAULT_TOLERANCE, difference

ROUNDS = 8
"""How often `latencies` runs every row."""
AGAIN = 4
"""How often it does so again, while chance may explain a difference."""


def without_overheads(subset: Subset, overheads: Array) -> Subset:
    """Returns the rows with what runs cost if visits of the exits cost so much less, (E,)."""
    padded = np.append(overheads, 0.0)  # the last for `NO_EXIT`, -1
    return replace(subset, cost=subset.cost - padded[subset.record.exit].cumsum(axis=1))


def only_exits(plain: Subset, exits: Array, overheads: Array) -> Subset:
    """Returns the rows as a bundle answers them that has no other exits than these: they meet no others.

    Args:
        plain: The rows, which meet all exits, with what runs would cost if no exit had an overhead.
        exits: Which exits stay, bool (E,); those that end the plan do.
        overheads: What a visit of each costs, (E,).
    """
    record = plain.record
    here = np.append(exits, False)[record.exit]  # the last for `NO_EXIT`, -1
    rows, visits = np.nonzero(here)
    counts = here.sum(axis=1)
    kept = np.full((len(record), counts.max()), -1)
    kept[rows, np.arange(len(rows)) - np.repeat(counts.cumsum() - counts, counts)] = visits

    def picked(values: Array, padding: float) -> Array:
        found = values[np.arange(len(record))[:, None], kept]
        found[kept < 0] = padding
        return np.asarray(found)

    met = picked(record.exit, NO_EXIT)
    fewer = replace(
        record,
        exits=tuple(name for name, stays in zip(record.exits, exits, strict=True) if stays),
        exit=np.append(exits.cumsum() - 1, NO_EXIT).astype(np.int16)[met],
        confidence=picked(record.confidence, np.nan),
        prediction=picked(record.prediction, NO_CLASS),
        way=picked(record.way, 0),
        outputs={name: picked(array, 0) for name, array in record.outputs.items()},
    )
    score = None if plain.score is None else picked(plain.score, 0.0)
    cost = picked(plain.cost, 0.0) + np.append(overheads, 0.0)[met].cumsum(axis=1)
    return replace(plain, record=fewer, score=score, cost=cost)


def choose_gone(
    tuned: Subset, thresholds: Array, exits: Array, overheads: Array, least_score: float | None, *, firing: bool
) -> Array:
    """Returns which exits to prune, bool (E,): one after the other that costs more than it saves, the dearest first.

    Args:
        tuned: The tuning rows.
        thresholds: The choice, (E,); what is NaN never fires.
        exits: Which exits do not end the plan, bool (E,).
        overheads: What a visit of each costs, (E,).
        least_score: What answers must score without them; None: what they score with them.
        firing: Whether exits may go too that are not disabled, which can change answers.
    """
    limits, gone = thresholds.copy(), exits & np.isnan(thresholds)
    least = tuned.means(tuned.ends(thresholds))[0] if least_score is None else least_score
    while True:
        subset, useless = without_overheads(tuned, np.where(gone, overheads, 0.0)), {}
        for e in np.flatnonzero(exits & ~gone).tolist():
            effect = effect_of(subset, limits, e)
            # As the most confident one an exit may answer that never fires.
            idle, gain = not effect.left.any() and tuned.fallback == "last", effect.gain(overheads[e])
            if firing and (idle or (gain < 0 and effect.score_without >= least)):
                useless[e] = gain
        if not useless:
            return gone
        worst = min(useless, key=useless.__getitem__)
        limits[worst], gone[worst] = np.nan, True


class Pruning(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle without exits, beside the one with them; measured in turns, row by row.

    Attributes:
        path: Where it is.
        exits: Which ones are gone.
        rows: How many rows were run.
        equal: How many of them it answers as the bundle with these exits disabled: there, and within its tolerance.
        latency: Its mean over that of the tuned bundle with these exits; None without any. Its interval is of other
            rows and of runners opened anew.
        kept: Why no exit is gone; None where some are.
    """

    path: str
    exits: tuple[str, ...]
    rows: int
    equal: int
    latency: Interval | None
    kept: str | None = None


def write_pruned(
    chosen: Bundle,
    silent: Bundle,
    exits: tuple[str, ...],
    output: str | os.PathLike[str],
    inputs: Inputs | Iterator[Inputs] | None,
    seed: int,
    *,
    threads: int | None,
    overwrite: bool,
) -> Pruning:
    """Writes a bundle without the exits that do not pay and returns how it compares.

    Args:
        chosen: The bundle as it was tuned.
        silent: The same with the exits disabled that go.
        exits: These.
        output: Where to write.
        inputs: What to compare by, as `profile` takes it; None: the golden samples.
        seed: Of the interval.
        threads: As the `Runner`'s, of both.
        overwrite: Whether a bundle at `output` may be replaced.

    Raises:
        InputError: Rows that the bundle does not take, or none.
        ExportError: The host's extra is missing, or see `eetoolkit_exporters.pruning.prune.prune`.
        BundleError: `output` is in the way, or the bundle itself.
    """
    import eetoolkit as ee

    check_elsewhere(chosen, output)
    given = rows_of(chosen, inputs)
    pruned = ee.prune(silent, exits, output, samples=golden_under(silent, silent.manifest), overwrite=overwrite)
    with Runner(silent, threads=threads) as one, Runner(pruned, threads=threads) as other:
        golden = silent.manifest.golden
        tolerance = DEFAULT_TOLERANCE if golden is None else golden.tolerance
        equal = sum(_alike(one.run(row), other.run(row), tolerance) for row in given)
    latency = None
    if exits:  # else both are the same
        before, after = latencies((chosen, pruned), given, threads)
        latency = ratio_in_turns(after, before, seed)
    return Pruning(path=str(pruned.place), exits=exits, rows=len(given), equal=equal, latency=latency)


def check_elsewhere(bundle: Bundle, output: str | os.PathLike[str]) -> None:
    """Refuses to prune a bundle onto itself: what it is compared with would be gone.

    Raises:
        BundleError: Says so.
    """
    if bundle.lies_at(output):
        raise BundleError(f"{output} is the bundle that is tuned; choose another name for the pruned one")


def _alike(one: Answer, other: Answer, tolerance: float) -> bool:
    return one.exit == other.exit and all(
        difference(other.outputs[name], array) <= tolerance for name, array in one.outputs.items()
    )


def latencies(bundles: Sequence[Bundle], rows: Sequence[Row], threads: int | None) -> Array:
    """Returns each bundle's time of each row in seconds, measured in turns, (bundles, rounds, rows).

    Runners are opened anew for every round: where their memory lies is luck, which must not pass for a difference.
    """
    times = np.zeros((len(bundles), ROUNDS, len(rows)))
    shapes = {tuple(array.shape for array in row): row for row in rows}
    for turn in range(ROUNDS):
        with contextlib.ExitStack() as stack:
            runners = [stack.enter_context(Runner(bundle, threads=threads)) for bundle in bundles]
            for row in shapes.values():  # which are new to the sessions
                for runner in runners:
                    runner.run_all_exits(row)
            for n, row in enumerate(rows):
                for k in range(len(runners)):
                    place = (k + turn + n) % len(runners)
                    started = time.perf_counter()
                    runners[place].run(row)
                    times[place, turn, n] = time.perf_counter() - started
    return times


def ratios_in_turns(bundles: Sequence[Bundle], rows: Sequence[Row], threads: int | None, seed: int) -> list[Interval]:
    """Returns the mean latency of all bundles but the last over the last one's.

    They are measured again, up to `AGAIN` times, while chance may explain the first ratio.
    """
    times = latencies(bundles, rows, threads)
    for again in range(AGAIN + 1):
        ratios = [ratio_in_turns(each, times[-1], seed) for each in times[:-1]]
        if again == AGAIN or not ratios[0].low <= 1 <= ratios[0].high:
            break
        times = np.concatenate([times, latencies(bundles, rows, threads)], axis=1)
    return ratios

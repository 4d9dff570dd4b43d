"""What a monitor costs, how often it alarms for nothing, and after how many rows it finds a shift.

A call's cost is the difference between the same runner with and without its monitor, in turns of 1,024 calls, so that
each turn has the monitor add up what waits once. A simulated week is 100,000 rows.
"""

from __future__ import annotations

import math
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.section import Row, Section, met, publish
from eetoolkit.tuning.intervals import SHARES_ERROR, intervals_of_shares
from eetoolkit.tuning.tune import tune
from eetoolkit.zoo import branchynet, digits
from eetoolkit_exporters.export import export
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.monitoring.drift import BLOCK, DriftTest, Shares, tuned_shares
from eetoolkit_runtime.monitoring.monitor import Monitor
from eetoolkit_runtime.running.runner import Runner

MAX_US, MAX_BYTES = 1.0, 64 << 10
RATE, WEEK, WEEKS = 0.01, 100_000, 1000
TURN, TURNS = 1024, 200
HELD_OUT = 500
SECTION = Section(
    "monitor",
    "The monitor",
    (
        "The digits' network, tuned, one thread. Cost: the same runner with and without its monitor, in turns of 1,024 "
        "calls, in processor time; the difference of the first deciles of turns, and of the medians. Memory: what it "
        "holds between two calls, and its peak meanwhile. False alarms: 1,000 simulated weeks of 100,000 rows, the "
        "first exit at the ends of its interval, and with intervals that were themselves drawn; a rate of 0.01 allows "
        "10, and 20 where 1 % of the intervals may miss. Shifts: changed digits come after 100,000 as tuned; rows "
        "until the alarm, the median of ten."
    ),
    (
        ("what", lambda row: str(row["what"])),
        ("found", lambda row: str(row["found"])),
        ("at most", lambda row: str(row["at_most"])),
        ("met", met),
    ),
)


def main() -> None:
    """Measures all of it."""
    with tempfile.TemporaryDirectory() as folder:
        bundle, images = tuned(Path(folder))
        shares, _ = tuned_shares(bundle.manifest)
        rows = [cost(bundle, images[:1]), memory(bundle, images[:1])]
        rows += [weeks(shares), drawn_weeks(shares), *shifts(bundle, images)]
    publish(SECTION, rows)


def tuned(folder: Path) -> tuple[Bundle, Any]:
    """Returns the digits' bundle, tuned, and all digits that were not trained on, float32 (720, 1, 8, 8)."""
    parts = [digits.digits(part) for part in ("validation", "test")]
    images = np.concatenate([part.images for part in parts]).astype(np.float32) / 16
    export(branchynet.load(), images[:1], folder / "digits.ee", labels=digits.LABELS)
    labels = np.concatenate([part.labels for part in parts])
    return tune(folder / "digits.ee", images, labels, max_accuracy_drop=0.01, threads=1).apply(force=True), images


def cost(bundle: Bundle, image: Any) -> Row:
    """Returns what a monitor adds to a call, in us of this thread's processor time.

    Other programs lengthen whole turns by their use of caches, so the tenth of the turns that they disturb least counts
    beside the median.
    """
    monitor = Monitor()
    with Runner(bundle, threads=1, monitor=monitor) as runner:
        taken: dict[bool, list[float]] = {False: [], True: []}
        for turn in range(TURNS + 2):
            for watched in (False, True) if turn % 2 else (True, False):
                runner._monitor = monitor if watched else None
                started = time.thread_time_ns()
                for _ in range(TURN):
                    runner.run(image)
                if turn >= 2:
                    taken[watched].append((time.thread_time_ns() - started) / TURN / 1e3)
    without, with_it = (np.quantile(taken[watched], (0.1, 0.5)) for watched in (False, True))
    least, median = (with_it - without).tolist()
    return {
        "what": "us more a call (by medians)",
        "found": f"{least:.2f} ({median:.2f}) on {without[0]:.2f} ({without[1]:.2f})",
        "at_most": MAX_US, "us": least, "median_us": median, "call_us": without.tolist(),
        "ratio": (with_it / without).tolist(), "met": bool(least < MAX_US),
    }  # fmt: skip


def memory(bundle: Bundle, image: Any) -> Row:
    """Returns what a monitor holds between two calls at most, in bytes, and the peak meanwhile."""
    with Runner(bundle, threads=1, monitor=Monitor()) as runner:
        runner.run(image)
        answer, stops = runner.run(image), ("exit", "end", "deadline", "interrupt")
        _fill(bundle, answer, stops)
        tracemalloc.start()
        held = _fill(bundle, answer, stops)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return {
        "what": "bytes held (peak)", "found": f"{held:,} ({peak:,})", "at_most": f"{MAX_BYTES:,}",
        "bytes": held, "peak_bytes": peak, "met": held <= MAX_BYTES,
    }  # fmt: skip


def _fill(bundle: Bundle, answer: Any, stops: tuple[str, ...]) -> int:
    monitor, most = Monitor(), 0
    monitor.attach(bundle.manifest, stops)
    for _ in range(5 * TURN):
        monitor.count(answer, time.perf_counter(), True)
        most = max(most, tracemalloc.get_traced_memory()[0] if tracemalloc.is_tracing() else 0)
    return most


def alarms(shares: Shares, truth: Any, rng: np.random.Generator, weeks_: int) -> int:
    """Returns in how many of so many weeks there is an alarm where exits answer these true shares, (E,).

    It makes the steps of `DriftTest` for all weeks at once; a test of `tests/test_monitor_drift.py` holds both equal.
    """
    test, found = DriftTest(shares, RATE, WEEK), np.zeros(weeks_, bool)
    logs, weights = np.full((weeks_, *test._bets.shape), -np.inf), np.log(test._weights + 1e-300)
    for left in rng.multinomial(BLOCK, truth, (math.ceil(WEEK / BLOCK), weeks_)):
        logs = np.logaddexp(logs, 0) + (left[:, None, :, None] * test._bets - BLOCK * test._norms)
        found |= np.logaddexp.reduce((logs + weights).reshape(weeks_, -1), axis=1) >= np.log(test.limit)
    return int(found.sum())


def weeks(shares: Shares) -> Row:
    """Returns the false alarms where the first exit is at one end of its interval, the worst that is no drift."""
    rng, names = np.random.default_rng(0), list(shares)
    found = 0
    for end in (1, 2):
        first = shares[names[0]][end]
        rest = np.array([shares[name][0] for name in names[1:]])
        truth = np.array([first, *(rest / rest.sum() * (1 - first))])
        for name, share in zip(names[1:], truth[1:].tolist(), strict=True):
            assert shares[name][1] - 1e-9 <= share <= shares[name][2] + 1e-9, name  # else it were drift
        found += alarms(shares, truth, rng, WEEKS // 2)
    return _false("false alarms in 1,000 weeks at an interval's end", found, RATE * WEEKS)


def drawn_weeks(shares: Shares) -> Row:
    """Returns the false alarms where each week has intervals of held-out rows of its own."""
    rng = np.random.default_rng(1)
    truth = np.array([value for value, _, _ in shares.values()])
    truth = (truth + 0.01) / (truth + 0.01).sum()
    found = 0
    for _ in range(WEEKS):
        counts = rng.multinomial(HELD_OUT, truth)
        ends = intervals_of_shares(dict(zip(shares, (counts / HELD_OUT).tolist(), strict=True)), HELD_OUT)
        found += alarms({name: (each.value, each.low, each.high) for name, each in ends.items()}, truth, rng, 1)
    return _false(f"the same with intervals of {HELD_OUT} rows drawn anew", found, (RATE + SHARES_ERROR) * WEEKS)


def _false(what: str, found: int, most: float) -> Row:
    return {"what": what, "found": found, "at_most": f"{most:g}", "weeks": WEEKS, "met": found <= most}


def shifts(bundle: Bundle, images: Any) -> list[Row]:
    """Returns after how many rows each shift of the digits is found."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(2)
    changes: Mapping[str, Callable[[Any], Any]] = {
        "noise of 0.15": lambda some: np.clip(some + rng.normal(0, 0.15, some.shape), 0, 1),
        "noise of 0.2": lambda some: np.clip(some + rng.normal(0, 0.2, some.shape), 0, 1),
        "blur of 0.7 pixels": lambda some: gaussian_filter(some, (0, 0, 0.7, 0.7)),
        "a third darker": lambda some: some * 0.67,
    }
    with Runner(bundle, threads=1) as runner:
        names = list(bundle.manifest.exits)

        def exits(rows: Any) -> Any:
            return np.array([names.index(answer.exit) for answer in runner.run_batch(rows.astype(np.float32))])

        as_tuned = exits(images)
        return [_shift(bundle, name, as_tuned, exits(change(np.tile(images, (10, 1, 1, 1)))), rng)
                for name, change in changes.items()]  # fmt: skip


def _shift(bundle: Bundle, name: str, as_tuned: Any, shifted: Any, rng: np.random.Generator) -> Row:
    shares, _ = tuned_shares(bundle.manifest)
    after: list[float] = []
    for _ in range(10):
        test = DriftTest(shares, RATE, WEEK)
        for _ in range(WEEK // BLOCK):
            test.add(np.bincount(rng.choice(as_tuned, BLOCK), minlength=len(shares)))
        before, early = test.rows, test.alarms
        while test.alarms == early and test.rows - before < WEEK:
            test.add(np.bincount(rng.choice(shifted, BLOCK), minlength=len(shares)))
        after.append(test.rows - before if test.alarms > early else math.inf)
    found, first = float(np.median(after)), float((shifted == 0).mean())
    tuned_first = next(iter(shares.values()))
    return {
        "what": f"rows until {name} is found", "found": f"{found:,.0f}", "at_most": f"{WEEK:,}",
        "rows": found, "first_exit": first, "tuned": tuned_first, "met": found <= WEEK,
    }  # fmt: skip


if __name__ == "__main__":
    main()

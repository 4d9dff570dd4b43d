"""Throughput: `run_batch`, which takes rows out as they exit, against one session on the whole batch.

The network and the digits are real; only the first exit's threshold is moved, so that a chosen share of the rows leaves
there and the others go to the end. Both run the same batches in turns, one thread.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.measure import interleaved_ms, paired_ratio
from benchmarks.section import Row, Section, over, publish
from eetoolkit import zoo
from eetoolkit.demo.exporting import export_system, load_system, save_whole
from eetoolkit_runtime.profiling.whole import open_whole
from eetoolkit_runtime.running.runner import Runner
from eetoolkit_runtime.running.sessions import SessionSettings

SIZES = (1, 4, 16, 64)
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
ROUNDS = 60
SECTION = Section(
    "rows",
    "Batches: rows that exit are taken out",
    (
        "The digits network, held-out digits, one thread, rows per second. `leave early` is the share of rows that "
        "leaves at the first of three exits; the others go to the end. One session computes the last exit alone for "
        "the whole batch. The break-even is the share from which the bundle is faster, by interpolation. The ratio is "
        "of the times of a batch, with its 95 % bootstrap interval over rounds."
    ),
    (
        ("rows", lambda row: str(row["rows"])),
        ("leave early", lambda row: f"{row['share']:.0%}"),
        ("`run` one by one, rows/s", lambda row: f"{row['run_rows_per_s']:,.0f}"),
        ("`run_batch`, rows/s", lambda row: f"{row['batch_rows_per_s']:,.0f}"),
        ("one session, rows/s", lambda row: f"{row['whole_rows_per_s']:,.0f}"),
        ("`run_batch` / one session", over),
        ("break-even", lambda row: "-" if row["break_even"] is None else f"{row['break_even']:.0%}"),
    ),
)


def main() -> None:
    """Measures every size and share."""
    publish(SECTION, measure())


def measure(sizes: tuple[int, ...] = SIZES, shares: tuple[float, ...] = SHARES, rounds: int = ROUNDS) -> list[Row]:
    """Returns the figures of every size of a batch and every share of rows that leave early."""
    trained = load_system(zoo.find("branchynet"))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        bundle = export_system(trained, Path(folder) / "digits.ee")
        first, *others = bundle.exits
        path = save_whole(trained, others[-1], Path(folder) / "whole.onnx")
        whole = open_whole(path, bundle.manifest, SessionSettings(threads=1))
        (name,) = whole.inputs
        with Runner(bundle, threads=1, load="eager") as runner:
            images = np.concatenate([row[0] for row in trained.rows])
            sure = np.array([runner.run(row[0], exit_at=first).confidence for row in trained.rows])
            for size in sizes:
                found = []
                for share in shares:
                    batch, threshold = _batch(images, sure, size, share)
                    thresholds = dict.fromkeys(others[:-1], "never") | {first: threshold}
                    candidates: dict[str, Callable[[], object]] = {
                        "batch": lambda b=batch, t=thresholds: runner.run_batch(b, thresholds=t),  # type: ignore[misc]
                        "whole": lambda b=batch: whole.session.run(None, {name: b}),  # type: ignore[misc]
                        "run": lambda b=batch, t=thresholds: [  # type: ignore[misc]
                            runner.run(b[k : k + 1], thresholds=t) for k in range(len(b))
                        ],
                    }
                    left = sum(a.exit == first for a in runner.run_batch(batch, thresholds=thresholds))
                    taken = interleaved_ms(candidates, rounds)
                    ratio, low, high = paired_ratio(taken["batch"], taken["whole"])
                    per_second = {k: 1e3 * size / float(np.median(ms)) for k, ms in taken.items()}
                    found.append(
                        {"rows": size, "share": left / size, "threads": 1}
                        | {"bundle_over": ratio, "low": low, "high": high}
                        | {f"{key}_rows_per_s": value for key, value in per_second.items()}
                    )
                even = _break_even(found)
                rows += [row | {"break_even": even} for row in found]
    return rows


def _batch(images: np.ndarray, sure: np.ndarray, size: int, share: float) -> tuple[np.ndarray, float]:
    """Returns a batch of which a share is surer than a threshold, and the threshold, each drawn from real digits."""
    order = np.argsort(-sure)
    early = round(share * size)
    easy, hard = order[: len(order) // 2], order[len(order) // 2 :]
    rng = np.random.default_rng(0)
    picked = np.concatenate([rng.choice(easy, early, replace=False), rng.choice(hard, size - early, replace=False)])
    return images[rng.permutation(picked)], float((sure[easy[-1]] + sure[hard[0]]) / 2)


def _break_even(rows: list[Row]) -> float | None:
    """Returns the share at which the ratio falls to 1, between two that were measured; None where it never does."""
    for a, b in itertools.pairwise(rows):
        above, below = a["bundle_over"], b["bundle_over"]
        if above > 1 >= below:
            return float(a["share"] + (b["share"] - a["share"]) * (above - 1) / (above - below))
    return float(rows[0]["share"]) if rows[0]["bundle_over"] <= 1 else None


if __name__ == "__main__":
    main()

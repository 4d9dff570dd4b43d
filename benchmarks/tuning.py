"""Replay and search at the size of a large validation set: 50,000 rows, 12 exits, 1,000 settings."""

from __future__ import annotations

import resource
import time

import numpy as np

from benchmarks.policy import chain_record
from benchmarks.section import Row, Section, publish
from eetoolkit.tuning.objective import Candidates, Objective
from eetoolkit.tuning.record import Record
from eetoolkit.tuning.replay import means, stops
from eetoolkit.tuning.search import Constraint, Search

ROWS, EXITS, SETTINGS = 50_000, 12, 1_000
MAX_S, MAX_GIB = 10.0, 2.0
SECTION = Section(
    "tuning",
    "Tuning: replay and search",
    (
        f"Made records of {EXITS} exits. Replay: {SETTINGS:,} settings of thresholds, the exits and answers of a "
        f"sample checked against plain comparisons (target: {MAX_S:.0f} s, {MAX_GIB:.0f} GiB for the process). Search: "
        "least cost at one point below the whole network, beside greedy coordinate descent on the same rows."
    ),
    (
        ("what", lambda row: str(row["what"])),
        ("rows", lambda row: f"{row['rows']:,}"),
        ("s", lambda row: f"{row['s']:.1f}"),
        ("GiB", lambda row: f"{row['peak_gib']:.2f}" if "peak_gib" in row else "-"),
        ("cost of the whole", lambda row: f"{row['cost_share']:.3f}" if "cost_share" in row else "-"),
        ("greedy", lambda row: f"{row['greedy_cost_share']:.3f}" if "greedy_cost_share" in row else "-"),
    ),
)


def main() -> None:
    """Measures replay and search."""
    record, score, cost = made(ROWS)
    draw = np.random.default_rng(1)
    limits = draw.uniform(0.3, 1.0, (SETTINGS, EXITS))
    started = time.perf_counter()
    found = means(record, limits, score, cost)
    replayed_s = time.perf_counter() - started
    some = draw.choice(ROWS, 200, replace=False)
    expected = [[plain(record, n, setting) for setting in limits[:50]] for n in some]
    assert np.array_equal(stops(record.take(some), limits[:50]), expected)
    assert len(found[0]) == SETTINGS
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rows: list[Row] = [
        {"what": "replay", "rows": ROWS, "exits": EXITS, "settings": SETTINGS, "s": replayed_s, "peak_gib": peak_gib}
    ]
    for count in (2_000, 20_000):
        record, score, cost = made(count)
        grid = tuple(np.quantile(record.confidence[:, e], np.linspace(0, 1, 100)) for e in range(EXITS - 1))
        own = Candidates((*grid, np.zeros(0)))
        it = Objective(record, own, score, cost / cost.max(), "last")
        constraint = Constraint(least_score=it.full[0] - 0.01)
        started = time.perf_counter()
        best = it.at(Search(it).best(constraint))
        rows.append(
            {"what": "search", "rows": count, "exits": EXITS, "s": time.perf_counter() - started, "cost_share": best[1],
             "greedy_cost_share": it.at(Search(it).greedy(constraint))[1]}
        )  # fmt: skip
    publish(SECTION, rows)


def made(rows: int) -> tuple[Record, np.ndarray, np.ndarray]:
    """Returns a record of a chain whose later exits are surer and better, with score and cost of each visit."""
    draw = np.random.default_rng(0)
    hard = draw.uniform(size=(rows, 1))
    right = draw.uniform(size=(rows, EXITS)) < np.clip(1.5 * np.linspace(0.4, 1, EXITS) - hard, 0.05, 0.99)
    confidence = np.clip(0.5 * right + draw.uniform(0, 0.5, right.shape), 0, 1)
    return chain_record(confidence, right), right.astype(np.float64), np.tile(np.arange(1.0, EXITS + 1), (rows, 1))


def plain(record: Record, row: int, setting: np.ndarray) -> int:
    """Returns the visit that ends a row's run, one comparison after the other."""
    for visit in range(EXITS - 1):
        if float(record.confidence[row, visit]) >= setting[visit]:
            return visit
    return EXITS - 1


if __name__ == "__main__":
    main()

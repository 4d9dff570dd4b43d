"""Exits that do not pay, taken out: the pruned bundle beside the one that it was made of, on held-out data."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import eetoolkit as ee
from benchmarks.cases.case import Case
from benchmarks.cases.catalogue import NAMES, load_case
from benchmarks.peers import Peer
from benchmarks.section import Row, Section, publish
from benchmarks.turns import ratio, timed

DROPS = (0.005, 0.02)
PROFILED_ROWS = 100
TIMED_ROWS = 250
SECONDS = 15.0
SECTION = Section(
    "pruning",
    "Pruning: without the exits that do not pay",
    (
        "Each case with all its exits, its thresholds chosen by `ee.tune` on validation data for a drop of at most "
        "half a point and of two points, on costs that `ee.profile` measured just before; `report.prune` takes out "
        "what does not pay. Where a goal is not listed every exit pays. `all but the last`: every earlier exit is "
        "gone, beside the full path with their heads. Test rows, both bundles in turns, one thread; accuracy and "
        "`same answer` are of all test rows, the latter against the bundle with these exits disabled."
    ),
    (
        ("network", lambda row: row["case"]),
        ("what", lambda row: row["what"]),
        ("exits gone", lambda row: ", ".join(row["gone"]) or "none"),
        ("graphs", lambda row: f"{row['segments_before']} to {row['segments_after']}"),
        ("right before", lambda row: f"{row['accuracy_before']:.2%}"),
        ("after", lambda row: f"{row['accuracy_after']:.2%}"),
        ("same answer", lambda row: f"{row['same']:.2%}"),
        ("pruned / before", lambda row: f"{row['ratio']:.3f} ({row['low']:.3f} to {row['high']:.3f})"),
    ),
)


def main() -> None:
    """Measures all cases."""
    publish(SECTION, [row for name in NAMES for row in measure(load_case(name))])


def measure(case: Case, seconds: float = SECONDS) -> list[Row]:
    """Returns the figures of a case: pruned as tuned, and of all exits but the last."""
    validation = list(zip(case.validation.rows, case.validation.labels.tolist(), strict=True))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        whole = ee.export(case.network, case.example, folder / "whole.ee", name=case.name, **case.options)
        profile = ee.profile(whole, iter([row for row, _ in validation[:PROFILED_ROWS]]), threads=1)
        rows = []
        for drop in DROPS:
            report = ee.tune(whole, validation, max_accuracy_drop=drop, profile=profile, threads=1)
            if report.pruned is None:
                continue
            tuned, target = report.apply(force=True), folder / f"pruned{drop}.ee"
            gone, pruned = report.prune(target, force=True).exits, ee.load(target)
            rows.append(_compared(case, f"tuned, {100 * drop:g} points", tuned, pruned, gone, None, seconds))
            whole = report.undo()
        *earlier, last = whole.exits
        single = ee.prune(whole, earlier, folder / "single.ee")
        rows.append(_compared(case, "all but the last", whole, single, tuple(earlier), last, seconds))
    return rows


def _compared(
    case: Case, what: str, before: ee.Bundle, after: ee.Bundle, gone: tuple[str, ...], at: str | None, seconds: float
) -> Row:
    given = [row[0] if len(row) == 1 else row for row in case.test.rows]
    with ee.Runner(before, threads=1) as one, ee.Runner(after, threads=1) as other:
        usual = [one.run(row, exit_at=at) for row in given]
        found = [other.run(row) for row in given]
        # An exit with a threshold of infinity never fires.
        expected = [one.run(row, exit_at=at, thresholds=None if at else dict.fromkeys(gone, np.inf)) for row in given]
        same = [
            a.exit == b.exit and np.allclose(a.outputs["logits"], b.outputs["logits"], rtol=1e-4, atol=1e-4)
            for a, b in zip(expected, found, strict=True)
        ]
        some = [given[n] for n in np.random.default_rng(0).permutation(len(given))[:TIMED_ROWS]]
        peers = {
            "before": Peer(some, lambda row: one.run(row, exit_at=at), lambda answer: (answer.outputs["logits"], -1)),
            "after": Peer(some, other.run, lambda answer: (answer.outputs["logits"], -1)),
        }
        times = np.median(timed(peers, seconds, 0, settle=False), axis=0)
    often, low, high = ratio(times[1:], times[:1])
    labels = case.test.labels
    return {
        "case": case.title, "what": what, "gone": list(gone), "rows": len(given), "threads": 1,
        "segments_before": len(before.manifest.segments), "segments_after": len(after.manifest.segments),
        "accuracy_before": float(np.mean([answer.prediction for answer in usual] == labels)),
        "accuracy_after": float(np.mean([answer.prediction for answer in found] == labels)),
        "same": float(np.mean(same)), "ratio": often, "low": low, "high": high,
    }  # fmt: skip


if __name__ == "__main__":
    main()

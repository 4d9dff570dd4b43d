"""The part of `benchmarks/README.md` about the trained cases, from the stored results."""

from __future__ import annotations

import json

from benchmarks.measure import RESULTS
from benchmarks.section import Row, markdown, over

OVER_WHOLE, OVER_FIXED, OVER_TRUNCATED, DROP_POINTS = 1 / 2.5, 1 / 1.3, 1.03, 0.5
"""The most that bundle / peer may be: the whole network on MNIST, the best static network, hand-truncated sessions; and
the most accuracy that may be lost."""

_METHOD = (
    "Thresholds chosen on validation data so that nothing is lost there; all figures are of test data, one row at "
    "a time, the rows in turns in one process (all threads: one shared pool for all its sessions): of each row the "
    "median over the rounds, of these the mean, and their percentiles. In brackets 95 % bootstrap intervals over rows "
    "and processes, paired. Best fixed exit: one session, with no other head, that ends at the cheapest exit within "
    "half a point of the last on validation or test data, or as accurate as the bundle. One file: the bundle's plan "
    "with onnxruntime's own `If`. Hand-truncated session: one session over the network cut off by hand after the exit "
    "that the row takes, with the exits before it and their criteria in it; it must be told the exit."
)
_PEERS = (
    ("whole", "whole network, one session"),
    ("fixed", "best fixed exit"),
    ("one file", "one file, nested `If`"),
    ("hand-truncated", "a hand-truncated session"),
    ("eager", "eager PyTorch"),
    ("earlyon eager", "earlyon eager"),
    ("earlyon staged", "earlyon staged"),
)


def sections() -> list[str]:
    """Returns the paragraphs and tables; none where nothing has been measured yet."""
    if not (RESULTS / "real_cases.json").exists():
        return []
    stored = json.loads((RESULTS / "real_cases.json").read_text())
    exits = json.loads((RESULTS / "real_exits.json").read_text())["rows"]
    rows: list[Row] = stored["rows"]
    machine = ", ".join(f"{key} {value}" for key, value in {**stored["machine"], **rows[0]["versions"]}.items())
    return [
        "## Trained networks beside every other way to run them",
        _METHOD,
        markdown(
            [
                "case",
                "threads",
                "accuracy (last exit)",
                "mean, ms",
                "p95, ms",
                "/ whole's p95",
                "/ one file's p95",
                "p99, ms (whole)",
            ],
            map(_bundle, rows),
        ),
        "Bundle / peer, of the mean latencies; below 1 the bundle is faster:",
        markdown(["case", "threads", *(title for _, title in _PEERS)], map(_others, rows)),
        _targets(rows),
        "Each exit on test data:",
        markdown(
            ["case", "exit", "right if all stop here", "threshold", "stop here", "of these right"], map(_exit, exits)
        ),
        "All latencies, in ms:",
        markdown(["case", "threads", "run as", "mean", "p50", "p95", "p99", "p99 of all calls"], _latencies(rows)),
        *(
            f"Not measured: {name} on {row['case']}, since {why}."
            for row in rows
            for name, why in row["refused"].items()
        ),
        f"Machine: {machine}.",
    ]


def _bundle(row: Row) -> list[str]:
    own, whole = row["peers"]["bundle"], row["peers"]["whole"]
    one_file = row["peers"].get("one file")
    return [
        row["case"], str(row["threads"]),
        f"{row['accuracy']:.2%} ({row['whole_accuracy']:.2%})",
        f"{own['mean_ms']:.3f}", f"{own['p95_ms']:.3f}", f"{whole['bundle_over_p95']:.3f}",
        "-" if one_file is None else f"{one_file['bundle_over_p95']:.3f}",
        f"{own['p99_ms']:.3f} ({whole['p99_ms']:.3f})",
    ]  # fmt: skip


def _others(row: Row) -> list[str]:
    return [row["case"], str(row["threads"]), *(over(row["peers"].get(name)) for name, _ in _PEERS)]


def _exit(row: Row) -> list[str]:
    threshold = "-" if row["threshold"] is None else f"{row['threshold']:.4f}"
    here = "-" if row["accuracy_here"] is None else f"{row['accuracy_here']:.2%}"
    share = f"{row['share']:.1%}" if row["kept"] else "left out"
    return [row["case"], row["exit"], f"{row['accuracy']:.2%}", threshold, share, here]


def _latencies(rows: list[Row]) -> list[list[str]]:
    keys = ("mean_ms", "p50_ms", "p95_ms", "p99_ms", "p99_of_calls_ms")
    return [
        [row["case"], str(row["threads"]), name, *(f"{peer[key]:.3f}" for key in keys)]
        for row in rows
        for name, peer in row["peers"].items()
        if peer is not None
    ]


def _targets(rows: list[Row]) -> str:
    """Returns which targets were missed, with the figures."""
    missed = []
    for row in rows:
        where = f"{row['case']}, threads {row['threads']}"
        whole, fixed, truncated = (row["peers"][name] for name in ("whole", "fixed", "hand-truncated"))
        if row["drop_points"] > DROP_POINTS:
            missed.append(f"{where}: {row['drop_points']:.2f} points lost on test data, at most {DROP_POINTS}")
        if row["name"] == "mnist" and whole["bundle_over"] > OVER_WHOLE:
            missed.append(f"{where}: {over(whole)} of the whole network, at most {OVER_WHOLE}")
        if fixed["high"] > OVER_FIXED:
            missed.append(f"{where}: {over(fixed)} of the best fixed exit, at most {OVER_FIXED:.3f} at the end")
        if truncated["high"] > OVER_TRUNCATED and row["peers"]["bundle"]["mean_ms"] >= 0.3:
            missed.append(
                f"{where}: {over(truncated)} of a hand-truncated session, at most {OVER_TRUNCATED} at the end"
            )
    return "Targets missed:\n\n" + "\n".join(f"- {line}" for line in missed) if missed else "No target was missed."

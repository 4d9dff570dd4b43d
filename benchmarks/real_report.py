"""The part of `benchmarks/README.md` about the three trained cases, from the stored results."""

from __future__ import annotations

import json

from benchmarks.measure import RESULTS
from benchmarks.section import Row, markdown

SPEED_UP, OVER_FIXED, OVER_LIMIT, DROP_POINTS = 2.5, 1.3, 1.03, 0.5
"""The targets: against the whole network on MNIST, against the best static network, against the limit, and the loss."""

_METHOD = (
    "Thresholds chosen on validation data so that nothing is lost there; all figures are of test data, one row at "
    "a time, the rows in turns in one process (all threads: one shared pool for all its sessions): of each row the "
    "median over the rounds, of these the mean, and their percentiles. In brackets 95 % bootstrap intervals over rows "
    "and processes, paired. Limit: one session over the network cut off after the exit that the row takes, with the "
    "exits before it and their criteria in it. Best fixed exit: one session, with no other head, that ends at the "
    "cheapest exit within half a point of the last on validation or test data, or as accurate as the bundle."
)
_PEERS = (
    ("whole", "whole network, one session"),
    ("fixed", "best fixed exit"),
    ("single file", "one file, nested `If`"),
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
        "## Three trained networks beside every other way to run them",
        _METHOD,
        markdown(
            ["case", "threads", "accuracy (last exit)", "mean, ms", "/ limit", "p99, ms (whole)"], map(_bundle, rows)
        ),
        "How many times as long the others take:",
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
    limit = f"{row['over_limit']:.3f} ({row['over_limit_low']:.3f} to {row['over_limit_high']:.3f})"
    accuracy = f"{row['accuracy']:.2%} ({row['whole_accuracy']:.2%})"
    tail = f"{own['p99_ms']:.3f} ({whole['p99_ms']:.3f})"
    return [row["case"], str(row["threads"]), accuracy, f"{own['mean_ms']:.3f}", limit, tail]


def _others(row: Row) -> list[str]:
    return [row["case"], str(row["threads"]), *(_times(row["peers"].get(name)) for name, _ in _PEERS)]


def _times(peer: Row | None) -> str:
    return "-" if peer is None else f"{peer['times_bundle']:.2f} ({peer['low']:.2f} to {peer['high']:.2f})"


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
        whole, fixed = row["peers"]["whole"], row["peers"]["fixed"]
        if row["drop_points"] > DROP_POINTS:
            missed.append(f"{where}: {row['drop_points']:.2f} points lost on test data, at most {DROP_POINTS}")
        if row["name"] == "mnist" and whole["times_bundle"] < SPEED_UP:
            missed.append(f"{where}: {whole['times_bundle']:.2f} times the whole network's speed, at least {SPEED_UP}")
        if fixed["low"] < OVER_FIXED:
            missed.append(f"{where}: {_times(fixed)} times the best fixed exit's speed, at least {OVER_FIXED}")
        if row["over_limit_high"] > OVER_LIMIT and row["peers"]["bundle"]["mean_ms"] >= 0.3:
            missed.append(
                f"{where}: {row['over_limit_high']:.3f} of the limit at the interval's end, {OVER_LIMIT} at most"
            )
    return "Targets missed:\n\n" + "\n".join(f"- {line}" for line in missed) if missed else "No target was missed."

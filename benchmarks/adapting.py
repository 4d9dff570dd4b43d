"""Trained networks with one answer, made faster by one call: what `ee.add_exits` gains on rows that nothing has seen.

Each case runs in a process of its own on one core: heads are fitted to rows that the network has learned from, where
there are some, places and thresholds are chosen on rows that it has not, and the bundle is then held against the whole
network on test rows.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from statistics import mean

from benchmarks.section import Column, Row, Section, met, over, publish
from benchmarks.single_exit.train import LOADERS

GOAL, STRICT_GOAL = 0.01, 0.005
DROP_POINTS = 0.5
OVER_WHOLE = {"mnist": 1 / 8, "reviews": 1 / 1.8}
"""The most that bundle / whole may be."""
MNIST_S, REVIEWS_S = 120.0, 180.0
"""The most seconds of a core: of MNIST all, of the reviews those after the features."""
_CORE = "1"
_PARTS = ("features", "heads", "bundle")
_SEEDS = [name for name in LOADERS if name.startswith("reviews-")]
_SAID = {True: "they pay", False: "they do not pay", None: "unknown"}
"""Of early exits, by `AdaptReport.pays`; where it is unknown the bundle is written with `force`."""


def _leave(row: Row) -> str:
    named = (f"{exit_['name']} ({exit_['head']})" if exit_["head"] else exit_["name"] for exit_ in row["exits"])
    return ", ".join(f"{name} {exit_['share']:.0%}" for name, exit_ in zip(named, row["exits"], strict=True))


def _column(title: str, key: str, spell: Callable[[Row], str]) -> Column:
    return title, lambda row: "-" if row.get(key) is None else spell(row)


SECTION = Section(
    "adapting",
    "From one answer to a tuned bundle: `ee.add_exits`",
    (
        "Trained networks with one output, not made for exits, each in a process of its own on one core. Heads are "
        "fitted to the rows that the network has learned from (`mlp`: to others), places and thresholds chosen on rows "
        "that it has not, for the goal: the points of accuracy that may be lost. Features: the network is captured and "
        "run once over all rows; heads: all kinds at all places are fitted; bundle: exported, profiled, placed, "
        "pruned, tuned, compared; in seconds of a core. All other figures are of test rows that nothing has seen: "
        "latencies in turns in one process, one thread, of each row the median over the rounds, with intervals over "
        "rows; film reviews are as long as they are. Best fixed exit: one session that ends at the cheapest candidate "
        "which keeps the goal on test rows or is as accurate as the bundle. Trained with exits: the MNIST network "
        "whose exits were placed by hand and trained together with it, on the same rows. Targets: no more than "
        f"{DROP_POINTS} points lost; MNIST at most {OVER_WHOLE['mnist']:.3f} of the whole network, in at most "
        f"{MNIST_S:.0f} s; film reviews at most {OVER_WHOLE['reviews']:.3f}, mean of three seeds, in at most "
        f"{REVIEWS_S:.0f} s after the features."
    ),
    (
        ("network", lambda row: str(row["name"])),
        ("goal, points", lambda row: f"{100 * row['goal']:g}"),
        ("features, heads, bundle, s", lambda row: ", ".join(f"{row[f'{part}_s']:.0f}" for part in _PARTS)),
        _column("right (whole)", "accuracy", lambda row: f"{row['accuracy']:.2%} ({row['whole_accuracy']:.2%})"),
        _column("points lost", "drop_points", lambda row: f"{row['drop_points']:.2f}"),
        _column("mean, ms", "peers", lambda row: f"{row['peers']['bundle']['mean_ms']:.3f}"),
        _column("bundle / whole", "peers", lambda row: over(row["peers"]["whole"])),
        _column("/ best fixed exit", "peers", lambda row: over(row["peers"]["fixed"])),
        _column("/ trained with exits", "joint_accuracy", lambda row: over(row["peers"]["joint"])),
        _column("test rows leave", "exits", _leave),
        _column("places", "places", lambda row: str(row["places"])),
        _column("last exit differs by", "last_differs", lambda row: f"{row['last_differs']:.0e}"),
        ("targets met", met),
        ("verdict", lambda row: _SAID[row["pays"]] if "pays" in row else str(row["verdict"])),
    ),
)


def main(names: Sequence[str] = ()) -> None:
    """Measures every case, or those named, and prints the table; only all of them are stored."""
    rows = [_measure(name) for name in names or LOADERS]
    seeds = [row for row in rows if row["name"] in _SEEDS]
    if seeds:
        rows.append(of_seeds(seeds))
    publish(SECTION, rows, keep=not names)


def _measure(name: str) -> Row:
    LOADERS[name]()  # what is not in the cache yet is trained here
    goal = STRICT_GOAL if name == "mnist" or name in _SEEDS else GOAL
    command = ["taskset", "-c", _CORE, sys.executable, "-m", "benchmarks.adapting_process", name, str(goal)]
    row: Row = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    if not row["same_state"]:
        raise RuntimeError(f"{name}: the network is not what it was before")
    seconds = sum(row[f"{part}_s"] for part in _PARTS)
    return row | {"met": _meets(row, name) and seconds <= MNIST_S if name == "mnist" else None}


def of_seeds(seeds: Sequence[Row]) -> Row:
    """Returns the figures of the seeds as one: means, with the least and the most ratio."""
    keys = ("goal", "places", *(f"{part}_s" for part in _PARTS))
    found: Row = {"name": "reviews", "verdict": f"mean of the seeds measured, {len(seeds)}; in brackets least and most"}
    found |= {key: mean(row[key] for row in seeds) for key in keys}
    if any(row.get("peers") is None for row in seeds):
        return found | {"met": False}
    found |= {key: mean(row[key] for row in seeds) for key in ("accuracy", "whole_accuracy", "drop_points")}
    found |= {
        "last_differs": max(row["last_differs"] or 0.0 for row in seeds),  # none where the network was cut off
        "peers": {"bundle": {"mean_ms": mean(row["peers"]["bundle"]["mean_ms"] for row in seeds)}},
    }
    for peer in ("whole", "fixed"):
        ratios = [row["peers"][peer]["bundle_over"] for row in seeds]
        found["peers"][peer] = {"bundle_over": mean(ratios), "low": min(ratios), "high": max(ratios)}
    in_time = max(row["heads_s"] + row["bundle_s"] for row in seeds) <= REVIEWS_S
    return found | {"met": _meets(found, "reviews") and in_time}


def _meets(row: Row, name: str) -> bool:
    """Whether a row loses as few points, and takes as little of the whole network's time, as is asked."""
    return (
        row.get("peers") is not None
        and row["drop_points"] <= DROP_POINTS
        and row["peers"]["whole"]["bundle_over"] <= OVER_WHOLE[name]
    )


if __name__ == "__main__":
    main(sys.argv[1:])

"""A regression check of under three minutes: fails when a ratio is worse than its bound.

Bounds are looser than the targets of `make bench`, by what a busy machine adds; a check that fails is measured twice
more, and the median counts.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import chain, control_flow, own_time, rows, scale, start_up, zoo
from benchmarks.measure import interleaved_ms
from benchmarks.networks import cases
from eetoolkit_exporters.export import export
from eetoolkit_runtime.running.runner import Runner


@dataclass(frozen=True)
class Check:
    """One ratio and what it may be at most."""

    name: str
    bound: float
    measure: Callable[[], float]


def _chain(name: str) -> float:
    return float(chain.measure(name, 1, rounds=300)["ratio"])


def _control_flow(start: str) -> float:
    name = next(case.name for case in control_flow.cases() if case.name.startswith(start))
    return float(control_flow.measure(name)["over"][control_flow.WHOLE])


def _zoo(name: str, peer: str) -> float:
    return float(zoo.measure(name)["peers"][peer]["bundle_over"])


def _first_exit() -> float:
    """Returns what an answer at the first of four exits takes, of the full path."""
    (case,) = cases("residual cnn 64, 4 exits")
    with tempfile.TemporaryDirectory() as folder:
        bundle = export(case.network, case.example, Path(folder) / "case.ee", threshold=2.0)
        image = case.example.numpy()
        with Runner(bundle, threads=1, load="eager") as runner:
            candidates: dict[str, Callable[[], object]] = {
                "first": lambda: runner.run(image, thresholds={"exit0": 0.0}),
                "full": lambda: runner.run(image),
            }
            taken = interleaved_ms(candidates, 100)
    return float(np.median(taken["first"]) / np.median(taken["full"]))


def _batch() -> float:
    """Returns the time of a batch of 16, 12 of which leave early, of one session's on the whole batch."""
    (row,) = rows.measure((16,), (0.75,), rounds=40)
    return float(row["bundle_over"])


def _compiler() -> float:
    """Returns by how much the compiler's time grows from 2,500 to 10,000 nodes, of what is linear."""
    small, large = ([scale.measure("nodes", size) for _ in range(2)] for size in (2_500, 10_000))
    return min(map(_own_s, large)) / min(map(_own_s, small)) / 4


def _own_s(row: dict[str, Any]) -> float:
    return float(row["judge_s"] + row["cut_s"] + row["emit_s"])


def _import() -> float:
    """Returns what importing the runner takes, of what importing numpy and onnxruntime takes."""
    (case,) = cases("mlp 64, 6 exits")
    found = start_up.measure(case, processes=5)
    return float(found["import_ms"] / found["libraries_ms"])


CHECKS = (
    Check("full path / one session, linear layers of 512", 1.06, lambda: _chain("mlp 512, 6 exits")),
    Check("full path / one session, convolutions of 32", 1.08, lambda: _chain("residual cnn 32, 3 exits")),
    Check("full path / one session, transformer", 1.08, lambda: _chain("encoder 256, 6 exits")),
    Check("a segment's own time, us", 2.5, lambda: own_time.measure("mlp 64, 6 exits", 2000)["own_us_per_segment"]),
    Check("first of four exits / full path", 0.35, _first_exit),
    Check("convolutions taken: plan / onnxruntime's If", 0.85, lambda: _control_flow("branch of 4 convolutions")),
    Check("digits with three exits / whole network", 0.4, lambda: _zoo("branchynet", zoo.WHOLE)),
    Check("digits with three exits / their plan in one file", 1.05, lambda: _zoo("branchynet", zoo.ONE_FILE)),
    Check("shallow decoder / its plan in one file", 1.15, lambda: _zoo("shallow_decoder", zoo.ONE_FILE)),
    Check("batch of 16, 12 leave early / one session", 0.75, _batch),
    Check("compiler, 10,000 nodes / 4 times 2,500", 1.5, _compiler),
    Check("import of the runner / numpy and onnxruntime", 0.4, _import),
)


def main() -> int:
    """Measures every ratio, prints the table and returns how many are worse than their bounds."""
    began = time.perf_counter()
    table = Table(title="Regression check", box=None)
    for column in ("ratio", "measured", "at most", ""):
        table.add_column(column, justify="left" if column == "ratio" else "right")
    worse = 0
    for check in CHECKS:
        print(f"{check.name} ...", file=sys.stderr)
        found = check.measure()
        if found > check.bound:
            found = statistics.median([found, check.measure(), check.measure()])
        worse += found > check.bound
        table.add_row(check.name, f"{found:.3f}", f"{check.bound}", "ok" if found <= check.bound else "WORSE")
    console = Console()
    console.width = max(console.width, 90)
    console.print(table)
    print(f"{worse} of {len(CHECKS)} worse than their bounds, {time.perf_counter() - began:.0f} s")
    return worse


if __name__ == "__main__":
    sys.exit(1 if main() else 0)

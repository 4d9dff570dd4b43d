"""Trained networks on held-out data: the bundle beside every other way to run the same exits.

Thresholds are chosen on validation data so that nothing is lost there against the last exit; what is lost on test data
is told, and all latencies are of test data. All peers run the same rows in turns in one process, one row at a time;
every case is measured in several processes, with one thread and with all, and in each the peers are opened in another
order. `--quick` only tries that everything works.

Peers: `whole` is the network to its last exit as one onnxruntime session; `one file` the plan as one file with nested
`If`; `eager` PyTorch with real early exit; `earlyon eager` and `earlyon staged` that library's two ways;
`hand-truncated` one session over the network cut off by hand after the exit that the row takes, which it must be told,
with the exits before it and their criteria in it, and beside it the same without the earlier heads; `fixed` one session
that always ends at the cheapest exit within half a point of the last on validation or on test data, or as accurate as
the bundle. All ratios are bundle / peer.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cases.archives import EARLYON
from benchmarks.cases.case import Case, logits
from benchmarks.cases.catalogue import NAMES, load_case
from benchmarks.measure import store
from benchmarks.peers import exit_name, write
from benchmarks.policy import Policy, choose, stops
from benchmarks.real_process import Setup
from benchmarks.turns import compared
from eetoolkit_runtime.arrays import Array

MAX_DROP = 0.005
VALIDATION_DROP = 0.0
PROCESSES = 5
SECONDS = 15.0
TIMED_ROWS = {"reviews": 250}
"""Of the test rows; elsewhere all of them."""
WritePeers = Callable[[Case, Policy, int, Path], str | None]
_TIE = 1e-5  # rows with a confidence this close to a threshold may stop elsewhere in another framework


def main(arguments: list[str] | None = None) -> None:
    """Measures the cases, prints two tables and stores them; a quick run is not stored."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", help=f"cases, of {', '.join(NAMES)}; none: all, which is stored")
    parser.add_argument("--quick", action="store_true", help="few rows, one process: tries that everything works")
    chosen = parser.parse_args([] if arguments is None else arguments)
    torch.set_num_threads(1)
    rows, exits = [], []
    for name in chosen.names or NAMES:
        found, reached = measure(load_case(name), quick=chosen.quick)
        rows += found
        exits += reached
    _print(rows, exits)
    if not chosen.quick and not chosen.names:
        store("real_cases", rows)
        store("real_exits", exits)


def measure(case: Case, *, quick: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns the latencies of a case, a row for each number of threads, and the accuracy of each of its exits."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        laid = lay_out(case, folder, 50 if quick else TIMED_ROWS.get(case.name))
        rows = [{**laid.figures, **_latencies(laid, folder, threads, quick=quick)} for threads in (1, None)]
    return rows, laid.exits


@dataclass(frozen=True)
class Laid:
    """A case whose files lie in a folder.

    Attributes:
        setup: What is measured.
        figures: What is to say of the case.
        exits: What is to say of each exit.
        refusal: Why there is no one file, if so.
    """

    setup: Setup
    figures: dict[str, Any]
    exits: list[dict[str, Any]]
    refusal: str | None


def lay_out(case: Case, folder: Path, rows: int | None, write_peers: WritePeers = write) -> Laid:
    """Chooses thresholds and writes the bundle, the peers' files, `setup.json` and `logits.npy` into a folder.

    Args:
        case: The case.
        folder: Where.
        rows: How many of the test rows are timed; None: all.
        write_peers: Writes the bundle and what it is held against, see `peers.write`.
    """
    validated, tested = logits(case.network, case.validation.rows), logits(case.network, case.test.rows)
    confidences, right = _judged(validated, case.validation.labels)
    policy = choose(confidences, right, _costs(case), VALIDATION_DROP)
    taken, exits = _outcome(case, policy, tested)
    fixed = _fixed(right, _judged(tested, case.test.labels)[1], taken)
    setup = _setup(case, policy, fixed, tested, taken, rows)
    (folder / "setup.json").write_bytes(msgspec.json.encode(setup))
    np.save(folder / "logits.npy", tested[:, list(setup.rows)])
    refusal = write_peers(case, policy, fixed, folder)
    return Laid(setup, _figures(case, policy, fixed, tested, taken), exits, refusal)


def _costs(case: Case) -> list[int]:
    """Returns the multiply-adds of a row that stops at each exit, all heads before it run, for the first test row."""
    features, done, costs = torch.from_numpy(case.test.rows[0][0]), 0, []
    with torch.inference_mode():
        for link in case.chain:
            with FlopCounterMode(display=False) as counter:
                features = link.trunk(features)
                link.head(features)
            done += counter.get_total_flops() // 2
            costs.append(done)
    return costs


def _fixed(validated: Array, tested: Array, taken: Array) -> int:
    """Returns the cheapest exit that a network could always end at and be as good, the benefit of the doubt its own.

    Args:
        validated: bool (exits, rows), whether each exit is right on validation data.
        tested: The same on test data.
        taken: The exit at which the bundle stops on each test row.
    """
    own = tested[taken, np.arange(len(taken))].mean()
    good = tested.mean(axis=1) >= min(own, tested[-1].mean() - MAX_DROP)
    good |= validated.mean(axis=1) >= validated[-1].mean() - MAX_DROP
    return int(np.argmax(good))


def _judged(found: Array, labels: Array) -> tuple[Array, Array]:
    """Returns confidences and whether the answers are right, both (exits, rows), of logits (exits, rows, classes)."""
    confidences = torch.from_numpy(found).softmax(dim=2).amax(dim=2).numpy()
    return confidences, found.argmax(axis=2) == labels


def _outcome(case: Case, policy: Policy, tested: Array) -> tuple[Array, list[dict[str, Any]]]:
    """Returns the exit of each test row, and what is to say of every exit."""
    confidences, right = _judged(tested, case.test.labels)
    taken = np.array(policy.exits)[stops(confidences[list(policy.exits)], np.array(policy.thresholds))]
    exits = []
    for number in range(len(tested)):
        here = taken == number
        last = number == len(tested) - 1
        place = policy.exits.index(number) if number in policy.exits else None
        exits.append(
            {
                "case": case.title,
                "exit": exit_name(number),
                "accuracy": float(right[number].mean()),
                "kept": place is not None,
                "threshold": None if place is None or last else policy.thresholds[place],
                "share": float(here.mean()),
                "accuracy_here": float(right[number, here].mean()) if here.any() else None,
            }
        )
    return taken, exits


def _setup(case: Case, policy: Policy, fixed: int, tested: Array, taken: Array, count: int | None) -> Setup:
    confidences, _ = _judged(tested, case.test.labels)
    early = confidences[list(policy.exits[:-1])]
    margins = np.abs(early - np.array(policy.thresholds)[:, np.newaxis])
    clear = np.flatnonzero((margins > _TIE).all(axis=0)) if len(early) else np.arange(len(taken))
    rows = np.sort(np.random.default_rng(0).permutation(clear)[:count])
    return Setup(case.name, policy.exits, policy.thresholds, fixed, tuple(rows.tolist()), tuple(taken[rows].tolist()))


def _figures(case: Case, policy: Policy, fixed: int, tested: Array, taken: Array) -> dict[str, Any]:
    _, right = _judged(tested, case.test.labels)
    accuracy = float(right[taken, np.arange(len(taken))].mean())
    return {
        "case": case.title,
        "name": case.name,
        "test_rows": len(taken),
        "accuracy": accuracy,
        "whole_accuracy": float(right[-1].mean()),
        "fixed_exit": exit_name(fixed),
        "fixed_accuracy": float(right[fixed].mean()),
        "drop_points": 100 * (float(right[-1].mean()) - accuracy),
        "exits_kept": [exit_name(number) for number in policy.exits],
    }


def _latencies(laid: Laid, folder: Path, threads: int | None, *, quick: bool) -> dict[str, Any]:
    """Returns what the processes measured: of each peer its latencies, and the bundle's over them."""
    found = [_child(folder, threads, process, quick=quick) for process in range(1 if quick else PROCESSES)]
    names = list(found[0]["peers"])
    times = [np.load(one["times"]) for one in found]
    rows = {name: np.stack([np.median(one[:, place], axis=0) for one in times]) for place, name in enumerate(names)}
    calls = {name: np.concatenate([one[:, place].ravel() for one in times]) for place, name in enumerate(names)}
    peers: dict[str, Any] = compared(rows)
    for name, peer in peers.items():
        peer["p99_of_calls_ms"] = float(np.quantile(calls[name], 0.99))
    refused = {**found[0]["refused"], **({} if laid.refusal is None else {"one file": laid.refusal})}
    return {
        "threads": threads or "all",
        "rows": len(laid.setup.rows),
        "rounds": [len(one) for one in times],
        "processes": len(found),
        "peers": {**peers, **dict.fromkeys(refused)},
        "refused": refused,
        "versions": {"torch": torch.__version__, "transformers": version("transformers"), "earlyon": EARLYON.version},
    }


def _child(folder: Path, threads: int | None, process: int, *, quick: bool) -> dict[str, Any]:
    seconds = 0.0 if quick else SECONDS
    given = [str(folder), str(threads or 0), str(process), str(seconds)]
    command = [sys.executable, "-m", "benchmarks.real_process", *given]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return found


def _print(rows: list[dict[str, Any]], exits: list[dict[str, Any]]) -> None:
    console = Console()
    console.width = max(console.width, 130)
    table = Table(title="Accuracy of every exit on test data", box=None)
    for column in ("case", "exit", "if all stop here", "threshold", "stop here", "of these right"):
        table.add_column(column, justify="left" if column in ("case", "exit") else "right", no_wrap=True)
    for row in exits:
        limit = "-" if row["threshold"] is None else f"{row['threshold']:.4f}"
        right = "-" if row["accuracy_here"] is None else f"{row['accuracy_here']:.2%}"
        table.add_row(row["case"], row["exit"], f"{row['accuracy']:.2%}", limit, f"{row['share']:.1%}", right)
    console.print(table)
    for row in rows:
        accuracy = f"accuracy {row['accuracy']:.2%}, of the last exit {row['whole_accuracy']:.2%}"
        title = f"{row['case']}, threads: {row['threads']}, {accuracy}"
        table = Table(title=title, box=None)
        for column in ("", "mean, ms", "p50", "p95", "p99", "bundle / it", "interval", "p95 / p95"):
            table.add_column(column, justify="left" if not column else "right", no_wrap=True)
        for name, peer in row["peers"].items():
            if peer is None:
                table.add_row(name, row["refused"][name])
                continue
            table.add_row(
                name, *(f"{peer[key]:.3f}" for key in ("mean_ms", "p50_ms", "p95_ms", "p99_ms")),
                f"{peer['bundle_over']:.3f}", f"{peer['low']:.3f} to {peer['high']:.3f}",
                f"{peer['bundle_over_p95']:.3f}",
            )  # fmt: skip
        console.print(table)


if __name__ == "__main__":
    main(sys.argv[1:])

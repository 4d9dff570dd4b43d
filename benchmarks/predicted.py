"""Expected latency as `ee.tune` predicts it, beside what the runner then takes with the thresholds it chose."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

import eetoolkit as ee
from benchmarks.cases.case import Case
from benchmarks.cases.catalogue import NAMES, load_case
from benchmarks.section import Row, Section, met, publish
from eetoolkit.tuning.choice import Thresholds
from eetoolkit.tuning.collect import collect
from eetoolkit.tuning.costs import choose_costs
from eetoolkit.tuning.record import Record, read_record
from eetoolkit.tuning.replay import own_thresholds, stops
from eetoolkit.tuning.splits import split
from eetoolkit_runtime.plan import Manifest

Array = NDArray[Any]

GOALS: Mapping[str, Mapping[str, float]] = {
    "drop of at most 1 point": {"max_accuracy_drop": 0.01},
    "0.4 of the whole cost": {"budget_share": 0.4},
}
PROCESSES = 6
TURNS = {"digits": 24, "mnist": 24, "reviews": 8}
SECONDS = {"digits": 0.1, "mnist": 0.1, "reviews": 1.5}
"""Of each profile, about: a turn must be short beside the time in which the machine's speed changes."""
MEASURED_S = 0.2  # by turn and goal, at least
MEASURED_ROWS = 400  # of the test part, at most
_WARM_ROWS = 40
LOW, HIGH = 0.95, 1.05
SECTION = Section(
    "predicted",
    "Tuning: predicted and measured latency",
    (
        "All rows that the network has not learned from, split by `ee.tune` itself. The bundle is profiled with rows "
        "of the tune part, one thread; `ee.tune` chooses by that profile, the choice is applied, and `Runner.run` is "
        f"timed on rows of the test part, up to {MEASURED_ROWS}. {PROCESSES} processes; in each, short profiles (of "
        f"other rows of the tune part every time) and measurements take {min(TURNS.values())} to {max(TURNS.values())} "
        "turns, since this machine's speed drifts by a tenth within seconds; the prediction is of the profiles merged. "
        "*Predicted*: what these very rows cost by the profile. *Ratio*: predicted over measured, geometric mean over "
        f"the processes with its 95 % interval (t); target {LOW} to {HIGH} for the mean. *By full paths*: the same by "
        "segments' latencies on full paths alone, without scaling them to runs that leave at each exit. *By the tune "
        "part*: what the choice costs there, over what the test part measures: other rows leave elsewhere, which no "
        "model of costs knows."
    ),
    (
        ("case", lambda row: str(row["case"])),
        ("goal", lambda row: str(row["goal"])),
        ("predicted, ms", lambda row: f"{row['predicted_ms']:.4f}"),
        ("measured, ms", lambda row: f"{row['measured_ms']:.4f}"),
        ("ratio", lambda row: f"{row['ratio']:.3f} ({row['ratio_low']:.3f} to {row['ratio_high']:.3f})"),
        ("single processes", lambda row: f"{min(row['ratios']):.2f} to {max(row['ratios']):.2f}"),
        ("by full paths", lambda row: f"{row['unscaled']:.3f}"),
        ("by the tune part", lambda row: f"{row['tuned']:.3f}"),
        (f"{LOW} to {HIGH}", met),
    ),
)
_BUNDLE, _RECORD = "bundle.ee", "record.npz"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures every case in processes of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", nargs=3, metavar=("CASE", "FOLDER", "SEED"))
    child = parser.parse_args([] if arguments is None else arguments).child
    if child is not None:
        name, folder, seed = child
        print(json.dumps(list(measure(load_case(name), Path(folder), int(seed)))))
        return
    rows: list[Row] = []
    for name in NAMES:
        case = load_case(name)
        with tempfile.TemporaryDirectory() as folder:
            bundle = ee.export(case.network, case.example, Path(folder) / _BUNDLE, name=name, **case.options)
            collect(bundle, list(zip(*held_out(case), strict=True)), threads=1).save(Path(folder) / _RECORD)
            found = [_child(name, folder, seed) for seed in range(PROCESSES)]
        rows += [summary(case.title, list(each)) for each in zip(*found, strict=True)]
    publish(SECTION, rows)


def _child(name: str, folder: str, seed: int) -> list[Row]:
    command = [sys.executable, "-m", "benchmarks.predicted", "--child", name, folder, str(seed)]
    found: list[Row] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return found


def held_out(case: Case) -> tuple[list[tuple[Array, ...]], Array]:
    """Returns the rows that the network has not learned from, and their labels."""
    labels = np.concatenate([case.validation.labels, case.test.labels])
    return [*case.validation.rows, *case.test.rows], labels


def measure(case: Case, folder: Path, seed: int) -> Iterator[Row]:
    """Yields, for each goal, what is predicted and what is measured in this process.

    Args:
        case: The case.
        folder: With its bundle and record.
        seed: Of the rows that are profiled and timed, and of their order.
    """
    draw = np.random.default_rng(seed)
    inputs, _ = held_out(case)
    record = read_record(folder / _RECORD)
    parts = split(record.label, calibrate=False, guarantee=False, seed=0)
    shown = np.array_split(draw.permutation(parts.tune), TURNS[case.name] + 1)
    timed = draw.permutation(parts.test)[:MEASURED_ROWS]

    def profiled(turn: int) -> ee.Profile:
        rows = (inputs[place] for place in shown[turn])
        return ee.profile(folder / _BUNDLE, rows, threads=1, seconds=SECONDS[case.name])

    profiles = [profiled(0)]
    reports = {
        goal: ee.tune(folder / _BUNDLE, record=record, profile=profiles[0], calibrate=False, seed=0, **asked)  # type: ignore[arg-type] # the goals' own names
        for goal, asked in GOALS.items()
    }
    took: dict[str, list[Array]] = {goal: [] for goal in GOALS}
    for turn in range(1, TURNS[case.name] + 1):
        for goal, report in reports.items():
            report.apply()
            with ee.Runner(folder / _BUNDLE, threads=1) as runner:
                took[goal].append(timings(runner, [inputs[place] for place in timed], draw))
            report.undo()
        profiles.append(profiled(turn))
    merged, plan = ee.merge_profiles(profiles), ee.load(folder / _BUNDLE).manifest
    for goal, report in reports.items():
        limits = report.chosen.thresholds
        yield {
            "goal": goal,
            "measured_ms": float(np.mean(np.concatenate(took[goal]))),
            "predicted_ms": expected_ms(plan, record.take(np.sort(timed)), merged, limits),
            "unscaled_ms": expected_ms(plan, record.take(np.sort(timed)), merged, limits, scaled=False),
            "tuned_ms": expected_ms(plan, record.take(parts.tune), merged, limits),
        }


def timings(runner: ee.Runner, rows: Sequence[tuple[Array, ...]], draw: np.random.Generator) -> Array:
    """Returns the latencies of as many passes over the rows as fit, each in a new order, after some untimed runs."""
    for row in rows[:_WARM_ROWS]:
        runner.run(row)
    found: list[float] = []
    ends = time.perf_counter() + MEASURED_S
    while not found or time.perf_counter() < ends:
        for place in draw.permutation(len(rows)).tolist():
            row = rows[place]
            started = time.perf_counter_ns()
            runner.run(row)
            found.append((time.perf_counter_ns() - started) / 1e6)
    return np.array(found)


def expected_ms(
    plan: Manifest, record: Record, profile: ee.Profile, thresholds: Thresholds, *, scaled: bool = True
) -> float:
    """Returns what a run takes in the mean over a record's rows, by a profile.

    Args:
        plan: The bundle's.
        record: The rows.
        profile: What segments cost.
        thresholds: By exit.
        scaled: Whether to scale segments' latencies to runs that leave at each exit, as tuning does.
    """
    costs = choose_costs(plan, record, profile, profile.providers)
    if not scaled:
        costs = replace(costs, scale=None)
    limits = own_thresholds(plan)
    for place, name in enumerate(record.exits):
        if name in thresholds:
            limit = thresholds[name]
            limits[place] = np.nan if limit is None else limit
    return float(np.take_along_axis(costs.of_visits(record), stops(record, limits).astype(np.intp), axis=1).mean())


def summary(title: str, found: Sequence[Row]) -> Row:
    """Returns a case's row of what its processes found for one goal."""
    ratios = np.array([one["predicted_ms"] / one["measured_ms"] for one in found])
    logs = np.log(ratios)
    half = student.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs))
    ratio, low, high = np.exp([logs.mean(), logs.mean() - half, logs.mean() + half]).tolist()
    return {
        "case": title, "goal": found[0]["goal"],
        "predicted_ms": float(np.mean([one["predicted_ms"] for one in found])),
        "measured_ms": float(np.mean([one["measured_ms"] for one in found])),
        "ratio": ratio, "ratio_low": low, "ratio_high": high, "ratios": ratios.tolist(),
        "unscaled": float(np.exp(np.mean([np.log(one["unscaled_ms"] / one["measured_ms"]) for one in found]))),
        "tuned": float(np.exp(np.mean([np.log(one["tuned_ms"] / one["measured_ms"]) for one in found]))),
        "met": bool(LOW <= ratio <= HIGH),
    }  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])

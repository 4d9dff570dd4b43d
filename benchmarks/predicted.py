"""Expected latency as `ee.tune` predicts it, beside what the runner then takes with the thresholds it chose."""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from scipy.stats import t as student

import eetoolkit as ee
from benchmarks.cases.case import Case
from benchmarks.cases.catalogue import load_case
from benchmarks.section import Row, Section, met, publish
from eetoolkit.tuning.collect import collect
from eetoolkit.tuning.costs import choose_costs
from eetoolkit.tuning.intervals import Thresholds
from eetoolkit.tuning.record import Record, read_record
from eetoolkit.tuning.replay import own_thresholds, stops
from eetoolkit.tuning.splits import split
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.plan.types import Manifest
from eetoolkit_runtime.running.decision import limit_of

GOALS: Mapping[str, Mapping[str, float]] = {
    "drop of at most 1 point": {"max_accuracy_drop": 0.01},
    "0.4 of the whole cost": {"budget_share": 0.4},
}
PROCESSES = 8
SECONDS = {"digits": 15.0, "mnist": 18.0, "reviews": 30.0}
"""Of the profile."""
FIRST_S = 3.0  # of the profile that thresholds are chosen by
WARM, TIMED = 8, {"digits": 200, "mnist": 100, "reviews": 16}  # calls between two rounds of the profile, for each goal
LOW, HIGH = 0.95, 1.05
SECTION = Section(
    "predicted",
    "Tuning: predicted and measured latency",
    (
        "All rows that the network has not learned from, split by `ee.tune` itself, which chooses by a profile of rows "
        "of the tune part, one thread. The bundle, its thresholds as they were, is then profiled with rows of that "
        "part, and between any two rounds of the profile `Runner.run` with the chosen thresholds is timed on some rows "
        f"of the test part: this machine's speed changes by half within seconds, for both alike. {PROCESSES} "
        "processes, since sessions differ by a tenth by where their memory lies. "
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
    for name in SECONDS:
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

    def profiled(seconds: float, tell: Callable[[str, int, int], object] | None = None) -> ee.Profile:
        rows = (inputs[place] for place in draw.permutation(parts.tune))
        return ee.profile(folder / _BUNDLE, rows, threads=1, seconds=seconds, progress=tell)

    first, plan = profiled(FIRST_S), ee.load(folder / _BUNDLE).manifest
    reports = {
        goal: ee.tune(folder / _BUNDLE, record=record, profile=first, calibrate=False, seed=0, **asked)  # type: ignore[arg-type] # the goals' own names
        for goal, asked in GOALS.items()
    }
    with contextlib.ExitStack() as stack:
        timers = {}
        for goal, report in reports.items():
            report.apply(force=True)
            runner = stack.enter_context(ee.Runner(folder / _BUNDLE, threads=1))
            timers[goal] = Timer(runner, inputs, parts.test, TIMED[case.name], draw)
            report.undo()

        def between(what: str, _done: int, _total: int) -> None:
            if what == "measuring":
                for timer in timers.values():
                    timer.run()

        profile = profiled(SECONDS[case.name], between)
    for goal, report in reports.items():
        timed, limits = record.take(np.array(timers[goal].places)), report.chosen.thresholds
        yield {
            "goal": goal,
            "measured_ms": float(np.mean(timers[goal].took_ms)),
            "predicted_ms": expected_ms(plan, timed, profile, limits),
            "unscaled_ms": expected_ms(plan, timed, profile, limits, scaled=False),
            "tuned_ms": expected_ms(plan, record.take(parts.tune), profile, limits),
        }


@dataclass
class Timer:
    """Times a runner on some rows at a time, over all of them in random order, and over and over.

    Attributes:
        runner: The runner.
        inputs: All rows.
        rows: Numbers of those to run.
        count: How many at a time.
        draw: Of their order.
        places: Which ones were timed.
        took_ms: What each of these took.
    """

    runner: ee.Runner
    inputs: Sequence[tuple[Array, ...]]
    rows: Array
    count: int
    draw: np.random.Generator
    places: list[int] = field(default_factory=list)
    took_ms: list[float] = field(default_factory=list)
    _ahead: list[int] = field(default_factory=list)

    def run(self) -> None:
        """Times the next rows, after some that are not timed."""
        while len(self._ahead) < WARM + self.count:
            self._ahead += self.draw.permutation(self.rows).tolist()
        now, self._ahead = self._ahead[: WARM + self.count], self._ahead[WARM + self.count :]
        for n, place in enumerate(now):
            row = self.inputs[place]
            started = time.perf_counter_ns()
            self.runner.run(row)
            taken = (time.perf_counter_ns() - started) / 1e6
            if n >= WARM:
                self.places.append(place)
                self.took_ms.append(taken)


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
            limits[place] = limit_of(thresholds[name])
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

"""Collecting on a local cluster of Ray: the same bits as one process, a killed worker, memory, a second worker's gain.

The zoo's BranchyNet, on the digits of its test part, shifted by a pixel and with noise, drawn once and for all.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import eetoolkit as ee
from benchmarks.measure import median
from benchmarks.section import Row, Section, met, publish
from eetoolkit.tuning.collect import collect
from eetoolkit.zoo import branchynet, digits

ROWS, SCALING_ROWS, ROUNDS, LEAST_GAIN = 200_000, 24_000, 5, 1.7
_FILE_ROWS = 4000
SECTION = Section(
    "cluster",
    "Many machines: rows collected on Ray",
    (
        "A local cluster of Ray on this machine, workers of one thread, rows from files of parquet. First line: "
        f"{ROWS:,} rows by two workers, one of which is killed on the way; equal: its record is that of one process, "
        "bit for bit. Memory: private memory (RssAnon) of this process and of the largest worker, at a quarter of the "
        f"rows and at the end; this process holds the record. Second line: what two workers collect of "
        f"{SCALING_ROWS:,} rows in a second over what one does, from the first block's arrival to the last's (steady), "
        f"and by the whole call, which starts the workers (whole); medians of {ROUNDS} runs in turns (target: steady "
        f"{LEAST_GAIN}). The driver and Ray's "
        "own processes share the cores with the workers."
    ),
    (
        ("what", lambda row: str(row["what"])),
        ("rows", lambda row: f"{row['rows']:,}"),
        ("equal", lambda row: _yes(row.get("equal"))),
        ("killed", lambda row: str(row.get("killed", "-"))),
        ("s", lambda row: f"{row['seconds']:.1f}"),
        ("one process, s", lambda row: _number(row.get("alone_s"))),
        ("record, MiB", lambda row: _number(row.get("record_mib"))),
        ("this process, MiB", lambda row: _change(row.get("driver_mib"))),
        ("largest worker, MiB", lambda row: _change(row.get("worker_mib"))),
        ("two / one, steady", lambda row: _ratio(row.get("steady"))),
        ("two / one, whole", lambda row: _ratio(row.get("whole"))),
        ("met", met),
    ),
)


def _yes(value: bool | None) -> str:
    return "-" if value is None else "yes" if value else "**no**"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _change(values: list[float] | None) -> str:
    return "-" if values is None else f"{values[0]:.0f} to {values[1]:.0f}"


def draw(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns so many digits, (rows, 1, 8, 8), and their classes: shifted by at most a pixel, with noise."""
    test, rng = digits.digits("test"), np.random.default_rng(0)
    places = rng.integers(0, len(test.images), rows)
    shifts = rng.integers(-1, 2, (rows, 2))
    images = np.empty((rows, 1, 8, 8), np.float32)
    for number, (place, (down, right)) in enumerate(zip(places.tolist(), shifts.tolist(), strict=True)):
        images[number] = np.roll(test.images[place] / 16, (down, right), (1, 2))
    return images + rng.normal(0, 0.05, images.shape).astype(np.float32), test.labels[places]


def write(folder: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    """Writes rows as files of parquet, and returns their folder."""
    import pandas as pd

    folder.mkdir()
    for start in range(0, len(images), _FILE_ROWS):
        part = slice(start, start + _FILE_ROWS)
        flat = list(images[part].reshape(-1, 64))
        pd.DataFrame({"image": flat, "labels": labels[part]}).to_parquet(folder / f"{start:07}.parquet")
    return folder


def on_cluster(bundle: Path, rows: Path, result: Path, workers: int, *more: str) -> dict[str, Any]:
    """Returns what a process with a cluster of its own measured."""
    command = [sys.executable, "-m", "benchmarks.cluster_process", bundle, rows, result, str(workers), *more]
    run = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(run.stderr[-4000:])
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


def whole(bundle: Path, folder: Path, rows: int) -> Row:
    """Measures equality, survival and memory."""
    import time

    images, labels = draw(rows)
    started = time.perf_counter()
    collect(ee.load(bundle), images, labels, threads=1).save(folder / "alone.npz")
    alone = time.perf_counter() - started
    found = on_cluster(bundle, write(folder / "rows", images, labels), folder / "cluster.npz", 2, "kill")
    quarter = next(sample for sample in found["memory"] if sample[0] >= rows // 4)
    last = [sample for sample in found["memory"] if sample[2] > 0][-1]
    equal = (folder / "alone.npz").read_bytes() == (folder / "cluster.npz").read_bytes()
    return {
        "what": "two workers, one killed", "rows": rows, "equal": equal, "killed": found["killed"],
        "seconds": found["seconds"], "alone_s": alone, "record_mib": found["record_mib"],
        "driver_mib": [quarter[1], last[1]], "worker_mib": [quarter[2], last[2]],
        "memory": found["memory"], "met": equal and found["killed"] == 1,
    }  # fmt: skip


def scaling(bundle: Path, folder: Path, rows: int, rounds: int) -> Row:
    """Measures what a second worker gains."""
    files = write(folder / "some", *draw(rows))
    rates: dict[int, list[float]] = {1: [], 2: []}
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for workers, own in rates.items():
            found = on_cluster(bundle, files, folder / f"{workers}.npz", workers)
            own.append(found["rows_s"])
            seconds[workers].append(found["seconds"])
    steady = median(rates[2]) / median(rates[1])
    return {
        "what": "two workers over one", "rows": rows, "seconds": median(seconds[2]), "rates": rates,
        "all_seconds": seconds, "steady": steady, "whole": median(seconds[1]) / median(seconds[2]),
        "equal": (folder / "1.npz").read_bytes() == (folder / "2.npz").read_bytes(), "met": steady >= LEAST_GAIN,
    }  # fmt: skip


def main() -> None:
    """Measures, prints and stores."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--scaling-rows", type=int, default=SCALING_ROWS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given, _ = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bundle = folder / "digits.ee"
        ee.export(branchynet.load(), draw(1)[0], bundle, labels=digits.LABELS)
        rows = [whole(bundle, folder, given.rows), scaling(bundle, folder, given.scaling_rows, given.rounds)]
    publish(SECTION, rows, keep=(given.rows, given.scaling_rows, given.rounds) == (ROWS, SCALING_ROWS, ROUNDS))


if __name__ == "__main__":
    main()

"""What `keep_blocked` is worth: residual networks cut with it and without it, full path, one thread."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.measure import interleaved_ms, median, paired_ratio
from benchmarks.networks import cases
from benchmarks.section import Section, publish
from eetoolkit_exporters.export import export
from eetoolkit_runtime.running.runner import Runner

PROCESSES = 5
ROUNDS = 500


SECTION = Section(
    "layout",
    "Convolutions kept in onnxruntime's blocked layout across a cut",
    "The full path of the same network cut with `keep_blocked` and without it, one thread, interleaved.",
    (
        ("network", lambda row: str(row["network"])),
        ("with / without", lambda row: f"{row['ratio']:.3f}"),
        ("over processes", lambda row: f"{row['low']:.3f} to {row['high']:.3f}"),
    ),
)


def main() -> None:
    """Measures."""
    rows: list[dict[str, Any]] = []
    for case in cases():
        if "residual" not in case.name:
            continue
        command = [sys.executable, "-m", "benchmarks.layout", case.name]
        ratios = [
            float(json.loads(subprocess.run(command, check=True, capture_output=True).stdout)) for _ in range(PROCESSES)
        ]
        rows.append({"network": case.name, "ratio": median(ratios), "low": min(ratios), "high": max(ratios)})
    publish(SECTION, rows)


def measure(name: str) -> float:
    """Returns the ratio in this process."""
    (case,) = cases(name)
    with tempfile.TemporaryDirectory() as folder:
        blocked = export(case.network, case.example, Path(folder) / "blocked.ee", threshold=2.0)
        with patch("eetoolkit_exporters.emitting.graphs.keep_blocked", lambda *_: None):
            plain = export(case.network, case.example, Path(folder) / "plain.ee", threshold=2.0)
        array = case.example.numpy()
        with Runner(blocked, threads=1) as first, Runner(plain, threads=1) as second:
            found = interleaved_ms({"blocked": lambda: first.run(array), "plain": lambda: second.run(array)}, ROUNDS)
    return paired_ratio(found["blocked"], found["plain"])[0]


if __name__ == "__main__":
    if len(sys.argv) == 2:
        print(json.dumps(measure(sys.argv[1])))
    else:
        main()

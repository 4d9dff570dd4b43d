"""The least memory that a runner does with: processes that are granted less and less of it, until they fail.

The limit is on what a process has for itself (`RLIMIT_DATA`). Weights that are mapped from the bundle do not count: a
kernel that needs memory drops their pages and reads them again. The whole model has its weights in its file, as
exporters write it, and so in memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.memory import CALLS, PATHS, WAYS, lay_out
from benchmarks.section import Row, Section, publish

STEP_MIB, MOST_MIB = 2, 512
SECTION = Section(
    "memory_limit",
    "Memory: the least that a runner does with",
    (
        f"BERT of six layers, 90 MB, film reviews, {CALLS} calls, one thread, in processes that may have only so much "
        f"memory of their own (`RLIMIT_DATA`, steps of {STEP_MIB} MiB) beside what Python, numpy and onnxruntime take. "
        "Mapped weights do not count. Resident: all that the process had in memory at most, mapped files as well."
    ),
    (
        ("way", lambda row: str(row["way"])),
        ("path", lambda row: str(row["path"])),
        ("least, MiB", lambda row: str(row["least_mib"])),
        ("process, resident, MiB", lambda row: f"{row['resident_mib']:.0f}"),
    ),
)

_RUN = """
import json, resource, sys
import numpy as np
import onnxruntime as ort
from pathlib import Path
from eetoolkit_runtime.running.runner import Runner
from eetoolkit_runtime.running.sessions import SessionSettings

def told(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key))

way, path = sys.argv[1:3]
options, folder, limit = json.loads(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5])
rows = np.load(folder / "rows.npz")
feeds = [{"input_ids": rows[f"ids{k}"], "attention_mask": rows[f"mask{k}"]} for k in range(len(rows.files) // 2)]
most = told("VmData") * 1024 + limit * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (most, most))
if way.startswith("bundle"):
    runner = Runner(folder / "case.ee", threads=1, **options)
    exits = list(runner.bundle.exits)
    at = {"first exit": exits[0], "full path": exits[-1], "mix": None}[path]
    for feed in feeds:
        runner.run(feed, exit_at=at)
else:
    session = SessionSettings(threads=1, **options).open(str(folder / "whole.onnx"), "whole")
    for feed in feeds:
        session.run(None, feed)
print(told("VmHWM") / 1024)
"""


def main() -> None:
    """Measures every way, at the first exit and to the end."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        lay_out(folder)
        for way, options in WAYS:
            for path in (PATHS[0], PATHS[-1]) if way.startswith("bundle") else PATHS[-1:]:
                least = _least(way, path, options, folder)
                resident = _resident(way, path, options, folder, least)
                rows.append({"way": way, "path": path, "least_mib": least, "resident_mib": resident, "threads": 1})
    publish(SECTION, rows)


def _least(way: str, path: str, options: dict[str, Any], folder: Path) -> int:
    """Returns the least limit, in MiB, that it keeps."""
    low, high = 0, MOST_MIB
    while high - low > STEP_MIB:
        middle = (low + high) // 2 // STEP_MIB * STEP_MIB
        low, high = (middle, high) if _resident(way, path, options, folder, middle) is None else (low, middle)
    return high


def _resident(way: str, path: str, options: dict[str, Any], folder: Path, limit_mib: int) -> float | None:
    """Returns a process's peak, in MiB, under a limit; None where it failed."""
    command = [sys.executable, "-c", _RUN, way, path, json.dumps(options), str(folder), str(limit_mib)]
    done = subprocess.run(command, capture_output=True, check=False)
    return float(done.stdout) if done.returncode == 0 else None


if __name__ == "__main__":
    main()

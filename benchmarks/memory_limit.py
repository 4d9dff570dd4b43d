"""The least memory that a runner does with: processes that are granted less and less of it, until they fail.

The limit, `RLIMIT_DATA`, is on all that a process may write to. Weights that are mapped from a bundle count as well,
since onnxruntime maps them so that it may; a kernel that needs memory can drop their pages all the same.
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

STEP_MIB, MOST_MIB, LONGEST_S = 4, 256, 300
SECTION = Section(
    "memory_limit",
    "Memory: the least that a runner does with",
    (
        f"BERT of six layers, 90 MB, film reviews, {CALLS} calls, one thread, in processes that may have only so much "
        f"memory (`RLIMIT_DATA`, steps of {STEP_MIB} MiB) beside what Python, numpy and onnxruntime take before the "
        "runner is made. Mapped weights count as well."
    ),
    (
        ("way", lambda row: str(row["way"])),
        ("path", lambda row: str(row["path"])),
        ("least, MiB", lambda row: str(row["least_mib"])),
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
"""


def main() -> None:
    """Measures every way, at the first exit and to the end."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        lay_out(folder)
        for way, options in (each for each in WAYS if "arena" not in each[1]):
            for path in (PATHS[0], PATHS[-1]) if way.startswith("bundle") else PATHS[-1:]:
                least = _least(way, path, options, folder)
                rows.append({"way": way, "path": path, "least_mib": least, "threads": 1})
    publish(SECTION, rows)


def _least(way: str, path: str, options: dict[str, Any], folder: Path) -> int:
    """Returns the least limit, in MiB, that it keeps."""
    low, high = 0, MOST_MIB
    while high - low > STEP_MIB:
        middle = (low + high) // 2 // STEP_MIB * STEP_MIB
        low, high = (low, middle) if _answers(way, path, options, folder, middle) else (middle, high)
    return high


def _answers(way: str, path: str, options: dict[str, Any], folder: Path, limit_mib: int) -> bool:
    """Returns whether a process answers all calls under a limit."""
    command = [sys.executable, "-c", _RUN, way, path, json.dumps(options), str(folder), str(limit_mib)]
    try:  # a thread that gets no memory to begin with is waited for without end
        return subprocess.run(command, capture_output=True, check=False, timeout=LONGEST_S).returncode == 0
    except subprocess.TimeoutExpired:
        return False


if __name__ == "__main__":
    main()

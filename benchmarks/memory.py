"""What a runner holds: resident and peak memory against one session, and what each memory option changes.

A real BERT of six layers with an exit after each, on film reviews of their own lengths. Every figure is of a process of
its own: what it has grown by since before the runner (or session) was made, after the last of its calls.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from benchmarks.cases.catalogue import load_case
from benchmarks.measure import median
from benchmarks.section import Row, Section, publish
from eetoolkit_exporters.capturing.capture import capture
from eetoolkit_exporters.capturing.cascade import open_source
from eetoolkit_exporters.capturing.source import choose_exits
from eetoolkit_exporters.emitting.graphs import whole_model
from eetoolkit_exporters.export import export

CALLS, PROCESSES = 40, 3
WAYS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("one session", {}),
    ("one session, arena=False", {"arena": False}),
    ("one session, prepack=False", {"prepack": False}),
    ("bundle", {}),
    ("bundle, arena=False", {"arena": False}),
    ("bundle, prepack=False", {"prepack": False}),
    ("bundle, keep=1", {"keep": 1}),
    ("bundle, keep=1, prepack=False", {"keep": 1, "prepack": False}),
)
PATHS = ("first exit", "mix", "full path")
SECTION = Section(
    "memory",
    "Memory: a runner against one session, and what each option does",
    (
        f"BERT of six layers, film reviews, {CALLS} calls, one thread; each in processes of its own, medians. Growth "
        "since before it was opened, in MiB: resident (private: without mapped files) at the end, and at the peak. "
        "`mix` leaves by threshold 0.9; the last column is the mean call against the same path of the plain bundle."
    ),
    (
        ("way", lambda row: str(row["way"])),
        ("path", lambda row: str(row["path"])),
        ("resident", lambda row: f"{row['mib']:.0f}"),
        ("private", lambda row: f"{row['private_mib']:.0f}"),
        ("peak", lambda row: f"{row['peak_mib']:.0f}"),
        ("peak / one session", lambda row: f"{row['peak_share']:.2f}"),
        ("mean call / bundle's", lambda row: f"{row['slower']:.2f}"),
    ),
)  # fmt: skip

_RUN = """
import json, sys, time
import numpy as np
import onnxruntime as ort
from pathlib import Path
from eetoolkit_runtime.running.runner import Runner
from eetoolkit_runtime.running.sessions import SessionSettings

def resident(key):
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith(key))

way, path, options, folder = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), Path(sys.argv[4])
rows = np.load(folder / "rows.npz")
feeds = [{"input_ids": rows[f"ids{k}"], "attention_mask": rows[f"mask{k}"]} for k in range(len(rows.files) // 2)]
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before, private, peak = resident("VmRSS"), resident("RssAnon"), resident("VmHWM")
if way.startswith("bundle"):
    runner = Runner(folder / "case.ee", threads=1, **options)
    exits = list(runner.bundle.exits)
    at = {"first exit": exits[0], "full path": exits[-1], "mix": None}[path]
    call = lambda feed: runner.run(feed, exit_at=at)
else:
    session = SessionSettings(threads=1, **options).open(str(folder / "whole.onnx"), "whole")
    call = lambda feed: session.run(None, feed)
taken = []
for feed in feeds:
    started = time.perf_counter()
    call(feed)
    taken.append(time.perf_counter() - started)
found = {"mib": resident("VmRSS") - before, "private_mib": resident("RssAnon") - private}
print(json.dumps(found | {"peak_mib": resident("VmHWM") - peak, "mean_ms": 1e3 * float(np.mean(taken[1:]))}))
"""


def main() -> None:
    """Measures every way on every path."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        lay_out(folder)
        for way, options in WAYS:
            for path in PATHS if way.startswith("bundle") else PATHS[-1:]:
                runs = [_child(way, path, options, folder) for _ in range(PROCESSES)]
                rows.append({"way": way, "path": path} | {key: median([run[key] for run in runs]) for key in runs[0]})
    whole = rows[0]["peak_mib"]
    plain = {row["path"]: row["mean_ms"] for row in rows if row["way"] == "bundle"}
    for row in rows:
        row |= {"peak_share": row["peak_mib"] / whole, "slower": row["mean_ms"] / plain[row["path"]], "threads": 1}
    publish(SECTION, rows)


def lay_out(folder: Path) -> None:
    """Writes the bundle, the whole network and some reviews: `case.ee`, `whole.onnx`, `rows.npz`."""
    case = load_case("reviews")
    export(case.network, case.example, folder / "case.ee", threshold=0.9, **case.options)
    source = open_source(case.network, case.example)
    network = capture(source, choose_exits(source, None), dynamic_shapes=case.options["dynamic_shapes"])
    ir.save(whole_model(network, [network.exits[-1].name], confidences=False), folder / "whole.onnx")
    some = case.test.rows[:CALLS]
    arrays = {f"{key}{k}": row[place] for k, row in enumerate(some) for place, key in enumerate(("ids", "mask"))}
    np.savez(folder / "rows.npz", **arrays)  # type: ignore[arg-type]


def _child(way: str, path: str, options: dict[str, Any], folder: Path) -> dict[str, float]:
    command = [sys.executable, "-c", _RUN, way, path, json.dumps(options), str(folder)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


if __name__ == "__main__":
    main()

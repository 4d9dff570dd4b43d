"""From a new process to the first answer: imports, opening, the first run; and offline-optimised segments.

Processes of their own, in turns. The import of `eetoolkit_runtime` is what it adds to numpy and onnxruntime, which are
imported before it. Offline-optimised segments are the same bundle with every graph as onnxruntime writes it after its
basic optimisations (those that hold on every processor), loaded without optimising again.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import byte_compiled, median
from benchmarks.networks import Case, cases, large_cases
from benchmarks.section import Row, Section, publish
from eetoolkit_exporters.export import export
from eetoolkit_runtime.bundle.integrity import digest
from eetoolkit_runtime.bundle.store import accept_edit

PROCESSES, MAX_IMPORT_MS = 9, 15
SECTION = Section(
    "start_up",
    "Start-up: imports, opening, first answer",
    (
        f"Medians over {PROCESSES} processes, one thread, files in the page cache. Import: what `Runner` adds to numpy "
        f"and onnxruntime (target: at most {MAX_IMPORT_MS} ms). Optimised offline: every segment as onnxruntime writes "
        "it after its portable optimisations, opened with optimisation off; ours / theirs: the full path after that."
    ),
    (
        ("network", lambda row: str(row["network"])),
        ("numpy and onnxruntime, ms", lambda row: f"{row['libraries_ms']:.0f}"),
        ("+ eetoolkit_runtime, ms", lambda row: f"{row['import_ms']:.1f}{'' if row['met'] else ' **missed**'}"),
        ("open, ms", lambda row: f"{row['open_ms']:.1f}"),
        ("first answer at exit 1, ms", lambda row: f"{row['first_ms']:.1f}"),
        ("all segments, ms", lambda row: f"{row['all_ms']:.1f}"),
        ("optimised offline: all segments, ms", lambda row: f"{row['offline_all_ms']:.1f}"),
        ("ours / theirs", lambda row: f"{row['bundle_over_offline']:.2f}"),
    ),
)  # fmt: skip

_START = """
import json, sys, time
from pathlib import Path
t0 = time.perf_counter()
import numpy as np
import onnxruntime as ort
t1 = time.perf_counter()
from eetoolkit_runtime import Runner
t2 = time.perf_counter()
from eetoolkit_runtime.running.sessions import SessionSettings

folder, offline = Path(sys.argv[1]), sys.argv[2] == "offline"
if offline:
    plain = SessionSettings.options
    def unoptimised(self):
        options = plain(self)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        return options
    SessionSettings.options = unoptimised
example = np.load(folder / "example.npy")
t3 = time.perf_counter()
runner = Runner(folder / ("offline.ee" if offline else "case.ee"), threads=1)
t4 = time.perf_counter()
first = runner.run(example, exit_at=next(iter(runner.bundle.exits)))
t5 = time.perf_counter()
for name, segment in runner.bundle.manifest.segments.items():
    if segment.model is not None:
        runner.open(name)
t6 = time.perf_counter()
taken = []
for _ in range(30):
    started = time.perf_counter()
    runner.run(example)
    taken.append(time.perf_counter() - started)
times = {"libraries_ms": t1 - t0, "import_ms": t2 - t1, "open_ms": t4 - t3, "first_ms": t5 - t4, "all_ms": t6 - t4}
print(json.dumps({key: 1e3 * value for key, value in times.items()} | {"run_ms": 1e3 * float(np.median(taken))}))
"""
_OPTIMISE = """
import sys
import onnxruntime as ort
for path in sys.argv[1:]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_free_dimension_override_by_name("batch", 1)
    options.optimized_model_filepath = path + ".new"
    data = path.split("/")[-1] + ".data"
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", data)
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
"""


def main() -> None:
    """Measures small and large networks."""
    publish(SECTION, [measure(case) for case in [*cases("residual cnn 32, 3 exits"), *large_cases()]])


def measure(case: Case, processes: int = PROCESSES) -> Row:
    """Returns the figures of one network."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        np.save(folder / "example.npy", case.example.numpy())
        export(case.network, case.example, folder / "case.ee", threshold=2.0)
        export(case.network, case.example, folder / "offline.ee", threshold=2.0)
        _optimise(folder / "offline.ee")
        commands = {kind: [sys.executable, "-c", _START, str(folder), kind] for kind in ("plain", "offline")}
        compiled = byte_compiled(folder / "bytecode", *commands.values())
        runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in commands}
        for _ in range(processes):
            for kind, command in commands.items():
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=compiled)
                runs[kind].append(json.loads(done.stdout))
    plain = {key: median([run[key] for run in runs["plain"]]) for key in runs["plain"][0]}
    offline = {key: median([run[key] for run in runs["offline"]]) for key in runs["offline"][0]}
    return plain | {
        "network": case.name, "threads": 1, "met": plain["import_ms"] <= MAX_IMPORT_MS,
        "offline_all_ms": offline["all_ms"], "bundle_over_offline": plain["run_ms"] / offline["run_ms"],
    }  # fmt: skip


def _optimise(bundle: Path) -> None:
    """Puts every graph of a bundle in its optimised form in its place, its hash in the manifest."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    segments = [segment for segment in manifest["segments"].values() if "model" in segment]
    subprocess.run([sys.executable, "-c", _OPTIMISE, *(str(bundle / one["model"]) for one in segments)], check=True)
    files = {name: manifest["files"][name] for name in (manifest["golden"]["file"],)}
    for segment in segments:
        path = bundle / segment["model"]
        path.with_name(f"{path.name}.new").replace(path)
        segment["weights"] = [f"{path.name}.data"]
        for name in (path.name, *segment["weights"]):
            entry = digest(bundle / name)
            files[name] = {"sha256": entry.sha256, "size": entry.size}
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "files": files}))
    accept_edit(bundle)


if __name__ == "__main__":
    main()

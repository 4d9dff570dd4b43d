"""What idle workers cost: latency and processor time at 30 calls a second, for every `spin`, `pool` and `threads`.

Every setting is measured in processes of its own, since onnxruntime's global pool is one per process; the processes
take turns. Idle time is what the process burns beside the calls themselves, of one core.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import median
from benchmarks.networks import cases
from benchmarks.section import Row, Section, publish
from eetoolkit_exporters.export import export
from eetoolkit_runtime.running.runner import Runner

CASE = "residual cnn 64, 4 exits"
SETTINGS = (
    (1, "brief", "own"), (None, "always", "own"), (None, "brief", "own"), (None, "never", "own"),
    (None, "always", "shared"),
)  # fmt: skip
PROCESSES, CALLS, FRAMES, FRAMES_PER_S = 3, 150, 90, 30
SECTION = Section(
    "threads",
    "Workers: what `threads`, `spin` and `pool` do",
    (
        f"{CASE}, the full path. Latency in a loop without pauses and at {FRAMES_PER_S} calls a second; processor time "
        f"at {FRAMES_PER_S} calls a second, of one core, and what of it is not the calls: workers that spin. Medians "
        f'over {PROCESSES} processes each, in turns. `pool="shared"` is onnxruntime\'s global pool.'
    ),
    (
        ("threads", lambda row: str(row["threads"] or "all")),
        ("spin", lambda row: str(row["spin"])),
        ("pool", lambda row: str(row["pool"])),
        ("p50, ms", lambda row: f"{row['p50_ms']:.2f}"),
        ("p99, ms", lambda row: f"{row['p99_ms']:.2f}"),
        ("at 30 a second: p50, ms", lambda row: f"{row['paced_p50_ms']:.2f}"),
        ("processor time", lambda row: f"{row['busy']:.0%}"),
        ("of it idle", lambda row: f"{row['idle']:.0%}"),
        ("a default session beside it", lambda row: "works" if row["others_work"] else "**fails**"),
    ),
)  # fmt: skip


def main() -> None:
    """Measures every setting."""
    with tempfile.TemporaryDirectory() as folder:
        (case,) = cases(CASE)
        bundle = Path(folder) / "case.ee"
        export(case.network, case.example, bundle, threshold=2.0)
        np.save(Path(folder) / "example.npy", case.example.numpy())
        found: list[list[dict[str, Any]]] = [[] for _ in SETTINGS]
        for _ in range(PROCESSES):
            for runs, (threads, spin, pool) in zip(found, SETTINGS, strict=True):
                command = [sys.executable, "-m", "benchmarks.threads", folder, str(threads or 0), spin, pool]
                runs.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    rows: list[Row] = [
        {"threads": threads, "spin": spin, "pool": pool, "others_work": all(run["others_work"] for run in runs)}
        | {key: median([run[key] for run in runs]) for key in runs[0] if key != "others_work"}
        for runs, (threads, spin, pool) in zip(found, SETTINGS, strict=True)
    ]
    publish(SECTION, rows)


def measure(folder: Path, threads: int | None, spin: Any, pool: Any) -> dict[str, Any]:
    """Returns the figures of one setting in this process."""
    image = np.load(folder / "example.npy")
    with Runner(folder / "case.ee", threads=threads, spin=spin, pool=pool, load="eager") as runner:
        for _ in range(20):
            runner.run(image)
        latencies = np.array([_timed(runner, image) for _ in range(CALLS)])
        began, busy = time.perf_counter(), time.process_time()
        paced = []
        for frame in range(FRAMES):
            time.sleep(max(0.0, began + frame / FRAMES_PER_S - time.perf_counter()))
            paced.append(_timed(runner, image))
        time.sleep(max(0.0, began + FRAMES / FRAMES_PER_S - time.perf_counter()))
        wall, busy = time.perf_counter() - began, time.process_time() - busy
        others_work = _default_session_works(runner)
    return {
        "p50_ms": float(np.median(latencies)),
        "p99_ms": float(np.quantile(latencies, 0.99)),
        "paced_p50_ms": float(np.median(paced)),
        "busy": busy / wall,
        "idle": max(0.0, busy - sum(paced) / 1e3 * (threads or os.cpu_count() or 1)) / wall,
        "others_work": others_work,
    }


def _timed(runner: Runner, image: Any) -> float:
    started = time.perf_counter()
    runner.run(image)
    return (time.perf_counter() - started) * 1e3


def _default_session_works(runner: Runner) -> bool:
    """Whether a user may still make a session with default options in this process."""
    import onnxruntime as ort

    plan = runner.bundle.manifest
    path = runner.bundle.path / str(plan.segments[plan.start].model)
    try:
        ort.InferenceSession(str(path), providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception:  # noqa: BLE001 - onnxruntime raises what it likes; that it does is what is measured
        return False
    return True


if __name__ == "__main__":
    if len(sys.argv) == 5:
        print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]) or None, sys.argv[3], sys.argv[4])))
    else:
        main()

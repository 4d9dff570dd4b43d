"""Fair timing on noisy machines: what is compared runs in turn, in one process, and only ratios are believed."""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eetoolkit_runtime.profiling.machine import this_machine

RESULTS = Path(__file__).parent / "results"


def interleaved_ms(
    candidates: Mapping[str, Callable[[], object]],
    rounds: int,
    warmup: int = 20,
    before: Callable[[], object] | None = None,
) -> dict[str, Any]:
    """Returns each candidate's latencies in ms, (rounds,); they run one after the other, in a new order each round.

    `before` is called before each of them, outside of its time.
    """
    names = list(candidates)
    order = np.random.default_rng(0)
    for _ in range(warmup):
        for run in candidates.values():
            run()
    found = {name: np.empty(rounds) for name in names}
    gc.collect()
    gc.disable()
    try:
        for i in range(rounds):
            for j in order.permutation(len(names)):
                run = candidates[names[j]]
                if before is not None:
                    before()
                start = time.perf_counter_ns()
                run()
                found[names[j]][i] = (time.perf_counter_ns() - start) / 1e6
    finally:
        gc.enable()
    return found


def summary(latencies_ms: Any) -> dict[str, float]:
    """Returns median, p95 and the half-width between the quartiles."""
    q25, q50, q75, q95 = np.quantile(latencies_ms, (0.25, 0.5, 0.75, 0.95))
    return {"median_ms": float(q50), "p95_ms": float(q95), "spread_ms": float(q75 - q25) / 2}


def paired_ratio(a: Any, b: Any, draws: int = 1000) -> tuple[float, float, float]:
    """Returns median(a) / median(b) with its 95 % bootstrap interval over rounds."""
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(a), (draws, len(a)))
    ratios = np.median(a[picks], axis=1) / np.median(b[picks], axis=1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(np.median(a) / np.median(b)), float(low), float(high)


def byte_compiled(cache: Path, *commands: Sequence[str]) -> dict[str, str]:
    """Returns an environment in which all modules of the commands are compiled, as installed packages are.

    Each command is run once for it, which also brings its files into the page cache.
    """
    found = {**os.environ, "PYTHONPYCACHEPREFIX": str(cache)}
    found.pop("PYTHONDONTWRITEBYTECODE", None)
    for command in commands:
        subprocess.run(command, check=True, env=found, stdout=subprocess.DEVNULL)
    return found


def machine() -> dict[str, Any]:
    """Returns what a figure needs to be read: processor, cores, versions."""
    found = this_machine()
    return {key: getattr(found, key) for key in ("processor", "cores", "python", "onnxruntime", "numpy")}


def store(name: str, rows: list[dict[str, Any]]) -> None:
    """Writes rows beside the machine they were measured on to `results/{name}.json`."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"machine": machine(), "rows": rows}, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n")


def median(values: list[float]) -> float:
    """Returns the median."""
    return statistics.median(values)

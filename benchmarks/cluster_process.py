"""One process of `benchmarks.cluster`: a local cluster of so many processors collects rows from files of parquet."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import eetoolkit as ee
from eetoolkit.tuning.collect import collect

_WORKER = b"ray::MapWorker(MapBatches(Collector))"


class Memory(threading.Thread):
    """Watches the private memory (RssAnon) of this process and of the cluster's workers, in MiB, twice a second."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self._folder = folder
        self.done = 0  # rows
        self.samples: list[tuple[int, float, float]] = []  # rows done; this process; the largest worker

    def run(self) -> None:
        """Samples until the process ends."""
        while True:
            largest = max((_private_mib(process) for process in workers(self._folder)), default=0.0)
            self.samples.append((self.done, _private_mib(os.getpid()), largest))
            time.sleep(0.5)


def workers(folder: Path) -> list[int]:
    """Returns the collecting processes of the cluster whose folder this is."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            named = (process / "cmdline").read_bytes().startswith(_WORKER)
            if named and str(folder).encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
    return found


def _private_mib(process: int) -> float:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024
    return 0.0


def measure(bundle: str, rows: str, result: str, cpus: int, *, kill: bool) -> dict[str, Any]:
    """Returns what a collection took; its record is in the file `result`.

    Args:
        bundle: The bundle's path.
        rows: The folder of the files.
        result: Where the record is saved.
        cpus: How many processors the cluster has: a worker each, of one thread.
        kill: Whether a worker is killed when a third of the first rows are there.
    """
    import ray
    import ray.data

    killed: list[int] = []
    first: list[tuple[float, int]] = []
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "EETOOLKIT_CACHE": folder}
        ray.init(
            num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, _temp_dir=folder
        )
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        dataset = ray.data.read_parquet(sorted(map(str, Path(rows).glob("*.parquet"))))
        memory = Memory(Path(folder))
        memory.start()
        total = dataset.count()

        def tell(_what: str, done: int, _total: int) -> None:
            memory.done = done
            first.append((time.perf_counter(), done))
            if kill and not killed and done > total // 3:
                killed.append(workers(Path(folder))[0])
                os.kill(killed[0], signal.SIGKILL)

        started = time.perf_counter()
        try:
            record = collect(ee.load(bundle), dataset, progress=tell)
        finally:
            taken = time.perf_counter() - started
            ray.shutdown()
    record.save(result)
    (begun, early), (ended, late) = first[0], first[-1]
    return {
        "seconds": taken, "rows": total, "rows_s": (late - early) / (ended - begun), "killed": len(killed),
        "record_mib": Path(result).stat().st_size / (1 << 20), "memory": memory.samples,
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:4], int(sys.argv[4]), kill=sys.argv[5:] == ["kill"])))

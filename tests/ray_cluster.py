"""One cluster of Ray on this machine for the tests of a module, which leaves nothing behind."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_SCHEDULER_EVENTS": "0"}


@contextlib.contextmanager
def local_cluster(cpus: int = 2) -> Iterator[Path]:
    """Gives a cluster, and the folder by which its processes are known, which is their cache too."""
    ray = pytest.importorskip("ray", reason="needs the extra `ray`")
    folder = Path(tempfile.mkdtemp(prefix="ray"))  # not pytest's: the path of a socket is short
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**_QUIET, "EETOOLKIT_CACHE": str(folder / "cache")}.items():
            patch.setenv(name, value)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Ray's own modules warn about when they are imported
            import ray.data

            ray.init(
                num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
                object_store_memory=200 << 20, _temp_dir=str(folder),
            )  # fmt: skip
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        try:
            yield folder
        finally:
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def workers(folder: Path) -> list[int]:
    """Returns the processes of the cluster that collect."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            named = (process / "cmdline").read_bytes().startswith(b"ray::MapWorker(MapBatches(Collector))")
            if named and str(folder).encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
    return found


def kill_one(folder: Path) -> int:
    """Kills one of them at once, as a machine that is lost would, and returns its number."""
    process = workers(folder)[0]
    os.kill(process, signal.SIGKILL)
    return process

"""Model servers on loopback, of an environment in a cache folder: `python tests/inference_servers.py` makes it.

MLServer holds back FastAPI and Starlette, so it does not share an environment with the tests.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "eetoolkit-tests" / "mlserver"
PACKAGES = ("mlserver==1.7.1", "onnxruntime", "numpy", "msgspec")
_START_S, _STOP_S = 120, 20


def python() -> Path:
    """Returns the interpreter of MLServer's environment, which is made if need be (some 20 s, once).

    Raises:
        OSError: It cannot be made.
        subprocess.CalledProcessError: pip cannot.
    """
    made = CACHE / ("made-" + "-".join(each.replace("=", "") for each in PACKAGES))
    CACHE.parent.mkdir(parents=True, exist_ok=True)
    with CACHE.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(CACHE)], check=True, capture_output=True)
            pip = [str(CACHE / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, *PACKAGES], check=True, capture_output=True)
            made.touch()
    return CACHE / "bin/python"


def free_port() -> int:
    """Returns a port of loopback that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class MLServer:
    """An MLServer that is started, stopped and started anew at the same ports, with another repository if need be.

    Attributes:
        rest: The address of its models over HTTP, `http://127.0.0.1:PORT`.
        grpc: That over gRPC, `127.0.0.1:PORT`.
        log: What it has printed since it was started.
    """

    def __init__(self, interpreter: Path) -> None:
        self._interpreter = interpreter
        self._ports = free_port(), free_port()
        self.rest, self.grpc = f"http://127.0.0.1:{self._ports[0]}", f"127.0.0.1:{self._ports[1]}"
        self._process: subprocess.Popen[str] | None = None
        self.log: list[str] = []

    def start(self, repository: Path) -> None:
        """Starts it with the models of a folder, and waits until it answers."""
        settings = {
            "HOST": "127.0.0.1", "HTTP_PORT": self._ports[0], "GRPC_PORT": self._ports[1], "PARALLEL_WORKERS": 0,
            "METRICS_ENDPOINT": "", "DEBUG": "false", "GRPC_MAX_MESSAGE_LENGTH": 1 << 28,
        }  # fmt: skip
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MLSERVER_")},
            **{f"MLSERVER_{name}": str(value) for name, value in settings.items()},
            "PYTHONPATH": os.pathsep.join(str(each) for each in (ROOT, ROOT / "runtime")),
            "PYTHONUNBUFFERED": "1",
        }
        program = [str(self._interpreter.with_name("mlserver")), "start", str(repository)]
        self._process = subprocess.Popen(
            program, env=environment, cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.log = []
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, args=(self._process, lines, self.log), daemon=True).start()
        waiting = {"gRPC server running on", "Uvicorn running on", "Loaded model"}
        while waiting:
            line = lines.get(timeout=_START_S)
            if line is None or "Some of the models failed" in line:
                self.stop()
                raise RuntimeError("MLServer does not start:\n" + "".join(self.log[-40:]))
            waiting = {each for each in waiting if each not in line}

    def stop(self) -> None:
        """Stops it, surely; nothing where it does not run."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def restart(self, repository: Path) -> None:
        """Stops it and starts it at the same ports."""
        self.stop()
        self.start(repository)

    @staticmethod
    def _read(process: subprocess.Popen[str], lines: queue.Queue[str | None], log: list[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                log.append(line)
                lines.put(line)
        lines.put(None)


@contextlib.contextmanager
def mlserver(repository: Path) -> Iterator[MLServer]:
    """Gives a running MLServer with the models of a folder; the test is skipped where there is none to be had."""
    try:
        interpreter = python()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"MLServer's environment cannot be made: {error}")
    server = MLServer(interpreter)
    server.start(repository)
    try:
        yield server
    finally:
        server.stop()


if __name__ == "__main__":
    print(python())

"""Model servers on loopback, each in an environment of its own: `python tests/inference_servers.py` makes them.

MLServer holds back FastAPI and Starlette, so it does not share an environment with the tests. Triton is the binary in
the wheel of `nvidia-pytriton`, which has Triton's Python backend and no other.
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
import sysconfig
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "eetoolkit-tests"
_DEVICE = ("onnxruntime", "numpy", "msgspec")
PACKAGES = {"mlserver": ("mlserver==1.7.1", *_DEVICE), "triton": ("nvidia-pytriton==0.7.0", *_DEVICE)}
_START_S, _STOP_S = 120, 20


def python(name: str = "mlserver") -> Path:
    """Returns the interpreter of a server's environment, which is made if need be (20 to 50 s, once).

    Raises:
        OSError: It cannot be made.
        subprocess.CalledProcessError: pip cannot.
    """
    folder = CACHE / name
    made = folder / ("made-" + "-".join(each.replace("=", "") for each in PACKAGES[name]))
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True, capture_output=True)
            pip = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, *PACKAGES[name]], check=True, capture_output=True)
            made.touch()
    return folder / "bin/python"


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
            "HOST": "127.0.0.1", "HTTP_PORT": self._ports[0], "GRPC_PORT": self._ports[1],
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
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        """Waits until all models answer, which is after MLServer says that they are loaded."""
        end, url = time.monotonic() + _START_S, f"{self.rest}/v2/health/ready"
        while time.monotonic() < end:
            with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(url):  # noqa: S310 - http
                return
            time.sleep(0.02)
        raise RuntimeError("MLServer's models are not ready:\n" + "".join(self.log[-40:]))

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
    server = MLServer(_interpreter("mlserver"))
    server.start(repository)
    try:
        yield server
    finally:
        server.stop()


def triton_environment() -> tuple[Path, dict[str, str]]:
    """Returns the interpreter of Triton's environment and the variables that it needs; skips where there is none.

    Triton's Python backend loads the library of the Python that it finds first, which has to be this one's.
    """
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        pytest.skip("Triton's Python backend needs a Python that is a shared library, and this one is none")
    paths = [str(each) for each in (ROOT, ROOT / "runtime")]
    library = str(sysconfig.get_config_var("LIBDIR"))
    return _interpreter("triton"), {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "LD_LIBRARY_PATH": library}


@contextlib.contextmanager
def triton(bundle: Path, name: str, version: int) -> Iterator[tuple[str, str]]:
    """Gives the addresses over HTTP and gRPC of a Triton whose Python backend runs a bundle as a model's version."""
    interpreter, environment = triton_environment()
    ports = [free_port() for _ in range(3)]
    program = [
        str(interpreter),
        str(ROOT / "tests/triton_program.py"),
        str(bundle),
        name,
        str(version),
        *map(str, ports),
    ]
    process = subprocess.Popen(
        program, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    log = threading.Thread(target=process.stdout.read)  # or what it prints would fill the pipe
    try:
        printed = []
        while (line := process.stdout.readline()) != "ready\n":
            printed.append(line)
            if not line:
                raise RuntimeError("Triton does not start:\n" + "".join(printed[-40:]))
        log.start()
        yield f"http://127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}"
    finally:
        process.stdin.close()  # by which the program ends
        process.wait()
        if log.is_alive():
            log.join()
        process.stdout.close()


def _interpreter(name: str) -> Path:
    try:
        return python(name)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"the environment of {name} cannot be made: {error}")


if __name__ == "__main__":
    for each in PACKAGES:
        print(python(each))

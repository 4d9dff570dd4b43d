"""The native runner as tests build it: once a session, by cmake, where the machine has a compiler."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import onnxruntime

FOLDER = Path(__file__).parents[1] / "runtime" / "native"
LIBRARY = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*"), None)


def why_not() -> str:
    """Returns why it cannot be built here; empty where it can."""
    missing = [tool for tool in ("cmake", "g++") if shutil.which(tool) is None]
    if missing:
        return f"the native runner is not tested: there is no {' and no '.join(missing)}"
    if LIBRARY is None:
        return "the native runner is not tested: this onnxruntime has no libonnxruntime.so"
    return ""


def build(name: str = "build", **settings: str) -> Path:
    """Returns the folder with the programs, up to date; `settings` are cmake's."""
    target = FOLDER / name
    target.mkdir(exist_ok=True)
    with (target / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of the processes of `pytest -n` one builds, and the others wait
        values = {"ONNXRUNTIME_HEADERS": run(FOLDER / "headers.sh").stdout.strip()} | settings
        run("cmake", "-S", FOLDER, "-B", target, *(f"-D{key}={value}" for key, value in values.items()))
        run("cmake", "--build", target, "--parallel", "2")
    return target


def run(*command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a command that must end well."""
    done = ask(*command, **variables)
    if done.returncode != 0:
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done


def ask(*command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a command, with the onnxruntime that Python has."""
    env = os.environ | {"EETOOLKIT_ONNXRUNTIME": str(LIBRARY)} | variables
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=600, env=env, check=False)

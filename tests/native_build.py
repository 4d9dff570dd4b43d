"""The native runner as tests build it: once a session, by cmake, where the machine has a compiler."""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime

import eetoolkit as ee
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.files.tensorfile import write_tensors

FOLDER = Path(__file__).parents[1] / "runtime" / "native"
LIBRARY = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*"), None)


def why_not() -> str:
    """Returns why it cannot be built here; empty where it can."""
    missing = [tool for tool in ("cmake", "g++") if shutil.which(tool) is None]
    if missing:
        return f"the native runner is not tested: there is no {' and no '.join(missing)}"
    if LIBRARY is None:
        return "the native runner is not tested: this onnxruntime has no libonnxruntime.so"
    found = headers()
    if found.returncode != 0:
        said = found.stderr.strip().splitlines() or ["headers.sh said nothing"]
        return f"the native runner is not tested: there are no headers of onnxruntime ({said[-1]})"
    return ""


@functools.cache
def headers() -> subprocess.CompletedProcess[str]:
    """Prints the folder with onnxruntime's C headers, fetched once; fails where there is no way to."""
    return ask(FOLDER / "headers.sh")


def build(name: str = "build", **settings: str) -> Path:
    """Returns the folder with the programs, up to date; `settings` are cmake's."""
    target = FOLDER / name
    target.mkdir(exist_ok=True)
    with (target / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of the processes of `pytest -n` one builds, and the others wait
        values = {"ONNXRUNTIME_HEADERS": headers().stdout.strip()} | settings
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


def write_case(folder: Path, bundle: ee.Bundle, rows: Sequence[Mapping[str, Array]], tolerance: float = 1e-4) -> None:
    """Writes a case as `runtime/conformance` has them, with the answers of Python's runner to some rows."""
    folder.mkdir(parents=True)
    (folder / "bundle").symlink_to(bundle.path)
    tensors: dict[str, Array] = {}

    def add(array: Array) -> str:
        tensors[str(len(tensors))] = array
        return str(len(tensors) - 1)

    def told(answer: ee.Answer) -> dict[str, object]:
        return {
            "exit": answer.exit, "path": answer.path, "gates": answer.gates, "stopped_by": answer.stopped_by,
            "prediction": answer.prediction, "outputs": {name: add(array) for name, array in answer.outputs.items()},
            "confidence": add(np.float32(answer.confidence).reshape(1)),
        }  # fmt: skip

    runs: list[dict[str, object]] = []
    with ee.Runner(bundle, threads=1) as runner:
        for row in rows:
            inputs = {name: add(array) for name, array in row.items()}
            said: dict[str, object] = {}
            try:
                said["answer"] = told(runner.run(row))
            except ee.RunError as error:
                said["error"] = str(error)
            else:
                said["visits"] = [told(answer) for answer in runner.run_all_exits(row)]
            runs.append({"inputs": inputs, "thresholds": {}, "exit_at": None, **said})
    (folder / "case.json").write_bytes(msgspec.json.encode({"about": "", "tolerance": tolerance, "runs": runs}))
    (folder / "tensors.safetensors").write_bytes(write_tensors(tensors, {}))


def answers_alike(programs: Path, folder: Path, bundle: ee.Bundle, rows: Sequence[Mapping[str, Array]]) -> str:
    """Returns where the native runner answers or verifies otherwise than Python; empty: nowhere."""
    write_case(folder / "case", bundle, rows)
    for program, place in (("ee-conformance", folder), ("ee-verify", bundle.path)):
        done = ask(programs / program, place, "--threads", "1")
        if done.returncode != 0:
            return done.stdout + done.stderr
    return ""

"""The native runner as tests build it: once a session, by cmake, where the machine has a compiler."""

from __future__ import annotations

import ctypes
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


class Options(ctypes.Structure):
    """The first fields of `ee_options`."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("onnxruntime", ctypes.c_char_p),
        ("ort_api_base", ctypes.c_void_p),
        ("providers", ctypes.c_void_p),
        ("provider_count", ctypes.c_size_t),
        ("check", ctypes.c_int32),
    )


class Native:
    """The shared library in this process: what it says to a bundle's folder."""

    def __init__(self, programs: Path) -> None:
        library = ctypes.CDLL(str(programs / "libeetoolkit.so"))
        for name in ("ee_code_name", "ee_error_text", "ee_error_new"):
            getattr(library, name).restype = ctypes.c_char_p if name != "ee_error_new" else ctypes.c_void_p
        self._library = library
        self._error = ctypes.c_void_p(library.ee_error_new())

    def refusal(self, folder: Path, *, full: bool = False) -> tuple[str, str]:
        """Returns the class and the text of the error that opening a folder ends with; `OK` where it is opened."""
        bundle = ctypes.c_void_p()
        options = Options(ctypes.sizeof(Options), os.fsencode(str(LIBRARY)), None, None, 0, int(full))
        code = self._library.ee_bundle_open(
            os.fsencode(folder), ctypes.byref(options), ctypes.byref(bundle), self._error
        )
        self._library.ee_bundle_free(bundle)
        return self._library.ee_code_name(code).decode(), self._library.ee_error_text(self._error).decode()

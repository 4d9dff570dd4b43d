"""The native runner in this process: built, opened by ctypes, and timed from C."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from benchmarks.native_types import DTYPES, Answer, Call, Options, Tensor
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.plan.types import Manifest

FOLDER = Path(__file__).parents[1] / "runtime" / "native"
DRIVER = Path(__file__).parent / "driver"
ONNXRUNTIME = next((Path(ort.__file__).parent / "capi").glob("libonnxruntime.so*"))


def build() -> Path:
    """Returns the folder with the library and the drivers, up to date."""
    target = FOLDER / "build"
    headers = subprocess.run([FOLDER / "headers.sh"], check=True, capture_output=True, text=True).stdout.strip()
    configure = ["cmake", "-S", str(FOLDER), "-B", str(target), f"-DONNXRUNTIME_HEADERS={headers}"]
    link = ["-I", str(FOLDER / "include"), "-I", headers, f"-L{target}", "-leetoolkit", f"-Wl,-rpath,{target}", "-ldl"]
    compile_ = ["cc", "-O2", "-Wall", "-Wextra", "-Werror"]
    for command in (
        configure,
        ["cmake", "--build", str(target), "--parallel", "2"],
        [*compile_, "-shared", "-fPIC", str(DRIVER / "time_calls.c"), "-o", str(target / "time_calls.so"), *link],
        [*compile_, str(DRIVER / "cold_start.c"), "-o", str(target / "cold_start"), *link],
    ):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return target


class Native:
    """A bundle that the native runner has open, and rows for it.

    Args:
        bundle: Its folder.
        plan: Its manifest.
        rows: The inputs of each row, in the plan's order.
        threads: Workers of every session; None: one per core.
        shared: Whether all sessions have one pool of workers.
        hollow: Whether `set_hollow` can take onnxruntime's runs out.
    """

    def __init__(
        self,
        bundle: Path,
        plan: Manifest,
        rows: Sequence[tuple[Array, ...]],
        *,
        threads: int | None,
        shared: bool = False,
        hollow: bool = False,
    ) -> None:
        self._c = ctypes.CDLL(str(FOLDER / "build" / "time_calls.so"))
        self._c.ee_error_new.restype = self._c.hollow_base.restype = ctypes.c_void_p
        self._c.ee_error_text.restype = ctypes.c_char_p
        self._error = ctypes.c_void_p(self._c.ee_error_new())
        options = Options(size=ctypes.sizeof(Options), onnxruntime=str(ONNXRUNTIME).encode(), threads=threads or 0)
        options.load, options.pool = 1, int(shared)
        if hollow:
            library = ctypes.CDLL(str(ONNXRUNTIME))
            library.OrtGetApiBase.restype = ctypes.c_void_p
            options.ort_api_base = self._c.hollow_base(ctypes.c_void_p(library.OrtGetApiBase()))
        opened, self._runner = ctypes.c_void_p(), ctypes.c_void_p()
        self._check(
            self._c.ee_bundle_open(str(bundle).encode(), ctypes.byref(options), ctypes.byref(opened), self._error)
        )
        self._check(self._c.ee_runner_new(opened, ctypes.byref(self._runner), self._error))
        self._rows = rows  # held on to: the tensors point into them
        names = [spec.name.encode() for spec in plan.inputs]
        self._inputs = [(Tensor * len(names))(*map(_tensor, names, row)) for row in rows]

    def calls(self, exit_at: str | None = None) -> ctypes.Array[Call]:
        """Returns a call of each row."""
        name = None if exit_at is None else exit_at.encode()
        every = [Call(ctypes.sizeof(Call), each, len(each), name) for each in self._inputs]
        return (Call * len(every))(*every)

    def run(self, call: Call) -> tuple[str, dict[str, Array]]:
        """Returns the exit and the outputs of a call."""
        answer = ctypes.POINTER(Answer)()
        self._check(self._c.ee_run(self._runner, ctypes.byref(call), ctypes.byref(answer), self._error))
        found = answer.contents
        outputs = {found.outputs[n].name.decode(): _array(found.outputs[n]) for n in range(found.output_count)}
        return found.exit.decode(), outputs

    def time(self, calls: ctypes.Array[Call], rows: Sequence[int], took_ms: Array, *, warm: bool = True) -> None:
        """Writes what each of some rows takes to its place, float64 ms; warm: after a call of the first of them."""
        places = np.array(rows, np.int64)
        given = (places.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(len(places)), int(warm))
        took = took_ms.ctypes.data_as(ctypes.c_void_p)
        self._check(self._c.time_calls(self._runner, calls, *given, took, self._error))

    def set_hollow(self, *, hollow: bool) -> None:
        """Lets onnxruntime's runs do nothing, or what they should."""
        self._c.set_hollow(int(hollow))

    def _check(self, code: int) -> None:
        if code != 0:
            raise RuntimeError(self._c.ee_error_text(self._error).decode())


def _tensor(name: bytes, array: Array) -> Tensor:
    shape = (ctypes.c_int64 * array.ndim)(*array.shape)
    data = array.ctypes.data_as(ctypes.c_void_p)
    return Tensor(name, data, shape, array.ndim, array.nbytes, DTYPES.index(array.dtype.name))


def _array(tensor: Tensor) -> Array:
    shape = tuple(tensor.shape[axis] for axis in range(tensor.rank))
    data = ctypes.string_at(tensor.data, tensor.size_bytes)
    return np.frombuffer(data, DTYPES[tensor.dtype]).reshape(shape).copy()

"""The native runner's shared library as any language can call it: C types alone, here by ctypes."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping, Sequence
from ctypes import POINTER, c_char_p, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from native_build import LIBRARY

from benchmarks.native_types import DTYPES, Answer, Call, OnAnswer, Options, Provider, Tensor, Threshold
from eetoolkit_runtime.arrays import Array

STOPS = ("exit", "end", "deadline", "interrupt")


class NativeError(Exception):
    """An error of the library: its class in Python, and its text."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind, self.text = kind, text


@dataclass(frozen=True)
class NativeAnswer:
    """An answer, copied."""

    exit: str
    confidence: float
    outputs: dict[str, Array]
    path: tuple[str, ...]
    gates: tuple[tuple[str, int], ...]
    stopped_by: str
    prediction: int | None


def copied(answer: Answer) -> NativeAnswer:
    outputs = {}
    for tensor in answer.outputs[: answer.output_count]:
        shape = tensor.shape[: tensor.rank]
        bytes_ = ctypes.string_at(tensor.data, tensor.size_bytes)
        outputs[tensor.name.decode()] = np.frombuffer(bytes_, DTYPES[tensor.dtype]).reshape(shape)
    return NativeAnswer(
        answer.exit.decode(),
        answer.confidence,
        outputs,
        tuple(name.decode() for name in answer.path[: answer.path_count]),
        tuple((gate.segment.decode(), gate.decision) for gate in answer.gates[: answer.gate_count]),
        STOPS[answer.stopped_by],
        None if answer.prediction < 0 else answer.prediction,
    )


class Native:
    """The shared library in this process."""

    def __init__(self, programs: Path) -> None:
        self.library = library = ctypes.CDLL(str(programs / "libeetoolkit.so"))
        library.ee_code_name.restype = library.ee_error_text.restype = c_char_p
        library.ee_error_new.restype = c_void_p
        for name in ("ee_bundle_free", "ee_runner_free", "ee_runner_interrupt", "ee_runner_clear", "ee_error_free"):
            getattr(library, name).argtypes = [c_void_p]
            getattr(library, name).restype = None

    def call(self, name: str, *arguments: Any) -> None:
        """Calls a function that can fail.

        Raises:
            NativeError: It did.
        """
        error = c_void_p(self.library.ee_error_new())
        code = getattr(self.library, name)(*arguments, error)
        kind, text = self.library.ee_code_name(code).decode(), self.library.ee_error_text(error).decode()
        self.library.ee_error_free(error)
        if code:
            raise NativeError(kind, text)

    def open(self, folder: Path, providers: Sequence[str] = (), **settings: int) -> c_void_p:
        bundle = c_void_p()
        options = Options(ctypes.sizeof(Options), os.fsencode(str(LIBRARY)), **settings)
        named = (Provider * len(providers))(*(Provider(name.encode()) for name in providers))
        options.providers, options.provider_count = ctypes.addressof(named), len(named)
        self.call("ee_bundle_open", os.fsencode(folder), ctypes.byref(options), ctypes.byref(bundle))
        return bundle

    def refusal(self, folder: Path, *, full: bool = False) -> tuple[str, str]:
        """Returns the class and the text of the error that opening a folder ends with; `OK` where it is opened."""
        try:
            self.library.ee_bundle_free(self.open(folder, check=int(full)))
        except NativeError as error:
            return error.kind, error.text
        return "OK", ""


class NativeRunner:
    """A runner over a bundle, for one thread at a time; `like` shares another one's bundle."""

    def __init__(self, native: Native, folder: Path, like: NativeRunner | None = None, **settings: int) -> None:
        self._native = native
        self._bundle = like._bundle if like is not None else native.open(folder, **{"threads": 1, **settings})
        self._runner = c_void_p()
        native.call("ee_runner_new", self._bundle, ctypes.byref(self._runner))

    def run(self, inputs: Mapping[str, Array], **asked: Any) -> NativeAnswer:
        answer = POINTER(Answer)()
        call, _kept = self._call(inputs, **asked)
        self._native.call("ee_run", self._runner, ctypes.byref(call), ctypes.byref(answer))
        return copied(answer.contents)

    def refine(
        self, inputs: Mapping[str, Array], told: Callable[[NativeAnswer], bool | None] = bool, **asked: Any
    ) -> list[NativeAnswer]:
        """Returns the answers that were told, and then the last once more; `told` says whether to stop."""
        found: list[NativeAnswer] = []
        answer = POINTER(Answer)()
        call, _kept = self._call(inputs, **asked)

        def on_answer(_: Any, given: Any) -> int:
            found.append(copied(given.contents))
            return int(told is not bool and bool(told(found[-1])))

        self._native.call(
            "ee_refine", self._runner, ctypes.byref(call), OnAnswer(on_answer), None, ctypes.byref(answer)
        )
        return [*found, copied(answer.contents)]

    def interrupt(self) -> None:
        self._native.library.ee_runner_interrupt(self._runner)

    def clear(self) -> None:
        self._native.library.ee_runner_clear(self._runner)

    def close(self) -> None:
        """Lets go of the bundle before the runner, which any order may."""
        self._native.library.ee_bundle_free(self._bundle)
        self._native.library.ee_runner_free(self._runner)

    def _call(
        self,
        inputs: Mapping[str, Array],
        thresholds: Mapping[str, float | str] | None = None,
        exit_at: str | None = None,
        deadline_ms: float = 0,
        *,
        interruptible: bool = False,
    ) -> tuple[Call, object]:
        """Returns a call, and what must live as long."""
        tensors = (Tensor * len(inputs))()
        shapes = []
        for tensor, (name, array) in zip(tensors, inputs.items(), strict=True):
            shapes.append((c_int64 * array.ndim)(*array.shape))
            tensor.name, tensor.data, tensor.shape = name.encode(), array.ctypes.data, shapes[-1]
            tensor.rank, tensor.size_bytes, tensor.dtype = array.ndim, array.nbytes, DTYPES.index(str(array.dtype))
        given = thresholds or {}
        limits = (Threshold * len(given))()
        for threshold, (name, limit) in zip(limits, given.items(), strict=True):
            never = limit == "never"
            threshold.exit, threshold.confidence, threshold.never = name.encode(), 0.0 if never else limit, int(never)
        called = None if exit_at is None else exit_at.encode()
        call = Call(
            ctypes.sizeof(Call), tensors, len(inputs), called, limits, len(given), deadline_ms, int(interruptible)
        )
        return call, (tensors, shapes, limits, inputs)

"""The C types of `eetoolkit.h` by ctypes, for whatever calls the native runner from this process."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_double, c_float, c_int32, c_int64, c_size_t, c_void_p

DTYPES = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8",
          "bool")  # fmt: skip
"""By `ee_dtype`."""


class Options(ctypes.Structure):
    """`ee_options`."""

    _fields_ = (
        ("size", c_size_t), ("onnxruntime", c_char_p), ("ort_api_base", c_void_p), ("providers", c_void_p),
        ("provider_count", c_size_t), ("check", c_int32), ("threads", c_int32), ("spin", c_int32), ("pool", c_int32),
        ("load", c_int32), ("fallback", c_int32), ("no_arena", c_int32), ("no_prepack", c_int32),
    )  # fmt: skip


class Provider(ctypes.Structure):
    """`ee_provider`."""

    _fields_ = (("name", c_char_p), ("keys", c_void_p), ("values", c_void_p), ("option_count", c_size_t))


class Tensor(ctypes.Structure):
    """`ee_tensor`."""

    _fields_ = (
        ("name", c_char_p), ("data", c_void_p), ("shape", POINTER(c_int64)), ("rank", c_size_t),
        ("size_bytes", c_size_t), ("dtype", c_int32),
    )  # fmt: skip


class Threshold(ctypes.Structure):
    """`ee_threshold`."""

    _fields_ = (("exit", c_char_p), ("confidence", c_double), ("never", c_int32))


class Call(ctypes.Structure):
    """`ee_call`."""

    _fields_ = (
        ("size", c_size_t), ("inputs", POINTER(Tensor)), ("input_count", c_size_t), ("exit_at", c_char_p),
        ("thresholds", POINTER(Threshold)), ("threshold_count", c_size_t), ("deadline_ms", c_double),
        ("interruptible", c_int32),
    )  # fmt: skip


class Gate(ctypes.Structure):
    """`ee_decision`."""

    _fields_ = (("segment", c_char_p), ("decision", c_int64))


class Answer(ctypes.Structure):
    """`ee_answer`."""

    _fields_ = (
        ("size", c_size_t), ("exit", c_char_p), ("outputs", POINTER(Tensor)), ("output_count", c_size_t),
        ("path", POINTER(c_char_p)), ("path_count", c_size_t), ("gates", POINTER(Gate)), ("gate_count", c_size_t),
        ("confidence", c_float), ("stopped_by", c_int32), ("prediction", c_int64),
    )  # fmt: skip


OnAnswer = ctypes.CFUNCTYPE(c_int32, c_void_p, POINTER(Answer))
"""`ee_on_answer`."""

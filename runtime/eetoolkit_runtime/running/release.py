"""Which onnxruntime runs here."""

from __future__ import annotations

import onnxruntime as ort

VERSION = tuple(int(part) for part in ort.__version__.split(".")[:2])
"""Its first two numbers."""


def is_new_enough(needed: str | None) -> bool:
    """Whether this onnxruntime is of a version, such as 1.20, or newer."""
    return needed is None or tuple(map(int, needed.split("."))) <= VERSION

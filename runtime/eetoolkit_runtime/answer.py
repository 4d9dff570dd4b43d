"""What one run returns."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt


class Answer(msgspec.Struct, frozen=True, eq=False):
    """The answer of the exit that fired; its arrays are copies that the caller may keep.

    Attributes:
        outputs: The exit's outputs by name, each with a leading dimension of 1.
        exit: The exit's name.
        confidence: The exit's confidence; higher is surer.
        path: The segments that were run, in order.
        segments: How many segments with a model the bundle has.
    """

    outputs: dict[str, npt.NDArray[Any]]
    exit: str
    confidence: float
    path: tuple[str, ...]
    segments: int

    @property
    def prediction(self) -> int | None:
        """The class with the largest value in the exit's only output or `logits`; None where that is not one row."""
        scores = self.outputs.get("logits")
        if scores is None and len(self.outputs) == 1:
            scores = next(iter(self.outputs.values()))
        return int(np.argmax(scores)) if scores is not None and scores.ndim == 2 and len(scores) == 1 else None

    def __str__(self) -> str:
        return f"{self.exit}, confidence {self.confidence:.4g}, {len(set(self.path))} of {self.segments} segments"

"""What a case is: a trained network with one answer, and its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from eetoolkit_runtime.arrays import Array

Rows = tuple[Array | Mapping[str, Array], NDArray[np.int64]]
"""Inputs, by name where there are several, and labels (n,)."""


@dataclass(frozen=True)
class Case:
    """A trained network without early exits, and its data.

    Attributes:
        model: In evaluation mode, or an ONNX file; returns logits (batch, classes).
        fit: What exits are trained and chosen on. The network has not learned from these rows.
        test: Rows that nothing has learned from.
        labels: Names of the classes.
        train: What the network has learned from, where heads may be fitted to that.
        options: Further ones of `ee.add_exits`.
    """

    name: str
    model: nn.Module | Path
    fit: Rows
    test: Rows
    labels: tuple[str, ...]
    train: Rows | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

"""What a case is: a trained network, the same as a chain of parts, and rows that it has not learned from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eetoolkit_runtime.arrays import Array

_ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Link:
    """A part of the network up to an exit: from the last part's features to its own, and from these to logits."""

    trunk: nn.Module
    head: nn.Module


@dataclass(frozen=True)
class Part:
    """Some of the data.

    Attributes:
        rows: For each row the network's inputs, each with a leading dimension of 1.
        labels: int64 (n,).
    """

    rows: list[tuple[Array, ...]]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Case:
    """A trained network with exits, and its data.

    Attributes:
        network: In evaluation mode; returns the logits of every exit, each (batch, classes).
        chain: The same weights as `network`, from the first input of one row alone; a mask of ones is left out, as
            Hugging Face's own code leaves it out.
        example: What it is exported with: two rows.
        options: Further options of `ee.export`.
    """

    name: str
    title: str
    network: nn.Module
    chain: tuple[Link, ...]
    example: tuple[Tensor, ...]
    validation: Part
    test: Part
    options: Mapping[str, Any] = field(default_factory=dict)


def logits(network: nn.Module, rows: list[tuple[Array, ...]]) -> Array:
    """Returns float32 (exits, rows, classes) as the network gives them; rows of one shape are computed together."""
    groups: dict[Any, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        groups[tuple(array.shape for array in row)].append(number)
    found: Array | None = None
    for members in groups.values():
        for start in range(0, len(members), _ROWS_AT_ONCE):
            chosen = members[start : start + _ROWS_AT_ONCE]
            columns = zip(*(rows[row] for row in chosen), strict=True)
            inputs = [torch.from_numpy(np.concatenate(arrays)) for arrays in columns]
            with torch.inference_mode():
                exits = torch.stack(list(network(*inputs))).numpy()
            if found is None:
                found = np.empty((len(exits), len(rows), exits.shape[2]), exits.dtype)
            found[:, chosen] = exits
    if found is None:
        raise ValueError("no rows")
    return found

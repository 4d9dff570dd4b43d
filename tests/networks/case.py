"""What a test network is: how to build it, what to feed it, and which exits it must have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.plan.types import Criterion

Inputs = dict[str, Array]
Draw = Callable[[np.random.Generator, int, int | None], Inputs]
"""From a generator, a number of rows and a length (None: the usual one) to inputs by name."""
Real = Callable[[int, int | None], Inputs]
"""From a number of rows and a length to inputs made of scikit-learn's digits."""


@dataclass(frozen=True)
class Case:
    """A network under test.

    Attributes:
        name: What the tests call it.
        build: Gives what `ee.export` takes: a module, a path in the folder that it is given, or a list.
        draw: Random inputs.
        real: Inputs made of digits.
        exits: Its exits' names, shallow to deep.
        options: What else `ee.export` is given.
        scales: For an exit whose scores are not logits, their scale.
        axis: The class axis.
        lengths: Other lengths than the example's, where the length is dynamic.
        by_name: Whether the example inputs are given by name, and not as a tuple.
        outputs: For an exit that was given a name of its own, what `reference` calls it.
    """

    name: str
    build: Callable[[Path], Any]
    draw: Draw
    real: Real
    exits: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    scales: Mapping[str, str] = field(default_factory=dict)
    axis: int = 1
    lengths: tuple[int, ...] = ()
    by_name: bool = True
    outputs: Mapping[str, str] = field(default_factory=dict)

    def random(self, rows: int, seed: int = 0, length: int | None = None) -> Inputs:
        """Returns random inputs."""
        return self.draw(np.random.default_rng(seed), rows, length)

    def criterion(self, kind: str = "max_prob") -> dict[str, Criterion]:
        """Returns the criterion of every exit."""
        return {
            name: Criterion(kind=kind, scale=self.scales.get(name, "logits"), axis=self.axis) for name in self.exits
        }


@cache
def _digits() -> Array:
    """Returns 1797 images of 8x8 pixels, 0 to 16, as (1797, 8, 8) float32."""
    return load_digits().images.astype(np.float32)


def digits(rows: int, enlarge: int = 1) -> Array:
    """Returns images of shape (rows, 1, 8 * enlarge, 8 * enlarge), about 0 in mean and 1 in spread."""
    images = (_digits()[:rows, None] - 4.9) / 6.0
    return np.kron(images, np.ones((1, 1, enlarge, enlarge), np.float32)).astype(np.float32)


def pixels(rows: int, length: int) -> Array:
    """Returns the images' pixels from the third row on as tokens 0 to 16, shape (rows, length), int64."""
    return _digits()[:rows].reshape(rows, 64)[:, 16 : 16 + length].astype(np.int64)


def images(side: int) -> tuple[Draw, Real]:
    """Returns the inputs of a network that reads `image`, shape (batch, 1, side, side)."""

    def draw(rng: np.random.Generator, rows: int, length: int | None) -> Inputs:
        return {"image": rng.standard_normal((rows, 1, side, side)).astype(np.float32)}

    return draw, lambda rows, length: {"image": digits(rows, side // 8)}


def features(name: str = "x") -> tuple[Draw, Real]:
    """Returns the inputs of a network that reads one float vector of 64."""

    def draw(rng: np.random.Generator, rows: int, length: int | None) -> Inputs:
        return {name: rng.standard_normal((rows, 64)).astype(np.float32)}

    return draw, lambda rows, length: {name: digits(rows).reshape(rows, 64)}


def seeded(module: Callable[[], torch.nn.Module], seed: int = 0) -> Callable[[Path], torch.nn.Module]:
    """Returns a builder of the module with weights drawn from a seed, in evaluation mode.

    Normalisation gets statistics other than 0 and 1, and heads are made bold enough to differ in confidence.
    """

    def build(folder: Path) -> torch.nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = module()
            for name, part in network.named_modules():
                if isinstance(part, torch.nn.BatchNorm2d):
                    torch.nn.init.normal_(part.running_mean, 0, 0.2)
                    torch.nn.init.uniform_(part.running_var, 0.5, 1.5)
                if isinstance(part, torch.nn.Linear | torch.nn.Conv2d) and "head" in name:
                    torch.nn.init.normal_(part.weight, 0, 0.5)
        return network.eval()

    return build

"""What a system of the zoo is: a network, how it is trained, and how it is exported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eetoolkit_runtime.bundle.archive import default_cache

CHECKPOINTS = Path(__file__).parent / "checkpoints"
"""Trained weights, in the repository alone: a wheel, which is what a device gets, has none."""


def images_alone(images: Tensor) -> tuple[Tensor, ...]:
    """Returns the images as the only input."""
    return (images,)


def itself(model: nn.Module) -> Any:
    """Returns the module."""
    return model


@dataclass(frozen=True)
class System:
    """One early-exit or dynamic network, trained on digits.

    Attributes:
        name: What the command line calls it, and its module and checkpoint: `skipnet`.
        title: What people call it: "SkipNet, feed-forward gates".
        source: The paper and section it follows.
        build: Makes the network with random weights; torch's seed decides them.
        loss: From what `forward` returns in training mode and int64 labels (n,) to a scalar.
        fit: The system's own training where its paper has one; None: the ordinary loop, `train.fit`. Takes the network,
            returns it trained.
        epochs: Of the ordinary loop.
        inputs: From images float32 (n, 1, 8, 8) in [0, 1] to the network's inputs.
        exported: From the trained network, in evaluation mode, to what `ee.export` takes (a cascade: a list).
        options: Further options of `ee.export`. With `dynamic_batch` False the network takes one row at a time.
        decisions: From the network in evaluation mode and the inputs of one row to the decisions that eager PyTorch
            takes, in the order of `Answer.gates`: 0 or 1 for a gate, 1 or 0 for going on in a loop, the case for a
            switch. None: it has none.
        storage: The dtype of the weights in the checkpoint; the network computes in float32 with what was stored.
    """

    name: str
    title: str
    source: str
    build: Callable[[], nn.Module]
    loss: Callable[[Any, Tensor], Tensor]
    fit: Callable[[nn.Module], nn.Module] | None = None
    epochs: int = 40
    inputs: Callable[[Tensor], tuple[Tensor, ...]] = images_alone
    exported: Callable[[nn.Module], Any] = itself
    options: Mapping[str, Any] = field(default_factory=dict)
    decisions: Callable[[nn.Module, Sequence[Tensor]], list[int]] | None = None
    storage: torch.dtype = torch.float16

    @property
    def checkpoint(self) -> Path:
        """Where the trained weights are: in the repository, else where this machine has trained them."""
        folder = CHECKPOINTS if CHECKPOINTS.is_dir() else default_cache() / "zoo"
        return folder / f"{self.name}.safetensors"

    @property
    def one_row(self) -> bool:
        """Whether the network, in evaluation mode, takes one row at a time: its control flow decides once per call."""
        return self.options.get("dynamic_batch") is False

    def load(self) -> nn.Module:
        """Returns the network with the shipped weights, in evaluation mode."""
        from safetensors.torch import load_file

        model = self.build()
        model.load_state_dict(load_file(self.checkpoint))
        return model.eval()

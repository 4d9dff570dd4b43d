"""Training of the zoo's networks: fit on train, select on validation, look at test once.

Run as `eetoolkit zoo train branchynet`.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from eetoolkit.zoo.digits import PREPROCESS, Part, digits
from eetoolkit.zoo.system import System, images_alone
from eetoolkit_exporters.capturing.outputs import walk_outputs
from eetoolkit_exporters.capturing.source import LOGITS

EPOCHS: Final = 40
BATCH: Final = 64
MAX_LEARNING_RATE: Final = 3e-3
WEIGHT_DECAY: Final = 5e-4

# Augmentation; the image is 8 pixels wide and its pixels are in [0, 1].
MAX_SHIFT_PIXELS: Final = 0.75
MAX_TURN_RADIANS: Final = 0.15
NOISE: Final = 0.03

THREADS: Final = 1
"""The order of floating-point sums depends on the number of threads, so a result is repeatable only with it fixed.

One: the networks are so small that a second thread saves less than a third, and waits where the machine has other work.
"""


@dataclass(frozen=True)
class Trained:
    """What training gave; the checkpoint's metadata says the same.

    Attributes:
        accuracy: For each part of the data and each exit, the share of right answers if every image left there.
        decisions: The mean of the gates' decisions over the test part, so the share of open gates, or the mean case
            of a switch; None: the system decides nothing.
        seconds: Of the training.
    """

    name: str
    checkpoint: str
    size_bytes: int
    accuracy: dict[str, dict[str, float]]
    decisions: float | None
    seconds: float


def train(system: System, seed: int = 0, checkpoint: Path | None = None) -> Trained:
    """Trains a system of the zoo, writes its checkpoint, and returns what it found.

    The same seed gives the same weights on the same machine and torch version. Sets torch's global seed and its
    number of threads.

    Args:
        system: What to train.
        seed: Of the initial weights, the order of the batches and the augmentation.
        checkpoint: Where to write; None: where the system's weights are.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(THREADS)
    started = time.perf_counter()
    model = system.build()
    if system.fit is None:
        model = fit(model, system.loss, epochs=system.epochs, inputs=system.inputs)
    else:
        model = system.fit(model)
    seconds = time.perf_counter() - started

    weights = {
        key: value.to(system.storage) if value.is_floating_point() else value
        for key, value in model.state_dict().items()
    }
    model.load_state_dict(weights)
    model.eval()
    accuracy = {part: exit_accuracies(system, model, *tensors(part)) for part in ("train", "validation", "test")}
    decisions = mean_decision(system, model, tensors("test")[0])
    metadata = {
        "network": system.name,
        "seed": str(seed),
        "torch": torch.__version__,
        "exits": ",".join(accuracy["test"]),
    }
    for part in ("validation", "test"):
        metadata |= {f"{part}_accuracy_{exit_}": f"{value:.4f}" for exit_, value in accuracy[part].items()}
    if decisions is not None:
        metadata["test_mean_decision"] = f"{decisions:.4f}"
    path = checkpoint or system.checkpoint
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not `save_file`, which makes files that only their owner can read.
    path.write_bytes(save(weights, metadata=metadata))
    return Trained(system.name, str(path), path.stat().st_size, accuracy, decisions, seconds)


def fit(
    model: nn.Module,
    loss: Callable[[Any, Tensor], Tensor],
    *,
    epochs: int = EPOCHS,
    inputs: Callable[[Tensor], tuple[Tensor, ...]] = images_alone,
    parameters: Iterable[nn.Parameter] | None = None,
    max_learning_rate: float = MAX_LEARNING_RATE,
    weight_decay: float = WEIGHT_DECAY,
    select: bool = False,
) -> nn.Module:
    """Returns the model, in evaluation mode, after the ordinary loop: Adam, one cycle of the learning rate.

    Args:
        model: The network.
        loss: From what its `forward` returns in training mode and int64 labels (n,) to a scalar.
        epochs: Passes over the training part.
        inputs: From augmented images, float32 (n, 1, 8, 8) in [0, 1], to the network's inputs.
        parameters: What to train; None: all.
        max_learning_rate: In the middle of the cycle.
        weight_decay: Of Adam.
        select: Whether to keep the weights of the epoch whose validation loss was lowest, else the last. Only for a
            network whose `forward` takes a batch in evaluation mode and returns the same as in training.
    """
    images, labels = tensors("train")
    validation_images, validation_labels = tensors("validation")
    trained = list(model.parameters()) if parameters is None else list(parameters)
    optimizer = torch.optim.Adam(trained, weight_decay=weight_decay)
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_learning_rate, epochs=epochs, steps_per_epoch=steps)

    best_loss, best_weights = float("inf"), model.state_dict()
    for _ in range(epochs):
        model.train()
        # The incomplete last batch is left out: a few rows would disturb the batch statistics.
        for rows in torch.randperm(len(images))[: steps * BATCH].reshape(steps, BATCH):
            optimizer.zero_grad()
            torch.autograd.backward(loss(model(*inputs(augment(images[rows]))), labels[rows]))
            optimizer.step()
            schedule.step()
        if select:
            model.eval()
            with torch.inference_mode():
                validation_loss = loss(model(*inputs(validation_images)), validation_labels).item()
            if validation_loss < best_loss:
                best_loss, best_weights = validation_loss, copy.deepcopy(model.state_dict())
    if select:
        model.load_state_dict(best_weights)
    return model.eval()


def tensors(part: Part) -> tuple[Tensor, Tensor]:
    """Returns one part as the networks take it: float32 (n, 1, 8, 8) in [0, 1], and int64 (n,)."""
    data = digits(part)
    return torch.from_numpy(data.images * PREPROCESS["image"]["scale"]), torch.from_numpy(data.labels)


def augment(images: Tensor) -> Tensor:
    """Returns the images (n, 1, 8, 8), each a little turned and shifted, with a little noise, still in [0, 1]."""
    n = len(images)
    turn = (torch.rand(n) * 2 - 1) * MAX_TURN_RADIANS
    # `affine_grid` measures from -1 to 1, so a pixel is 2/8.
    shift = (torch.rand(n, 2) * 2 - 1) * MAX_SHIFT_PIXELS * 2 / 8
    rotation = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], dim=1).reshape(n, 2, 2)
    affine = torch.cat([rotation, shift.reshape(n, 2, 1)], dim=2)
    grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, align_corners=False)
    return (moved + NOISE * torch.randn_like(moved)).clamp(0, 1)


def exit_logits(system: System, model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Returns every exit's logits, (n, 10), as the network in evaluation mode gives them.

    Args:
        system: What the network is.
        model: The network; called row by row where it decides once per call.
        images: float32 (n, 1, 8, 8) in [0, 1].
    """
    found: dict[str, list[Tensor]] = {}
    with torch.no_grad():  # not inference_mode: torch.cond, which compiles its branches, refuses such tensors
        for rows in torch.split(images, 1) if system.one_row else [images]:
            for exit_, output, tensor in walk_outputs(model(*system.inputs(rows))):
                if output in (None, LOGITS):
                    found.setdefault(exit_, []).append(tensor)
    return {exit_: torch.cat(parts) for exit_, parts in found.items()}


def exit_accuracies(system: System, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Returns the share of right answers of every exit, if every image left there."""
    logits = exit_logits(system, model, images)
    return {exit_: (rows.argmax(dim=1) == labels).double().mean().item() for exit_, rows in logits.items()}


def mean_decision(system: System, model: nn.Module, images: Tensor) -> float | None:
    """Returns the mean of all decisions on all images; None where the system decides nothing."""
    if system.decisions is None:
        return None
    with torch.no_grad():
        taken = [decision for row in torch.split(images, 1) for decision in system.decisions(model, system.inputs(row))]
    return sum(taken) / len(taken)

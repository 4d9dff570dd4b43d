"""Training of the zoo's networks: fit on train, select on validation, look at test once.

Run as `python -m eetoolkit.zoo.train branchynet`.
"""

import argparse
import copy
from typing import Final

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from eetoolkit.zoo import branchynet
from eetoolkit.zoo.branchynet import BranchyNet
from eetoolkit.zoo.digits import PREPROCESS, Part, digits

NETWORKS: Final = ("branchynet",)

EPOCHS: Final = 40
BATCH: Final = 64
MAX_LEARNING_RATE: Final = 3e-3
WEIGHT_DECAY: Final = 5e-4

# Augmentation; the image is 8 pixels wide and its pixels are in [0, 1].
MAX_SHIFT_PIXELS: Final = 0.75
MAX_TURN_RADIANS: Final = 0.15
NOISE: Final = 0.03

THREADS: Final = 2
"""The order of floating-point sums depends on the number of threads, so a result is repeatable only with it fixed."""


def train(name: str, seed: int = 0, epochs: int = EPOCHS) -> None:
    """Train a network of the zoo, write its checkpoint, and print the accuracy of every exit on every part.

    The same seed gives the same weights on the same machine and torch version. Sets torch's global seed and its
    number of threads.

    Args:
        name: one of `NETWORKS`.
        seed: of the initial weights, the order of the batches and the augmentation.
        epochs: passes over the training part.
    """
    if name not in NETWORKS:
        raise ValueError(f"train: got network {name!r}, expected one of {', '.join(NETWORKS)}")
    torch.manual_seed(seed)
    torch.set_num_threads(THREADS)
    model = fit(BranchyNet(), epochs)

    accuracies = {part: exit_accuracies(model, *tensors(part)) for part in ("train", "validation", "test")}
    for part, values in accuracies.items():
        print(f"{part:<10}", *(f"exit{n} {value:.4f}" for n, value in enumerate(values)), sep="  ")

    metadata = {"network": name, "seed": str(seed), "epochs": str(epochs), "torch": torch.__version__}
    for part in ("validation", "test"):
        metadata |= {f"{part}_accuracy_exit{n}": f"{value:.4f}" for n, value in enumerate(accuracies[part])}
    branchynet.CHECKPOINT.parent.mkdir(exist_ok=True)
    # Not `save_file`, which makes files that only their owner can read.
    branchynet.CHECKPOINT.write_bytes(save(model.state_dict(), metadata=metadata))


def fit(model: BranchyNet, epochs: int) -> BranchyNet:
    """Return the model, in eval mode, with the weights of the epoch whose validation loss was lowest."""
    images, labels = tensors("train")
    validation_images, validation_labels = tensors("validation")
    optimizer = torch.optim.Adam(model.parameters(), weight_decay=WEIGHT_DECAY)
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, MAX_LEARNING_RATE, epochs=epochs, steps_per_epoch=steps)

    best_loss, best_weights = float("inf"), model.state_dict()
    for _ in range(epochs):
        model.train()
        # The incomplete last batch is left out: a few rows would disturb the batch statistics.
        for rows in torch.randperm(len(images))[: steps * BATCH].reshape(steps, BATCH):
            optimizer.zero_grad()
            torch.autograd.backward(branchynet.loss(model(augment(images[rows])), labels[rows]))
            optimizer.step()
            schedule.step()
        model.eval()
        with torch.inference_mode():
            validation_loss = branchynet.loss(model(validation_images), validation_labels).item()
        if validation_loss < best_loss:
            best_loss, best_weights = validation_loss, copy.deepcopy(model.state_dict())
    model.load_state_dict(best_weights)
    return model


def tensors(part: Part) -> tuple[Tensor, Tensor]:
    """Return one part as the network takes it: float32 (n, 1, 8, 8) in [0, 1], and int64 (n,)."""
    data = digits(part)
    return torch.from_numpy(data.images * PREPROCESS["image"]["scale"]), torch.from_numpy(data.labels)


def augment(images: Tensor) -> Tensor:
    """Return the images (n, 1, 8, 8), each a little turned and shifted, with a little noise, still in [0, 1]."""
    n = len(images)
    turn = (torch.rand(n) * 2 - 1) * MAX_TURN_RADIANS
    # `affine_grid` measures from -1 to 1, so a pixel is 2/8.
    shift = (torch.rand(n, 2) * 2 - 1) * MAX_SHIFT_PIXELS * 2 / 8
    rotation = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], dim=1).reshape(n, 2, 2)
    affine = torch.cat([rotation, shift.reshape(n, 2, 1)], dim=2)
    grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, align_corners=False)
    return (moved + NOISE * torch.randn_like(moved)).clamp(0, 1)


def exit_accuracies(model: BranchyNet, images: Tensor, labels: Tensor) -> list[float]:
    """Return the share of correct answers of every exit, if every image left there."""
    with torch.inference_mode():
        return [(logits.argmax(dim=1) == labels).double().mean().item() for logits in model(images)]


def main() -> None:
    """Train the network that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m eetoolkit.zoo.train", description=main.__doc__)
    parser.add_argument("name", choices=NETWORKS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args()
    train(options.name, seed=options.seed, epochs=options.epochs)


if __name__ == "__main__":
    main()

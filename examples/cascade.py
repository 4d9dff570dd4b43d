"""A cascade: a small .onnx file from any framework first, and a large PyTorch network where it is not sure.

The stages are trained apart and know nothing of each other.

    python examples/cascade.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from own_checkpoint import digits
from torch import Tensor, nn
from torch.nn import functional

import eetoolkit as ee


def train(network: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> nn.Module:
    """Returns the network, trained."""
    optimizer = torch.optim.Adam(network.parameters(), 0.005)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimizer.step()
    return network.eval()


def stages(images: Tensor, labels: Tensor) -> tuple[nn.Module, nn.Module]:
    """Returns a linear classifier and a convolutional network, both trained."""
    torch.manual_seed(0)
    small = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    large = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 4 * 4, 10),
    )  # fmt: skip
    return train(small, images, labels, 20), train(large, images, labels, 10)


def main(folder: Path) -> None:
    """Trains both stages, exports them as one bundle, and says which stage answered."""
    torch.set_num_threads(1)  # networks this small train faster so
    training, _, (images, labels) = digits()
    small, large = stages(*map(torch.from_numpy, training))
    example = torch.from_numpy(images[:1])
    torch.onnx.export(small, (example,), folder / "small.onnx", input_names=["image"], verbose=False, dynamo=True)

    bundle = ee.export(
        [folder / "small.onnx", large], example, folder / "cascade.ee", golden_inputs=images[:8], overwrite=True
    )
    print(bundle)
    with ee.Runner(bundle, threads=1) as runner:
        answers = [runner.run(image[np.newaxis]) for image in images]
    right = np.mean([answer.prediction == label for answer, label in zip(answers, labels, strict=True)])
    first = np.mean([answer.exit == next(iter(bundle.exits)) for answer in answers])
    print(f"{right:.1%} right, {first:.1%} answered by the small stage alone")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))

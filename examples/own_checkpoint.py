"""Your own checkpoint, from training to a tuned bundle: scikit-learn's 8x8 digits, in some ten seconds.

It writes `mine.pt`, a checkpoint, and `mine.ee`, the bundle made of it.

    python examples/own_checkpoint.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import eetoolkit as ee


class Net(nn.Module):
    """A small convolutional network with two exits."""

    def __init__(self) -> None:
        super().__init__()
        self.shallow = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.deep = nn.Sequential(nn.Conv2d(8, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU())
        self.early, self.late = nn.Linear(8 * 4 * 4, 10), nn.Linear(64 * 4 * 4, 10)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the logits of both exits, each (batch, 10), for images (batch, 1, 8, 8) in [0, 1]."""
        features = self.shallow(image)
        return self.early(features.flatten(1)), self.late(self.deep(features).flatten(1))


Rows = tuple[np.ndarray, np.ndarray]
"""Images, float32 (n, 1, 8, 8) in [0, 1], and their labels."""


def digits() -> tuple[Rows, Rows, Rows]:
    """Returns 897 rows to train on, 600 to tune by, and 300 that neither sees."""
    data = load_digits()
    images = (data.images[:, np.newaxis] / 16).astype(np.float32)
    rows = np.random.default_rng(0).permutation(len(images))
    return tuple((images[part], data.target[part]) for part in (rows[:897], rows[897:1497], rows[1497:]))


def train(images: np.ndarray, labels: np.ndarray, epochs: int = 30) -> Net:
    """Returns a trained network. The loss is the sum over both exits."""
    torch.manual_seed(0)
    network, target = Net(), torch.from_numpy(labels)
    optimizer = torch.optim.Adam(network.parameters(), 0.002)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(64):
            outputs = network(torch.from_numpy(images)[rows])
            loss = torch.stack([functional.cross_entropy(logits, target[rows]) for logits in outputs]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


def main(folder: Path) -> None:
    """Trains a network, saves its weights, and deploys it from there."""
    torch.set_num_threads(1)  # a network this small trains faster so
    training, tuning, (images, labels) = digits()
    torch.save(train(*training).state_dict(), folder / "mine.pt")

    network = Net()
    network.load_state_dict(torch.load(folder / "mine.pt", weights_only=True))
    bundle = ee.export(network.eval(), images[:1], folder / "mine.ee", golden_inputs=images[:8], overwrite=True)
    print(bundle)
    print(ee.verify(bundle, network))

    report = ee.tune(bundle, *tuning, max_accuracy_drop=0.01)
    print(report.outcome)
    report.apply()

    with ee.Runner(folder / "mine.ee", threads=1) as runner:
        answers = [runner.run(image[np.newaxis]) for image in images]
    right = np.mean([answer.prediction == label for answer, label in zip(answers, labels, strict=True)])
    early = np.mean([answer.exit == "exit0" for answer in answers])
    print(f"{right:.1%} right, {early:.1%} left at exit0")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))

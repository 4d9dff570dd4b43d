"""A trained network with one output, from its checkpoint to a tuned bundle: scikit-learn's 8x8 digits.

It writes `mine.pt`, a checkpoint, `labelled.npz`, rows that the network has not seen, and `mine.ee`, the bundle.

    python examples/adapt.py [FOLDER]
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


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, before: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, width, 3, stride, 1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width),
        )  # fmt: skip
        self.shortcut = nn.Conv2d(before, width, 1, stride)

    def forward(self, features: Tensor) -> Tensor:
        """Returns features, (batch, width, height, width)."""
        return functional.relu(self.shortcut(features) + self.body(features))


class Net(nn.Module):
    """A small residual network with one output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU())
        self.blocks = nn.Sequential(Block(8, 16), Block(16, 32), Block(32, 64, stride=2), Block(64, 64), Block(64, 64))
        self.classifier = nn.Linear(64, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Returns logits, (batch, 10), for images (batch, 1, 8, 8) in [0, 1]."""
        logits: Tensor = self.classifier(self.blocks(self.stem(image)).mean((2, 3)))
        return logits


def train(images: np.ndarray, labels: np.ndarray, epochs: int = 12) -> Net:
    """Returns a trained network."""
    torch.manual_seed(0)
    network, target = Net(), torch.from_numpy(labels)
    optimizer = torch.optim.Adam(network.parameters(), 0.002)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(network(torch.from_numpy(images)[rows]), target[rows]).backward()
            optimizer.step()
    return network.eval()


def prepare(folder: Path) -> None:
    """Trains a network on 797 rows, and saves its weights and the 1,000 other rows."""
    data = load_digits()
    images = (data.images[:, np.newaxis] / 16).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(images))
    seen, unseen = order[:797], order[797:]
    torch.save(train(images[seen], data.target[seen]).state_dict(), folder / "mine.pt")
    np.savez(folder / "labelled.npz", image=images[unseen], labels=data.target[unseen])


def main(folder: Path) -> None:
    """Trains a network, and deploys it from its checkpoint with exits of its own."""
    torch.set_num_threads(1)  # a network this small trains faster so
    prepare(folder)

    network = Net()
    network.load_state_dict(torch.load(folder / "mine.pt", weights_only=True))
    rows = np.load(folder / "labelled.npz")
    adapted = ee.add_exits(network.eval(), rows["image"], rows["labels"], max_accuracy_drop=0.02, threads=1)
    try:
        bundle = adapted.bundle(folder / "mine.ee", overwrite=True)
    except ee.TuneError as error:  # it does not pay, or nobody knows: nothing was written
        print(error)
        return
    print(adapted.report.verdict)
    print(bundle)

    with ee.Runner(bundle, threads=1) as runner:
        print(runner.run(rows["image"][:1]))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))

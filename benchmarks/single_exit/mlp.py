"""A network made without torch: scikit-learn's on the digits of MNIST, as the ONNX file that skl2onnx makes of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases import mnist
from benchmarks.cases.archives import MNIST, cache, fetch
from benchmarks.cases.splits import split
from benchmarks.single_exit.case import Case

FIT, TEST = 3000, 2000
RENDERINGS: Final = 10  # of each digit that is learned from
MAX_SHIFT_PIXELS, MAX_TURN_RADIANS = 3.0, 0.4
"""Of all digits, those to fit and to test with too: centred ones leave the later layers nothing to do."""
SETTINGS: Final[dict[str, Any]] = {
    "hidden_layer_sizes": (512, 512, 384, 384, 256, 256),
    "batch_size": 200,
    "learning_rate_init": 1e-3,
    "alpha": 1e-4,
    "max_iter": 4,
    "random_state": 0,
}


def load() -> Case:
    """Returns the case; the file's one output is `probabilities`, (batch, 10), of float32 images (batch, 784)."""
    images, labels = mnist.read(fetch(MNIST))
    parts = split(labels, FIT, TEST)
    settings = [SETTINGS, RENDERINGS, MAX_SHIFT_PIXELS, MAX_TURN_RADIANS, MNIST.sha256, FIT, TEST, 1]
    path = cache() / f"single_exit_mlp-{hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]}.onnx"
    if not path.exists():
        learned = np.tile(parts.train, RENDERINGS)
        _train(_moved(images[learned], seed=0), labels[learned], path)
    fit = _moved(images[parts.validation], seed=1), labels[parts.validation]
    test = _moved(images[parts.test], seed=2), labels[parts.test]
    return Case("mlp", path, fit, test, tuple("0123456789"))


def _moved(images: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Returns (n, 784) of images (n, 1, 28, 28), each turned and shifted at random."""
    from scipy.ndimage import affine_transform

    random = np.random.default_rng(seed)
    middle, moved = (mnist.PIXELS - 1) / 2, np.empty((len(images), mnist.PIXELS**2), np.float32)
    for place, image in enumerate(images[:, 0]):
        turn = random.uniform(-MAX_TURN_RADIANS, MAX_TURN_RADIANS)
        matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        shift = random.uniform(-MAX_SHIFT_PIXELS, MAX_SHIFT_PIXELS, 2)
        offset = middle - matrix @ (middle + shift)
        moved[place] = affine_transform(image, matrix, offset, order=1).ravel()
    return moved


def _train(rows: NDArray[Any], labels: NDArray[Any], path: Path) -> None:
    import warnings

    from onnx.utils import Extractor
    from skl2onnx import to_onnx
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    network = MLPClassifier(**SETTINGS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the last iteration is the last that is wanted
        network.fit(rows, labels)
    proto = to_onnx(network, rows[:1], options={"zipmap": False})
    proto = Extractor(proto).extract_model(["X"], ["probabilities"])  # without the label
    partial = path.with_suffix(".partial")
    partial.write_bytes(proto.SerializeToString())
    partial.replace(path)

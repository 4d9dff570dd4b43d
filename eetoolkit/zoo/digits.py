"""The 8x8 handwritten digits of scikit-learn, split once and for all into train, validation and test."""

from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import numpy as np
from numpy.typing import NDArray

Part = Literal["train", "validation", "test"]

PREPROCESS: Final[dict[str, dict[str, Any]]] = {
    "image": {"layout": "NCHW", "resize": [8, 8], "scale": 0.0625, "mean": [0.0], "std": [1.0]}
}
"""How raw pixels become the network's input, as a bundle's manifest writes it: raw * 1/16, so 0..16 becomes 0..1."""

LABELS: Final = tuple("0123456789")

TEST_SHARE: Final = 0.25
"""Of all 1797 digits: 450."""

VALIDATION_SHARE: Final = 0.2
"""Of the 1347 digits that are not test: 270, which is 15 % of all. 1077 remain for training."""

SPLIT_SEED: Final = 0


@dataclass(frozen=True)
class Digits:
    """One part of the data.

    Attributes:
        images: float32 (n, 1, 8, 8), raw pixel values 0..16; apply `PREPROCESS` before the network.
        labels: int64 (n,), 0..9.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64]


def digits(part: Part) -> Digits:
    """Return one part of the data; the three parts are disjoint, stratified by label, and the same on every call.

    The data is the test half of UCI's "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998), which
    scikit-learn carries with it: nothing is downloaded. It does not say who wrote which digit, so one writer's digits
    are in all three parts, and accuracy on new writers will be lower.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    if part not in ("train", "validation", "test"):
        raise ValueError(f"digits: got part {part!r}, expected 'train', 'validation' or 'test'")
    data = load_digits()
    labels = cast("NDArray[np.int64]", data.target.astype(np.int64))
    every = np.arange(len(labels))
    seen, test = train_test_split(every, test_size=TEST_SHARE, stratify=labels, random_state=SPLIT_SEED)
    train, validation = train_test_split(
        seen, test_size=VALIDATION_SHARE, stratify=labels[seen], random_state=SPLIT_SEED
    )
    rows = {"train": train, "validation": validation, "test": test}[part]
    images = data.images[rows, np.newaxis].astype(np.float32)
    return Digits(images=images, labels=labels[rows])

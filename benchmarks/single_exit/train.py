"""Trains networks that are not in the cache yet: `python -m benchmarks.single_exit.train [NAME ...]`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime as ort
import torch

from benchmarks.single_exit import mlp, mnist, reviews, speech, textures, vit
from benchmarks.single_exit.case import Case
from eetoolkit_runtime.arrays import Array

LOADERS: Final[dict[str, Callable[[], Case]]] = {
    "mnist": mnist.load,
    "textures": textures.load,
    "vit": vit.load,
    "speech": speech.load,
    "mlp": mlp.load,
    **{f"reviews-{seed}": partial(reviews.load, seed) for seed in reviews.SEEDS},
}
_ROWS_AT_ONCE: Final = 64


def accuracy(case: Case) -> float:
    """Returns the share of the test rows on which the network is right, 0 to 1."""
    inputs, labels = case.test
    columns = list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]
    run = _runs(case)
    right = 0
    for start in range(0, len(labels), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        right += int((run([column[rows] for column in columns]).argmax(axis=1) == labels[rows]).sum())
    return right / len(labels)


def _runs(case: Case) -> Callable[[list[Array]], Array]:
    """Returns what gives the network's logits."""
    model = case.model
    if isinstance(model, Path):
        session = ort.InferenceSession(model)
        names = [value.name for value in session.get_inputs()]
        return lambda given: np.asarray(session.run(None, dict(zip(names, given, strict=True)))[0])

    def run(given: list[Array]) -> Array:
        with torch.inference_mode():
            found: Array = model(*map(torch.from_numpy, given)).numpy()
        return found

    return run


def main(arguments: list[str]) -> None:
    """Trains and prints accuracies on test data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(LOADERS)}; none: all")
    names = parser.parse_args(arguments).names or list(LOADERS)
    if unknown := [name for name in names if name not in LOADERS]:
        parser.error(f"no case {unknown[0]!r}; there are {', '.join(LOADERS)}")
    for name in names:
        started = time.perf_counter()
        case = LOADERS[name]()
        seconds = time.perf_counter() - started
        print(f"{name}: ready in {seconds:.0f} s, right on {accuracy(case):.2%} of {len(case.test[1])} test rows")


if __name__ == "__main__":
    main(sys.argv[1:])

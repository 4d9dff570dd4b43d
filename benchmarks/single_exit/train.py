"""Trains networks of the cases that are not in the cache yet: `python -m benchmarks.single_exit.train [NAME ...]`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import onnxruntime
import torch

from benchmarks.single_exit import mlp, reviews, speech
from benchmarks.single_exit.case import Case

LOADERS: Final[dict[str, Callable[[], Case]]] = {
    "speech": speech.load,
    "mlp": mlp.load,
    **{f"reviews-{seed}": partial(reviews.load, seed) for seed in reviews.SEEDS},
}


def accuracy(case: Case) -> float:
    """Returns the share of test rows that the network gets right."""
    inputs, labels = case.test
    columns = list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]
    right = 0
    session = None if isinstance(case.model, torch.nn.Module) else onnxruntime.InferenceSession(case.model)
    for start in range(0, len(labels), 64):
        rows = [column[start : start + 64] for column in columns]
        if session is None:
            with torch.inference_mode():
                answers = case.model(*map(torch.from_numpy, rows)).numpy()
        else:
            answers = session.run(None, {session.get_inputs()[0].name: rows[0]})[0]
        right += int((answers.argmax(axis=1) == labels[start : start + 64]).sum())
    return right / len(labels)


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

"""The cases by name, fetched and trained where that has not been done yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.cases import mnist, mobilenet, reviews
from benchmarks.cases.case import Case, Link, Part
from benchmarks.cases.splits import Splits
from eetoolkit.zoo import branchynet
from eetoolkit.zoo.digits import PREPROCESS, digits

NAMES = ("digits", "mnist", "mobilenet", "reviews")


def load_case(name: str) -> Case:
    """Returns a case, fetched and trained if that has not been done yet.

    Raises:
        ValueError: No such case.
    """
    if name not in _LOADERS:
        raise ValueError(f"no case {name!r}; there are {', '.join(NAMES)}")
    return _LOADERS[name]()


def _digits() -> Case:
    network = branchynet.load()

    def part(name: str) -> Part:
        data = digits(cast("Any", name))
        return _images(data.images * np.float32(PREPROCESS["image"]["scale"]), data.labels)

    trunks = (nn.Sequential(network.stem, network.stage0), network.stage1, network.stage2)
    heads = (network.head0, network.head1, network.head2)
    chain = tuple(Link(trunk, head) for trunk, head in zip(trunks, heads, strict=True))
    test = part("test")
    title = "digits, 8x8: residual CNN, three exits"
    return Case("digits", title, network, chain, _example(test), part("validation"), test)


def _mnist() -> Case:
    return _of_mnist("mnist", "MNIST, 28x28: residual CNN, four exits", *mnist.load())


def _mobilenet() -> Case:
    return _of_mnist("mobilenet", "MNIST, 28x28: MobileNet-like, three exits", *mobilenet.load())


def _of_mnist(
    name: str, title: str, network: nn.Module, images: NDArray[np.float32], labels: NDArray[np.int64], parts: Splits
) -> Case:
    chain = tuple(
        Link(trunk, head) for trunk, head in zip(cast("Any", network).stages, cast("Any", network).heads, strict=True)
    )
    validation = _images(images[parts.validation], labels[parts.validation])
    test = _images(images[parts.test], labels[parts.test])
    return Case(name, title, network, chain, _example(test), validation, test)


def _reviews() -> Case:
    network, tokens, labels, parts = reviews.load()

    def part(rows: NDArray[np.int64]) -> Part:
        return Part([(tokens[i][np.newaxis], np.ones((1, len(tokens[i])), np.int64)) for i in rows], labels[rows])

    test = part(parts.test)
    longest_first = sorted(parts.validation[:16], key=lambda row: -len(tokens[row]))
    example = reviews.pad([tokens[row] for row in longest_first[:2]])
    axes = {name: {1: "length"} for name in ("input_ids", "attention_mask")}
    title = "film reviews: BERT, six layers, an exit after each"
    options = {"dynamic_shapes": axes}
    chain = reviews.links(cast("reviews.ReviewBert", network))
    return Case("reviews", title, network, chain, example, part(parts.validation), test, options)


_LOADERS: Mapping[str, Callable[[], Case]] = {
    "digits": _digits,
    "mnist": _mnist,
    "mobilenet": _mobilenet,
    "reviews": _reviews,
}


def _images(images: NDArray[np.float32], labels: NDArray[np.int64]) -> Part:
    return Part([(np.ascontiguousarray(images[i : i + 1]),) for i in range(len(images))], labels)


def _example(part: Part) -> tuple[Tensor, ...]:
    return (torch.from_numpy(np.concatenate([part.rows[0][0], part.rows[1][0]])),)

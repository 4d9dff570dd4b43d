"""What a case is: a trained network, the same as a chain of parts, and rows that it has not learned from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[Any]
_ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Link:
    """A part of the network up to an exit: from the last part's features to its own, and from these to logits."""

    trunk: nn.Module
    head: nn.Module


@dataclass(frozen=True)
class Part:
    """Some of the data.

    Attributes:
        rows: For each row the network's inputs, each with a leading dimension of 1.
        labels: int64 (n,).
    """

    rows: list[tuple[Array, ...]]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Case:
    """A trained network with exits, and its data.

    Attributes:
        network: In evaluation mode; returns the logits of every exit, each (batch, classes).
        chain: The same weights as `network`, from the first input of one row alone; a mask of ones is left out, as
            Hugging Face's own code leaves it out.
        example: What it is exported with: two rows.
        options: Further options of `ee.export`.
    """

    name: str
    title: str
    network: nn.Module
    chain: tuple[Link, ...]
    example: tuple[Tensor, ...]
    validation: Part
    test: Part
    options: Mapping[str, Any] = field(default_factory=dict)


NAMES = ("digits", "mnist", "reviews")


def load_case(name: str) -> Case:
    """Returns a case, fetched and trained if that has not been done yet.

    Raises:
        ValueError: No such case.
    """
    if name not in _LOADERS:
        raise ValueError(f"no case {name!r}; there are {', '.join(NAMES)}")
    return _LOADERS[name]()


def logits(network: nn.Module, rows: list[tuple[Array, ...]]) -> Array:
    """Returns float32 (exits, rows, classes) as the network gives them; rows of one shape are computed together."""
    groups: dict[Any, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        groups[tuple(array.shape for array in row)].append(number)
    found: Array | None = None
    for members in groups.values():
        for start in range(0, len(members), _ROWS_AT_ONCE):
            chosen = members[start : start + _ROWS_AT_ONCE]
            columns = zip(*(rows[row] for row in chosen), strict=True)
            inputs = [torch.from_numpy(np.concatenate(arrays)) for arrays in columns]
            with torch.inference_mode():
                exits = torch.stack(list(network(*inputs))).numpy()
            if found is None:
                found = np.empty((len(exits), len(rows), exits.shape[2]), exits.dtype)
            found[:, chosen] = exits
    if found is None:
        raise ValueError("no rows")
    return found


def _digits() -> Case:
    from eetoolkit.zoo import branchynet
    from eetoolkit.zoo.digits import PREPROCESS, digits

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
    from benchmarks.cases import mnist

    network, images, labels, parts = mnist.load()
    chain = tuple(
        Link(trunk, head) for trunk, head in zip(cast("Any", network).stages, cast("Any", network).heads, strict=True)
    )
    validation = _images(images[parts.validation], labels[parts.validation])
    test = _images(images[parts.test], labels[parts.test])
    title = "MNIST, 28x28: residual CNN, four exits"
    return Case("mnist", title, network, chain, _example(test), validation, test)


def _reviews() -> Case:
    from benchmarks.cases import reviews

    network, tokens, labels, parts = reviews.load()

    def part(rows: NDArray[np.int64]) -> Part:
        return Part([(tokens[i][np.newaxis], np.ones((1, len(tokens[i])), np.int64)) for i in rows], labels[rows])

    test = part(parts.test)
    longest_first = sorted(parts.validation[:16], key=lambda row: -len(tokens[row]))
    example = reviews.pad([tokens[row] for row in longest_first[:2]])
    axes = {name: {1: "length"} for name in ("input_ids", "attention_mask")}
    title = "film reviews: BERT, six layers, an exit after each"
    options = {"dynamic_shapes": axes}
    return Case("reviews", title, network, reviews.links(network), example, part(parts.validation), test, options)


_LOADERS: Mapping[str, Callable[[], Case]] = {"digits": _digits, "mnist": _mnist, "reviews": _reviews}


def _images(images: NDArray[np.float32], labels: NDArray[np.int64]) -> Part:
    return Part([(np.ascontiguousarray(images[i : i + 1]),) for i in range(len(images))], labels)


def _example(part: Part) -> tuple[Tensor, ...]:
    return (torch.from_numpy(np.concatenate([part.rows[0][0], part.rows[1][0]])),)

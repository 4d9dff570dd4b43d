"""earlyon, a library of early exits for PyTorch: the same weights, exits and thresholds in its two ways of running.

Its wheel goes on `sys.path` unpacked by nothing and installed by nothing, since its model factories, which are not used
here, need torchvision. Its exits decide by the largest softmax probability (`routing_policy="confidence"`), as ours.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from benchmarks.cases.archives import EARLYON, fetch
from benchmarks.cases.case import Link

Run = Callable[[Tensor], Any]


def eager(links: Sequence[Link], thresholds: Sequence[float], example: Tensor, classes: int) -> Run:
    """Returns its wrapper, which leaves the backbone by an exception from a hook."""
    found: Run = wrapper(links, thresholds, example, classes)
    return found


def staged(links: Sequence[Link], thresholds: Sequence[float], example: Tensor, classes: int) -> Run:
    """Returns its staged model, one module between two exits.

    Raises:
        ValueError: A backbone that it cannot part.
    """
    found: Run = _import("earlyon.staged").staged_model(wrapper(links, thresholds, example, classes)).infer
    return found


def wrapper(links: Sequence[Link], thresholds: Sequence[float], example: Tensor, classes: int) -> Any:
    """Returns the network as earlyon has it: an `nn.Sequential`, and heads at its parts.

    Args:
        links: The network's parts between its exits.
        thresholds: Of all exits but the last.
        example: A row of the input; its shape is what earlyon tries the network with.
        classes: How many.
    """
    types = _import("earlyon.core.types")
    backbone = nn.Sequential()
    for place, link in enumerate(links):
        backbone.add_module(f"part{place}", link.trunk)
    backbone.add_module("classifier", links[-1].head)
    points = [types.ExitPoint(f"exit{place}", f"part{place}", 1) for place in range(len(thresholds))]
    config = types.EarlyExitConfig("", classes, points, confidence_thresholds=list(thresholds))
    return (
        _import("earlyon.core.wrappers")
        .EarlyExitWrapper(
            backbone=backbone,
            exit_heads={point.name: link.head for point, link in zip(points, links, strict=False)},
            final_classifier=nn.Identity(),
            config=config,
            input_shape=tuple(example.shape),
        )
        .eval()
    )


def _import(name: str) -> Any:
    wheel = str(fetch(EARLYON))
    if wheel not in sys.path:
        sys.path.append(wheel)
    return importlib.import_module(name)

"""What a network gives by itself: eager PyTorch, or onnxruntime on the whole file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch

from networks.case import Array, Case, Inputs

Exits = dict[str, dict[str, Array]]


def reference(case: Case, model: Any, row: Inputs) -> Exits:
    """Returns every exit's outputs by name for one row."""
    if not isinstance(model, list):
        found = _single(model, row, by_name=case.by_name)
    else:
        stages = [outputs for stage in model for outputs in _single(stage, row, by_name=False).values()]
        found = {f"exit{number}": outputs for number, outputs in enumerate(stages)}
    return {name: found[case.outputs.get(name, name)] for name in case.exits}


def _single(model: torch.nn.Module | Path, row: Inputs, *, by_name: bool) -> Exits:
    if isinstance(model, Path):
        session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
        feeds = {spec.name: array for spec, array in zip(session.get_inputs(), row.values(), strict=True)}
        names = [spec.name for spec in session.get_outputs()]
        return {name: {"logits": array} for name, array in zip(names, session.run(names, feeds), strict=True)}
    tensors = {name: torch.from_numpy(array.copy()) for name, array in row.items()}
    with torch.no_grad():
        returned = model(**tensors) if by_name else model(*tensors.values())
    if isinstance(returned, torch.Tensor):
        returned = (returned,)
    if not isinstance(returned, Mapping):
        returned = {f"exit{number}": value for number, value in enumerate(returned)}
    return {name: _named(value) for name, value in returned.items() if value is not None}


def _named(value: Any) -> dict[str, Array]:
    if isinstance(value, Mapping):
        return {name: tensor.numpy() for name, tensor in value.items()}
    return {"logits": value.numpy()}


def split(inputs: Inputs) -> list[Inputs]:
    """Returns one set of inputs for each row."""
    rows = len(next(iter(inputs.values())))
    return [{name: array[row : row + 1] for name, array in inputs.items()} for row in range(rows)]


def thresholds_between(confidences: Array) -> tuple[list[float | None], list[int]]:
    """Returns thresholds at which several exits fire, and the exit at which each row must answer.

    Each threshold lies in the middle of a wide gap between two rows' confidences, so that rounding decides nothing.

    Args:
        confidences: Shape (rows, exits).
    """
    rows, exits = confidences.shape
    answered = [exits - 1] * rows
    waiting = list(range(rows))
    limits: list[float | None] = []
    for exit_ in range(exits - 1):
        ranked = sorted(waiting, key=lambda row: -confidences[row, exit_])
        most = max(1, len(ranked) - (exits - 1 - exit_))
        gaps = [confidences[ranked[n - 1], exit_] - confidences[ranked[n], exit_] for n in range(1, len(ranked))][:most]
        if not gaps or max(gaps) < 1e-4:
            limits.append(None)
            continue
        fired = int(np.argmax(gaps)) + 1
        limits.append(float(confidences[ranked[fired - 1], exit_] + confidences[ranked[fired], exit_]) / 2)
        for row in ranked[:fired]:
            answered[row] = exit_
        waiting = ranked[fired:]
    return limits, answered

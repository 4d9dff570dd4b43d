"""What all workspaces of a runner share: the plan with what is worked out of it once, and places for tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from eetoolkit_runtime.errors import RunError, is_foreign
from eetoolkit_runtime.flow import live_before
from eetoolkit_runtime.inputs import Array
from eetoolkit_runtime.plan import Manifest
from eetoolkit_runtime.sessions import Sessions


class Cell:
    """A place for a tensor; `fixed` ones keep their buffer, others hold what onnxruntime allocated last."""

    __slots__ = ("array", "fixed", "value")

    def __init__(self, value: ort.OrtValue | None, *, fixed: bool) -> None:
        self.fixed = fixed
        self.set(value)

    def set(self, value: ort.OrtValue | None) -> None:
        """Points at another tensor."""
        self.value = value
        self.array: Array = np.empty(0) if value is None else value.numpy()


def allocate(what: str, dtype: str, shape: Sequence[int]) -> Cell:
    """Returns a place for a tensor of this dtype and shape.

    Raises:
        RunError: There is no memory for it.
    """
    try:
        return Cell(ort.OrtValue.ortvalue_from_shape_and_type(list(shape), np.dtype(dtype)), fixed=True)
    except Exception as error:
        if not is_foreign(error):
            raise
        size = math.prod(shape) * np.dtype(dtype).itemsize
        raise RunError(f"{what}: no memory for {dtype}{list(shape)}, {size / 2**30:,.1f} GiB") from error


def run_loose(
    session: ort.InferenceSession,
    outputs: list[str],
    loose_in: list[tuple[str, Cell]],
    loose_out: list[tuple[str, Cell]],
) -> Callable[[Any, Any], None]:
    """Returns what runs a step some of whose tensors change their shape: these are bound afresh each time."""

    def rebind(binding: ort.IOBinding, options: ort.RunOptions) -> None:
        for name, cell in loose_in:
            binding.bind_ortvalue_input(name, cell.value)
        for name, _ in loose_out:
            binding.bind_output(name)
        session.run_with_iobinding(binding, options)
        if loose_out:
            values = dict(zip(outputs, binding.get_outputs(), strict=True))
            for name, cell in loose_out:
                cell.set(values[name])

    return rebind


class Layout:
    """What all workspaces of a runner share: the plan, its sessions, its liveness, and the constants' tensors."""

    def __init__(self, plan: Manifest, sessions: Sessions) -> None:
        self.plan = plan
        self.sessions = sessions
        self.live = live_before(plan)
        self.expected_ms = plan.profile.expected_ms if plan.profile is not None else {}
        self.exits = {name: index for index, name in enumerate(plan.exits)}
        self.models = sum(segment.model is not None for segment in plan.segments.values())
        self.constants: dict[str, Cell] = {}
        for name, constant in plan.constants.items():
            cell = allocate(f"constant {name!r}", constant.dtype, constant.shape)
            cell.array[...] = np.array(constant.data, constant.dtype).reshape(constant.shape)
            self.constants[name] = cell

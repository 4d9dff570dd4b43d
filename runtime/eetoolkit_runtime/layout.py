"""What all workspaces of a runner share: the plan with what is worked out of it once, and places for tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from eetoolkit_runtime.liveness import live_before
from eetoolkit_runtime.plan import Manifest
from eetoolkit_runtime.sessions import Sessions

Array = npt.NDArray[Any]


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


class Layout:
    """What all workspaces of a runner share: the plan, its sessions, its liveness, and the constants' tensors."""

    def __init__(self, plan: Manifest, sessions: Sessions) -> None:
        self.plan = plan
        self.sessions = sessions
        self.live = live_before(plan)
        self.exits = {name: index for index, name in enumerate(plan.exits)}
        self.models = sum(segment.model is not None for segment in plan.segments.values())
        self.constants: dict[str, Cell] = {}
        for name, constant in plan.constants.items():
            cell = Cell(
                ort.OrtValue.ortvalue_from_shape_and_type(list(constant.shape), np.dtype(constant.dtype)), fixed=True
            )
            cell.array[...] = np.array(constant.data, constant.dtype).reshape(constant.shape)
            self.constants[name] = cell

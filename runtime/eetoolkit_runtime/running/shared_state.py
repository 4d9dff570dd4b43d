"""What all workspaces of a runner share, worked out once."""

from __future__ import annotations

import numpy as np

from eetoolkit_runtime.plan.flow import live_before
from eetoolkit_runtime.plan.types import Manifest
from eetoolkit_runtime.running.executor import Executors
from eetoolkit_runtime.running.tensors import Cell, allocate


class SharedState:
    """The plan of a runner, what runs its segments, what is still looked at where, and the constants' tensors."""

    def __init__(self, plan: Manifest, executors: Executors) -> None:
        self.plan = plan
        self.executors = executors
        self.live = live_before(plan)
        self.expected_ms = plan.profile.expected_ms if plan.profile is not None else {}
        self.exits = {name: index for index, name in enumerate(plan.exits)}
        self.models = sum(segment.model is not None for segment in plan.segments.values())
        self.constants: dict[str, Cell] = {}
        for name, constant in plan.constants.items():
            cell = allocate(f"constant {name!r}", constant.dtype, constant.shape)
            cell.array[...] = np.array(constant.data, constant.dtype).reshape(constant.shape)
            self.constants[name] = cell

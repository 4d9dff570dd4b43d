"""Small networks, each with one peculiar form of inputs, outputs or control flow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from networks.case import Array, Case, Inputs, digits, features, pixels, seeded


class Layers(nn.Module):
    """Three layers and three heads over a vector of 64."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 32)])
        self.heads = nn.ModuleList([nn.Linear(32, classes) for _ in range(3)])

    def states(self, x: Tensor) -> list[Tensor]:
        """Returns what each layer gives."""
        found = []
        for layer in self.layers:
            x = torch.relu(layer(x))
            found.append(x)
        return found

    def logits(self, x: Tensor) -> list[Tensor]:
        """Returns what each head gives."""
        return [head(state) for head, state in zip(self.heads, self.states(x), strict=True)]


class AsDict(Layers):
    """Exits by name, the deepest first."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        early, middle, late = self.logits(x)
        return {"late": late, "early": early, "middle": middle}


class AsList(Layers):
    """Exits in a list, one of them None."""

    def forward(self, x: Tensor) -> list[Tensor | None]:
        early, middle, late = self.logits(x)
        return [early, None, middle, late]


class DeepFirst(Layers):
    """Exits in a tuple, the deepest first."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(reversed(self.logits(x)))


class Detector(Layers):
    """Two outputs an exit, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.corners = nn.ModuleList([nn.Linear(32, 4), nn.Linear(32, 4)])

    def forward(self, x: Tensor) -> dict[str, dict[str, Tensor]]:
        states = self.states(x)
        return {
            name: {"boxes": corners(state).sigmoid(), "logits": head(state)}
            for name, corners, head, state in zip(
                ("small", "large"), self.corners, self.heads[:2], states[:2], strict=True
            )
        }


class DictsInTuple(Detector):
    """Two outputs an exit, the exits in a tuple."""

    def forward(self, x: Tensor) -> tuple[dict[str, Tensor], ...]:
        return tuple(super().forward(x).values())


class Single(Layers):
    """One tensor, and so one exit."""

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(x)[2]


class Refining(Layers):
    """Each head refines the logits before it: an exit is what crosses the boundary as well."""

    def __init__(self) -> None:
        super().__init__()
        self.refine = nn.ModuleList([nn.Linear(10, 10), nn.Linear(10, 10)])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        first = self.heads[0](self.states(x)[0])
        second = first + self.refine[0](first).tanh()
        return first, second, second + self.refine[1](second).tanh()


class Twice(Layers):
    """One tensor returned as two exits."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        early, _, late = self.logits(x)
        return {"early": early, "again": early, "late": late, "later": late}


class ReturnsInput(Layers):
    """The input itself is the first exit."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x, *self.logits(x)[1:])


class Mixed(nn.Module):
    """Inputs of three dtypes, one of them read only by the last exit, and one that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds = nn.Embedding(17, 8)
        self.layers = nn.ModuleList([nn.Linear(72, 32), nn.Linear(32 + 64, 32)])
        self.heads = nn.ModuleList([nn.Linear(32, 10), nn.Linear(32, 10)])

    def forward(self, x: Tensor, kind: Tensor, unread: Tensor, flags: Tensor) -> tuple[Tensor, Tensor]:
        first = torch.relu(self.layers[0](torch.cat([x, self.kinds(kind)], 1)))
        second = torch.relu(self.layers[1](torch.cat([first, flags.to(x.dtype)], 1)))
        return self.heads[0](first), self.heads[1](second)


class Picked(Layers):
    """The number of values that cross the boundary depends on the data."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = torch.relu(self.layers[0](x))
        mask = first > 0.3
        picked = first[mask]
        second = torch.relu(self.layers[1](torch.zeros_like(first).masked_scatter(mask, picked.sqrt())))
        third = torch.relu(self.layers[2](second.masked_scatter(mask, picked.square())))
        return self.heads[1](second), self.heads[2](third)


class Branching(Layers):
    """A `torch.cond` between two exits, which reads from before the boundary."""

    LIMIT = 0.28

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = torch.relu(self.layers[0](x))
        second = torch.cond(
            first.mean() > self.LIMIT, lambda h: torch.relu(self.layers[1](h)), lambda h: torch.tanh(h) - 0.5, (first,)
        )
        return self.heads[0](first), self.heads[1](torch.relu(self.layers[2](second + first)))


class Looping(Layers):
    """A `torch.while_loop` between two exits, whose number of steps depends on the data."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = torch.relu(self.layers[0](x))

        def more(step: Tensor, h: Tensor) -> Tensor:
            return torch.logical_and(step < 6, h.mean() < 0.6)

        def once(step: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
            return step + 1, h * 1.25 + 0.01

        _, second = torch.while_loop(more, once, (torch.zeros((), dtype=torch.int64), first))
        return self.heads[0](first), self.heads[1](torch.tanh(self.layers[1](second)))


class Double(Layers):
    """A network in float64."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.logits(x.to(torch.float64)))


class Probabilities(Layers):
    """Exits on two other scales than logits."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        early, _, late = self.logits(x)
        return {"early": early.softmax(-1), "late": late.log_softmax(-1)}


class PerStep(nn.Module):
    """A class for every step of a sequence, at the last axis (batch, step, class)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv1d(8, 12, 3, padding=1), nn.Conv1d(12, 12, 3, padding=1)])
        self.heads = nn.ModuleList([nn.Linear(12, 6), nn.Linear(12, 6)])

    def forward(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        first = torch.relu(self.layers[0](steps.transpose(1, 2)))
        second = torch.relu(self.layers[1](first))
        return self.heads[0](first.transpose(1, 2)), self.heads[1](second.transpose(1, 2))


class Dead(Layers):
    """An expensive output beside the exits, which `exits=` leaves out."""

    UNUSED_BYTES = 32 * 4096 * 4

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(32, 4096, bias=False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        early, middle, late = self.logits(x)
        return {"early": early, "auxiliary": self.unused(self.states(x)[0]), "middle": middle, "late": late}


def _mixed_random(rng: np.random.Generator, rows: int, length: int | None) -> Inputs:
    return _mixed(rng.standard_normal((rows, 64)).astype(np.float32), rng.integers(0, 17, rows))


def _mixed_real(rows: int, length: int | None) -> Inputs:
    return _mixed(digits(rows).reshape(rows, 64), pixels(rows, 24)[:, 20])


def _mixed(x: Array, kind: Array) -> Inputs:
    return {"x": x, "kind": kind, "unread": np.ones((len(x), 3), np.float32), "flags": x > 0.5}


def _steps_random(rng: np.random.Generator, rows: int, length: int | None) -> Inputs:
    return {"steps": rng.standard_normal((rows, length or 8, 8)).astype(np.float32)}


def _steps_real(rows: int, length: int | None) -> Inputs:
    return {"steps": np.resize(digits(rows)[:, 0], (rows, length or 8, 8))}


def _double(folder: Path) -> Any:
    return seeded(Double)(folder).double()


_SCALES = {"early": "probs", "late": "log_probs"}

CASES = (
    Case("dict", seeded(AsDict), *features(), exits=("early", "middle", "late")),
    Case("list", seeded(AsList), *features(), exits=("exit0", "exit2", "exit3")),
    Case("deep_first", seeded(DeepFirst), *features(), exits=("exit2", "exit1", "exit0")),
    Case("dict_of_dicts", seeded(Detector), *features(), exits=("small", "large")),
    Case("tuple_of_dicts", seeded(DictsInTuple), *features(), exits=("exit0", "exit1")),
    Case("single_exit", seeded(Single), *features(), exits=("exit0",)),
    Case("exit_is_boundary", seeded(Refining), *features(), exits=("exit0", "exit1", "exit2")),
    Case("same_tensor_twice", seeded(Twice), *features(), exits=("early", "again", "late", "later")),
    Case("exit_is_input", seeded(ReturnsInput), *features(), exits=("exit0", "exit1", "exit2")),
    Case("mixed_inputs", seeded(Mixed), _mixed_random, _mixed_real, exits=("exit0", "exit1")),
    Case("data_dependent", seeded(Picked), *features(), exits=("exit0", "exit1")),
    Case("cond_inside", seeded(Branching), *features(), exits=("exit0", "exit1")),
    Case("while_loop_inside", seeded(Looping), *features(), exits=("exit0", "exit1")),
    Case("float64", _double, *features(), exits=("exit0", "exit1", "exit2")),
    Case("probabilities", seeded(Probabilities), *features(), exits=("early", "late"), scales=_SCALES),
    Case(
        "per_step", seeded(PerStep), _steps_random, _steps_real, exits=("exit0", "exit1"), axis=-1,
        options={"dynamic_shapes": {"steps": {1: "length"}}}, lengths=(1, 3, 20),
    ),
    Case(
        "dead_branch", seeded(Dead), *features(), exits=("early", "middle", "late"),
        options={"exits": ["early", "middle", "late"]},
    ),
)  # fmt: skip

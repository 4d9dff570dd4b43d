"""Heads: what they gather from features of any layout, and how they classify it.

A kind is spelled by what is gathered, with `+` between: `mean` and `max` over positions, `grid` (means of 2 x 2 parts
of an image, of four parts of a signal), the `first` or the `last` step of a sequence; `mlp` behind them asks for a
hidden layer. Only steps that a mask keeps count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from eetoolkit_runtime.errors import ExportError

HIDDEN = 64
"""The width of the hidden layer of a head with `mlp`."""
DENSE = "dense"
"""The kind that answers at every position."""
WHOLE = "whole"
"""What a head of the user's own gathers."""
_PARTS = ("mean", "max", "grid", "first", "last")
_BINS = {1: 4, 2: 2}


@dataclass(frozen=True)
class FeatureLayout:
    """How features lie: their sizes (None: dynamic), and the axes of their rows and channels."""

    sizes: tuple[int | None, ...]
    rows: int
    channels: int

    @property
    def positions(self) -> list[int]:
        """The axes that are neither."""
        return [axis for axis in range(len(self.sizes)) if axis not in (self.rows, self.channels)]

    @property
    def is_sequence(self) -> bool:
        """Whether they are steps with their channels last."""
        return len(self.positions) == 1 and self.channels == len(self.sizes) - 1

    @property
    def has_grid(self) -> bool:
        """Whether their positions can be parted."""
        sizes = [self.sizes[axis] for axis in self.positions]
        least = _BINS.get(len(sizes), 0)
        return least > 0 and all(size is not None and size >= least for size in sizes) and not self.is_sequence


def kinds_of(layout: FeatureLayout) -> tuple[str, ...]:
    """Returns the kinds of heads that may stand behind features, cheap ones first."""
    if not layout.positions:
        return ("mean",)
    if layout.is_sequence:
        return ("first", "last", "mean", "mean+max")
    return ("mean", "mean+max", *(["mean+max+grid"] if layout.has_grid else []))


def parts_of(kind: str) -> tuple[list[str], bool]:
    """Returns what a kind of head gathers, and whether it has a hidden layer.

    Raises:
        ExportError: A kind that does not exist.
    """
    parts = kind.split("+")
    hidden = parts[-1] == "mlp"
    gathered = parts[:-1] if hidden else parts
    if not gathered or any(part not in _PARTS for part in gathered):
        raise ExportError(
            f"head is {kind!r}, expected {', '.join(_PARTS)}, or some with + between, such as 'mean+max'; +mlp adds a "
            "hidden layer"
        )
    return gathered, hidden


class Gather(nn.Module):
    """One thing that a head gathers from features, (batch, width); without parameters.

    Args:
        part: One that `parts_of` returns.
        layout: Of the features.
        keeps: Whether True in the mask marks steps that count, or those that do not.

    Raises:
        ExportError: Features that have no such part.
    """

    def __init__(self, part: str, layout: FeatureLayout, *, keeps: bool = True) -> None:
        super().__init__()
        if part == "grid" and not layout.has_grid:
            raise ExportError(f"features of shape {list(layout.sizes)} have no grid: it needs positions of fixed sizes")
        if part in ("first", "last") and not layout.is_sequence:
            raise ExportError(f"features of shape {list(layout.sizes)} are no sequence: they have no {part} step")
        self.part, self.layout, self.keeps = part, layout, keeps

    def forward(self, features: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Returns (batch, width), float32."""
        layout, axes, kept = self.layout, self.layout.positions, None
        features = features.to(torch.float32)
        if mask is not None:
            kept = mask != 0 if self.keeps else mask == 0
            kept = (kept if layout.rows < axes[0] else kept.T).unsqueeze(layout.channels)
        match self.part:
            case "grid":
                return self._grid(features)
            case "first" | "last" if kept is not None:
                counts = kept.to(torch.int64).cumsum(axes[0])
                end = 1 if self.part == "first" else counts.amax(axes[0], keepdim=True)
                found = torch.where(kept & (counts == end), features, 0).sum(axes)
            case "first" | "last":
                found = features.select(axes[0], 0 if self.part == "first" else -1)
            case "mean" if kept is not None:
                weights = kept.to(torch.float32)
                found = (features * weights).sum(axes) / weights.sum(axes).clamp(min=1)
            case "max" if kept is not None:
                low = torch.finfo(features.dtype).min
                found = torch.where(kept, features, low).amax(axes)
                found = torch.where(kept.any(axes[0]), found, 0)  # a mask may keep nothing of a row
            case "mean":
                found = features.mean(axes) if axes else features
            case _:
                found = features.amax(axes)
        return found if layout.rows < layout.channels else found.T

    def _grid(self, features: torch.Tensor) -> torch.Tensor:
        layout = self.layout
        x = features.movedim((layout.rows, layout.channels), (0, 1))
        sizes, bins = [int(layout.sizes[axis] or 0) for axis in layout.positions], _BINS[len(layout.positions)]
        stride = [size // bins for size in sizes]
        kernel = [size - (bins - 1) * step for size, step in zip(sizes, stride, strict=True)]
        pool = nn.functional.avg_pool1d if len(sizes) == 1 else nn.functional.avg_pool2d
        return torch.flatten(pool(x, kernel, stride), 1)


class Everywhere(nn.Module):
    """Every position of features as a row of its own kind, (batch, width, positions...), at the answer's positions.

    Args:
        layout: Of the features.
        size: The answer's positions; None: as many as the features have.
    """

    def __init__(self, layout: FeatureLayout, size: Sequence[int] | None) -> None:
        super().__init__()
        self.layout, self.size = layout, size

    def forward(self, features: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:  # noqa: ARG002
        """Returns (batch, width, positions...), float32."""
        x = features.to(torch.float32).movedim((self.layout.rows, self.layout.channels), (0, 1))
        if self.size is None:
            return x
        return nn.functional.interpolate(x, list(self.size), mode="bilinear" if x.ndim == 4 else "linear")


class Whole(nn.Module):
    """All features as they are, for a head of the user's own."""

    def forward(self, features: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:  # noqa: ARG002
        """Returns them."""
        return features


class Pointwise(nn.Module):
    """A linear layer at every position, as a convolution of size 1: (batch, width, positions...).

    Args:
        width: Of what is gathered.
        classes: How many there are.
        axis: Where the network's answer has them.
    """

    def __init__(self, width: int, classes: int, axis: int) -> None:
        super().__init__()
        self.linear, self.axis = nn.Linear(width, classes, dtype=torch.float32), axis

    def forward(self, gathered: torch.Tensor) -> torch.Tensor:
        """Returns logits laid out as the network's answer."""
        convolve = nn.functional.conv1d if gathered.ndim == 3 else nn.functional.conv2d
        weight = self.linear.weight[(..., *[None] * (gathered.ndim - 2))]
        return convolve(gathered, weight, self.linear.bias).movedim(1, self.axis)


class Head(nn.Module):
    """A head: what it gathers, side by side, and what classifies that.

    Args:
        kind: As it is spelled; of a module of the user's own, its class.
        gathers: From features (and a mask) to what is classified, by name.
        classify: From that to logits.
        fitted: Whether `classify` has been trained.
    """

    def __init__(
        self, kind: str, gathers: Sequence[tuple[str, nn.Module]], classify: nn.Module, *, fitted: bool = False
    ) -> None:
        super().__init__()
        self.kind, self.parts, self.fitted = kind, tuple(name for name, _ in gathers), fitted
        self.gathers, self.classify = nn.ModuleList(gather for _, gather in gathers), classify
        self.eval()

    def forward(self, features: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Returns logits."""
        gathered = [gather(features, mask) for gather in self.gathers]
        logits: torch.Tensor = self.classify(torch.cat(gathered, 1) if len(gathered) > 1 else gathered[0])
        return logits


def classifier(width: int, classes: int, *, hidden: bool) -> nn.Module:
    """Returns a linear layer, or two with a hidden one between, whose weights are drawn from seed 0."""
    sizes = [(width, HIDDEN), (HIDDEN, classes)] if hidden else [(width, classes)]
    layers = [nn.Linear(*size, dtype=torch.float32) for size in sizes]
    found = nn.Sequential(layers[0], nn.ReLU(), layers[1]) if hidden else layers[0]
    draw_weights(found)
    return found


def draw_weights(classify: nn.Module) -> None:
    """Draws the weights of a classifier of ours anew, from seed 0."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for layer in classify.modules():
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()

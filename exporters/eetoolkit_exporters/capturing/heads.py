"""Heads of attached exits: one linear layer on features of whatever layout, for outputs of one answer or many."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from eetoolkit_runtime.errors import ExportError

_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd, nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd,
)  # fmt: skip
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.Embedding)
_SEQUENCES = (nn.RNNBase, nn.MultiheadAttention)


@dataclass(frozen=True)
class Layout:
    """How a layer laid out what it gave: its rank, the axis and number of its channels, the axis of its rows."""

    rank: int
    channels: int
    width: int
    rows: int = 0


@dataclass(frozen=True)
class Form:
    """What a head does, which its first features decide.

    Attributes:
        channels: The features' axis of channels.
        rows: Their axis of rows.
        dense: Whether it answers at every position, as the backbone does.
        classes: The axis of the classes in the backbone's answer.
        resize: Whether positions are interpolated to the backbone's.
        masked: Whether the mean leaves out steps that the attention mask leaves out.
    """

    channels: int
    rows: int
    dense: bool
    classes: int
    resize: bool
    masked: bool


def layout_after(module: nn.Module, output: torch.Tensor, before: Layout | None) -> Layout | None:
    """Returns the layout of what a layer gave, where its kind tells; else that of what came before it."""
    rank = output.ndim
    if isinstance(module, _SEQUENCES) and rank == 3:
        return Layout(rank, 2, output.shape[2], rows=0 if module.batch_first else 1)
    if isinstance(module, _CHANNELS_FIRST) and rank > 1:
        return Layout(rank, 1, output.shape[1])
    if isinstance(module, _CHANNELS_LAST) and rank > 1:
        kept = before.rows if before is not None and before.rank == rank and before.channels == rank - 1 else 0
        return Layout(rank, rank - 1, output.shape[-1], kept)
    return before


class Head(nn.Module):
    """Mean over positions, then one linear layer whose width is inferred from the first batch.

    Features may be (batch, channels), images and signals with their channels first, or tokens and states with their
    channels last: which of them, the layers before say. Where the backbone itself answers at every position (a
    segmentation, a tag for every token) so does the head, without the mean.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.LazyLinear(num_classes)
        self.num_classes = num_classes
        self.form: Form | None = None

    def settle(
        self, path: str, features: torch.Tensor, seen: Layout | None, final: torch.Tensor, kept: torch.Tensor | None
    ) -> None:
        """Decides what the head does, once.

        Args:
            path: Where it stands.
            features: What it is given.
            seen: The layout that the last layer of a known kind gave.
            final: What the backbone answers.
            kept: Which steps of a sequence count, (batch, steps).

        Raises:
            ExportError: Features or an answer that no such head fits.
        """
        if self.form is not None:
            return
        rank = features.ndim
        if rank < 2:
            raise _unfit(path, f"its output has the shape {list(features.shape)}, expected (batch, ...)")
        channels = _channels(features, seen)
        rows = seen.rows if seen is not None and seen.rank == rank and seen.channels == channels else 0
        dense = final.ndim > 2
        classes = self._classes(path, final) if dense else 1
        resize = False
        if dense:
            if rank != final.ndim:
                raise _unfit(path, f"its output is {list(features.shape)}, the backbone answers {list(final.shape)}")
            resize = _positions(features, channels) != _positions(final, classes)
            if resize and rank == 3:
                raise _unfit(
                    path, f"it has {features.shape[3 - channels]} steps, the backbone answers {list(final.shape)}"
                )
        self.form = Form(channels, rows, dense, classes, resize, not dense and self._masked(path, features, rows, kept))

    def forward(
        self, features: torch.Tensor, kept: torch.Tensor | None = None, final: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Returns logits: (batch, classes), or of the shape of what the backbone answers."""
        form = self.form
        if form is None:
            raise ExportError("the head was never called behind its backbone, which says what it is to do")
        if form.dense:
            return self._everywhere(form, features, final)
        if form.masked and kept is not None:
            tokens = features.movedim(form.channels, -1).movedim(form.rows, 0)
            weights = kept.to(tokens.dtype)[..., None]
            features = (tokens * weights).sum(1) / weights.sum(1).clamp(min=1)
        elif positions := [axis for axis in range(features.ndim) if axis not in (form.rows, form.channels)]:
            features = features.mean(positions)
        logits: torch.Tensor = self.linear(features)
        return logits

    def _everywhere(self, form: Form, features: torch.Tensor, final: torch.Tensor | None) -> torch.Tensor:
        logits: torch.Tensor = self.linear(features.movedim(form.channels, -1)).movedim(-1, 1)
        if form.resize and final is not None:
            size = final.movedim(form.classes, 1).shape[2:]
            logits = nn.functional.interpolate(logits, size, mode="bilinear" if logits.ndim == 4 else "nearest")
        return logits.movedim(1, form.classes)

    def _classes(self, path: str, final: torch.Tensor) -> int:
        axes = [axis for axis in (1, final.ndim - 1) if final.shape[axis] == self.num_classes]
        if len(axes) != 1:
            raise _unfit(
                path, f"the backbone answers {list(final.shape)}, where one axis must be {self.num_classes} classes"
            )
        return axes[0]

    def _masked(self, path: str, features: torch.Tensor, rows: int, kept: torch.Tensor | None) -> bool:
        if kept is None or features.ndim != 3:
            return False
        batch, steps = features.shape[rows], features.shape[1 - rows]
        if kept.shape != (batch, steps):
            raise _unfit(path, f"its output has {steps} steps, the attention mask is {list(kept.shape)}")
        return True


def _channels(features: torch.Tensor, seen: Layout | None) -> int:
    rank = features.ndim
    if seen is not None and seen.rank == rank:
        for axis in (seen.channels, 1, rank - 1):  # a permutation may follow the layer
            if features.shape[axis] == seen.width:
                return axis
    return rank - 1 if rank < 4 else 1


def _positions(tensor: torch.Tensor, channels: int) -> list[int]:
    return [size for axis, size in enumerate(tensor.shape) if axis not in (0, channels)]


def _unfit(path: str, why: str) -> ExportError:
    return ExportError(
        f"no head of ours fits {path!r}: {why}; give one of your own, attach_exits(backbone, {{{path!r}: head}})"
    )

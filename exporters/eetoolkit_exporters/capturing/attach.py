"""Exits for a trained network that has none: heads at module paths, trained with the backbone frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import nn

from eetoolkit_exporters.capturing.torch_source import to_tensor
from eetoolkit_runtime.errors import ExportError, did_you_mean

FINAL = "final"
"""The name of the exit that is the backbone's own output."""

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class PooledHead(nn.Module):
    """Mean over positions, then one linear layer whose width is inferred from the first batch.

    Features of shape (batch, channels, height, width) are averaged over height and width, (batch, tokens, channels)
    over tokens, (batch, channels) not at all.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.LazyLinear(num_classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Returns logits of shape (batch, num_classes)."""
        if features.ndim == 4:
            features = features.mean((2, 3))
        elif features.ndim == 3:
            features = features.mean(1)
        logits: torch.Tensor = self.linear(features)
        return logits


class MultiExit(nn.Module):
    """A backbone with heads on the outputs of some of its modules; made by `attach_exits`."""

    def __init__(self, backbone: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.backbone = backbone
        self.paths = tuple(heads)
        self.heads = nn.ModuleList(heads.values())
        self.train(backbone.training)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Returns each head's output by its path, and the backbone's own as `final`."""
        features, final = self.features(*args, **kwargs)
        return {**self.answer(features), FINAL: final}

    def answer(self, features: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Returns each head's output by its path."""
        return {path: head(features[path]) for path, head in zip(self.paths, self.heads, strict=True)}

    def features(self, *args: Any, **kwargs: Any) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Returns what the modules at the paths gave, and the backbone's own output.

        Raises:
            ExportError: A module that was not called, or that gives no tensor.
        """
        found: dict[str, torch.Tensor] = {}
        handles = [self.backbone.get_submodule(path).register_forward_hook(_keep(path, found)) for path in self.paths]
        try:
            output = self.backbone(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
        if missing := [path for path in self.paths if path not in found]:
            raise ExportError(f"the backbone did not call {', '.join(missing)} for this input: no exit can be there")
        return found, _tensor_of(output, "the backbone's output")


def attach_exits(
    backbone: nn.Module, heads: Mapping[str, nn.Module] | Sequence[str], num_classes: int | None = None
) -> MultiExit:
    """Returns the backbone with an exit at each path, its code untouched; its own output is the exit `final`.

    Args:
        backbone: A trained network with one output.
        heads: For each module path (as in `named_modules`) a head that takes that module's output; or only the paths,
            for a mean over positions and one linear layer each, to be trained with `fit_exits`.
        num_classes: The width of those heads.

    Raises:
        ExportError: No such module, no heads, or paths without `num_classes`.
    """
    if not heads or isinstance(heads, str):
        raise ExportError(f"heads is {heads!r}, expected module paths, or a mapping from paths to heads")
    known = dict(backbone.named_modules())
    for path in heads:
        if not path or path not in known:
            paths = [name for name in known if name]
            near = [name for name in paths if path.rsplit(".", 1)[-1] in name] or paths
            meant = did_you_mean(path, paths)
            raise ExportError(f"the backbone has no module {path!r}; it has {', '.join(near[:8])}{meant}")
    if FINAL in heads:
        raise ExportError(f"{FINAL!r} is what the backbone's own output is called; no head can stand at that path")
    if len(set(heads)) != len(heads):
        raise ExportError(f"a path stands twice in {list(heads)}")
    if isinstance(heads, Mapping):
        return MultiExit(backbone, heads)
    if num_classes is None or num_classes < 2:
        raise ExportError(f"num_classes is {num_classes}, expected at least 2: the heads need their width")
    return MultiExit(backbone, {path: PooledHead(num_classes) for path in heads})


def fit_exits(
    model: MultiExit,
    batches: Iterable[tuple[Any, Any]],
    *,
    epochs: int = 1,
    learning_rate: float = 1e-3,
    loss: Loss = nn.functional.cross_entropy,
    progress: bool | None = None,
) -> list[dict[str, float]]:
    """Trains the heads alone (Adam) and leaves the model in evaluation mode.

    The backbone is frozen: no gradients, evaluation mode, so that neither its parameters nor its BatchNorm statistics
    change. Each head has its own loss, so they do not disturb each other.

    Args:
        model: What `attach_exits` returned.
        batches: Pairs of inputs (a tensor, a tuple, or a mapping of keywords) and labels; gone through once per epoch.
        epochs: How often.
        learning_rate: Adam's.
        loss: From a head's output and the labels to a number.
        progress: Whether to show a bar on stderr; None: on a terminal.

    Returns:
        Each head's mean loss, per epoch.

    Raises:
        ExportError: Not a model of `attach_exits`, no batches, or labels that the loss does not take.
    """
    if not isinstance(model, MultiExit):
        raise ExportError(f"fit_exits takes what attach_exits returned, got {type(model).__name__}")
    model.backbone.eval()
    model.heads.train()
    optimizer: torch.optim.Optimizer | None = None
    history: list[dict[str, float]] = []
    console = Console(stderr=True)
    shown = console.is_terminal if progress is None else progress
    total = len(batches) if isinstance(batches, Sized) else None
    with Progress(console=console, disable=not shown, transient=True) as bar:
        for epoch in range(epochs):
            sums, rows = dict.fromkeys(model.paths, 0.0), 0
            for inputs, labels in bar.track(batches, total=total, description=f"epoch {epoch + 1} of {epochs}"):
                target = to_tensor(labels)
                with torch.no_grad():
                    features, _ = _call(model.features, inputs)
                    if optimizer is None:  # lazy heads have their widths after their first batch
                        model.answer(features)
                        optimizer = torch.optim.Adam(model.heads.parameters(), learning_rate)
                losses = _losses(loss, model.answer(features), target)
                optimizer.zero_grad()
                torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                rows += len(target)
                for path, value in losses.items():
                    sums[path] += float(value.detach()) * len(target)
            if rows == 0:
                fix = "pass a list or a DataLoader, which can be gone through again"
                raise ExportError(f"batches is empty in epoch {epoch + 1}: {fix}")
            history.append({path: value / rows for path, value in sums.items()})
    model.eval()
    return history


def _losses(loss: Loss, outputs: Mapping[str, torch.Tensor], target: torch.Tensor) -> dict[str, torch.Tensor]:
    try:
        return {path: loss(output, target) for path, output in outputs.items()}
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        labels = f"{tuple(target.shape)} {target.dtype}, {target.min()} to {target.max()}" if target.numel() else "none"
        shapes = ", ".join(str(tuple(output.shape)) for output in outputs.values())
        said = " ".join(str(error).split())
        raise ExportError(f"the loss of heads of shape {shapes} fails on labels ({labels}): {said}") from error


def _call(function: Callable[..., Any], inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return function(**{name: to_tensor(value) for name, value in inputs.items()})
    if isinstance(inputs, tuple | list):
        return function(*(to_tensor(value) for value in inputs))
    return function(to_tensor(inputs))


def _keep(path: str, found: dict[str, torch.Tensor]) -> Callable[[nn.Module, Any, Any], None]:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        found[path] = _tensor_of(output, f"the output of {path}")

    return hook


def _tensor_of(output: Any, what: str) -> torch.Tensor:
    """Returns the tensor, the first of a tuple, or the `logits` or only entry of a mapping."""
    if isinstance(output, Mapping):
        output = output.get("logits", next(iter(output.values()), None) if len(output) == 1 else None)
    elif isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, torch.Tensor):
        raise ExportError(f"{what} is {type(output).__name__}, expected a tensor, a tuple of them, or `logits`")
    return output

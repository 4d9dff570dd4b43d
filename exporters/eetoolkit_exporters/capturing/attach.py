"""Exits for a trained network that has none: heads at module paths, trained with the backbone frozen."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import nn

from eetoolkit_exporters.capturing.heads import Head, Layout, layout_after
from eetoolkit_exporters.capturing.torch_source import parameters_of, to_tensor
from eetoolkit_runtime.arguments import checked
from eetoolkit_runtime.errors import EEToolkitError, ExportError, did_you_mean, first_line

FINAL = "final"
"""The name of the exit that is the backbone's own output."""

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


_MASKS = {
    "attention_mask": True, "input_mask": True, "mask": True,
    "key_padding_mask": False, "src_key_padding_mask": False, "padding_mask": False,
}  # fmt: skip
"""What `forward` may call a mask of shape (batch, steps), and whether it marks the steps that count."""


@dataclass(frozen=True)
class Seen:
    """What the backbone gave: outputs by path with their layouts, its answer, and which steps of a sequence count."""

    features: Mapping[str, torch.Tensor]
    layouts: Mapping[str, Layout | None]
    final: torch.Tensor
    kept: torch.Tensor | None


class MultiExit(nn.Module):
    """A backbone with heads on the outputs of some of its modules; made by `attach_exits`."""

    def __init__(self, backbone: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.backbone = backbone
        self.paths = tuple(heads)
        self.heads = nn.ModuleList(heads.values())
        self.last_exit = FINAL
        self.train(backbone.training)

    @property
    def stands_for(self) -> nn.Module:
        """Returns the module whose inputs it takes."""
        return self.backbone

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Returns each head's output by its path, and the backbone's own as `final`."""
        seen = self.features(*args, **kwargs)
        return {**self.answer(seen), FINAL: seen.final}

    def answer(self, seen: Seen) -> dict[str, torch.Tensor]:
        """Returns each head's output by its path."""
        found = {}
        for path, head in zip(self.paths, self.heads, strict=True):
            features = seen.features[path]
            if isinstance(head, Head):
                head.settle(path, features, seen.layouts[path], seen.final, seen.kept)
                found[path] = head(features, seen.kept, seen.final)
            else:
                found[path] = head(features)
        return found

    def features(self, *args: Any, **kwargs: Any) -> Seen:
        """Returns what the modules at the paths gave, and the backbone's own output.

        Raises:
            ExportError: A module that was not called, or more than once where its path has no number; no tensor.
        """
        watch = _Watch(self.backbone, self.paths)
        try:
            output = self.backbone(*args, **kwargs)
        finally:
            watch.close()
        found = {path: watch.take(path) for path in self.paths}
        features = {path: tensor for path, (tensor, _) in found.items()}
        layouts = {path: layout for path, (_, layout) in found.items()}
        return Seen(features, layouts, _tensor_of(output, "the backbone's output"), self._kept(args, kwargs))

    def _kept(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.Tensor | None:
        given = dict(zip(parameters_of(self.backbone)[0], args, strict=False)) | dict(kwargs)
        for name, keeps in _MASKS.items():
            mask = given.get(name)
            if isinstance(mask, torch.Tensor) and mask.ndim == 2:
                return mask != 0 if keeps else mask == 0
        return None


class _Watch:
    """What modules give while the backbone runs, call by call, each with its layout."""

    def __init__(self, backbone: nn.Module, paths: Sequence[str]) -> None:
        self._calls: dict[str, list[tuple[Any, Layout | None]]] = {module_of(path)[0]: [] for path in paths}
        self._layout: Layout | None = None
        leaves = [module for module in backbone.modules() if not list(module.children())]
        self._handles = [module.register_forward_hook(self._look) for module in (*leaves, *_sequences(backbone))]
        self._handles += [
            backbone.get_submodule(path).register_forward_hook(functools.partial(self._keep, path))
            for path in self._calls
        ]

    def close(self) -> None:
        """Stops watching."""
        for handle in self._handles:
            handle.remove()

    def take(self, path: str) -> tuple[torch.Tensor, Layout | None]:
        """Returns what the module at a path gave."""
        name, number = module_of(path)
        calls = self._calls[name]
        if not calls:
            raise ExportError(f"the backbone did not call {name} for this input: no exit can be there")
        if number is None and len(calls) > 1:
            raise ExportError(
                f"the backbone calls {name} {len(calls)} times: say after which call, '{name}:0' to "
                f"'{name}:{len(calls) - 1}'"
            )
        if number is not None and number >= len(calls):
            raise ExportError(f"{path}: the backbone calls {name} {len(calls)} times, counted from 0")
        output, layout = calls[number or 0]
        return _tensor_of(output, f"the output of {path}"), layout

    def _look(self, module: nn.Module, _inputs: Any, output: Any) -> None:
        tensor = output[0] if isinstance(output, tuple) and output else output
        if isinstance(tensor, torch.Tensor):
            self._layout = layout_after(module, tensor, self._layout)

    def _keep(self, path: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self._calls[path].append((output, self._layout))


def _sequences(backbone: nn.Module) -> list[nn.Module]:
    return [module for module in backbone.modules() if isinstance(module, nn.MultiheadAttention)]


def module_of(path: str) -> tuple[str, int | None]:
    """Returns the module's own path, and the number of the call where the path ends in one (`layer:3`)."""
    name, colon, number = path.rpartition(":")
    return (name, int(number)) if colon and number.isdecimal() else (path, None)


@checked(ExportError, but=("heads",))
def attach_exits(
    backbone: nn.Module, heads: Mapping[str, nn.Module] | Sequence[str], num_classes: int | None = None
) -> MultiExit:
    """Returns the backbone with an exit at each path, its code untouched; its own output is the exit `final`.

    Args:
        backbone: A trained network with one output.
        heads: For each module path (as in `named_modules`) a head that takes that module's output; or only the paths,
            for a mean over positions and one linear layer each, to be trained with `fit_exits`. `layer:3` is the module
            `layer` when it is called for the fourth time. The mean leaves out what an `attention_mask` leaves out.
            Where the backbone answers at every position (a segmentation, tags of tokens) so do these heads.
        num_classes: The width of those heads.

    Raises:
        ExportError: No such module, no heads, or paths without `num_classes`.
    """
    if not isinstance(backbone, nn.Module):
        raise ExportError(f"backbone is {type(backbone).__name__}, expected a torch.nn.Module")
    if not heads or not isinstance(heads, Mapping | Sequence) or not all(isinstance(path, str) for path in heads):
        raise ExportError(f"heads is {heads!r}, expected module paths, or a mapping from paths to heads")
    if isinstance(heads, str | bytes) or (isinstance(heads, Mapping) and not _are_modules(heads.values())):
        raise ExportError(f"heads is {heads!r}, expected module paths, or a mapping from paths to heads")
    known = dict(backbone.named_modules())
    for path in heads:
        name = module_of(path)[0]
        if not name or name not in known:
            paths = [each for each in known if each]
            near = [each for each in paths if name.rsplit(".", 1)[-1] in each] or paths
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
    return MultiExit(backbone, {path: Head(num_classes) for path in heads})


def _are_modules(heads: Iterable[object]) -> bool:
    return all(isinstance(head, nn.Module) for head in heads)


@checked(ExportError, but=("model",))
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
    if epochs < 1 or not (math.isfinite(learning_rate) and learning_rate > 0):
        raise ExportError(f"epochs is {epochs} and learning_rate {learning_rate}, expected numbers above 0")
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
            for batch in bar.track(batches, total=total, description=f"epoch {epoch + 1} of {epochs}"):
                inputs, target = _pair(batch)
                with torch.no_grad():
                    seen = _call(model.features, inputs)
                    if optimizer is None:  # lazy heads have their widths after their first batch
                        model.answer(seen)
                        optimizer = torch.optim.Adam(model.heads.parameters(), learning_rate)
                losses = _losses(loss, model.answer(seen), target)
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


def _pair(batch: Any) -> tuple[Any, torch.Tensor]:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise ExportError(f"a batch is {type(batch).__name__}, expected a pair of inputs and labels")
    return batch[0], to_tensor(batch[1])


def _losses(loss: Loss, outputs: Mapping[str, torch.Tensor], target: torch.Tensor) -> dict[str, torch.Tensor]:
    try:
        return {path: loss(_for_loss(loss, output, target), target) for path, output in outputs.items()}
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        labels = f"{tuple(target.shape)} {target.dtype}, {target.min()} to {target.max()}" if target.numel() else "none"
        shapes = ", ".join(str(tuple(output.shape)) for output in outputs.values())
        said = " ".join(str(error).split())
        raise ExportError(f"the loss of heads of shape {shapes} fails on labels ({labels}): {said}") from error


def _for_loss(loss: Loss, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Returns (batch, classes, ...) for the cross entropy of classes that stand last, as those of tokens do."""
    tags = output.ndim > 2 and target.shape == output.shape[:-1]
    return output.movedim(-1, 1) if tags and loss is nn.functional.cross_entropy else output


def _call(function: Callable[..., Any], inputs: Any) -> Any:
    try:
        return _called(function, inputs)
    except EEToolkitError:
        raise
    except Exception as error:
        raise ExportError(f"the backbone fails on a batch: {first_line(error)}") from error


def _called(function: Callable[..., Any], inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return function(**{name: to_tensor(value) for name, value in inputs.items()})
    if isinstance(inputs, tuple | list):
        return function(*(to_tensor(value) for value in inputs))
    return function(to_tensor(inputs))


def _tensor_of(output: Any, what: str) -> torch.Tensor:
    """Returns the tensor, the first of a tuple, or the `logits` or only entry of a mapping."""
    if isinstance(output, Mapping):
        output = output.get("logits", next(iter(output.values()), None) if len(output) == 1 else None)
    elif isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, torch.Tensor):
        raise ExportError(f"{what} is {type(output).__name__}, expected a tensor, a tuple of them, or `logits`")
    return output

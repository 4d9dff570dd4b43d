"""Heads fitted to what they gather: full-batch L-BFGS, towards labels and the network's own answers."""

from __future__ import annotations

import copy
import hashlib
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from eetoolkit_exporters.attaching.attach import MultiExit
from eetoolkit_exporters.attaching.features import Features, Progress, gather_features
from eetoolkit_exporters.attaching.heads import WHOLE, Head, draw_weights
from eetoolkit_exporters.attaching.part import arrays_by_name
from eetoolkit_runtime.arguments import check_range, checked
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import ExportError, first_line
from eetoolkit_runtime.files.outfile import writing
from eetoolkit_runtime.plan.types import MOST_EXACT

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

HELD_OUT = 0.2
"""The share of rows on which weight decays are held against each other, and which fit nothing."""
SHARE = 0.9
"""How much the network's own answers count beside labels; they are as good as labels, and say more."""
_DECAYS = (1e3, 1e2, 10.0, 1.0, 0.1, 0.01, 1e-3)
_WORSE = 1.02  # times the best loss: weaker decays are not tried
_STEPS = 30
_BATCH = 8192  # rows whose features and gradients are in memory together
_LEAST_STD = 1e-6, 1e-4  # of a feature that varies, and that over its mean: what divides by less tells rounding


@dataclass(frozen=True)
class Fit:
    """How well a head fits.

    Attributes:
        loss: On the rows that fitted nothing, per row.
        decay: The weight decay that did best there.
    """

    loss: float
    decay: float


@dataclass(frozen=True, eq=False)
class Target:
    """What heads are to answer.

    Attributes:
        labels: (rows, ...), None where there are none.
        teacher: The network's own answers, log-probabilities over axis 1, (rows, classes, ...); None: they do not
            count.
        share: How much the teacher counts beside the labels, 0 to 1.
        loss: Of a head's output and labels; None: cross entropy.
        classes: The axis of a head's output that holds the classes.
    """

    labels: torch.Tensor | None
    teacher: torch.Tensor | None
    share: float
    loss: Loss | None = None
    classes: int = 1

    def of(self, logits: torch.Tensor, rows: Array | slice) -> torch.Tensor:
        """Returns the mean loss of a head's output (n, ...) for some rows."""
        found = torch.zeros(())
        if self.labels is not None and self.share < 1:
            loss = self.loss or self._cross_entropy
            found = found + (1 - self.share) * loss(logits, self.labels[rows])
        if self.teacher is not None and self.share > 0:
            own = nn.functional.log_softmax(logits.movedim(self.classes, 1), 1)
            found = found - self.share * (self.teacher[rows].exp() * own).sum(1).mean()
        return found

    def _cross_entropy(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(logits.movedim(self.classes, 1), labels)

    def digest(self, rows: Array, held_out: Array) -> str:
        """Returns what tells this target on these rows from others."""
        found = hashlib.blake2b(str(self.share).encode(), digest_size=12)
        for array in (rows, held_out, self.labels, self.teacher):
            found.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
        return found.hexdigest()


def are_probabilities(answers: Array) -> bool:
    """Whether answers over axis 1 are probabilities; else they are logits."""
    x = np.asarray(answers, np.float64)
    return bool(x.min(initial=0) >= 0) and np.allclose(x.sum(1), 1, atol=1e-3)


def log_probabilities(answers: Array) -> Array:
    """Returns answers over axis 1 as log-probabilities, whether they are logits or probabilities already."""
    x = np.asarray(answers, np.float64)
    if are_probabilities(x):
        return np.log(np.maximum(x, 1e-9)).astype(np.float32)
    x = x - x.max(1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(1, keepdims=True)), np.float32)


def fit_head(head: Head, gather: Callable[[Array], Array], target: Target, rows: Array, held_out: Array) -> Fit:
    """Trains what classifies in a head, and keeps the weights of the decay that does best on rows that fitted nothing.

    What is gathered is standardised for it; that goes into the first layer's weights afterwards. The head stays in
    evaluation mode: L-BFGS needs a loss that does not change by itself. A head of ours begins anew, a module of the
    user's own where it is, or as if it read standardised features where that is better.

    Args:
        head: The head; it is changed.
        gather: Returns what it gathers from the rows of these numbers, (n, ...), float32, an array of its own.
        target: What it is to answer.
        rows: The numbers of the rows that it is fitted to.
        held_out: Of the rows that choose the decay.

    Raises:
        ValueError: What it gathers, or the loss, is not finite.
    """
    x = _finite(gather, rows)
    judging, judged = (held_out, _finite(gather, held_out)) if len(held_out) else (rows, x)
    first = _first_linear(head.classify) if x.ndim == 2 else None
    if not any(parameter.requires_grad for parameter in head.classify.parameters()):
        return Fit(_mean_loss(head.classify, judged, target, judging), 0.0)
    mean, std = torch.zeros(()), torch.ones(())
    if first is not None:
        mean, std = x.mean(0), x.std(0, correction=0)
        least, least_share = _LEAST_STD
        std = torch.where(std > least + least_share * mean.abs(), std, torch.ones(()))
        for each in (x, judged) if judged is not x else (x,):
            each.sub_(mean).div_(std)
    _begin(head, first, mean, std, lambda: _mean_loss(head.classify, x, target, rows))
    best: tuple[Fit, dict[str, torch.Tensor]] | None = None
    start = copy.deepcopy(head.classify.state_dict())
    deep = sum(parameter.ndim > 1 for parameter in head.classify.parameters()) > 1
    for decay in _DECAYS:
        if deep:  # layers that a strong decay has brought to zero have no gradient
            head.classify.load_state_dict(start)
        _descend(head.classify, x, target, rows, decay)
        loss = _mean_loss(head.classify, judged, target, judging)
        if best is not None and not loss < best[0].loss * _WORSE:
            break
        if math.isfinite(loss) and (best is None or loss < best[0].loss):
            best = Fit(loss, decay), copy.deepcopy(head.classify.state_dict())
    if best is None:
        raise ValueError("its loss does not stay a finite number")
    head.classify.load_state_dict(best[1])
    if first is not None:
        _fold(first, std, mean)
    head.fitted = True
    return best[0]


def _finite(gather: Callable[[Array], Array], rows: Array) -> torch.Tensor:
    """Returns what is gathered from rows."""
    x = torch.from_numpy(gather(rows))
    if not torch.isfinite(x).all():
        row = rows[int((~torch.isfinite(x)).nonzero()[0, 0])]
        raise ValueError(f"row {row} gives it NaN or infinity")
    return x


def _first_linear(module: nn.Module) -> nn.Linear | None:
    """Returns the layer that can take on what standardises its input."""
    first = next(iter(module), None) if isinstance(module, nn.Sequential) else module
    plain = isinstance(first, nn.Linear) and all(parameter.requires_grad for parameter in first.parameters())
    return first if isinstance(first, nn.Linear) and plain and first.bias is not None else None


def _begin(
    head: Head, first: nn.Linear | None, mean: torch.Tensor, std: torch.Tensor, loss: Callable[[], float]
) -> None:
    """Gives a head the weights to begin with; `loss` is that of the head on what is standardised."""
    given, as_given = copy.deepcopy(head.classify.state_dict()), loss()
    if not math.isfinite(as_given):
        raise ValueError("its loss is not a finite number")
    if WHOLE not in head.parts:
        draw_weights(head.classify)
        head.fitted = False
    elif first is not None:  # where it was fitted before, it reads what is not standardised
        _fold(first, 1 / std, -mean / std)
        if not loss() < as_given:
            head.classify.load_state_dict(given)


def _fold(layer: nn.Linear, std: torch.Tensor, mean: torch.Tensor) -> None:
    """Lets a layer that reads (x - mean) / std read x."""
    with torch.no_grad():
        weight = layer.weight.double() / std
        layer.bias.copy_(layer.bias - weight @ mean.double())
        layer.weight.copy_(weight)


def _descend(module: nn.Module, x: torch.Tensor, target: Target, rows: Array, decay: float) -> None:
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    weights = [parameter for parameter in parameters if parameter.ndim > 1]
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=_STEPS, tolerance_change=1e-7, tolerance_grad=1e-5, history_size=10,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        penalty = decay * torch.stack([(weight**2).mean() for weight in weights]).sum() if weights else torch.zeros(())
        total = penalty.detach()
        if penalty.requires_grad:
            penalty.backward()  # type: ignore[no-untyped-call]
        for part in _parts(rows):
            loss = target.of(module(x[part]), rows[part]) * (len(rows[part]) / len(rows))
            loss.backward()  # type: ignore[no-untyped-call]
            total = total + loss.detach()
        return total

    optimizer.step(closure)  # type: ignore[no-untyped-call]


def _mean_loss(module: nn.Module, x: torch.Tensor, target: Target, rows: Array) -> float:
    with torch.no_grad():
        losses = (target.of(module(x[part]), rows[part]) * len(rows[part]) for part in _parts(rows))
        return float(sum(losses) / len(rows))


def _parts(rows: Array) -> Iterator[slice]:
    for start in range(0, len(rows), _BATCH):
        yield slice(start, start + _BATCH)


def fit_all(
    model: MultiExit,
    features: Features,
    target: Target,
    rows: Array,
    held_out: Array,
    progress: Progress | None = None,
) -> dict[str, Fit]:
    """Fits every head of a network, and returns how well each does; what lies beside the features is not fitted again.

    Args:
        model: The network; its heads are changed.
        features: What the heads gather.
        target: What they are to answer.
        rows: The numbers of the rows that they are fitted to.
        held_out: Of those that choose weight decays.
        progress: Is told (what, done, total).

    Raises:
        ExportError: Labels that the loss does not take.
    """
    found = {}
    asked = target.digest(rows, held_out)
    for number, (name, head) in enumerate(model.heads.items()):
        if progress is not None:
            progress("fitting heads", number, len(model.heads))
        file = features.folder / f"head-{_digest(model.places[name].value, head.kind, asked)}.pt"
        kept = head.parts != (WHOLE,) and target.loss is None  # what a module or a function is, no digest tells
        if kept and (fit := _read_fit(file, head)) is not None:
            found[name] = fit
            continue
        try:
            found[name] = fit_head(head, partial(features.of, model, name), target, rows, held_out)
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            given = "none" if target.labels is None else f"{tuple(target.labels.shape)} {target.labels.dtype}"
            raise ExportError(
                f"the head at {name!r} cannot be fitted to labels ({given}): {first_line(error)}"
            ) from error
        if kept and features.folder.is_dir():  # another run may be done with it
            with writing(file, overwrite=True) as stream:
                torch.save({"fit": [found[name].loss, found[name].decay], "state": head.classify.state_dict()}, stream)
    return found


def _read_fit(file: Path, head: Head) -> Fit | None:
    """Returns the fit in a file, and gives its weights to the head; None where there is none."""
    if not file.is_file():
        return None
    kept = torch.load(file, weights_only=True)
    head.classify.load_state_dict(kept["state"])
    head.fitted = True
    return Fit(*kept["fit"])


def _digest(*parts: object) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=12).hexdigest()


@checked(ExportError, but=("model",))
def fit_exits(  # noqa: PLR0913 - what a fit depends on
    model: MultiExit,
    inputs: Mapping[str, npt.ArrayLike] | Sequence[npt.ArrayLike] | npt.ArrayLike,
    labels: npt.ArrayLike | None = None,
    *,
    distill: bool | float = True,
    loss: Loss | None = None,
    seed: int = 0,
    threads: int | None = None,
    folder: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> dict[str, Fit]:
    """Trains the heads of a network and nothing else, and returns how well each fits.

    One pass over the rows gathers what heads read, in onnxruntime; then each head is fitted by L-BFGS, with the weight
    decay that does best on a fifth of the rows. The network itself does not change.

    Args:
        model: What `attach_exits` returned.
        inputs: The rows: an array, a tuple in the order of the network's inputs, or a mapping by name.
        labels: Class indices, one a row, or one for each position where the network answers at every position; or what
            `loss` takes. None: heads learn from the network's own answers alone.
        distill: How much the network's own answers (log-probabilities) count beside the labels, 0 to 1 (Hinton et al.,
            2015, at temperature 1); True: 0.9, or nothing beside a `loss`; False: nothing.
        loss: From a head's output and the labels to a number; None: cross entropy.
        seed: Of the rows that choose the weight decay.
        threads: As onnxruntime's.
        folder: Where features are kept, so that a later call goes on where this one was; None: nowhere.
        progress: Is told (what, done, total).

    Raises:
        ExportError: Not a model of `attach_exits`, or labels that the loss does not take.
        InputError: Rows that the network does not take.
    """
    if not isinstance(model, MultiExit):
        raise ExportError(f"fit_exits takes what attach_exits returned, got {type(model).__name__}")
    check_range(ExportError, "seed", seed, 0, MOST_EXACT)
    usual = SHARE if distill and loss is None else 0.0
    share = usual if isinstance(distill, bool) else float(distill)
    if labels is None and share == 0:
        raise ExportError("there are no labels, and distill is off: heads have nothing to learn from")
    rows = arrays_by_name(model.network, inputs)
    with tempfile.TemporaryDirectory() as passing:
        features = gather_features(model, rows, folder or passing, threads=threads, progress=progress)
        target = target_of(features, labels, 1.0 if labels is None else share, loss)
        order = np.random.default_rng(seed).permutation(len(features.final))
        held_out = int(len(order) * HELD_OUT)
        return fit_all(model, features, target, order[held_out:], order[:held_out], progress)


def target_of(features: Features, labels: npt.ArrayLike | None, share: float, loss: Loss | None = None) -> Target:
    """Returns what heads are to answer.

    Raises:
        ExportError: Another number of labels than of rows, or no class indices where the loss takes these; a share
            outside of 0 to 1.
    """
    check_range(ExportError, "distill", share, 0, 1)
    final = np.moveaxis(features.final, features.classes, 1) if features.final.ndim > 1 else features.final[:, None]
    if labels is None and final.shape[1] == 1:
        raise ExportError("the network answers one number, which has no classes: pass labels and a `loss`")
    teacher = torch.from_numpy(log_probabilities(final)) if share else None
    if labels is None:
        return Target(None, teacher, share, loss, features.classes)
    array = np.asarray(labels)
    if array.ndim == 0 or len(array) != len(final):
        raise ExportError(f"labels have shape {list(array.shape)}, expected one for each of {len(final)} rows")
    if array.dtype.kind not in "biuf" or (loss is None and not np.array_equal(array, array.astype(np.int64))):
        raise ExportError(f"labels are {array.dtype} such as {array.flat[0]}, expected class indices")
    given = torch.from_numpy(np.ascontiguousarray(array))
    return Target(given.long() if loss is None else given, teacher, share, loss, features.classes)

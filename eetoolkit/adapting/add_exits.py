"""From a trained network with one answer to fitted heads at all of its places, read top to bottom."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from eetoolkit.adapting.adapted import Adapted
from eetoolkit.adapting.checks import check_enough, check_rows
from eetoolkit.adapting.choosing import Goal
from eetoolkit.adapting.example import draw_example
from eetoolkit.adapting.report import AdaptReport, HeadFigures, PlaceFigures
from eetoolkit.adapting.rows import Rows, read_rows
from eetoolkit.adapting.splits import Parts, part_rows
from eetoolkit.cluster.dataset import is_dataset
from eetoolkit.cluster.mapping import map_blocks
from eetoolkit.reading.labelled import LabelledPath, class_names
from eetoolkit.reading.samples import Data
from eetoolkit.tuning.collect import Progress
from eetoolkit.tuning.wording import percent
from eetoolkit_exporters.attaching.attach import FINAL, Base, MultiExit, open_base
from eetoolkit_exporters.attaching.features import Features, forget_old, gather_features
from eetoolkit_exporters.attaching.finetune import check_trainable, finetune_network
from eetoolkit_exporters.attaching.fit import HELD_OUT, SHARE, Target, fit_all, target_of
from eetoolkit_exporters.attaching.part import Part, blocks, inputs_of
from eetoolkit_exporters.attaching.places import Place, choose_places, find_places
from eetoolkit_runtime.arguments import check_range, checked
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.archive import default_cache
from eetoolkit_runtime.errors import ExportError
from eetoolkit_runtime.plan.types import MOST_EXACT

_MOST_PLACES = 16
_MOST_EPOCHS = 10_000
_ROWS_AT_ONCE = 64
_NEARLY = 0.1  # more loss than the best head's: as good, if it is cheaper
_NEAR = 0.97  # of the work: no exit behind that saves anything
_UNLABELLED = "there are no labels: the network's own answers count as right, and accuracy is agreement with them"


@checked(ExportError)
def add_exits(  # noqa: PLR0913 - what the fits depend on, read top to bottom
    model: Any,
    inputs: Data | LabelledPath | str | os.PathLike[str],
    labels: npt.ArrayLike | None = None,
    *,
    max_accuracy_drop: float = 0.01,
    max_exits: int = 4,
    validation: Any = None,
    places: Sequence[str] | None = None,
    kinds: Sequence[str] | None = None,
    distill: float = SHARE,
    finetune: int = 0,
    example_inputs: Any = None,
    dynamic_shapes: Any = None,
    input_names: Sequence[str] | None = None,
    seed: int = 0,
    threads: int | None = None,
    folder: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Adapted:
    """Fits heads at all places of a trained network, for a bundle of those that pay.

    The network stays bit for bit as it is; `finetune` trains a copy. One pass over the rows gathers what
    heads read; then each is fitted by L-BFGS to the labels and to the network's own answers. An interrupted call goes
    on where it was.

    Args:
        model: A `torch.nn.Module` in evaluation mode or the path of an `.onnx` file, with one output, or one that is
            called `logits`.
        inputs: Rows, best such as the network has not seen: arrays, pairs of an input and its label, batches of a
            `DataLoader`, a `.npz`, or a folder with a subfolder for each class. Of a `ray.data.Dataset` the workers run
            the network, with one thread each unless `threads` says otherwise; its rows are kept on disk here.
        labels: The class of every row, beside arrays. None without pairs: heads learn the network's own answers, and
            these count as right.
        max_accuracy_drop: By how much accuracy may drop below the network's, 0.01 for one point.
        max_exits: How many exits there may be beside the last.
        validation: Further rows, in any of these forms ((inputs, labels) for arrays), by which exits are chosen and
            tuned; `inputs` may then be what the network was trained on. None: half of `inputs`.
        places: Names of places, as `find_exits` gives them; None: all.
        kinds: Kinds of heads, see `attach_exits`; None: all that fit.
        distill: How much the network's answers count beside labels, 0 to 1.
        finetune: For how many epochs a copy of a torch network is trained together with its heads, on the rows that
            these are fitted to; parameters that require no gradient stay. It may make the network worse: what is lost
            counts against `max_accuracy_drop`.
        example_inputs: As for `ee.export`; None: the first row.
        dynamic_shapes: As for `ee.export`.
        input_names: As for `ee.export`.
        seed: Of all draws.
        threads: As onnxruntime's.
        folder: Where features are kept, so that a later call goes on; None: in the user's cache, until a bundle is
            written.
        progress: Is told (what, done, total).

    Raises:
        ExportError: A network that cannot be captured, or has no place for an exit.
        InputError: Rows that it does not take, or labels that it contradicts.
        TuneError: Too few rows.
    """
    check_range(ExportError, "max_accuracy_drop", max_accuracy_drop, 0, 1)
    check_range(ExportError, "distill", distill, 0, 1)
    check_range(ExportError, "seed", seed, 0, MOST_EXACT)
    check_range(ExportError, "finetune", finetune, 0, _MOST_EPOCHS)
    if max_exits < 1:
        raise ExportError(f"max_exits is {max_exits}, expected at least 1")
    for name, given in {"places": places, "kinds": kinds}.items():
        if given is not None and not given:
            raise ExportError(f"{name} is empty: name at least one, or pass None for all")
    tell = progress or (lambda _what, _done, _total: None)
    mapper, threads = (map_blocks, threads or 1) if is_dataset(inputs) else (None, threads)
    if example_inputs is None and not isinstance(model, str | os.PathLike):
        example_inputs, inputs = draw_example(inputs, labels)
    tell("capturing the network", 0, 0)
    base = open_base(model, example_inputs, dynamic_shapes=dynamic_shapes, input_names=input_names)
    if finetune:
        check_trainable(base)
    rows, own = _read(base, inputs, labels, validation, tell)
    at = _places(base, places)
    tried = _with_all_heads(base, at, kinds)
    place_for_features = Path(folder) if folder is not None else default_cache() / "adapt"
    features = gather_features(tried, rows.inputs, place_for_features, threads=threads, progress=tell, mapper=mapper)
    if folder is None:
        forget_old(features.folder)
    if own:
        check_enough(len(rows) - own, features.final.shape[-1])
    judged = slice(len(rows) - own if own else 0, None)
    notes = check_rows(rows.take(judged), features.final[judged], _answers(base, tried, threads))
    right = features.final.argmax(1) if rows.labels is None else rows.labels
    parts = part_rows(len(rows), own, held_out=HELD_OUT, seed=seed)
    target = target_of(features, rows.labels, 1.0 if rows.labels is None else distill)
    heads = _fitted(tried, features, target, right, parts, tell)
    chosen = _candidates(heads)
    candidates = _only(base, tried, chosen)
    folders, lost = [features.folder], 0.0
    whole = features.final.argmax(1) == right
    if finetune:
        module = finetune_network(
            candidates, rows.inputs, target, parts.fit, epochs=finetune, dynamic_shapes=dynamic_shapes, seed=seed,
            progress=tell,
        )  # fmt: skip
        tell("capturing the network", 0, 0)
        base = open_base(module, example_inputs, dynamic_shapes=dynamic_shapes, input_names=input_names)
        tried = _with_all_heads(base, _places(base, [place.name for place in at]), kinds)
        features = gather_features(
            tried, rows.inputs, place_for_features, threads=threads, progress=tell, mapper=mapper
        )
        heads = _fitted(tried, features, target, right, parts, tell)
        chosen = _candidates(heads)
        candidates = _only(base, tried, chosen)
        now = features.final.argmax(1) == right
        lost = float(whole[parts.choose].mean() - now[parts.choose].mean())
        folders.append(features.folder)
        notes = (*notes, _finetuned(finetune, whole[parts.choose], now[parts.choose]))
    first = AdaptReport(
        network=Path(model).name if isinstance(model, str | os.PathLike) else type(model).__name__,
        max_accuracy_drop=max_accuracy_drop,
        rows={"fit": len(parts.fit), "choose": len(parts.choose), "tune": len(parts.tune)},
        labelled=rows.labels is not None,
        accuracy=float(whole[parts.choose].mean()),
        places=tuple(_figures(heads, set(chosen.values()))),
        notes=(*notes, *([] if rows.labels is not None else [_UNLABELLED])),
    )
    return Adapted(
        model=candidates,
        first=first,
        candidates={exit_: (tried.places[name].name, tried.heads[name].kind) for exit_, name in chosen.items()},
        rows=replace(rows, labels=right).take(parts.tune),
        goal=Goal(max_accuracy_drop, max_exits, seed, threads, lost),
        folders=tuple(folders) if folder is None else (),
    )


def _read(base: Base, inputs: Any, labels: Any, validation: Any, tell: Progress) -> tuple[Rows, int]:
    """Returns all rows, and how many at their end are for tuning alone."""
    plan = inputs_of(base.network)
    rows = read_rows(plan, inputs, labels, progress=tell)
    if validation is None:
        return rows, 0
    pair = (
        isinstance(validation, tuple) and len(validation) == 2 and (labels is not None or not isinstance(inputs, tuple))
    )
    more = read_rows(plan, *(validation if pair else (_numbered_as(inputs, validation),)), progress=tell)
    return rows.joined(more), len(more)


def _numbered_as(inputs: Any, validation: Any) -> Any:
    """Returns data whose folders of classes are numbered as those of the others."""
    first, second = (LabelledPath(str(d)) if isinstance(d, str | os.PathLike) else d for d in (inputs, validation))
    if not isinstance(first, LabelledPath) or not isinstance(second, LabelledPath) or second.labels is not None:
        return validation
    return replace(second, labels=class_names(first.path))


def _answers(base: Base, tried: MultiExit, threads: int | None) -> Callable[[Mapping[str, Array]], Array]:
    """Returns what gives the network's answers to any number of rows."""
    part = Part(base.network, {FINAL: tried.final}, threads=threads)

    def run(given: Mapping[str, Array]) -> Array:
        return np.concatenate([part.run(block)[FINAL] for block in blocks(base.network, given, _ROWS_AT_ONCE)])

    return run


def _places(base: Base, names: Sequence[str] | None) -> list[Place]:
    """Returns the places where heads are tried.

    Raises:
        ExportError: No such place, or none that is early enough.
    """
    known = find_places(base.network, base.source.inputs)
    if names is not None:
        return list(dict.fromkeys(choose_places(known, names)))
    early = [place for place in known if place.share < _NEAR]
    if not early:
        least = min(place.share for place in known)
        raise ExportError(f"no place is early enough for an exit: the first comes after {least:.0%} of the work")
    if len(early) <= _MOST_PLACES:
        return early
    wanted = np.linspace(early[0].share, early[-1].share, _MOST_PLACES)
    shares = np.array([place.share for place in early])
    return [early[n] for n in sorted({int(np.abs(shares - share).argmin()) for share in wanted})]


def _with_all_heads(base: Base, places: Sequence[Place], kinds: Sequence[str] | None) -> MultiExit:
    """Returns the network with a head of every kind at every place."""
    bare = MultiExit(base, {place.name: place for place in places}, {})
    found = {f"{place.name} {kind}": (place, kind) for place in places for kind in kinds or bare.kinds_at(place.name)}
    return MultiExit(
        base, {name: place for name, (place, _) in found.items()}, {name: kind for name, (_, kind) in found.items()}
    )


@dataclass(frozen=True)
class _Head:
    """A fitted head: its name among those that are tried, its place, and how good it is."""

    name: str
    place: Place
    kind: str
    loss: float
    accuracy: float


def _fitted(
    tried: MultiExit, features: Features, target: Target, right: Array, parts: Parts, tell: Progress
) -> list[_Head]:
    """Fits the heads, and returns them with their figures on rows that fitted nothing."""
    found = []
    for name, fit in fit_all(tried, features, target, parts.fit, parts.choose, tell).items():
        gathered = torch.from_numpy(features.of(tried, name, parts.choose))
        with torch.no_grad():
            answers = tried.heads[name].classify(gathered).numpy()
        accuracy = float((answers.argmax(1) == right[parts.choose]).mean())
        found.append(_Head(name, tried.places[name], tried.heads[name].kind, fit.loss, accuracy))
    return found


def _candidates(heads: Iterable[_Head]) -> dict[str, str]:
    """Returns by exit the heads to choose among: at every place the best one, and the cheapest that is nearly as good.

    An exit with the best head of its place is called as the place.
    """
    found = {}
    for place, own in _by_place(heads).items():
        best = min(own, key=lambda head: head.loss)
        cheap = next(head for head in own if head.loss <= best.loss * (1 + _NEARLY))
        if cheap is not best:
            found[f"{place.name} {cheap.kind}"] = cheap.name
        found[place.name] = best.name
    return found


def _only(base: Base, tried: MultiExit, chosen: Mapping[str, str]) -> MultiExit:
    """Returns the network with some of the heads that were tried, by exit."""
    return MultiExit(
        base, {exit_: tried.places[name] for exit_, name in chosen.items()},
        {exit_: tried.heads[name] for exit_, name in chosen.items()},
    )  # fmt: skip


def _finetuned(epochs: int, before: Array, after: Array) -> str:
    """Returns what fine-tuning did to the network's own answers, right or not on the rows that choose heads."""
    return (
        f"fine-tuned for {epochs} epoch{'s' * (epochs != 1)}: the network's own answer was right on "
        f"{percent(before.mean())} of the rows that chose heads, now on {percent(after.mean())}; joint training can "
        "make it worse: compare with finetune=0"
    )


def _by_place(heads: Iterable[_Head]) -> dict[Place, list[_Head]]:
    found: dict[Place, list[_Head]] = {}
    for head in heads:
        found.setdefault(head.place, []).append(head)
    return found


def _figures(heads: Iterable[_Head], candidates: Container[str]) -> Iterator[PlaceFigures]:
    """Yields what is reported of every place."""
    for place, own in _by_place(heads).items():
        yield PlaceFigures(
            name=place.name,
            share=place.share,
            shape=place.shape,
            heads=tuple(
                HeadFigures(kind=head.kind, loss=head.loss, accuracy=head.accuracy, candidate=head.name in candidates)
                for head in own
            ),
        )

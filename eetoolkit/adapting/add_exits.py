"""From a trained network with one answer to fitted heads at all of its places, read top to bottom."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eetoolkit.adapting.adapted import Adapted
from eetoolkit.adapting.choosing import Goal
from eetoolkit.adapting.report import AdaptReport, HeadFigures, PlaceFigures
from eetoolkit.adapting.rows import Rows, inputs_of, read_rows
from eetoolkit.adapting.splits import Parts, part_rows
from eetoolkit.tuning.collect import Data, Progress
from eetoolkit_exporters.attaching.attach import FINAL, MultiExit, open_base
from eetoolkit_exporters.attaching.features import Features, gather_features
from eetoolkit_exporters.attaching.fit import HELD_OUT, Fit, fit_all, target_of
from eetoolkit_exporters.attaching.heads import kinds_of
from eetoolkit_exporters.attaching.places import Place, find_places
from eetoolkit_runtime.arguments import checked
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.archive import default_cache
from eetoolkit_runtime.errors import ExportError, did_you_mean

_MOST_PLACES = 16
_BETTER = 0.02  # of the loss: a dearer kind that gains less is no candidate
_NEAR = 0.97  # of the work: no exit behind that saves anything


@checked(ExportError)
def add_exits(  # noqa: PLR0913 - what the fits depend on
    model: Any,
    inputs: Data | str | os.PathLike[str],
    labels: npt.ArrayLike | None = None,
    *,
    max_accuracy_drop: float = 0.01,
    max_exits: int = 4,
    validation: Any = None,
    places: Sequence[str] | None = None,
    kinds: Sequence[str] | None = None,
    distill: float = 0.5,
    example_inputs: Any = None,
    dynamic_shapes: Any = None,
    input_names: Sequence[str] | None = None,
    seed: int = 0,
    threads: int | None = None,
    folder: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Adapted:
    """Fits heads at all places of a trained network, for a bundle of those that pay.

    No gradient goes into the network: its weights and answers stay bit for bit. One pass over the rows gathers what
    heads read; then each is fitted by L-BFGS to the labels and to the network's own answers. An interrupted call goes
    on where it was.

    Args:
        model: A `torch.nn.Module` in evaluation mode or the path of an `.onnx` file, with one output, or one that is
            called `logits`.
        inputs: Rows, best such as the network has not seen: arrays, pairs of an input and its label, batches of a
            `DataLoader`, a `.npz`, or a folder with a subfolder for each class.
        labels: The class of every row, beside arrays. None without pairs: heads learn the network's own answers, and
            these count as right.
        max_accuracy_drop: By how much accuracy may drop below the network's, 0.01 for one point.
        max_exits: How many exits there may be beside the last.
        validation: Further rows, in any of these forms ((inputs, labels) for arrays), by which exits are chosen and
            tuned; `inputs` may then be what the network was trained on. None: half of `inputs`.
        places: Names of places, as `find_exits` gives them; None: all.
        kinds: Kinds of heads, see `attach_exits`; None: all that fit.
        distill: How much the network's answers count beside labels, 0 to 1.
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
    tell = progress or (lambda _what, _done, _total: None)
    if example_inputs is None and not isinstance(model, str | os.PathLike):
        example_inputs, inputs = draw_example(inputs, labels)
    tell("capturing the network", 0, 0)
    base = open_base(model, example_inputs, dynamic_shapes=dynamic_shapes, input_names=input_names)
    rows, own = _read(base, inputs, labels, validation, tell)
    tried = _tried(base, places, kinds)
    target_folder = Path(folder) if folder is not None else default_cache() / "adapt"
    features = gather_features(tried, rows.inputs, target_folder, threads=threads, progress=tell)
    right, notes = check_rows(features.final, rows, max_accuracy_drop)
    parts = part_rows(len(rows), own, held_out=HELD_OUT, seed=seed)
    target = target_of(features, rows.labels, distill if rows.labels is not None else 1.0)
    fits = fit_all(tried, features, target, parts.fit, parts.choose, tell)
    figures = dict(_figures(tried, features, right, fits, parts.choose))
    model_, candidates = _candidates(base, tried, figures)
    tuned = rows.take(parts.tune)
    first = AdaptReport(
        network=type(model).__name__ if not isinstance(model, str | os.PathLike) else Path(model).name,
        rows={"fit": len(parts.fit), "choose": len(parts.choose), "tune": len(parts.tune)},
        labelled=rows.labels is not None,
        accuracy=_accuracy(features.final[parts.choose], right[parts.choose]),
        places=tuple(_place(place, figures, candidates) for place in _places_of(tried)),
        costs="",
        notes=notes,
    )
    goal = Goal(max_accuracy_drop, max_exits, seed, threads)
    kept = features.folder if folder is None else None
    return Adapted(model_, first, candidates, replace(tuned, labels=right[parts.tune]), goal, kept)


def _read(base: Base, inputs: Any, labels: Any, validation: Any, tell: Progress) -> tuple[Rows, int]:
    """Returns all rows, and how many at their end are for tuning alone."""
    plan = inputs_of(base.network)
    rows = read_rows(plan, inputs, labels, progress=tell)
    if validation is None:
        return rows, 0
    given = validation if _is_pair(validation) else (validation, None)
    more = read_rows(plan, *given, progress=tell)
    if (rows.labels is None) != (more.labels is None):
        raise InputError("either both the rows and those for validation have labels, or neither")
    return rows.joined(more), len(more)


def _tried(base: Base, places: Sequence[str] | None, kinds: Sequence[str] | None) -> MultiExit:
    """Returns the network with a head of every kind at every place."""
    known = {place.name: place for place in find_places(base.network, base.source.inputs)}
    for name in places or ():
        if name not in known:
            raise ExportError(f"the network has no place {name!r}; it has {', '.join(known)}{did_you_mean(name, known)}")
    wanted = [place for place in known.values() if (place.share < _NEAR if places is None else place.name in places)]
    if not wanted:
        raise ExportError(f"no place is early enough: the first comes after {min(p.share for p in known.values()):.0%} of the work")
    ...

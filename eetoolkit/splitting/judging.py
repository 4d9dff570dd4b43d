"""In how many bytes tensors cross: by what a few of them lose, and which answers of the server's half that changes."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from eetoolkit.quantizing.agreement import disagreement
from eetoolkit.quantizing.rows import check_scale, draw_rows
from eetoolkit.reading.images import ImageOptions
from eetoolkit.reading.labelled import read_labelled
from eetoolkit.reading.samples import Data
from eetoolkit.splitting.crossing import Coding, Smaller, coding_of, loss
from eetoolkit.tuning.collect import Progress
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.bundle.golden import read_golden
from eetoolkit_runtime.errors import InputError
from eetoolkit_runtime.plan.halves import Halves, split_in
from eetoolkit_runtime.running.inputs import golden_rows
from eetoolkit_runtime.running.runner import Runner

MOST_ROWS = 4000
_SMALLEST_FIRST: tuple[Smaller, ...] = ("uint8", "float16")

Tensors = Mapping[str, Array]
"""What crosses of one row, by input of the server's half."""


@dataclass(frozen=True, eq=False)
class Rows:
    """What crosses of some rows: of those that chose scales, and of others, which judge.

    Attributes:
        calibrate: Of these the ranges are.
        judge: Of these the answers; none where no rows were given.
        notes: What is odd about the rows.
    """

    calibrate: Sequence[Tensors]
    judge: Sequence[Tensors] = ()
    notes: tuple[str, ...] = ()

    def size_of(self, name: str) -> int | None:
        """Returns the mean bytes of a tensor; None where there are no rows."""
        sizes = [tensors[name].nbytes for tensors in (*self.calibrate, *self.judge)]
        return round(sum(sizes) / len(sizes)) if sizes else None


@dataclass(frozen=True, eq=False)
class Chosen:
    """How tensors cross, and what that changes.

    Attributes:
        codings: By input of the server's half; none for what crosses as it is.
        errors: What is lost of each, see `loss`; of rows that chose nothing, where there are any.
        disagreement: The mean disagreement of the answers; None: nothing was judged.
    """

    codings: Mapping[str, Coding] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)
    disagreement: float | None = None


def rows_that_cross(
    source: Bundle, found: Halves, rows: Data | str | os.PathLike[str] | None, progress: Progress | None
) -> Rows:
    """Returns what crosses of the rows that no earlier exit answers, in two halves; without rows, of golden samples.

    Raises:
        InputError: Rows that the network does not take, or none that comes to the handover.
    """
    split, plan = split_in(found.device), source.manifest
    data: Any = rows
    with Runner(Bundle(source.path, found.device)) as runner:
        if rows is None:
            met = [runner.run_all_exits(sample.inputs)[-1] for sample in read_golden(source)]
            last = [answer for answer in met if answer.exit == split.exit]
            return Rows([{name: answer.outputs[output] for name, output in split.sends.items()} for answer in last])
        if isinstance(rows, str | os.PathLike):
            data, _ = read_labelled(plan, os.fspath(rows), ImageOptions(), unlabelled=True)
        given, _ = draw_rows(plan, data, None, MOST_ROWS, 0, progress)
        notes = check_scale(plan, golden_rows(source), given)
        crossing: list[Tensors] = []
        for number, row in enumerate(given):
            answer = runner.run(row)
            if answer.exit == split.exit:
                crossing.append({name: answer.outputs[output] for name, output in split.sends.items()})
            if progress is not None:
                progress("running the device's half", number + 1, len(given))
    if len(crossing) < 2:
        raise InputError(
            f"{len(crossing)} of {len(given)} rows come to the handover, expected at least 2: pass rows that no "
            "earlier exit answers, or more of them"
        )
    return Rows(crossing[::2], crossing[1::2], notes)


def choose(
    source: Bundle, found: Halves, crossing: str, rows: Rows, max_disagreement: float, progress: Progress | None = None
) -> Chosen:
    """Returns how tensors cross: as asked, or in the fewest bytes that leave the answers as they are.

    Raises:
        InputError: Too few rows to see such a disagreement by.
    """
    if crossing == "float32":
        return Chosen()
    asked = [kind for kind in _SMALLEST_FIRST if crossing in ("auto", kind)]
    needed = math.ceil(1 / max_disagreement)
    if crossing == "auto" and len(rows.judge) < needed:
        least = math.ceil(1000 / len(rows.judge)) / 1000
        raise InputError(
            f"{len(rows.judge)} rows that come to the handover judge what crosses, half of those that come there; "
            f"expected at least {needed}, by which a disagreement of {max_disagreement:g} can be seen: pass more rows, "
            f"cut behind an earlier exit, or allow max_disagreement={least} (--max-disagreement {least})"
        )
    if crossing == "uint8" and not rows.calibrate:
        raise InputError("uint8 has scales that rows choose, and the bundle has no golden samples: pass rows (--data)")
    for kind in asked:
        chosen = _coded(found, kind, rows)
        if not rows.judge:
            return chosen
        differing = _differing(source, found, chosen, rows.judge, progress)
        chosen = replace(chosen, disagreement=float(np.mean(differing)))
        at_most = float(np.mean(differing) + np.std(differing) / math.sqrt(len(differing)))
        if crossing != "auto" or at_most <= max_disagreement:
            return chosen
    return Chosen(disagreement=0.0)


def _coded(found: Halves, kind: Smaller, rows: Rows) -> Chosen:
    codings = {
        spec.name: coding
        for spec in found.server.inputs
        if (coding := coding_of(spec, kind, [tensors[spec.name] for tensors in rows.calibrate])) is not None
    }
    seen = rows.judge or rows.calibrate
    return Chosen(codings, {name: loss(each, [row[name] for row in seen]) for name, each in codings.items()})


def _differing(
    source: Bundle, found: Halves, chosen: Chosen, rows: Sequence[Tensors], progress: Progress | None
) -> list[float]:
    """Returns how far each row's answer of the server's half moves."""
    moved = []
    with Runner(Bundle(source.path, found.server)) as runner:
        for number, tensors in enumerate(rows):
            smaller = {
                name: chosen.codings[name].decoded(chosen.codings[name].encoded(array))
                if name in chosen.codings
                else array
                for name, array in tensors.items()
            }
            moved.append(disagreement(runner.run(tensors), runner.run(smaller)))
            if progress is not None:
                progress("running the server's half", number + 1, len(rows))
    return moved

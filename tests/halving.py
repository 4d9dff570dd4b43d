"""A bundle in two halves beside the whole: exits, paths, decisions and every bit of the outputs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np

from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.plan.halves import cut_points, halves
from eetoolkit_runtime.plan.validate import validate
from eetoolkit_runtime.running.answer import Answer
from eetoolkit_runtime.running.runner import Runner


def cuts_that_differ(bundle: Bundle, rows: Iterable[Any], most: int | None = None) -> tuple[list[str], int]:
    """Returns where a bundle's halves answer otherwise than the whole, and how many cuts were looked at."""
    points = cut_points(bundle.manifest)
    points = points if most is None else points[:: max(1, -(-len(points) // most))]
    given, differing = list(rows), []
    with Runner(bundle, threads=1, fallback="last") as whole:
        expected = [(whole.run_all_exits(row), whole.run(row)) for row in given]
    for point in points:
        found = halves(bundle.manifest, point)
        for half in found:
            validate(half)
        device = Runner(Bundle(bundle.path, found.device), threads=1, fallback="last")
        server = Runner(Bundle(bundle.path, found.server), threads=1, fallback="last")
        with device, server:
            for row, (all_exits, answer) in zip(given, expected, strict=True):
                met = _joined(device.run_all_exits(row), found.device, server, all_exits=True)
                last = _joined([device.run(row)], found.device, server, all_exits=False)
                if not _same(met, all_exits) or not _same(last, [answer]):
                    differing.append(f"{point}: {row!r}")
    return differing, len(points)


def _joined(answers: list[Answer], plan: Any, server: Runner, *, all_exits: bool) -> list[Answer]:
    *before, last = answers
    if last.exit != plan.split.exit:
        return answers
    crossed = {name: last.outputs[output] for name, output in plan.split.sends.items()}
    behind = server.run_all_exits(crossed) if all_exits else [server.run(crossed)]
    replace = msgspec.structs.replace
    return before + [replace(each, path=last.path + each.path, gates=last.gates + each.gates) for each in behind]


def _same(found: list[Answer], expected: list[Answer]) -> bool:
    if len(found) != len(expected):
        return False
    for one, other in zip(found, expected, strict=True):
        if (one.exit, one.path, one.gates) != (other.exit, other.path, other.gates):
            return False
        if not np.array_equal(one.confidence, other.confidence, equal_nan=True):
            return False
        if list(one.outputs) != list(other.outputs):
            return False
        if any(one.outputs[name].tobytes() != array.tobytes() for name, array in other.outputs.items()):
            return False
    return True

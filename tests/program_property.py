"""The property that random programs prove: compiled, they answer as one session of the whole graph does.

    python tests/program_property.py --count 3000 --start 0

runs many programs in every variant and prints each kind of failure with the smallest program that shows it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock
from unittest.mock import patch

import numpy as np
import onnxruntime as ort
from random_programs import Program, random_program

import eetoolkit as ee
from eetoolkit_exporters.cutting import control_flow
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.running.answer import Answer
from eetoolkit_runtime.running.sessions import SessionSettings

VARIANTS: dict[str, dict[str, Any]] = {
    "always": {"lower_control_flow": "always", "max_loop_steps": 16},
    "always, bounds proved": {"lower_control_flow": "always", "max_loop_steps": None},
    "by cost": {"lower_control_flow": True, "max_loop_steps": 16},
    "inside": {"lower_control_flow": False, "max_loop_steps": None},
}
"""Options of `ee.export`. No loop of a random program makes more than 16 trips."""

THRESHOLD = 0.25
"""Low enough for outputs of this size to leave early, so that the rows of a batch part at exits too."""
CLOSE = 1e-5
NEAR = 1e-5
"""How far a neighbour lies from an input, relative: what is decided by less than this, rounding may decide."""


def whole(program: Program, *, optimised: bool) -> ort.InferenceSession:
    """Returns one session of the whole program."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if not optimised:
        _plain(options)
    return ort.InferenceSession(str(program.path), options, providers=["CPUExecutionProvider"])


def _plain(options: ort.SessionOptions) -> ort.SessionOptions:
    """Turns off what makes two sessions sum the same products in another order."""
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")  # weights are packed outside of branches only
    return options


@contextmanager
def unoptimised_segments() -> Iterator[None]:
    """Opens segments without onnxruntime's optimisations, so that they compute the same bits as the whole graph."""
    ordinary = SessionSettings.options

    def plain(settings: SessionSettings) -> ort.SessionOptions:
        return _plain(ordinary(settings))

    with mock.patch.object(SessionSettings, "options", plain):
        yield


def compiled(program: Program, folder: Path, variant: str) -> ee.Bundle:
    """Returns the program as a bundle, its rows those of the variant."""
    with patch.object(control_flow, "SEGMENT", control_flow.BRANCH):  # that of a program of this size
        return ee.export(program.path, None, folder, threshold=THRESHOLD, overwrite=True, **VARIANTS[variant])


class Reference:
    """One session of the whole program, and whether an input is near a place where the program decides otherwise."""

    def __init__(self, program: Program, *, optimised: bool) -> None:
        self.program, self.optimised = program, optimised
        self.session = whole(program, optimised=optimised)
        self.ties = 0

    def __call__(self, feeds: dict[str, Array]) -> dict[str, Array]:
        return dict(zip(self.program.exits, self.session.run(None, feeds), strict=True))

    def unlike(self, exit_: str, found: Array, feeds: dict[str, Array], *, exact: bool) -> str | None:
        """Returns how an exit's output differs from the whole program's; None where it does not, or at a tie.

        A tie is an input some neighbour of which, a rounding error away, has the output that was found.
        """
        expected = self(feeds)[exit_]
        if found.shape != expected.shape or found.dtype != expected.dtype:
            return f"{exit_} is {found.dtype}{found.shape}, expected {expected.dtype}{expected.shape}"
        if np.array_equal(found, expected) or (not exact and np.allclose(found, expected, atol=CLOSE, rtol=CLOSE)):
            return None
        if not exact and self._near(exit_, found, feeds):
            self.ties += 1
            return None
        return f"{exit_} is {found.ravel()}, expected {expected.ravel()}"

    def _near(self, exit_: str, found: Array, feeds: dict[str, Array]) -> bool:
        rng = np.random.default_rng(0)
        for _ in range(64):
            near = {name: (x * (1 + rng.normal(0, NEAR, x.shape))).astype(x.dtype) for name, x in feeds.items()}
            if np.allclose(found, self(near)[exit_], atol=20 * NEAR, rtol=20 * NEAR):
                return True
        return False


def first_difference(program: Program, bundle: ee.Bundle, seed: int, *, optimised: bool, feeds: int = 5) -> str | None:
    """Returns where the bundle and the whole program first part; None where they never do."""
    reference = Reference(program, optimised=optimised)
    exact = not optimised
    with ee.Runner(bundle, threads=1) as runner:
        for number, x in enumerate(program.feeds(seed, feeds)):
            answers = runner.run_all_exits(x)
            if sorted(answer.exit for answer in answers) != sorted(program.exits):
                return f"input {number}: met {[answer.exit for answer in answers]}, expected {list(program.exits)}"
            for answer in [*answers, runner.run(x)]:
                if found := reference.unlike(answer.exit, answer.outputs["logits"], x, exact=exact):
                    return f"input {number}: {found}, by {' '.join(answer.path)}"
        by_row = program.rows or bundle.manifest.batch == 1
        if by_row and (found := _rows_part(program, runner, reference, seed)):
            return found
    return f"{reference.ties} ties in {feeds} inputs" if reference.ties > 2 else None


def _rows_part(program: Program, runner: ee.Runner, reference: Reference, seed: int) -> str | None:
    """Returns how `run_batch` of several rows differs from `run` of each.

    Products of one row and of five are summed in another order, so this is never exact.
    """
    for batch in program.feeds(seed + 1, 3, rows=5):
        together = runner.run_batch(batch)
        for row, answer in enumerate(together):
            x = {name: array[row : row + 1] for name, array in batch.items()}
            alone = runner.run(x)
            if answer.exit != alone.exit and not _at_threshold(runner, x):
                return f"run_batch: row {row} leaves at {answer.exit}, alone at {alone.exit}"
            if found := reference.unlike(answer.exit, answer.outputs["logits"], x, exact=False):
                return f"run_batch: row {row}: {found}, by {' '.join(answer.path)}"
    return None


def _at_threshold(runner: ee.Runner, x: dict[str, Array]) -> bool:
    found: list[Answer] = runner.run_all_exits(x)
    return any(abs(answer.confidence - THRESHOLD) < 1e-4 for answer in found)


def failure(seed: int, folder: Path, variant: str, *, optimised: bool) -> tuple[Program, str | None]:
    """Returns the program of a seed, and what went wrong with it; None where nothing did."""
    program = random_program(seed, folder / "program.onnx")
    try:
        if optimised:
            return program, first_difference(program, compiled(program, folder / "b", variant), seed, optimised=True)
        with unoptimised_segments():
            return program, first_difference(program, compiled(program, folder / "b", variant), seed, optimised=False)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what the runner of many programs reports
        return program, f"{type(error).__name__}: {error}"


def main() -> int:
    """Runs many programs, prints what fails, and returns whether any does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--variant", choices=VARIANTS, action="append", help="may be given several times")
    parser.add_argument("--one-variant", action="store_true", help="one variant for each program, in turn")
    options = parser.parse_args()
    found: dict[str, list[tuple[int, int, str, bool, str]]] = {}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.start, options.start + options.count):
            variants = options.variant or list(VARIANTS)
            for number, variant in enumerate([variants[seed % len(variants)]] if options.one_variant else variants):
                optimised = bool((seed // 7 + number) % 2)
                program, what = failure(seed, Path(folder), variant, optimised=optimised)
                if what is not None:
                    kind = "".join(character for character in what if not character.isdigit())[:60]
                    found.setdefault(kind, []).append((program.nodes, seed, variant, optimised, what))
                    print(f"seed {seed} ({variant}, {optimised=}): {what[:400]}", flush=True)
    print(f"{options.count} programs from {options.start} on in {time.monotonic() - began:.0f} s")
    for cases in sorted(found.values(), key=len, reverse=True):
        nodes, seed, variant, optimised, what = min(cases)
        print(f"{len(cases)} times; smallest: seed {seed}, {nodes} nodes ({variant}, {optimised=}): {what}")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())

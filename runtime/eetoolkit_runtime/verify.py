"""Whether a bundle gives on this very machine what the source network gave."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eetoolkit_runtime.arguments import checked
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.bundle import Bundle, load_again
from eetoolkit_runtime.bundle.golden import Sample, Visit, read_golden
from eetoolkit_runtime.errors import InputError
from eetoolkit_runtime.plan.criteria import kind_of
from eetoolkit_runtime.plan.types import Exit
from eetoolkit_runtime.printable import printable
from eetoolkit_runtime.running.answer import Answer
from eetoolkit_runtime.running.decision import limit_of
from eetoolkit_runtime.running.runner import Runner

DEFAULT_TOLERANCE = 1e-4
_SHOWN = 5
_NOISY_RUNS = 8
ROUNDING = 0.1
"""Of the tolerance: what optimisations and other orders of summation change a value by."""


@dataclass(frozen=True)
class ExitCheck:
    """One exit over all its visits: the largest differences found, and how many decisions were ties."""

    exit: str
    samples: int
    output_difference: float
    confidence_difference: float
    ties: int


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found; `failures` is empty where the bundle reproduces every sample.

    `tolerance` bounds the absolute difference of outputs, relative to their largest magnitude where that exceeds 1.
    `compared_with` says what expected values are of, where that is not simply the source network.
    """

    tolerance: float
    samples: int
    exits: tuple[ExitCheck, ...]
    failures: tuple[str, ...]
    compared_with: str | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return not self.failures

    def __str__(self) -> str:
        lines = [
            f"{check.exit}: {check.samples} {'sample' if check.samples == 1 else 'samples'}, "
            f"outputs differ by at most {check.output_difference:.1e}, "
            f"confidence by {check.confidence_difference:.1e}" + (f", {check.ties} ties" if check.ties else "")
            for check in self.exits
        ]
        verdict = "passed" if self.passed else f"FAILED ({len(self.failures)})"
        shown = list(self.failures[:_SHOWN])
        if len(self.failures) > _SHOWN:
            shown.append(f"... and {len(self.failures) - _SHOWN} more")
        lines += [] if self.compared_with is None else [f"compared with {self.compared_with}"]
        lines += [*shown, f"verify {verdict}, tolerance {self.tolerance:.0e}"]
        return "\n".join(map(printable, lines))


@checked(InputError)
def verify(
    bundle: str | os.PathLike[str] | Bundle, samples: Sequence[Sample] | None = None, *, tolerance: float | None = None
) -> VerifyReport:
    """Returns how the bundle's answers on this machine compare with what the source framework computed.

    Golden samples of a quantised bundle are what its quantised segments gave where it was made.

    Every file's hash is checked first. Each sample is run through all exits and compared exit by exit, then run once
    more as a user would: the same exit must answer. Where a confidence is within the tolerance of its threshold, either
    exit is right, and so are both ways at a gate that noise of the size of a rounding turns: the report counts a tie.

    Args:
        bundle: A `Bundle` or its path.
        samples: Inputs and expected values; None: the bundle's golden samples.
        tolerance: None: the one stated in the bundle, else 1e-4.

    Raises:
        BundleError: The bundle cannot be opened, or a file was changed.
        InputError: There are no samples, or `tolerance` is no finite number above 0.
    """
    opened = load_again(bundle, check="full")
    golden = opened.manifest.golden
    own, samples = samples is None, read_golden(opened) if samples is None else samples
    if not samples:
        raise InputError("verify: the bundle has no golden samples; pass the source model")
    stated = golden.tolerance if golden is not None else DEFAULT_TOLERANCE
    tolerance, noise = choose_tolerance(tolerance, stated), ROUNDING * stated
    tally = Tally(opened.exits, tolerance)
    with Runner(opened, fallback="last") as runner:
        for number, sample in enumerate(samples):
            answers = runner.run_all_exits(sample.inputs)
            found = tally.checks.copy()
            failures = _compare(tally, opened.exits, f"sample {number}", sample, [*answers, runner.run(sample.inputs)])
            if failures and hangs_by_rounding(runner, sample.inputs, answers, noise):
                tally.checks = found
                tally.count(answers[-1].exit, tie=1)
            else:
                tally.failures += failures
    compared_with = _compared_with(opened, own=own)
    return VerifyReport(tolerance, len(samples), tuple(tally.checks.values()), tuple(tally.failures), compared_with)


def _compared_with(bundle: Bundle, *, own: bool) -> str | None:
    """Returns what a quantised bundle is compared with, its own golden samples or others; None for any other bundle."""
    said = bundle.manifest.quantization
    if said is None:
        return None
    if own:
        return f"golden samples of the quantised segments, made by onnxruntime {said.created_with.get('onnxruntime')}"
    return (
        "the float network: quantising alone makes differences, of which a failure here may be one; "
        f"whether this machine runs it right, `eetoolkit verify {bundle.place}` tells without the network"
    )


def choose_tolerance(asked: float | None, stated: float) -> float:
    """Returns the tolerance that is asked for, or the one stated in what is verified.

    Raises:
        InputError: It is no finite number above 0.
    """
    tolerance = stated if asked is None else asked
    if not 0 < tolerance < math.inf:
        raise InputError(f"tolerance is {tolerance}, expected a finite number above 0")
    return tolerance


def hangs_by_rounding(runner: Runner, inputs: Mapping[str, Array], answers: Sequence[Answer], noise: float) -> bool:
    """Returns whether noise of the size of a rounding, put on the inputs, sends a gate another way.

    Where it does, this machine and the source framework may each be right and go different ways.
    """
    usual = [answer.gates for answer in answers]
    if not any(usual):
        return False
    rng = np.random.default_rng(0)
    for _ in range(_NOISY_RUNS):
        noisy = {
            name: (array * (1 + noise * rng.standard_normal(array.shape))).astype(array.dtype)
            if array.dtype.kind == "f"
            else array
            for name, array in inputs.items()
        }
        if [answer.gates for answer in runner.run_all_exits(noisy)] != usual:
            return True
    return False


class Tally:
    """Differences so far, by exit.

    Args:
        exits: Their names.
        tolerance: What an output and a confidence may differ by.
    """

    def __init__(self, exits: Iterable[str], tolerance: float) -> None:
        self.tolerance = tolerance
        self.checks = {name: ExitCheck(name, 0, 0.0, 0.0, 0) for name in exits}
        self.failures: list[str] = []

    def compare(self, what: str, outputs: Mapping[str, Array], confidence: float, expected: Visit) -> list[str]:
        """Counts what an exit gave, and returns what is wrong with it; `what` names the sample."""
        outputs_off = max(difference(outputs[name], array) for name, array in expected.outputs.items())
        confidence_off = difference(np.array([confidence]), np.array([expected.confidence]))
        self.count(expected.exit, outputs_off, confidence_off)
        return [
            f"{what}: {expected.exit}: {kind} off by {value:.1e}, more than {self.tolerance:.0e}"
            for kind, value in (("outputs", outputs_off), ("confidence", confidence_off))
            if not value <= self.tolerance
        ]

    def count(self, name: str, outputs: float = 0.0, confidence: float = 0.0, *, tie: int = 0) -> None:
        """Adds one comparison, or a tie, to an exit's figures."""
        check = self.checks[name]
        self.checks[name] = ExitCheck(
            name,
            check.samples + (tie == 0),
            max(check.output_difference, outputs),
            max(check.confidence_difference, confidence),
            check.ties + tie,
        )


def _compare(
    tally: Tally, exits: Mapping[str, Exit], what: str, sample: Sample, answers: Sequence[Answer]
) -> list[str]:
    """Counts one sample, the `answers` of all exits and last that of an ordinary run, and returns what is wrong."""
    *answers, answer = answers
    met, expected_exits = [found.exit for found in answers], [visit.exit for visit in sample.visits]
    if met != expected_exits:
        return [f"{what}: met the exits {met}, expected {expected_exits}"]
    failures = []
    for found, expected in zip(answers, sample.visits, strict=True):
        failures += tally.compare(what, found.outputs, found.confidence, expected)
    allowed = [visit.exit for visit in may_answer(sample.visits, exits, tally.tolerance)]
    if answer.exit not in allowed:
        failures.append(f"{what}: {answer.exit} answered, expected {allowed[0]}")
    elif len(set(allowed)) > 1:
        tally.count(answer.exit, tie=1)
    return failures


def may_answer(
    visits: Sequence[Visit], exits: Mapping[str, Exit], tolerance: float, *, most_confident: bool = False
) -> list[Visit]:
    """Returns the visits that may answer: the first that fires, and those passed or met by a rounding only.

    Args:
        visits: What the exits on a row's way give.
        exits: The plan's, by name.
        tolerance: What a confidence may be off by, but for those that are counted.
        most_confident: Whether the most confident exit answers where none fired, else the last.
    """
    allowed: list[Visit] = []
    for visit in visits:
        exit_ = exits[visit.exit]
        if exit_.ends:
            return [*allowed, *(_most_confident(visits, exits, tolerance) if most_confident else [visit])]
        limit, counted = limit_of(exit_.threshold), kind_of(exit_.criterion).counted
        slack = 0.0 if counted else tolerance
        if not visit.confidence >= limit - slack:
            continue
        allowed.append(visit)
        if counted or visit.confidence > limit + slack:
            return allowed
    return allowed


def _most_confident(visits: Sequence[Visit], exits: Mapping[str, Exit], tolerance: float) -> list[Visit]:
    """Returns the visit of the highest confidence, of equal ones the last, and those below it by a rounding only."""
    enabled = [visit for visit in visits if exits[visit.exit].enabled]
    ranks = [-math.inf if math.isnan(visit.confidence) else visit.confidence for visit in enabled]
    place = max(range(len(ranks)), key=lambda place: (ranks[place], place))
    slack = 0.0 if all(kind_of(exits[visit.exit].criterion).counted for visit in enabled) else 2 * tolerance
    near = [visit for visit, rank in zip(enabled, ranks, strict=True) if ranks[place] - rank <= slack]
    return near if slack and math.isfinite(ranks[place]) else [enabled[place]]


def difference(found: Array, expected: Array) -> float:
    """Returns the largest absolute difference over the larger of 1 and the largest finite expected magnitude.

    Infinity where shapes differ or where one is NaN or infinite and the other is not the same.
    """
    if found.shape != expected.shape:
        return float("inf")
    a, b = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(a[finite]).all():
        return float("inf")
    if not finite.any():
        return 0.0
    return float(np.abs(a[finite] - b[finite]).max() / max(1.0, np.abs(b[finite]).max()))

"""What the demo found, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from eetoolkit.demo import work
from eetoolkit.demo.timing import Runs
from eetoolkit_runtime.answer import Answer
from eetoolkit_runtime.bundle import Bundle
from eetoolkit_runtime.inputs import Array

if TYPE_CHECKING:
    from eetoolkit.zoo.system import System


@dataclass(frozen=True)
class ExitResult:
    """One exit over all digits.

    Attributes:
        left: How many digits left here.
        accuracy: Of those; None where there are none.
        accuracy_if_always: Of all digits, if every one left here, or at the end where it does not come past.
        median_ms: Latency of those that left here; None where there are none.
    """

    exit: str
    left: int
    share: float
    accuracy: float | None
    accuracy_if_always: float
    median_ms: float | None


@dataclass(frozen=True)
class Latency:
    """Per digit, over all digits."""

    median_ms: float
    mean_ms: float


@dataclass(frozen=True)
class Routes:
    """How often each case of a switch was taken, over all digits."""

    segment: str
    taken: tuple[int, ...]


@dataclass(frozen=True)
class DemoReport:
    """What the demo found; `whole` is the network without its side exits as one onnxruntime session, at its best.

    Attributes:
        model: The system's name in the zoo.
        title: What people call it, in short.
        picture: None where all digits left at one exit: there was nothing to draw.
        segments: How many have a model.
        work_share: Mean share of all multiply-adds (`work.share_of_work`); None where they are not known.
        segments_run: Mean number of segments.
        gates_met: Mean number of gates, of which `gates_open` were open; None where it has none.
        rounds: Mean number of rounds of its loop, of at most `max_rounds`; None where it has none.
        ponder_cost: Mean; None where it has none.
        speedup_mean: The ratio of the mean latencies, so of the times for all digits.
        speedup_median: The ratio of the median latencies.
    """

    model: str
    title: str
    bundle: str
    picture: str | None
    size_bytes: int
    segments: int
    verified_samples: int
    digits: int
    threads: int
    accuracy: float
    whole_accuracy: float
    exits: tuple[ExitResult, ...]
    work_share: float | None
    segments_run: float
    gates_open: float | None
    gates_met: float | None
    rounds: float | None
    max_rounds: int | None
    routes: tuple[Routes, ...]
    ponder_cost: float | None
    latency: Latency
    whole_latency: Latency
    speedup_mean: float
    speedup_median: float


def summarize(
    system: System, bundle: Bundle, picture: str | None, samples: int, threads: int, runs: Runs, labels: Array
) -> DemoReport:
    """Returns the report of a demo's runs."""
    plan, answers = bundle.manifest, runs.answers
    latency, whole_latency = _latency(runs.bundle_ms), _latency(runs.whole_ms)
    gates, rounds = work.gates_open(plan, answers), work.rounds(plan, answers)
    costs = [cost for answer in answers if (cost := answer.ponder_cost) is not None]
    return DemoReport(
        model=system.name,
        title=system.title.split(":")[0],
        bundle=str(bundle.place),
        picture=picture,
        size_bytes=bundle.size_bytes,
        segments=answers[0].segments,
        verified_samples=samples,
        digits=len(labels),
        threads=threads,
        accuracy=float((_predictions(answers) == labels).mean()),
        whole_accuracy=float((whole_predictions(runs.whole) == labels).mean()),
        exits=tuple(_exit_result(name, runs, labels) for name in bundle.exits),
        work_share=work.share_of_work(plan, answers),
        segments_run=work.segments_run(answers),
        gates_open=gates and gates[0],
        gates_met=gates and gates[1],
        rounds=rounds and rounds[0],
        max_rounds=rounds and rounds[1],
        routes=tuple(Routes(name, taken) for name, taken in work.routes(plan, answers).items()),
        ponder_cost=float(np.mean(costs)) if costs else None,
        latency=latency,
        whole_latency=whole_latency,
        speedup_mean=whole_latency.mean_ms / latency.mean_ms,
        speedup_median=whole_latency.median_ms / latency.median_ms,
    )


def whole_predictions(outputs: list[dict[str, Array]]) -> Array:
    """Returns int64 (n,), the class that the whole network says for each row: by `logits`, or by its only output."""
    return np.array([int(row.get("logits", next(iter(row.values()))).argmax()) for row in outputs])


def _exit_result(name: str, runs: Runs, labels: Array) -> ExitResult:
    left = np.array([answer.exit == name for answer in runs.answers])
    right = _predictions(runs.answers) == labels
    always = [next((met for met in row if met.exit == name), row[-1]) for row in runs.every_exit]
    return ExitResult(
        exit=name,
        left=int(left.sum()),
        share=float(left.mean()),
        accuracy=float(right[left].mean()) if left.any() else None,
        accuracy_if_always=float((_predictions(always) == labels).mean()),
        median_ms=float(np.median(runs.bundle_ms[left])) if left.any() else None,
    )


def _predictions(answers: list[Answer]) -> Array:
    """Returns int64 (n,), the class of each answer; -1 where it says none."""
    return np.array([-1 if answer.prediction is None else answer.prediction for answer in answers])


def _latency(milliseconds: Array) -> Latency:
    return Latency(float(np.median(milliseconds)), float(milliseconds.mean()))

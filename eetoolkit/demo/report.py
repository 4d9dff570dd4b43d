"""What the demo found, as values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from eetoolkit.demo import work
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.errors import EEToolkitError
from eetoolkit_runtime.profiling.costs import WholeCost
from eetoolkit_runtime.profiling.latency import Latency as Measured
from eetoolkit_runtime.profiling.profile import Profile
from eetoolkit_runtime.running.answer import Answer

if TYPE_CHECKING:
    from eetoolkit.zoo.system import System


@dataclass(frozen=True)
class ExitResult:
    """One exit over all digits.

    Attributes:
        left: How many digits left here.
        accuracy: Of those; None where there are none.
        accuracy_if_always: Of all digits that come past, if every one left here.
        median_ms: Latency of those that left here; None where there are none.
    """

    exit: str
    left: int
    share: float
    accuracy: float | None
    accuracy_if_always: float | None
    median_ms: float | None


@dataclass(frozen=True)
class Latency:
    """Per digit, over all digits; the mean is the robust one of a profile."""

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
    threads: int | None
    accuracy: float | None
    whole_accuracy: float | None
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
    system: System,
    bundle: Bundle,
    picture: str | None,
    samples: int,
    answers: Sequence[Answer],
    found: Profile,
    whole: WholeCost,
) -> DemoReport:
    """Returns the report of a demo: what its digits were answered, and what a profile with the whole network found."""
    plan = bundle.manifest
    gates, rounds = work.gates_open(plan, answers), work.rounds(plan, answers)
    costs = [cost for answer in answers if (cost := answer.ponder_cost) is not None]
    exits = tuple(
        ExitResult(
            exit=name,
            left=round(cost.share * found.rows),
            share=cost.share,
            accuracy=cost.accuracy,
            accuracy_if_always=cost.accuracy_if_always,
            median_ms=None if cost.call is None else cost.call.p50_ms,
        )
        for name, cost in found.exits.items()
    )
    latency, whole_latency = _latency(found.expected), _latency(whole.latency)
    return DemoReport(
        model=system.name,
        title=system.title.split(":")[0],
        bundle=str(bundle.place),
        picture=picture,
        size_bytes=bundle.size_bytes,
        segments=answers[0].segments,
        verified_samples=samples,
        digits=found.rows,
        threads=found.threads,
        accuracy=found.accuracy,
        whole_accuracy=exits[-1].accuracy_if_always,
        exits=exits,
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


def _latency(found: Measured | None) -> Latency:
    if found is None:
        raise EEToolkitError("the profile holds no calls: measure it here")
    return Latency(found.p50_ms, found.robust_ms)

"""Which segments become int8: measured, chosen by what exits then answer, and compared as whole calls."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from eetoolkit.quantizing.agreement import answers, compare, worst_of
from eetoolkit.quantizing.choosing import Worst, choose
from eetoolkit.quantizing.measuring import Costs, Form, Measured, Variant, measure
from eetoolkit.quantizing.rows import Part, Parts
from eetoolkit.tuning.collect import Progress
from eetoolkit.tuning.pruning import latencies
from eetoolkit_exporters.quantizing.candidates import Candidates, Choice
from eetoolkit_exporters.quantizing.write import write_quantized
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.plan.types import Method, Quantization

TURNS_ROWS = 100
"""Rows by which whole calls are compared in turns, at most."""
_PROFILED_ROWS = 256
_FASTER = 1.02  # times the speed, below which calls count as equally fast


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be decided.

    Attributes:
        source: The float bundle.
        parts: The rows.
        candidates: Of every segment.
        weights: What they are stored as.
        max_disagreement: The bound of every exit.
        threads: As the `Runner`'s.
        tell: Is told (what, done, total).
    """

    source: Bundle
    parts: Parts
    candidates: Candidates
    weights: Literal["int8", "float16"]
    max_disagreement: float
    threads: int | None
    tell: Progress

    def quantization(self, choice: Choice) -> Quantization:
        """Returns what the manifest says of a choice."""
        return Quantization(
            segments=dict(choice),
            activations=self.candidates.activations if "static" in choice.values() else None,
            rows=len(self.parts.calibrate.rows),
            created_with=self.candidates.settings,
            stale=self.weights == "int8",
        )


@dataclass(frozen=True)
class Decided:
    """What was decided.

    Attributes:
        choice: The method of each segment that is not float.
        why: Why each of the others stays float.
        costs: What segments take; None where nothing was measured.
    """

    choice: dict[str, Method]
    why: dict[str, str]
    costs: Costs | None


def take_costs(task: Task, folder: Path, measured: Measured, seconds: float) -> Costs:
    """Returns what segments take as float and by each method, from bundles written into `folder`."""
    methods = {name: list(each) for name, each in task.candidates.by_method.items()}
    most = max(map(len, methods.values()))
    choices: list[dict[str, Method]] = [{}]  # float; each at its most careful method; then at the next one
    choices += [{name: each[min(place, len(each) - 1)] for name, each in methods.items()} for place in range(most)]
    variants = []
    for number, choice in enumerate(choices):
        forms: dict[str, Form] = {
            name: choice.get(name, "float")
            for name, segment in task.source.manifest.segments.items()
            if segment.model is not None
        }
        bundle = task.source
        if choice:
            made = folder / f"variant{number}.ee"
            bundle = write_quantized(task.candidates, choice, task.quantization(choice), made)
        variants.append(Variant(bundle, forms))
    some = evenly(task.parts.choose, _PROFILED_ROWS)
    return measure(
        variants, lambda: iter(some), measured, seconds=seconds, threads=task.threads, tell=task.tell
    )  # fmt: skip


def decide(task: Task, costs: Costs) -> Decided:
    """Returns which segments become int8.

    The choice is never slower than the float bundle, nor than all segments in int8 where these keep the bound: both are
    compared with it, whole calls in turns.
    """
    candidates, part = task.candidates, task.parts.choose
    before = answers(task.source, part.rows, task.threads)

    def worst(choice: Choice) -> Worst:
        after = answers(candidates.bundle(choice), part.rows, task.threads)
        return worst_of(compare(task.source.manifest, before, after, part.labels))

    options = costs.options(candidates.by_method)
    found = choose(options, worst, task.max_disagreement, task.tell)
    choice, why = dict(found.methods), dict(found.why)
    for name in candidates.by_method:
        if name not in options:
            why[name] = "no latency was measured of it: no row that was timed came there"
    why |= candidates.failed
    if not (choice and costs.here):
        return Decided(choice, why, costs)
    rivals: list[dict[str, Method]] = [{}, choice]
    every = {name: next(iter(each)) for name, each in candidates.by_method.items()}
    if every != choice and worst(every).disagreement <= task.max_disagreement:
        rivals.append(every)
    rows = evenly(part, TURNS_ROWS)
    times = latencies([candidates.bundle(each) for each in rivals], rows, task.threads)
    means = np.median(times, axis=1).mean(axis=1)
    best = int(means.argmin()) if means[0] > means.min() else 0
    if best == 0:
        reason = f"whole calls are not faster: {1e3 * means[1]:.4g} ms against {1e3 * means[0]:.4g} ms of the float bundle"
        return Decided({}, why | dict.fromkeys(choice, reason), costs)
    return Decided(rivals[best], {n: each for n, each in why.items() if n not in rivals[best]}, costs)


def evenly(part: Part, most: int) -> list[tuple[Array, ...]]:
    """Returns some rows of a part, evenly from all of them."""
    places = np.linspace(0, len(part.rows) - 1, min(len(part.rows), most)).astype(int)
    return [part.rows[place] for place in places]

"""Which segments become int8: measured, chosen by what exits then answer, and compared as whole calls."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from eetoolkit.quantizing.agreement import Compared, answers, compare
from eetoolkit.quantizing.choosing import choose
from eetoolkit.quantizing.measuring import PROFILED_ROWS, Costs, Form, Measured, Variant, measure
from eetoolkit.quantizing.report import Weights
from eetoolkit.quantizing.rows import Parts
from eetoolkit.tuning.collect import Progress
from eetoolkit.tuning.pruning import ratios_in_turns
from eetoolkit_exporters.quantizing.candidates import Candidates, Choice
from eetoolkit_exporters.quantizing.write import write_quantized
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.plan.types import Method, Quantization

TURNS_ROWS = 100
"""Rows by which whole calls are compared in turns, at most."""
_SEED = 0


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
    weights: Weights
    max_disagreement: float
    threads: int | None
    tell: Progress

    def quantization(self, choice: Choice) -> Quantization:
        """Returns what the manifest says of a choice."""
        settings = [self.candidates.settings[method] for method in choice.values()]
        return Quantization(
            segments=dict(choice),
            activations=self.candidates.activations if "static" in choice.values() else None,
            rows=len(self.parts.calibrate) if "static" in choice.values() else 0,
            created_with=dict(ChainMap(*settings)),
            stale=self.weights == "int8" and any(e.enabled and not e.ends for e in self.source.exits.values()),
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
            said = msgspec.structs.replace(task.quantization(choice), stale=False)  # nobody is to tune it
            bundle = write_quantized(task.candidates, choice, said, made)
        variants.append(Variant(bundle, forms))
    some = task.parts.choose.evenly(PROFILED_ROWS)
    return measure(variants, lambda: iter(some), measured, seconds=seconds, threads=task.threads, tell=task.tell)


def decide(task: Task, costs: Costs) -> Decided:
    """Returns which segments become int8.

    The choice is never slower than the float bundle, nor than all segments in int8 where these keep the bound: whole
    calls of all three are compared in turns.
    """
    candidates, part = task.candidates, task.parts.choose
    careful = candidates.careful
    before = answers(task.source, part.rows, task.threads, task.tell)

    def disagreement(choice: Choice) -> dict[str, float]:
        after = answers(candidates.bundle(choice), part.rows, task.threads, task.tell)
        found = compare(task.source.manifest, before, after, part.labels)
        return _counted(found, shown=any(method != careful[name] for name, method in choice.items()))

    options = costs.options({name: list(each) for name, each in candidates.by_method.items()})
    chosen = choose(options, disagreement, task.max_disagreement, task.tell)
    why = chosen.why | candidates.failed
    why |= {name: "its quantised form was not measured" for name, each in options.items() if not each}
    why |= {name: "no row that was timed came there" for name in candidates.by_method if name not in options}
    if not (chosen.methods and costs.here):
        return Decided(chosen.methods, why, costs)
    rivals: list[dict[str, Method]] = [{}, chosen.methods]
    if careful != chosen.methods and max(disagreement(careful).values(), default=0) <= task.max_disagreement:
        rivals.insert(1, careful)
    task.tell("comparing whole calls", 0, 0)
    bundles = [candidates.bundle(each) for each in rivals]
    ratios = ratios_in_turns(bundles, part.evenly(TURNS_ROWS), task.threads, _SEED)
    faster = [(over.value, place) for place, over in enumerate(ratios) if over.high < 1]  # which chance explains not
    best = rivals[min(faster)[1] if faster else -1]
    if not best:
        why |= dict.fromkeys(chosen.methods, f"a whole call takes {1 / ratios[0].value:.2f} times the float bundle's")
    return Decided(best, {name: said for name, said in why.items() if name not in best}, costs)


def as_asked(candidates: Candidates, asked: Collection[str] | None, costs: Costs | None) -> Decided:
    """Returns the choice of all candidates, each by its most careful method; `asked` None: for every segment."""
    names = candidates.source.manifest.segments
    why = {} if asked is None else {name: "not asked for" for name in names if name not in asked}
    return Decided(candidates.careful, why | candidates.failed, costs)


def _counted(found: Mapping[str, Compared], *, shown: bool) -> dict[str, float]:
    """Returns what counts as an exit's disagreement, and as that of all of them.

    Where a less careful method was tried, rows must show that the bound holds, as the best of many tries looks too
    good: a standard error comes on top. Else they must show that it is broken, by one exit or by all in the mean.

    Args:
        found: Of each exit.
        shown: Whether the rows must show that the bound holds.
    """
    if shown:
        return {name: each.at_most for name, each in found.items()}
    least = {name: max(0.0, each.mean - each.standard_error) for name, each in found.items()}
    return least | {"all exits": float(np.mean([each.mean for each in found.values()]))} if found else {}

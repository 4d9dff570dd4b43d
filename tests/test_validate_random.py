"""Random plans are accepted exactly where a brute-force walk through them finds nothing wrong."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator

import msgspec
import pytest
from plans import chain, gate, leave, move

from eetoolkit_runtime.errors import ManifestError
from eetoolkit_runtime.plan.types import File, Gate, Goto, Manifest, Segment, Slot, Source, Stop, Switch, TensorSpec
from eetoolkit_runtime.plan.validate import validate

replace = msgspec.structs.replace
FILE = File(sha256="0" * 64, size=0)
X = TensorSpec(name="x", dtype="float32", shape=("batch", 4))

SLOTS = ("a", "b", "c")


def wild(seed: int) -> Manifest:
    """Returns a random plan of at most five segments; its names, files and dtypes are right.

    Its flow may not be, nor its shapes where `c` depends on data; some models give nothing.
    """
    rng = random.Random(seed)  # noqa: S311 - a seeded generator of tests, not a secret
    names = [f"s{k}" for k in range(rng.randint(1, 5))]
    slots = {name: Slot(dtype="float32", shape=("batch", 4)) for name in SLOTS}
    if rng.random() < 0.9:
        slots["c"] = Slot(dtype="float32", shape=(None, 4))
    tidy = rng.random() < 0.7  # most plans would fail on assignment alone: let some write everything at once
    segments = {}
    for k, name in enumerate(names):
        model = f"{name}.onnx" if rng.random() < 0.7 else None
        forward = names[k + 1 :] if rng.random() < 0.6 else names
        following: Goto | Gate | Switch | Stop = Stop()
        if forward and rng.random() < 0.85:
            kind = rng.randrange(3)
            targets = [rng.choice(forward) for _ in range(3)]
            following = (
                Goto(segment=targets[0]) if kind == 0 else gate("on", *targets[:2]) if kind == 1 else
                Switch(on="case", cases=tuple(targets[: rng.randint(1, 3)]))
            )  # fmt: skip
        known = (*SLOTS, "x")
        reads = {s: s for s in known if rng.random() < 0.3} if model else {}
        writes = {s: Source(output=s if rng.random() < 0.4 else "a") for s in SLOTS if model and rng.random() < 0.5}
        writes |= {s: move(rng.choice(known)) for s in SLOTS if rng.random() < 0.15}
        if k == 0 and tidy:
            writes = {s: move("x") for s in SLOTS}
            reads = {"x": "x"} if model else {}
        if model and all(source.output is None for source in writes.values()) and rng.random() < 0.95:
            writes["b"] = Source(output="b")
        exit_ = None
        if isinstance(following, Stop) or rng.random() < 0.2:
            limit = "always" if isinstance(following, Stop) else 0.5
            exit_ = leave(f"exit-{name}", rng.choice(known), "confidence", limit)
        segments[name] = Segment(
            model=model,
            reads=reads,
            writes=writes,
            exit=exit_,
            next=following,
            max_visits=3 if rng.random() < 0.3 else None,
        )
    inputs = (
        X,
        TensorSpec(name="on", dtype="bool", shape=("batch",)),
        TensorSpec(name="case", dtype="int64", shape=("batch",)),
        TensorSpec(name="confidence", dtype="float32", shape=("batch",)),
    )
    files = {segment.model: FILE for segment in segments.values() if segment.model}
    return replace(chain().plan(), inputs=inputs, slots=slots, start="s0", segments=segments, files=files)


def walks(plan: Manifest, start: str) -> Iterator[list[str]]:
    """Yields every walk from `start` of at most one step more than there are segments, prefixes included."""
    waiting = [[start]]
    while waiting:
        walk = waiting.pop()
        yield walk
        if len(walk) <= len(plan.segments):
            match plan.segments[walk[-1]].next:
                case Goto(segment=name):
                    targets = {name}
                case Gate(then=then, otherwise=otherwise):
                    targets = {then, otherwise}
                case Switch(cases=cases):
                    targets = set(cases)
                case _:
                    targets = set()
            waiting.extend([*walk, target] for target in sorted(targets))


def misfits(plan: Manifest, segment: Segment) -> Iterator[str]:
    """Yields what is wrong with the writes of a segment, where all slots differ in nothing but a null dimension."""
    loose = {name for name, slot in plan.slots.items() if None in slot.shape}
    outputs = [(source.output, slot) for slot, source in segment.writes.items() if source.output is not None]
    if segment.model is not None and not outputs:
        yield "idle"
    if any(source.slot in loose and slot not in loose for slot, source in segment.writes.items()):
        yield "unfit"
    if any(a == b and (s in loose) != (t in loose) for (a, s), (b, t) in itertools.combinations(outputs, 2)):
        yield "unfit"


def faults(plan: Manifest) -> set[str]:
    """Returns what is wrong with `plan`, found by walking it, with no dataflow analysis at all."""
    found = {fault for segment in plan.segments.values() for fault in misfits(plan, segment)}
    everywhere = {walk[-1] for walk in walks(plan, plan.start)}
    if everywhere != set(plan.segments):
        found.add("unreachable")
    for name in plan.segments:
        trips = list(walks(plan, name))
        if not any(isinstance(plan.segments[trip[-1]].next, Stop) for trip in trips):
            found.add("endless")
        for trip in trips:
            around = trip[:-1]
            if len(trip) > 1 and trip[-1] == name and len(set(around)) == len(around):
                visited = [plan.segments[at] for at in around]
                if not any(segment.model is not None and segment.max_visits is not None for segment in visited):
                    found.add("unbounded")
    for walk in walks(plan, plan.start):
        written = {spec.name for spec in plan.inputs}
        for name in walk:
            segment = plan.segments[name]
            needed = {*segment.reads.values(), *(s.slot for s in segment.writes.values() if s.slot is not None)}
            if not needed <= written:
                found.add("unwritten")
            written |= segment.writes.keys()
            if segment.exit is not None and not set(segment.exit.outputs.values()) <= written:
                found.add("unwritten")
    return found


def verdict(plan: Manifest) -> str:
    """Returns what `validate` says of a plan, as a word of `faults`, or "accepted"."""
    words = {
        "cannot be reached": "unreachable",
        "cannot reach a stop": "endless",
        "without a bound": "unbounded",
        "unwritten": "unwritten",
        "takes no output": "idle",
        "takes float32": "unfit",
        " feeds ": "unfit",
    }
    try:
        validate(plan)
    except ManifestError as error:
        return next(word for text, word in words.items() if text in str(error))
    return "accepted"


@pytest.mark.parametrize("part", range(4))
def test_random_plans_are_accepted_exactly_where_every_walk_through_them_is_sound(part: int) -> None:
    seen: Counter[str] = Counter()
    for seed in range(part * 600, (part + 1) * 600):
        plan = wild(seed)
        said, wrong = verdict(plan), faults(plan)
        assert (said == "accepted") == (not wrong), f"seed {seed}: validate says {said}, brute force {wrong}"
        assert said == "accepted" or said in wrong, f"seed {seed}: validate says {said}, brute force {wrong}"
        seen[said] += 1
    words = ("accepted", "unreachable", "endless", "unbounded", "unwritten", "idle", "unfit")
    assert min(seen[word] for word in words) >= 10, seen


def test_brute_force_finds_each_fault_by_itself() -> None:
    lone = {
        frozenset(faults(plan)): True for plan in map(wild, range(1200)) if len(faults(plan)) <= 1
    }  # a checker that always found two faults together could hide one of them
    assert set(itertools.chain.from_iterable(lone)) >= {"unreachable", "unbounded", "unwritten", "idle", "unfit"}

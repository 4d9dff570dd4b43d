"""Random plans: the runner and a plain interpreter of the plan give the same answers, bit for bit.

The generator writes programs (chains, nested gates, switches and loops, swaps, moves, constants, one output to two
slots, shapes that depend on data, exits anywhere) straight as plans. The interpreter keeps a dict of arrays and runs
each segment in a session of its own; it knows nothing of buffers, bindings or liveness.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from lots import MANY
from plans import NETWORKS, Array, Draft, fixed, gate, graphs, leave, looped, move, row, switch

from eetoolkit_runtime.bundle.bundle import load
from eetoolkit_runtime.errors import RunError
from eetoolkit_runtime.plan.types import Dim, Exit, Gate, Manifest, Next, Segment, Source, Stop
from eetoolkit_runtime.plan.validate import validate
from eetoolkit_runtime.running import workspace as workspaces
from eetoolkit_runtime.running.answer import Answer
from eetoolkit_runtime.running.interpret import interpret, visit_exits
from eetoolkit_runtime.running.runner import Runner

# The generator

WIDE, TWICE, SOME, FLAG, COUNT, SURE = "wide", "twice", "some", "flag", "count", "sure"
KINDS: dict[str, tuple[str, tuple[Dim, ...]]] = {
    WIDE: ("float32", ("batch", "n")),
    TWICE: ("float32", ("batch", "2*n")),  # not a symbol of the inputs: only a run tells its size
    SOME: ("float32", (None,)),
    FLAG: ("bool", ("batch",)),
    COUNT: ("int64", ("batch",)),
    SURE: ("float32", ("batch",)),
}
POOLS = {WIDE: 5, TWICE: 2, SOME: 3, FLAG: 2, COUNT: 2, SURE: 2}
MADE = [WIDE, WIDE, WIDE, TWICE, SOME, FLAG, SURE]
SLOTS = {f"{kind}{k}": kind for kind, size in POOLS.items() for k in range(size)}
CONSTANTS = {
    "some_constant": (SOME, "float32", [0.25, -0.5, 0.75]),
    "flag_constant": (FLAG, "bool", [True]),
    "count_constant": (COUNT, "int64", [1]),
    "sure_constant": (SURE, "float32", [0.375]),
}
EXITS = {
    name: leave(name, "", "", threshold) for name, threshold in (("early", 0.62), ("middle", 0.7), ("never", "never"))
}
Known = frozenset[str]
INPUTS = frozenset({"x", "y"})


def kind_of(slot: str) -> str:
    return WIDE if slot in INPUTS else SLOTS[slot]


class Body:
    """The nodes of one segment: what it reads by an alias, and what its outputs hold."""

    def __init__(self, rng: random.Random, known: Known) -> None:
        self.rng = rng
        self.known = known
        self.nodes: list[str] = []
        self.reads: dict[str, str] = {}
        self.count = 0

    def fresh(self) -> str:
        self.count += 1
        return f"t{self.count}"

    def add(self, node: str) -> str:
        """Adds a node and returns the name of its output."""
        name = self.fresh()
        self.nodes.append(f"{name} = {node}")
        return name

    def read(self, kind: str) -> str:
        """Returns a graph input that holds a tensor of the kind, from a random slot that has one."""
        slot = self.rng.choice(sorted(s for s in self.known | INPUTS if kind_of(s) == kind))
        alias = next((alias for alias, source in self.reads.items() if source == slot), None)
        if alias is None:
            alias = self.fresh()
            self.reads[alias] = slot
        return alias

    def has(self, kind: str) -> bool:
        return any(kind_of(slot) == kind for slot in self.known | INPUTS)

    def number(self, value: float) -> str:
        return self.add(f"Constant<value = float {{{value}}}>()")

    def sum_of_row(self) -> str:
        axes = self.add("Constant<value_ints = [1]>()")
        return self.add(f"ReduceSum<keepdims = 0>({self.read(WIDE)}, {axes})")

    def make(self, kind: str) -> str:
        """Returns a node's output of the kind, computed from what is known."""
        return {
            WIDE: self.wide, TWICE: self.twice, SOME: self.some, FLAG: self.flag, COUNT: self.small, SURE: self.sure,
        }[kind]()  # fmt: skip

    def wide(self) -> str:
        a, b = self.read(WIDE), self.read(WIDE)
        other = self.rng.randrange(4)
        if other == 0 and self.has(TWICE):
            b = self.add(f"ReduceMean<keepdims = 1>({self.read(TWICE)}, {self.add('Constant<value_ints = [1]>()')})")
        elif other == 1 and self.has(SOME):
            b = self.add(f"ReduceSum<keepdims = 0>({self.read(SOME)})")
        elif other == 2 and self.has(COUNT):
            axes = self.add("Constant<value_ints = [1]>()")
            b = self.add(f"Unsqueeze({self.add(f'Cast<to = 1>({self.read(COUNT)})')}, {axes})")
        elif other == 3:
            a = self.add(f"Mul({a}, {self.number(self.rng.choice([1.5, -1.25, 0.5]))})")
        return self.add(f"Sin({self.add(f'Add({a}, {b})')})")

    def twice(self) -> str:
        if self.has(TWICE) and self.rng.random() < 0.3:
            return self.add(f"Neg({self.read(TWICE)})")
        return self.add(f"Concat<axis = 1>({self.read(WIDE)}, {self.read(WIDE)})")

    def some(self) -> str:
        if self.has(SOME) and self.rng.random() < 0.5:
            return self.add(f"Cos({self.read(SOME)})")
        flat = self.add(f"Reshape({self.read(WIDE)}, {self.add('Constant<value_ints = [-1]>()')})")
        return self.add(f"Compress<axis = 0>({flat}, {self.add(f'Greater({flat}, {self.number(0.1)})')})")

    def flag(self) -> str:
        return self.add(f"Greater({self.sum_of_row()}, {self.number(self.rng.choice([-0.5, 0.0, 0.5]))})")

    def sure(self) -> str:
        return self.add(f"Sigmoid({self.sum_of_row()})")

    def small(self, below: int = 3) -> str:
        share = self.add(f"Sigmoid({self.sum_of_row()})")
        scaled = self.add(f"Mul({share}, {self.number(below - 0.001)})")
        return self.add(f"Cast<to = 7>({scaled})")


class Generator:
    """Writes one random plan."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)  # noqa: S311 - a seeded generator of tests, not a secret
        self.draft = Draft(dict.fromkeys(sorted(INPUTS), KINDS[WIDE]))
        for slot, kind in SLOTS.items():
            self.draft.slot(slot, *KINDS[kind])
        for name, (_, dtype, value) in CONSTANTS.items():
            self.draft.constant(name, dtype, value)
        self.draft.constant("zero", "int64", [0])
        self.count = 0
        last = self.fresh()
        known = self.sequence("begin", last, frozenset(), self.rng.randint(0, 3))
        self.end(last, known)
        used = {slot for segment in self.draft.segments.values() for slot in segment.writes}
        self.draft.slots = {name: slot for name, slot in self.draft.slots.items() if name in used}
        self.draft.options["start"] = "begin"
        if self.rng.random() < 0.5:  # the order of the segments means nothing
            shuffled = list(self.draft.segments.items())
            self.rng.shuffle(shuffled)
            self.draft.segments = dict(shuffled)

    def fresh(self) -> str:
        self.count += 1
        return f"s{self.count}"

    def sequence(self, entry: str, leave_to: str, known: Known, depth: int) -> Known:
        """Adds statements that are entered at `entry` and left to `leave_to`; returns what is written then."""
        length = self.rng.randint(1, 4 if depth else 2)
        for k in range(length):
            following = leave_to if k == length - 1 else self.fresh()
            kinds = ["compute", "compute", "moves"] + ["branch", "switch", "loop", "branch", "loop"] * bool(depth)
            known = getattr(self, self.rng.choice(kinds))(entry, following, known, depth)
            entry = following
        return known

    def compute(self, entry: str, following: str, known: Known, depth: int) -> Known:
        return self.segment(entry, known, following)

    def moves(self, entry: str, following: str, known: Known, depth: int) -> Known:
        writes = self.some_moves(known, {}, 4)
        exit_ = self.maybe_exit(known.union(writes), 0.1)
        self.draft.segment(entry, writes=writes, exit=exit_, next=following)
        return known.union(writes)

    def branch(self, entry: str, following: str, known: Known, depth: int) -> Known:
        then = self.fresh()
        otherwise = self.fresh() if self.rng.random() < 0.6 else following
        pair = (then, otherwise) if self.rng.random() < 0.5 else (otherwise, then)
        known = self.decide(entry, known, FLAG, lambda on: gate(on, *pair))
        ends = [self.sequence(then, following, known, depth - 1)]
        ends.append(known if otherwise == following else self.sequence(otherwise, following, known, depth - 1))
        return frozenset.intersection(*ends)

    def switch(self, entry: str, following: str, known: Known, depth: int) -> Known:
        cases = [self.fresh() for _ in range(self.rng.randint(1, 3))]
        targets = [*cases, *(self.rng.choice([*cases, following]) for _ in range(3 - len(cases)))]
        self.rng.shuffle(targets)
        known = self.decide(entry, known, COUNT, lambda on: switch(on, *targets))
        ends = [self.sequence(case, following, known, depth - 1) for case in cases]
        return frozenset.intersection(*ends, *([known] if following in targets else []))

    def loop(self, entry: str, following: str, known: Known, depth: int) -> Known:
        """A loop whose last segment counts; its counter is a slot of its own."""
        counter, head, tail = f"counter{self.fresh()}", self.fresh(), self.fresh()
        self.draft.slot(counter, *KINDS[COUNT])
        start = self.some_moves(known, {}, 2) | {counter: fixed("zero")}
        self.draft.segment(entry, writes=start, next=head)
        known = known.union(start) - {counter}
        known = (
            self.sequence(head, tail, known, depth - 1) if self.rng.random() < 0.8 else self.straight(head, tail, known)
        )
        body = Body(self.rng, known)
        body.reads["i"] = counter
        j = body.add(f"Add(i, {body.add('Constant<value = int64 {1}>()')})")
        limit = body.add(f"Constant<value = int64 {{{self.rng.randint(1, 4)}}}>()")
        more = body.add(f"Less({j}, {limit})")
        if self.rng.random() < 0.5:
            more = body.add(f"And({more}, {body.flag()})")
        flag = self.rng.choice([slot for slot in SLOTS if SLOTS[slot] == FLAG])
        visits = 1000 if self.rng.random() < 0.93 else self.rng.randint(1, 3)
        return self.segment(tail, known, gate(flag, head, following), body, {counter: j, flag: more}, visits) - {
            counter
        }

    def straight(self, entry: str, following: str, known: Known) -> Known:
        return self.segment(entry, known, following)

    def decide(self, entry: str, known: Known, kind: str, following: Any) -> Known:
        """Adds a segment that ends in a gate or switch on a slot of the kind, computed now or long ago."""
        old = sorted(slot for slot in known if SLOTS[slot] == kind and slot in known)
        if old and self.rng.random() < 0.25:
            on = self.rng.choice(old)
            writes = {slot: source for slot, source in self.some_moves(known, {}, 2).items() if slot != on}
            self.draft.segment(entry, writes=writes, next=following(on))
            return known.union(writes)
        body = Body(self.rng, known)
        on = self.rng.choice([slot for slot in SLOTS if SLOTS[slot] == kind])
        return self.segment(entry, known, following(on), body, {on: body.make(kind)})

    def segment(
        self,
        entry: str,
        known: Known,
        following: str | Next,
        body: Body | None = None,
        fed: dict[str, str] | None = None,
        max_visits: int | None = None,
    ) -> Known:
        """Adds a segment with a model: some outputs, each to one slot or two, and some moves beside them."""
        body = Body(self.rng, known) if body is None else body
        writes: dict[str, Source] = {slot: Source(output=name) for slot, name in (fed or {}).items()}
        for _ in range(self.rng.randint(0 if fed else 1, 3)):
            kind = self.rng.choice(MADE)
            free = [slot for slot in SLOTS if SLOTS[slot] == kind and slot not in writes]
            if free:
                output = Source(output=body.make(kind))
                writes |= dict.fromkeys(self.rng.sample(free, min(len(free), self.rng.choice([1, 1, 2]))), output)
        writes |= self.some_moves(known, writes, self.rng.choice([0, 0, 1, 2, 3]))
        ordered = list(writes.items())
        self.rng.shuffle(ordered)
        visits = 1000 if max_visits is None and self.rng.random() < 0.1 else max_visits
        self.draft.segment(
            entry, "  ".join(body.nodes), reads=body.reads, writes=dict(ordered),
            exit=self.maybe_exit(known.union(writes), 0.3), next=following, max_visits=visits,
        )  # fmt: skip
        return known.union(slot for slot in writes if slot in SLOTS)

    def some_moves(self, known: Known, taken: dict[str, Any], number: int) -> dict[str, Source]:
        """Returns parallel moves; a swap or a longer cycle where there is enough to permute."""
        writes: dict[str, Source] = {}
        movable = [slot for slot in SLOTS if slot not in taken and slot in known]
        cycled = self.rng.choice([WIDE, WIDE, SOME])
        same = [slot for slot in movable if SLOTS[slot] == cycled]
        if len(same) > 1 and self.rng.random() < 0.5:
            cycle = self.rng.sample(same, self.rng.randint(2, len(same)))
            writes |= {to: move(source) for to, source in zip(cycle, cycle[1:] + cycle[:1], strict=True)}
        for _ in range(self.rng.randint(0, number)):
            target = self.rng.choice(list(SLOTS))
            sources = [move(s) for s in sorted(known | INPUTS) if kind_of(s) == SLOTS[target]]
            sources += [fixed(name) for name, (kind, _, _) in CONSTANTS.items() if kind == SLOTS[target]]
            if target not in taken and target not in writes and sources:
                writes[target] = self.rng.choice(sources)
        return writes

    def maybe_exit(self, known: Known, chance: float) -> Exit | None:
        sure = sorted(slot for slot in known if SLOTS.get(slot) == SURE)
        if not sure or self.rng.random() > chance:
            return None
        outputs = {"logits": self.rng.choice(sorted(s for s in known | INPUTS if s in INPUTS or SLOTS.get(s) == WIDE))}
        exit_ = EXITS[self.rng.choice(sorted(EXITS))]
        return msgspec.structs.replace(exit_, outputs=outputs, confidence=self.rng.choice(sure))

    def end(self, entry: str, known: Known) -> None:
        body = Body(self.rng, known)
        writes = {"sure0": Source(output=body.sure()), "wide0": Source(output=body.wide())}
        self.draft.segment(entry, "  ".join(body.nodes), reads=body.reads, writes=writes)
        answer = {slot: slot for slot in sorted(known.union(writes, INPUTS))}
        exit_ = msgspec.structs.replace(leave("last", "wide0", "sure0"), outputs={"logits": "wide0"} | answer)
        self.draft.segments[entry] = msgspec.structs.replace(self.draft.segments[entry], exit=exit_)


# The comparison


def unlike(found: Answer, expected: Answer) -> str | None:
    """Returns how an answer differs from what the interpreter gives; None where it does not."""
    if (found.exit, found.path) != (expected.exit, expected.path):
        return f"exit {found.exit} by {found.path}, expected {expected.exit} by {expected.path}"
    if (found.gates, found.stopped_by) != (expected.gates, expected.stopped_by):
        return f"gates {found.gates}, {found.stopped_by}, expected {expected.gates}, {expected.stopped_by}"
    if found.outputs.keys() != expected.outputs.keys():
        return f"outputs {sorted(found.outputs)}, expected {sorted(expected.outputs)}"
    for name, array in expected.outputs.items():
        other = found.outputs[name]
        if (other.dtype, other.shape, other.tobytes()) != (array.dtype, array.shape, array.tobytes()):
            return f"{name} is {other}, expected {array}"
    if np.float32(found.confidence).tobytes() != np.float32(expected.confidence).tobytes():
        return f"confidence {found.confidence}, expected {expected.confidence}"
    return None


def inputs_of(seed: int) -> list[dict[str, Array]]:
    """Returns several inputs of two lengths, back and forth, so that buffers are used again."""
    rng = np.random.default_rng(seed)
    return [
        {name: rng.normal(0, 1.5, (1, n)).astype(np.float32) for name in sorted(INPUTS)} for n in (4, 4, 3, 4, 3, 4)
    ]


def first_difference(draft: Draft, inputs: list[dict[str, Array]], folder: Path, fallback: str = "last") -> str | None:
    """Returns where the runner and the interpreter first part on inputs in a row; None where they never do."""
    plan = msgspec.structs.replace(load(draft.save(folder)).manifest, fallback=fallback)
    run_graph = graphs(folder)
    with Runner(folder, threads=1, fallback=fallback) as runner:  # type: ignore[arg-type]
        for number, x in enumerate(inputs):
            for what, call in (("run", runner.run), ("run_all_exits", runner.run_all_exits)):
                try:
                    met = visit_exits(plan, x, run_graph)
                    expected = [interpret(plan, x, run_graph)] if what == "run" else list(met)
                    fault = None
                except RunError as error:
                    expected, fault = [], str(error)
                try:
                    found = call(x)
                except RunError as error:
                    if fault is None or str(error) != fault:
                        return f"input {number}: {what}: failed ({error}), expected {fault or expected}"
                    continue
                answers = [found] if what == "run" else found
                if fault is not None or len(answers) != len(expected):
                    return f"input {number}: {what}: {len(answers)} answers, expected {fault or len(expected)}"
                for answer, visit in zip(answers, expected, strict=True):
                    if (difference := unlike(answer, visit)) is not None:
                        return f"input {number}: {what}: {difference}"
    return None


PARTS, PER_PART = 6 if MANY else 2, 50


@pytest.mark.parametrize("part", range(PARTS))
def test_random_plans_run_as_the_interpreter_runs_them(part: int, tmp_path: Path) -> None:
    for seed in range(part * PER_PART, (part + 1) * PER_PART):
        fallback = ("last", "most_confident")[seed % 2]
        difference = first_difference(Generator(seed).draft, inputs_of(seed), tmp_path / f"{seed}", fallback)
        assert difference is None, f"seed {seed}: {difference}"


def test_plans_with_more_states_than_are_kept_run_as_the_interpreter_runs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspaces, "_MAX_STEPS", 3)
    for seed in range(25):
        difference = first_difference(Generator(seed).draft, inputs_of(seed), tmp_path / f"{seed}")
        assert difference is None, f"seed {seed}: {difference}"


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_the_networks_of_the_other_tests_run_as_the_interpreter_runs_them(network: str, tmp_path: Path) -> None:
    rows = [{"x": row(*values)} for values in [(2, 0.9), (0, 0.1), (1, 0.4, 0.9), (2, 0.9), (0, 0.6), (1,)]]
    assert first_difference(NETWORKS[network](), rows, tmp_path / "b") is None


def test_an_exit_in_a_loop_runs_as_the_interpreter_runs_it(tmp_path: Path) -> None:
    rows = [{"x": row(steps, 1, 2)} for steps in (3, 9, 1, 5, 9)]
    assert first_difference(looped(leave_at=0.45, max_visits=6), rows, tmp_path / "b", "most_confident") is None


def test_the_generator_meets_everything_that_a_plan_can_hold() -> None:
    seen: Counter[str] = Counter()
    for seed in range(300):
        plan = Generator(seed).draft.plan()
        validate(plan)
        seen.update(features(plan))
    wanted = {
        "gate", "switch", "goto", "loop", "moves only", "exit", "exit without a model", "one name twice", "swap",
        "constant", "input moved", "two slots", "dynamic", "gate long ago", "exit in a loop", "tight loop",
    }  # fmt: skip
    assert {name for name in wanted if seen[name] < 20} == set(), seen


def features(plan: Manifest) -> set[str]:
    """Returns what occurs in a plan."""
    found: set[str] = set()
    names = Counter(segment.exit.name for segment in plan.segments.values() if segment.exit is not None)
    found.update(["one name twice"] if max(names.values()) > 1 else [])
    for name, segment in plan.segments.items():
        found.add(type(segment.next).__name__.lower())
        found.update(["moves only"] if segment.model is None else [])
        found.update(["exit"] if segment.exit is not None and not isinstance(segment.next, Stop) else [])
        found.update(["exit without a model"] if segment.exit is not None and segment.model is None else [])
        moved = {slot: source.slot for slot, source in segment.writes.items() if source.slot is not None}
        found.update("swap" for slot, source in moved.items() if source in segment.writes and source != slot)
        found.update("input moved" for source in moved.values() if source in INPUTS)
        found.update("constant" for source in segment.writes.values() if source.constant is not None)
        outputs = Counter(source.output for source in segment.writes.values() if source.output is not None)
        found.update("two slots" for count in outputs.values() if count > 1)
        found.update("dynamic" for slot in segment.writes if None in plan.slots[slot].shape)
        if isinstance(segment.next, Gate):
            found.update(["gate long ago"] if segment.next.on not in segment.writes else [])
            if segment.max_visits is not None and segment.next.then != name and segment.max_visits in {1, 2, 3, 1000}:
                found.update(["loop"] if segment.next.on in segment.writes else [])
                found.update(["tight loop"] if segment.max_visits <= 3 else [])
                found.update(["exit in a loop"] if segment.exit is not None else [])
    return found


# That the comparison can fail


def caught(tmp_path: Path, seeds: int = 25) -> int:
    """Returns how many of the first plans now differ."""
    drafts = ((seed, Generator(seed).draft) for seed in range(seeds))
    return sum(first_difference(draft, inputs_of(seed), tmp_path / f"{seed}") is not None for seed, draft in drafts)


def one_after_the_other(segment: Segment) -> Segment:
    """Returns the segment with writes that do at once what its own would do if each saw the ones before it."""
    done: dict[str, Source] = {}
    for slot, source in segment.writes.items():
        done[slot] = done.get(source.slot or "", source) if source.slot is not None else source
    return msgspec.structs.replace(segment, writes=done)


def test_moves_done_one_after_the_other_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = workspaces.Workspace._point

    def sequential(self: workspaces.Workspace, step: workspaces.Step, outputs: dict[str, workspaces.Cell]) -> None:
        segment, step.segment = step.segment, one_after_the_other(step.segment)
        original(self, step, outputs)
        step.segment = segment

    monkeypatch.setattr(workspaces.Workspace, "_point", sequential)
    assert caught(tmp_path) > 3


def test_an_output_written_over_a_tensor_that_is_still_needed_would_be_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = workspaces.Workspace._place

    def careless(self: workspaces.Workspace, step: workspaces.Step, outputs: Any) -> dict[str, workspaces.Cell]:
        before, step.before = step.before, {}  # as if no slot pointed anywhere: never a spare buffer
        cells = original(self, step, outputs)
        step.before = before
        return cells

    monkeypatch.setattr(workspaces.Workspace, "_place", careless)
    assert caught(tmp_path) > 3

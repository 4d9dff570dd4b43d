"""Rounds over inputs, timed until the time is up: warm-up, cool-down, and what was found."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.errors import InputError
from eetoolkit_runtime.profiling.budget import Budget, Part
from eetoolkit_runtime.profiling.energy import Meter, Reading
from eetoolkit_runtime.profiling.latency import Latency, summarise
from eetoolkit_runtime.profiling.machine import Condition, condition
from eetoolkit_runtime.profiling.whole import Whole
from eetoolkit_runtime.running.answer import Answer
from eetoolkit_runtime.running.inputs import Inputs, golden_rows, prepare, split_rows
from eetoolkit_runtime.running.runner import Runner

Row = tuple[Array, ...]
Tell = Callable[[str, int, int], object]
"""Takes what goes on, how much of it is done, and of how much."""

LEAST_ROUNDS = 5  # for medians; fewer where there is no time for them
_WARMUP_ROUNDS = 3, 30  # at least, at most
_STEADY = 0.05  # a round is steady that takes at most so much longer or shorter than the one before
_HOT_C, _COOL_C = 10.0, 5.0  # above the beginning's temperature: when to pause, and until when
_LOOK_EVERY_S = 0.5
_TIMED_ROWS = 8  # at least, however slow the network
_LEAST_ROW_S = 1e-6  # all runs of a row, on a clock that is coarse
_ROUND_S = 0.25  # a round, about: what a machine's speed changes by meanwhile is taken for a difference
_GOLDEN = (5**0.5 - 1) / 2  # whose multiples modulo 1 are spread evenly, however many of them


@dataclass
class Runs:
    """Runs of one kind, as they come: what each took in milliseconds, and how many numbers its inputs were."""

    took_ms: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def add(self, took_ms: float, row: Row) -> None:
        """Adds a run of one row."""
        self.took_ms.append(took_ms)
        self.sizes.append(size_of(row))

    def summary(self) -> Latency:
        """Returns their summary."""
        return summarise(self.took_ms, self.sizes)


def size_of(row: Row) -> int:
    """Returns how many numbers a row's inputs are."""
    return sum(array.size for array in row)


@dataclass
class Found:
    """Runs, as they come.

    Attributes:
        segments: By segment, on full paths that are watched segment by segment.
        reached: Which segments ran up to each exit's first visit, on these, and how often these.
        exits: Of calls that always leave at this exit, one after the other: they find other caches than those between
            full paths, which a first exit of a deep network can take for half as long again.
        full: Of full paths that nobody watches.
        calls: Of calls as a user makes them.
        whole: Of the whole network as one session.
        overheads: What a full path takes beside its segments' runs, for each of these, in milliseconds.
        energy: What the meter said around the full paths and around the calls, round by round.
        places: Which row each of the calls ran.
    """

    segments: dict[str, Runs] = field(default_factory=dict)
    reached: dict[str, Counter[tuple[str, ...]]] = field(default_factory=dict)
    exits: dict[str, Runs] = field(default_factory=dict)
    full: Runs = field(default_factory=Runs)
    calls: Runs = field(default_factory=Runs)
    whole: Runs = field(default_factory=Runs)
    overheads: list[float] = field(default_factory=list)
    energy: dict[str, list[list[Reading]]] = field(default_factory=dict)
    places: list[int] = field(default_factory=list)
    rounds: int = 0

    def watched_path(self, runner: Runner, row: Row) -> tuple[int, float, tuple[str, ...]]:
        """Runs one input to the end of the plan; returns how many segments ran, what they took, and exits met."""
        taken: list[tuple[str, float]] = []
        met = runner.trace(row, lambda segment, milliseconds: taken.append((segment, milliseconds)))
        for name, milliseconds in taken:
            self.segments.setdefault(name, Runs()).add(milliseconds, row)
        first: dict[str, int] = {}
        for name, count in met:
            first.setdefault(name, count)
        for name, count in first.items():
            self.reached.setdefault(name, Counter())[tuple(segment for segment, _ in taken[:count])] += 1
        return len(taken), sum(milliseconds for _, milliseconds in taken), tuple(first)

    def full_path(self, runner: Runner, row: Row, end: str, segments: int, segments_ms: float) -> None:
        """Runs one input to the end of the plan as a user would; `end` is an exit that ends it."""
        started = time.perf_counter_ns()
        answer = runner.run(row, exit_at=end)
        taken = (time.perf_counter_ns() - started) / 1e6
        self.full.add(taken, row)
        self.overheads.append((taken - segments_ms) / max(1, segments))
        self.exits.setdefault(answer.exit, Runs()).add(taken, row)

    def leave(self, runner: Runner, row: Row, exit_: str) -> None:
        """Runs one input to an exit that it meets."""
        started = time.perf_counter_ns()
        runner.run(row, exit_at=exit_)
        self.exits.setdefault(exit_, Runs()).add((time.perf_counter_ns() - started) / 1e6, row)

    def call(self, runner: Runner, row: Row) -> None:
        """Runs one input as a user does."""
        started = time.perf_counter_ns()
        runner.run(row)
        self.calls.add((time.perf_counter_ns() - started) / 1e6, row)

    def whole_call(self, whole: Whole, row: Row) -> None:
        """Runs one input through the whole network."""
        feeds = whole.feeds(row)
        started = time.perf_counter_ns()
        whole.session.run(None, feeds)
        self.whole.add((time.perf_counter_ns() - started) / 1e6, row)


@dataclass
class Cooler:
    """Pauses between rounds where the machine has become hot, or lowers its clock.

    Attributes:
        before: The machine's state when it began.
        most_s: How long to pause at most, in all.
        look: Returns the state now.
        sleep: Waits so many seconds.
        paused_s: How long it has paused.
    """

    before: Condition
    most_s: float
    look: Callable[[], Condition] = condition
    sleep: Callable[[float], object] = time.sleep
    paused_s: float = 0

    def cool_down(self, tell: Tell) -> bool:
        """Waits where it is 10 degrees hotter than at the beginning until it is only 5; returns whether it has waited.

        And where the clock is lowered just now that was not at the beginning, until it is not.
        """
        began_s = self.paused_s
        if self.most_s > 0 and self._too_hot(_HOT_C):
            while self.paused_s < self.most_s and self._too_hot(_COOL_C):
                tell("cooling down", int(self.paused_s), int(self.most_s))
                self.sleep(_LOOK_EVERY_S)
                self.paused_s += _LOOK_EVERY_S
        return self.paused_s > began_s

    def _too_hot(self, by_c: float) -> bool:
        now = self.look()
        if now.throttling and not self.before.throttling:
            return True
        known = now.temperature_c is not None and self.before.temperature_c is not None
        return known and (now.temperature_c or 0) >= (self.before.temperature_c or 0) + by_c


def rows_of(bundle: Bundle, inputs: Inputs | Iterator[Inputs] | None) -> list[Row]:
    """Returns inputs row by row; an iterator gives single rows, which may differ in shape, None the golden samples.

    Raises:
        InputError: Inputs that the bundle does not take, or none at all.
    """
    if isinstance(inputs, Iterator):
        rows = [prepare(bundle.manifest, row, one_row=True) for row in inputs]
        if not rows:
            raise InputError("the iterator gave no rows")
        return rows
    if inputs is not None:
        return split_rows(bundle.manifest, prepare(bundle.manifest, inputs, one_row=False))
    rows = golden_rows(bundle)
    if not rows:
        raise InputError("the bundle has no golden samples; pass inputs")
    return rows


def scattered(count: int) -> list[int]:
    """Returns all places of so many rows, so ordered that the first few are spread over all of them."""
    order: list[int] = np.argsort(np.argsort(np.arange(count) * _GOLDEN % 1)).tolist()
    return order


def rows_in_a_round(runner: Runner, rows: Sequence[Row], budget: Budget) -> int:
    """Returns how many rows fit into a round, each run up to five times, and to each exit."""
    taken_s: list[float] = []
    for row in rows[:_TIMED_ROWS]:
        if taken_s and not budget.allows(LEAST_ROUNDS * taken_s[-1]):
            break
        started = time.perf_counter()
        runner.run_all_exits(row)
        taken_s.append(time.perf_counter() - started)
    if not budget.bounded:
        return _TIMED_ROWS
    times = 5 + len(runner.bundle.exits) / 2
    row_s = max(times * sum(taken_s) / len(taken_s), _LEAST_ROW_S)
    round_s = budget.left() / LEAST_ROUNDS
    return max(1, min(_TIMED_ROWS, int(round_s / row_s)), int(min(round_s, _ROUND_S) / row_s))


def groups_of(answers: Sequence[Answer], rows: Sequence[Row], most: int, together: int) -> list[list[int]]:
    """Returns the places of at most so many rows, in groups of so many that are run together.

    In each group each exit has its share, and of its rows so have all sizes; as evenly as may be also in the first few
    groups together, since time may not suffice for all.
    """
    alike = sorted(range(len(rows)), key=lambda n: (answers[n].exit, size_of(rows[n])))
    kept = min(most, len(alike))
    alike = [alike[int((place + 0.5) * len(alike) / kept)] for place in range(kept)]
    count = max(1, kept // together)
    return [sorted(alike[first::count]) for first in scattered(count)]


def warm_up(runner: Runner, whole: Whole | None, rows: Sequence[Row], budget: Budget, tell: Tell) -> tuple[int, bool]:
    """Runs rounds until one takes as long as the one before; returns how many, and whether it came to that.

    Fewer where the time is up.
    """
    last, least, most = 0.0, *_WARMUP_ROUNDS
    for done in range(1, most + 1):
        if not budget.allows(last):
            if done <= least:
                budget.lack("warm-up")
            return done - 1, False
        started = time.perf_counter()
        for row in rows:
            runner.run_all_exits(row)
            runner.run(row)
            if whole is not None:
                with whole.running():
                    whole.session.run(None, whole.feeds(row))
        took = time.perf_counter() - started
        tell("warming up", done, most)
        if done >= least and abs(took - last) <= _STEADY * last:
            return done, True
        last = took
    return most, False


def measure(
    runner: Runner,
    whole: Whole | None,
    rows: Sequence[Row],
    groups: Sequence[Sequence[int]],
    budget: Budget,
    cooler: Cooler,
    meter: Meter | None,
    tell: Tell,
) -> Found:
    """Runs rounds of full paths, to each exit, of calls and of the whole network, in turns, until the time is up.

    Each round runs one group of the rows, one group after the other and from the first again: where rows are slow, many
    are run seldom rather than few often. The first round is run whatever it takes, but for calls that always leave at
    an exit and for the whole network; another one where there is time for all of it.

    The shapes of every group but the first, which warmed up, are new to the sessions, and after a pause the caches and
    the clock are cold: then a group is run once without being timed. Else its first row is, since the look at the
    machine between two rounds has filled the caches.
    """
    found = Found()
    ends = runner.bundle.manifest.ends
    early = [name for name in runner.bundle.exits if name not in ends]

    def look(what: str) -> None:
        if meter is not None:
            found.energy.setdefault(what, [[]])[-1].append(meter.read())

    def new_round() -> None:
        for readings in found.energy.values():
            readings.append([])

    def has_time(part: Part, runs: int) -> bool:
        allowed = found.rounds > 0 or budget.allows(runs * found.full.took_ms[-1] / 1e3)
        if not allowed:
            budget.lack(part)
        return allowed

    cold, round_s, window_s = False, 0.0, budget.left()
    while not found.rounds or (budget.allows(round_s) if budget.bounded else found.rounds < LEAST_ROUNDS):
        started = time.perf_counter()
        places = groups[found.rounds % len(groups)]
        group = [rows[place] for place in places]
        if budget.allows():
            for row in group if cold or 0 < found.rounds < len(groups) else group[:1]:
                runner.run_all_exits(row)
        watched = [found.watched_path(runner, row) for row in group]
        look("full path")
        for row, (segments, segments_ms, _) in zip(group, watched, strict=True):
            found.full_path(runner, row, ends[0], segments, segments_ms)
        look("full path")
        for exit_ in early:
            for row, (*_, met) in zip(group, watched, strict=True):
                if exit_ in met and has_time("exits", len(group)):
                    found.leave(runner, row, exit_)
        look("call")
        for row in group:
            found.call(runner, row)
        look("call")
        found.places += places
        if whole is not None and has_time("whole", len(group)):
            with whole.running():
                for row in group:
                    found.whole_call(whole, row)
        found.rounds += 1
        new_round()
        round_s = time.perf_counter() - started
        paused_s = cooler.paused_s
        cold = cooler.cool_down(tell)
        budget.extend(cooler.paused_s - paused_s)
        done, total = (window_s - budget.left(), window_s) if budget.bounded else (found.rounds, LEAST_ROUNDS)
        tell("measuring", int(1e3 * max(0.0, done)), int(1e3 * total))
    if found.rounds < LEAST_ROUNDS:
        budget.lack("rounds")
    return found

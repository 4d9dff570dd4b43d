"""Which segments are quantised, and how: the most time saved that the bound of disagreement allows.

The rule, where a segment's methods are ordered from careful to fast:

1. Methods that are not faster than float, or than a more careful one, are out.
2. If every segment may have its fastest method, that is the choice.
3. Else each gets its most careful one. If that exceeds the bound, each is tried alone, and as many of those that cause
   most disagreement per millisecond saved go back to float as it takes.
4. In the order of time saved, those that went back and keep the bound alone try their most careful method once more,
   then all try their faster ones, the fastest first. What keeps the bound stays.

So the choice keeps the bound on the rows that chose, and is never slower than all float, nor than all at their most
careful or at their fastest methods where these keep it. Many segments are tried together, and a group is halved where
it does harm, so that those which do none cost few tries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from eetoolkit.tuning.collect import Progress
from eetoolkit_runtime.plan.types import Method

_FEW = 16
"""Up to so many segments are tried one by one."""
_MORE = 10

Choice = Mapping[str, Method]
"""By segment; those that are left out are float."""
Disagreement = Callable[[Choice], Mapping[str, float]]
"""From a choice to what each exit disagrees: in the mean, or for certain with a standard error on top."""


@dataclass(frozen=True)
class Option:
    """A method that a segment may have.

    Attributes:
        method: It.
        float_ms: Latency of the float segment in a mean call: of one visit, times its visits.
        own_ms: The same with this method.
    """

    method: Method
    float_ms: float
    own_ms: float

    @property
    def saved_ms(self) -> float:
        """What it saves of a mean call; negative where it is slower."""
        return self.float_ms - self.own_ms


@dataclass(frozen=True)
class Chosen:
    """What `choose` found.

    Attributes:
        methods: Of each segment that is not float.
        why: Why the others are.
        tried: How many choices were run.
    """

    methods: dict[str, Method]
    why: dict[str, str]
    tried: int


def choose(
    options: Mapping[str, Sequence[Option]], disagreement: Disagreement, bound: float, tell: Progress | None = None
) -> Chosen:
    """Returns the choice, by the rule above.

    It runs at most one choice for each segment, one for each of its methods, and `_MORE`.

    Args:
        options: Of each segment, the most careful first; none where it cannot be quantised.
        disagreement: Runs a choice; it is asked once for each.
        bound: What no exit's disagreement may exceed.
        tell: Is told (what, done, 0) for every choice that was run.
    """
    why = {name: _slow(own) for name, own in options.items()}
    faster = {name: left for name, own in options.items() if (left := _faster(own))}
    search = _Search(faster, disagreement, bound, tell)
    fastest = {name: own[-1].method for name, own in faster.items()}
    methods = fastest if search.holds(fastest) else search.improved(search.reduced())
    why |= search.harm
    return Chosen(dict(methods), {name: why[name] for name in options if name not in methods}, search.tried)


def _faster(options: Sequence[Option]) -> list[Option]:
    """Returns those that are faster than float and than all before them."""
    found: list[Option] = []
    for option in options:
        if option.saved_ms > (found[-1].saved_ms if found else 0):
            found.append(option)
    return found


def _slow(options: Sequence[Option]) -> str:
    if not options:
        return "nothing in it can be quantised"
    best = max(options, key=lambda option: option.saved_ms)
    return f"{best.method} is not faster here: {best.own_ms / best.float_ms:.2f} times float's latency"


class _Search:
    """Choices that were run, and which of their exits disagree too much.

    Attributes:
        harm: For segments that would break the bound, what would happen.
    """

    def __init__(
        self, options: Mapping[str, Sequence[Option]], disagreement: Disagreement, bound: float, tell: Progress | None
    ) -> None:
        self._options, self._disagreement, self._bound, self._tell = options, disagreement, bound, tell
        self._known: dict[frozenset[tuple[str, Method]], Mapping[str, float]] = {frozenset(): {}}
        self._most = _MORE + len(options) + sum(map(len, options.values()))
        self.harm: dict[str, str] = {}

    @property
    def tried(self) -> int:
        """How many choices were run."""
        return len(self._known) - 1

    def holds(self, choice: Choice) -> bool:
        """Whether a choice keeps the bound."""
        return all(found <= self._bound for found in self._run(choice).values())

    def _may_hold(self, choice: Choice) -> bool:
        """Whether a choice keeps the bound, or was not run."""
        return frozenset(choice.items()) not in self._known or self.holds(choice)

    def reduced(self) -> Choice:
        """Returns the most careful methods of as many segments as the bound allows: the fastest such choice found."""
        careful = {name: own[0].method for name, own in self._options.items()}
        if self.holds(careful):
            return careful
        order = self._worst_first(careful)
        broken, kept = 0, len(order)  # how many go back to float
        while kept - broken > 1:
            middle = (broken + kept) // 2
            if self.holds({name: careful[name] for name in order[middle:]}):
                kept = middle
            else:
                broken = middle
        self._note(order, careful)
        choices = [dict(key) for key in self._known]
        return max((choice for choice in choices if self.holds(choice)), key=self._saved_ms)

    def improved(self, choice: Choice) -> Choice:
        """Returns a choice with the methods that are faster than what each segment has, where the bound allows them."""
        choice = self._grown(choice, 0)
        for rank in reversed(range(1, max(map(len, self._options.values()), default=0))):
            choice = self._grown(choice, rank)
        return choice

    def _saved_ms(self, choice: Choice) -> float:
        chosen = [next(o for o in self._options[name] if o.method == method) for name, method in choice.items()]
        return sum(option.saved_ms for option in chosen)

    def _run(self, choice: Choice) -> Mapping[str, float]:
        key = frozenset(choice.items())
        if key not in self._known:
            self._known[key] = self._disagreement(choice)
            if self._tell is not None:
                self._tell("choosing methods", self.tried, 0)
        return self._known[key]

    def _worst_first(self, careful: Choice) -> list[str]:
        """Returns the segments in the order in which they go back to float, as if what each does alone added up."""
        left, order = self._run(careful), []
        alone = dict(self._alone(list(careful), left, careful))
        while alone:
            worst = max(left, key=left.__getitem__)
            name = max(alone, key=lambda name: alone[name].get(worst, 0.0) / self._options[name][0].saved_ms)
            left = _less(left, alone.pop(name))
            order.append(name)
        return order

    def _alone(
        self, group: Sequence[str], found: Mapping[str, float], careful: Choice
    ) -> Iterator[tuple[str, Mapping[str, float]]]:
        """Yields what each of a group causes where all else is float, from what they cause together.

        Of many, those that keep their share of the bound are not parted; of others one half is run, and the other half
        causes the rest.
        """
        if len(careful) <= _FEW:
            yield from ((name, self._run({name: careful[name]})) for name in group)
            return
        saved = {name: self._options[name][0].saved_ms for name in careful}
        share = sum(saved[name] for name in group)
        if len(group) == 1 or all(each * sum(saved.values()) <= self._bound * share for each in found.values()):
            for name in group:
                yield name, {exit_: each * saved[name] / share for exit_, each in found.items()}
            return
        half, other = group[: len(group) // 2], group[len(group) // 2 :]
        of_half = self._run({name: careful[name] for name in half})
        yield from self._alone(half, of_half, careful)
        yield from self._alone(other, _less(found, of_half), careful)

    def _grown(self, choice: Choice, rank: int) -> Choice:
        """Returns a choice in which segments have their method of this rank where it is faster and keeps the bound.

        Of many, twice as many are tried together after those that keep it, half as many after those that do not.
        """
        gains = {}
        for name, own in self._options.items():
            now = next((option.saved_ms for option in own if option.method == choice.get(name)), 0.0)
            if rank >= len(own) or own[rank].saved_ms <= now:
                continue
            if rank == 0 and not self._may_hold({name: own[0].method}):
                self._note([name], {name: own[0].method})
                continue
            gains[name] = own[rank].saved_ms - now
        names = sorted(gains, key=gains.__getitem__, reverse=True)
        start, size = 0, 1
        while start < len(names) and self.tried < self._most:
            group = names[start : start + size]
            both = {**choice, **{name: self._options[name][rank].method for name in group}}
            if self.holds(both):
                choice, start = both, start + len(group)
                size *= 1 if len(self._options) <= _FEW else 2
            elif len(group) > 1:
                size = len(group) // 2
            else:
                start += 1
                if rank == 0:
                    self._note(group, both)
        return choice

    def _note(self, names: Sequence[str], choice: Choice) -> None:
        """Keeps what a choice that breaks the bound would do, as the reason why these are not in it."""
        found = self._run(choice)
        worst = max(found, key=found.__getitem__)
        reason = f"{worst} would disagree on up to {100 * found[worst]:.2g} % of rows"
        self.harm |= dict.fromkeys(names, reason)


def _less(whole: Mapping[str, float], part: Mapping[str, float]) -> dict[str, float]:
    """Returns what exits disagree without what a part causes."""
    return {exit_: max(0.0, found - part.get(exit_, 0.0)) for exit_, found in whole.items()}

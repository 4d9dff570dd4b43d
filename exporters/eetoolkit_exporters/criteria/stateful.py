"""The criteria with state, as ONNX nodes: what one exit passes on to the next is an ordinary tensor, one row each.

State runs over all exits of the network up to the one that asks, whatever criteria these have themselves; each of their
class scores is read as `reference.reading` says. A piece of state is made once, where an exit first needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from eetoolkit_exporters.capturing.capture import Network, NetworkExit
from eetoolkit_exporters.criteria import stateless
from eetoolkit_exporters.criteria.builder import Builder, inside
from eetoolkit_exporters.criteria.constants import Constants
from eetoolkit_exporters.criteria.reference import class_output, reading
from eetoolkit_exporters.criteria.stateless import Scores, class_scores
from eetoolkit_runtime.errors import ExportError
from eetoolkit_runtime.plan.types import Criterion, CriterionKind


class Chain:
    """The state of a network's exits.

    Args:
        network: The network; its exits in the order in which a row meets them.
        criteria: The exits' criteria, with numbers.
        constants: Where temperatures are found.
    """

    def __init__(self, network: Network, criteria: Mapping[str, Criterion], constants: Constants) -> None:
        self._network = network
        self._exits = [
            NetworkExit(exit_.name, dict(exit_.outputs)) for exit_ in network.exits
        ]  # their outputs will change
        self._criteria = criteria
        self._constants = constants
        self._made: dict[tuple[object, ...], tuple[ir.Value, ...]] = {}

    def check(self, place: int, kind: CriterionKind) -> None:
        """Refuses state that cannot be passed on.

        Raises:
            ExportError: An exit inside a branch or a loop, or exits of different numbers of classes.
        """
        own = self._exits[place]
        for exit_ in self._exits[: place + 1]:
            if any(inside(value, self._network) for value in exit_.outputs.values()):
                where = "it lies" if exit_ is own else f"{exit_.name!r} lies"
                raise ExportError(
                    f"exit {own.name!r}: {kind} runs over all exits so far, and {where} inside a branch or a loop, "
                    "where state is not passed on; max_prob, entropy, margin, learned, custom and their combinations "
                    "have none"
                )

    def patience(self, build: Builder, place: int, tau: ir.Value | None) -> ir.Value:
        """Appends how many exits in a row agree, float32 of shape (batch,)."""
        if tau is None:
            self._check_classes(place, "patience")
        count = self._count(build, place, tau)
        bad = self._voted(build, place, "patience")[1] if tau is None else build("IsNaN", self._value(build, place))
        return build("Where", bad, build.constant(np.nan), count)

    def vote(self, build: Builder, place: int) -> tuple[ir.Value, ir.Value]:
        """Appends the share of the votes for the class voted for most, and that class, int64; both (batch,)."""
        self._check_classes(place, "vote")
        _, most, label = self._votes(build, place)
        share = build("Div", most, build.constant(place + 1.0))
        _, bad = self._voted(build, place, "vote")
        return build("Where", bad, build.constant(np.nan), share), label

    def mean(self, build: Builder, place: int) -> ir.Value:
        """Appends the log of the mean of p, float32 of shape (batch, classes)."""
        self._check_classes(place, "mean_ensemble")
        return build("Sub", self._log_sum(build, place), build.constant(np.log(place + 1)))

    def geometric(self, build: Builder, place: int, weights: ir.Value, bias: ir.Value) -> ir.Value:
        """Appends the weighted sum of log p and the bias, float32 of shape (batch, classes)."""
        self._check_classes(place, "geometric_ensemble")
        stack = self._stack(build, place)
        mixed = build("MatMul", weights, stack)
        batch, _, classes = stack.shape or (None, None, None)
        mixed.shape = ir.Shape([batch, classes])
        return build("Add", mixed, bias)

    def as_answered(self, build: Builder, place: int, kind: CriterionKind, q: ir.Value) -> ir.Value:
        """Appends what takes the place of an exit's scores: q, or the logit of class 1 in the shape of one score."""
        scores = self._scores(place, kind)
        if not scores.single:
            return q
        no, yes = (build("Gather", q, build.constant([index], np.int64), axis=1) for index in (0, 1))
        return stateless.shaped_like(build, build("Sub", yes, no), scores.value)

    def classes(self, place: int, kind: CriterionKind) -> int:
        """Returns the number of classes of an exit."""
        return self._scores(place, kind).classes

    def _once(self, key: tuple[object, ...], make: Callable[[], Sequence[ir.Value]]) -> tuple[ir.Value, ...]:
        if key not in self._made:
            self._made[key] = tuple(make())
        return self._made[key]

    def _scores(self, place: int, kind: CriterionKind) -> Scores:
        exit_ = self._exits[place]
        criterion = reading(self._criteria[exit_.name], kind)
        value = exit_.outputs[class_output(criterion, tuple(exit_.outputs))]
        scores = class_scores(exit_.name, value, criterion, kind)
        if len(scores.shape) != 2:
            raise ExportError(
                f"exit {exit_.name!r}: {kind} reads shape {scores.shape}, expected (batch, classes): state is passed "
                "on for each row, not for each position"
            )
        return scores

    def _check_classes(self, place: int, kind: CriterionKind) -> None:
        own = self.classes(place, kind)
        for earlier, exit_ in enumerate(self._exits[:place]):
            if self.classes(earlier, kind) != own:
                raise ExportError(
                    f"exit {self._exits[place].name!r}: {kind} runs over all exits so far, and {exit_.name!r} has "
                    f"{self.classes(earlier, kind)} classes, not {own}; leave it out, exits=[...], or choose a "
                    "criterion without state"
                )

    def _voted(self, build: Builder, place: int, kind: CriterionKind) -> tuple[ir.Value, ...]:
        scores = self._scores(place, kind)
        return self._once(
            ("voted", place, scores.value, scores.criterion.scale), lambda: stateless.class_of(build, scores)
        )

    def _value(self, build: Builder, place: int) -> ir.Value:
        """Returns an exit's answer in regression, shape (batch,)."""
        exit_ = self._exits[place]
        criterion = reading(self._criteria[exit_.name], "patience")
        value = exit_.outputs[class_output(criterion, tuple(exit_.outputs))]
        return self._once(("value", place, value), lambda: [stateless.numbers(build, exit_.name, value, "patience")])[0]

    def _count(self, build: Builder, place: int, tau: ir.Value | None) -> ir.Value:
        def make() -> Sequence[ir.Value]:
            if place == 0:
                return [build.constant(0.0)]
            before = self._count(build, place - 1, tau)
            longer = build("Add", before, build.constant(1.0))
            count = build("Where", self._agrees(build, place, tau), longer, build.constant(0.0))
            return [build.called("agreeing", count)]

        return self._once(("count", place, tau), make)[0]

    def _agrees(self, build: Builder, place: int, tau: ir.Value | None) -> ir.Value:
        if tau is None:
            before, now = (self._voted(build, at, "patience")[0] for at in (place - 1, place))
            return build("Equal", now, before)  # -1 agrees with -1, but such an exit's confidence is NaN
        before, now = self._value(build, place - 1), self._value(build, place)
        if before.dtype != now.dtype:
            before, now = (build("Cast", value, to=int(ir.DataType.FLOAT)) for value in (before, now))
        step = build("Cast", build("Abs", build("Sub", now, before)), to=int(ir.DataType.FLOAT))
        return build("Less", step, tau)

    def _votes(self, build: Builder, place: int) -> tuple[ir.Value, ...]:
        """Returns votes (batch, classes), the most of them (batch,), and the class that has them."""

        def make() -> Sequence[ir.Value]:
            voted, _ = self._voted(build, place, "vote")
            column = build("Unsqueeze", voted, build.constant([1], np.int64))
            column.shape = ir.Shape([*(voted.shape or ()), 1])
            every = build.constant(range(self.classes(place, "vote")), np.int64)
            own = build("Cast", build("Equal", column, every), to=int(ir.DataType.FLOAT))
            if place == 0:
                return build.called("votes", own), build.reduce("ReduceMax", own, 1), voted
            before, _, label = self._votes(build, place - 1)
            votes = build.called("votes", build("Add", before, own))
            most = build.reduce("ReduceMax", votes, 1)
            mine = build.reduce("ReduceMax", build("Mul", votes, own), 1)
            # A class that this vote brings to the most has been voted for last; no other vote changes who leads.
            return votes, most, build("Where", build("Equal", mine, most), voted, label)

        return self._once(("votes", place), make)

    def _log_p(self, build: Builder, place: int, kind: CriterionKind) -> ir.Value:
        scores = self._scores(place, kind)
        exit_ = self._exits[place]
        temperature = self._constants.temperature(exit_.name, tuple(exit_.outputs), scores.criterion)
        key = ("log_p", place, scores.value, scores.criterion.scale, temperature)
        return self._once(key, lambda: [stateless.log_p(build, scores, temperature)])[0]

    def _log_sum(self, build: Builder, place: int) -> ir.Value:
        """Returns the log of the sum of p over the exits so far: log(e^a + e^b) = max(a, b) + log(1 + e^-|a - b|)."""

        def make() -> Sequence[ir.Value]:
            own = self._log_p(build, place, "mean_ensemble")
            if place == 0:
                return [own]
            before = self._log_sum(build, place - 1)
            apart = build("Neg", build("Abs", build("Sub", own, before)))
            return [build.called("log_sum", build("Add", build("Max", own, before), build("Softplus", apart)))]

        return self._once(("log_sum", place), make)[0]

    def _stack(self, build: Builder, place: int) -> ir.Value:
        """Returns log p of the exits so far, shape (batch, exits, classes)."""

        def make() -> Sequence[ir.Value]:
            own = self._log_p(build, place, "geometric_ensemble")
            batch, classes = own.shape or (None, None)
            own = build("Unsqueeze", own, build.constant([1], np.int64))
            own.shape = ir.Shape([batch, 1, classes])
            if place == 0:
                return [build.called("all_log_p", own)]
            found = build("Concat", self._stack(build, place - 1), own, axis=1)
            found.shape = ir.Shape([batch, place + 1, classes])
            return [build.called("all_log_p", found)]

        return self._once(("stack", place), make)[0]

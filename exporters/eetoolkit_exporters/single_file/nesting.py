"""Steps written as one ONNX graph: straight stretches in line, decisions as `If`, cycles as `Loop`.

Every step is written exactly once. After a decision, what only one side leads to is written inside that side; what
both lead to comes behind the `If`, whose outputs then say where to go. So a joined branch needs no test, a shared tail
is a second `If` on the same level, and the size of the graph grows with the plan alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from eetoolkit_exporters.single_file.graph_builder import GraphLevel
from eetoolkit_exporters.single_file.steps import FAILED, Key, Steps
from eetoolkit_exporters.single_file.structure import Cycle, Item, Label, Region, again, origin
from eetoolkit_runtime.arrays import Array

_BOOL, _INT64 = ir.DataType.BOOL, ir.DataType.INT64

_DEEPEST = 16
"""Levels of `If` after which tails are written side by side. protobuf reads 100 nested messages, three a level."""


@dataclass(frozen=True)
class Route:
    """Where to go next.

    Attributes:
        value: A bool for (false, true) of `targets`, an int64 that is an index into them, or None where there is one.
        targets: The places that `value` tells apart.
        possible: Those of them that can be meant here.
    """

    value: ir.Value | None
    targets: tuple[Label, ...]
    possible: tuple[Label, ...]

    def among(self, labels: Collection[Label]) -> Route:
        """Returns the route where only `labels` can be meant."""
        possible = tuple(label for label in self.possible if label in labels)
        return to(possible[0]) if len(possible) == 1 else replace(self, possible=possible)


def to(label: Label) -> Route:
    """Returns the route to one place."""
    return Route(None, (label,), (label,))


def choice(value: ir.Value | None, targets: tuple[Label, ...]) -> Route:
    """Returns the route to one of `targets`."""
    possible = tuple(dict.fromkeys(targets))
    return to(possible[0]) if len(possible) == 1 else Route(value, targets, possible)


@dataclass(frozen=True)
class State:
    """What stands under each key at some point, and where to go from there."""

    values: Mapping[Key, ir.Value]
    route: Route


class Nesting:
    """Writes the steps of one plan."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def write(self, level: GraphLevel, region: Region, state: State) -> State:
        """Writes a region, from where `state` goes to until it leads out of it, and returns the state there."""
        return self._run(level, region, frozenset(region.items.values()), state)

    def _run(self, level: GraphLevel, region: Region, within: frozenset[Item], state: State) -> State:
        while True:
            ahead: dict[Item, list[Label]] = {}
            for label in state.route.possible:
                item = region.items.get(label)
                if item is not None and item in within:
                    ahead.setdefault(item, []).append(label)
            if not ahead:
                return state
            after = frozenset[Item]().union(*(region.reached[item] for item in ahead))
            ready = {item: labels for item, labels in ahead.items() if item not in after}
            ways: list[tuple[Item | None, Collection[Label]]] = list(ready.items())
            later = set(state.route.possible).difference(*ready.values())
            if later:
                ways.append((None, later))
            state = self._choose(level, region, ways, state)

    def _choose(
        self, level: GraphLevel, region: Region, ways: Sequence[tuple[Item | None, Collection[Label]]], state: State
    ) -> State:
        """Writes what each way does, as a balanced tree of `If` where there are several; None does nothing."""
        if len(ways) == 1:
            item, labels = ways[0]
            state = replace(state, route=state.route.among(labels))
            return state if item is None else self._write_item(level, item, state)
        middle = len(ways) // 2
        halves = [ways[middle:], ways[:middle]]
        test, turned = _test(level, state.route, _labels(halves[1]))
        ends = []
        for half in halves[::-1] if not turned else halves:
            inner = level.below()
            end = self._choose(inner, region, half, replace(state, route=state.route.among(_labels(half))))
            item = half[0][0]
            if len(half) == 1 and item is not None and inner.depth < _DEEPEST:
                end = self._run(inner, region, region.dominated[item], end)
            ends.append((inner, end))
        return self._join(level, test, ends, state)

    def _write_item(self, level: GraphLevel, item: Item, state: State) -> State:
        if isinstance(item, Cycle):
            return self._turn(level, item, state)
        step = self._steps.steps[item.label]
        values = {**state.values, **step.compute(level, state.values)}
        route = choice(None if step.on is None else values[step.on], item.targets)
        if route.value is not None and route.value.const_value is not None:
            route = to(item.targets[int(route.value.const_value.numpy().item())])
        return State(values, route)

    def _join(
        self, level: GraphLevel, test: ir.Value, ends: Sequence[tuple[GraphLevel, State]], before: State
    ) -> State:
        """Adds an `If` with two branches, (then, else), and returns the state behind it."""
        order = tuple(dict.fromkeys(label for _, end in ends for label in end.route.possible))
        values: dict[Key, ir.Value] = {}
        given: list[Key] = []
        for key in sorted(self._live(order)):
            found = {end.values.get(key) for _, end in ends if key in self._live(end.route.possible)}
            if len(found) == 1 and found == {before.values.get(key)}:
                values |= {key: before.values[key]} if key in before.values else {}
            else:
                given.append(key)
        outputs = {"/".join(key): self._steps.specs[key].dtype for key in given}
        if len(order) > 1:
            outputs["next"] = _BOOL if len(order) == 2 else _INT64
        if not outputs:
            return State(values, to(order[0]))
        for inner, end in ends:
            for key in given:
                inner.give(self._value(inner, end, key), "/".join(key))
            if len(order) > 1:
                inner.give(_encode(inner, end.route, order), "next")
        branches = {"then_branch": ends[0][0].graph("then"), "else_branch": ends[1][0].graph("else")}
        found_values = level.nodes("If", [level.decide(test)], outputs, **branches)
        values |= dict(zip(given, found_values, strict=False))
        return State(values, choice(found_values[-1] if len(order) > 1 else None, order))

    def _turn(self, level: GraphLevel, cycle: Cycle, state: State) -> State:
        """Adds a `Loop` and returns the state behind it; the trip count keeps the bound of the cycle's entry."""
        bound = self._steps.bounds.get(cycle.entries[0])
        outcomes = (*cycle.targets, *map(again, cycle.entries))
        kind = _BOOL if len(outcomes) == 2 else _INT64
        written = frozenset[Key]().union(*(self._steps.steps[label].writes for label in cycle.body.items))
        carried = {"/".join(key): key for key in sorted(written & self._live(outcomes))}
        outputs = {name: self._steps.specs[key].dtype for name, key in carried.items()}
        initial = [self._value(level, state, key) for key in carried.values()]
        if routed := len(outcomes) > 2 or bound is not None:
            outputs["next"] = kind
            initial.append(_encode(level, state.route, (*cycle.targets, *cycle.entries)))
        if not outputs:
            return replace(state, route=to(cycle.targets[0]))
        body = level.below()
        for name, dtype in (("turn", _INT64), ("go_on", _BOOL)):
            body.input(name, dtype).shape = ir.Shape(())  # onnxruntime refuses a loop without
        inputs = {name: body.input(name, dtype) for name, dtype in outputs.items()}
        begin = to(cycle.entries[0])
        if len(cycle.entries) > 1:
            begin = Route(inputs["next"], (*cycle.targets, *cycle.entries), cycle.entries)
        values = {**state.values, **{key: inputs[name] for name, key in carried.items()}}
        end = self.write(body, cycle.body, State(values, begin))
        following = go_on = _encode(body, end.route, outcomes)
        if kind == _INT64:
            go_on = body.compute("GreaterOrEqual", "go_on", _BOOL, following, body.shared.integer(len(cycle.targets)))
        body.give(body.scalar(go_on, "go_on"), "go_on")
        for name, key in carried.items():
            body.give(self._value(body, end, key), name)
        if routed:
            body.give(following, "next")
        most = None if bound is None else body.shared.integer(bound)
        always = body.shared.constant(np.array(True), "always")
        found = level.nodes("Loop", [most, always, *initial], outputs, body=body.graph("body"))
        values = {**state.values, **dict(zip(carried.values(), found, strict=False))}
        if not routed:
            return State(values, to(cycle.targets[0]))
        route = choice(found[-1], (*cycle.targets, *[FAILED] * len(cycle.entries)))
        return State(values, route if bound is not None else route.among(cycle.targets))

    def _live(self, labels: Collection[Label]) -> frozenset[Key]:
        return frozenset[Key]().union(*(self._steps.live[origin(label)] for label in labels))

    def _value(self, level: GraphLevel, state: State, key: Key) -> ir.Value:
        """Returns what stands under a key, or an empty tensor where nothing does or nobody looks."""
        if key in state.values and key in self._live(state.route.possible):
            return state.values[key]
        return level.shared.empty(*self._steps.specs[key])


def _test(level: GraphLevel, route: Route, labels: Collection[Label]) -> tuple[ir.Value, bool]:
    """Returns a bool that says whether one of `labels` is meant, and whether it says the opposite."""
    if route.value is None:
        raise ValueError("a route to one place needs no test")
    if route.value.dtype == _BOOL:
        return route.value, route.targets[1] not in labels
    inside = [index for index, label in enumerate(route.targets) if label in labels]
    outside = [index for index, label in enumerate(route.targets) if label not in labels and label in route.possible]
    if len(inside) == 1 or len(outside) == 1:
        turned = len(inside) != 1
        index = level.shared.integer((outside if turned else inside)[0])
        return level.compute("Equal", "is", _BOOL, route.value, index), turned
    table = np.isin(np.arange(len(route.targets)), inside)
    return level.compute("Gather", "among", _BOOL, _table(level, table), route.value), False


def _encode(level: GraphLevel, route: Route, order: Sequence[Label]) -> ir.Value:
    """Returns where `route` goes as a value over `order`: a bool for two places, an int64 index for more."""
    place = {label: index for index, label in enumerate(order)}
    if route.value is None:
        index = place[route.targets[0]]
        return (
            level.shared.integer(index)
            if len(order) > 2
            else level.shared.constant(np.array(index == 1), f"is_{index}")
        )
    if len(order) == 2:
        value, turned = _test(level, route, order[1:])
        return level.compute("Not", "is_not", _BOOL, value) if turned else value
    indices = [place.get(label, 0) for label in route.targets]  # 0 where it cannot be meant
    if route.value.dtype == _BOOL:
        numbers = [level.shared.integer(index) for index in reversed(indices)]
        return level.compute("Where", "next", _INT64, route.value, *numbers)
    if indices == list(range(len(indices))):
        return route.value
    return level.compute("Gather", "next", _INT64, _table(level, np.array(indices, np.int64)), route.value)


def _table(level: GraphLevel, array: Array) -> ir.Value:
    return level.shared.constant(array, "table")


def _labels(ways: Sequence[tuple[Item | None, Collection[Label]]]) -> set[Label]:
    return {label for _, labels in ways for label in labels}

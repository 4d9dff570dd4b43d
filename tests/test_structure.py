"""The structure of control-flow graphs, against what its definitions say when they are tried out one by one."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from hypothesis import given
from hypothesis import strategies as st

from eetoolkit_exporters.single_file.structure import (
    Cycle,
    Item,
    Label,
    Plain,
    Region,
    again,
    components,
    origin,
    structure,
)

Edges = dict[Label, tuple[Label, ...]]

OUT: Label = ("out",)


def node(number: int) -> Label:
    return ("node", str(number))


@st.composite
def graphs(draw: st.DrawFn) -> Edges:
    """Draws a graph of up to 8 nodes, all of which node 0 reaches, with edges that lead out."""
    count = draw(st.integers(1, 8))
    targets = st.lists(st.integers(0, count), max_size=3)
    edges = {node(k): tuple(node(t) if t < count else OUT for t in draw(targets)) for k in range(count)}
    kept = reached(edges, [node(0)]) | {node(0)}
    return {label: others for label, others in edges.items() if label in kept}


def reached(edges: Mapping[Label, tuple[Label, ...]], start: Collection[Label], without: Label = OUT) -> set[Label]:
    """Returns what can come after the nodes in `start`, when one node is taken out."""
    found: set[Label] = set()
    waiting = [target for label in start if label != without for target in edges[label]]
    while waiting:
        label = waiting.pop()
        if label in edges and label not in found and label != without:
            found.add(label)
            waiting.extend(edges[label])
    return found


@given(graphs())
def test_components_are_the_nodes_that_reach_each_other_sources_first(edges: Edges) -> None:
    found = components(edges)
    assert sorted(label for component in found for label in component) == sorted(edges)
    for number, component in enumerate(found):
        for label in component:
            after = reached(edges, [label])
            assert {other for other in after if label in reached(edges, [other])} | {label} == component
            assert not after & {other for earlier in found[:number] for other in earlier}


@given(graphs())
def test_every_level_is_acyclic_and_has_every_edge(edges: Edges) -> None:
    check(structure(edges, [node(0)]), edges, [node(0)])


def check(region: Region, edges: Edges, entries: Collection[Label]) -> None:
    """Compares a region with the graph that it is the structure of, and what is inside it."""
    assert region.items.keys() == edges.keys()
    for item in set(region.items.values()):
        members = {label for label in edges if region.items[label] is item}
        outside = {target for label in members for target in edges[label] if target not in members}
        assert item not in region.reached[item]
        assert region.reached[item] == items_of(region, reached(edges, members)) - {item}
        if isinstance(item, Plain):
            assert members == {item.label}
            assert item.targets == edges[item.label]
            continue
        assert isinstance(item, Cycle)
        assert set(item.targets) == outside
        others = [label for label in edges if label not in members]
        entered = {t for label in others for t in edges[label]} | set(entries)
        assert set(item.entries) == entered & members
        turns = {label: tuple(again(t) if t in item.entries else t for t in edges[label]) for label in members}
        check(item.body, turns, item.entries)


def items_of(region: Region, labels: Collection[Label]) -> frozenset[Item]:
    return frozenset(region.items[label] for label in labels)


@given(graphs())
def test_an_item_is_dominated_where_taking_the_other_out_cuts_it_off(edges: Edges) -> None:
    region = structure(edges, [node(0)])
    for item in set(region.items.values()):
        members = {label for label in edges if region.items[label] is item}
        rest = {label: tuple(t for t in targets if t not in members) for label, targets in edges.items()}
        left = set() if node(0) in members else {node(0)} | reached(rest, [node(0)])
        cut_off = items_of(region, edges.keys() - left) - {item}
        assert region.dominated[item] == cut_off


def test_another_turn_stands_for_its_entry() -> None:
    assert origin(again(node(3))) == origin(node(3)) == node(3)

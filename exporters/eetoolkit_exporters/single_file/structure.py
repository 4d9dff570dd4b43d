"""The structure of a control-flow graph: its cycles, nested, and what dominates what between them.

Any graph has it, also one with cycles of several entries or with shared tails: a strongly connected component becomes
one item, whose body is the component without the edges to its entries, and so on inwards (Ramalingam, "On loops,
dominators, and dominance frontiers", TOPLAS 2002, section 2). What is left is acyclic at every level.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from eetoolkit_runtime.plan.flow import backward

Label = tuple[str, ...]
"""The name of a place to go to."""

Node = TypeVar("Node", bound=Hashable)

_AGAIN = "again"


@dataclass(frozen=True, eq=False)
class Plain:
    """A node that lies on no cycle of its region; `targets` are in the order of the graph's edges."""

    label: Label
    targets: tuple[Label, ...]


@dataclass(frozen=True, eq=False)
class Cycle:
    """A strongly connected component.

    Attributes:
        entries: The nodes that are reached from outside.
        targets: Where it leaves to.
        body: One turn of it: starts at an entry and ends at a target, or at `again(entry)`.
    """

    entries: tuple[Label, ...]
    targets: tuple[Label, ...]
    body: Region


Item = Plain | Cycle


@dataclass(frozen=True, eq=False)
class Region:
    """An acyclic graph of items.

    Attributes:
        items: The item that each node belongs to.
        dominated: For each item, those that are only reached through it.
        reached: For each item, those that can come after it.
    """

    items: Mapping[Label, Item]
    dominated: Mapping[Item, frozenset[Item]]
    reached: Mapping[Item, frozenset[Item]]


def again(entry: Label) -> Label:
    """Returns the label of another turn of a cycle, from `entry` on."""
    return (_AGAIN, *entry)


def origin(label: Label) -> Label:
    """Returns the node that a label stands for."""
    return label[1:] if label[0] == _AGAIN else label


def structure(edges: Mapping[Label, tuple[Label, ...]], entries: Collection[Label]) -> Region:
    """Returns the structure of the graph `edges` that is entered at `entries`; targets that are no nodes lead out."""
    items: dict[Label, Item] = {}
    order: list[Item] = []
    for component in components(edges):
        item = _item(component, edges, entries)
        items.update(dict.fromkeys(component, item))
        order.append(item)
    following = {item: [items[label] for label in item.targets if label in items] for item in order}
    reached: dict[Item, frozenset[Item]] = {}
    for item in reversed(order):
        reached[item] = frozenset(following[item]).union(*(reached[other] for other in following[item]))
    first = {items[label] for label in entries}
    above: dict[Item, frozenset[Item]] = {item: frozenset() for item in first}
    for item in order:
        for other in following[item]:
            so_far = above[item] | {item}
            above[other] = above[other] & so_far if other in above else so_far
    dominated: dict[Item, frozenset[Item]] = {item: frozenset() for item in order}
    for item in order:
        for other in above[item]:
            dominated[other] |= {item}
    return Region(items, dominated, reached)


def _item(component: frozenset[Label], edges: Mapping[Label, tuple[Label, ...]], entries: Collection[Label]) -> Item:
    one = next(iter(component))
    if len(component) == 1 and one not in edges[one]:
        return Plain(one, edges[one])
    entered = entry_points(component, edges, entries)
    turns = {label: again(label) for label in entered}
    body = {label: tuple(turns.get(t, t) for t in edges[label]) for label in edges if label in component}
    out = dict.fromkeys(target for label in body for target in edges[label] if target not in component)
    return Cycle(entered, tuple(out), structure(body, entered))


def entry_points(
    component: Collection[Node], edges: Mapping[Node, Iterable[Node]], entries: Collection[Node]
) -> tuple[Node, ...]:
    """Returns the nodes of a component that are among `entries` or have an edge from outside it."""
    reached = {target for node, targets in edges.items() if node not in component for target in targets}
    return tuple(node for node in edges if node in component and (node in entries or node in reached))


def components(edges: Mapping[Node, Iterable[Node]]) -> list[frozenset[Node]]:
    """Returns the strongly connected components, sources first: the nodes from which the same nodes are reached."""
    bits = {node: 1 << place for place, node in enumerate(edges)}
    inner = {node: [target for target in targets if target in edges] for node, targets in edges.items()}
    reached = backward(inner, lambda node, beyond: beyond | bits[node], 0)
    found: dict[int, list[Node]] = {}
    for node in edges:
        found.setdefault(reached[node], []).append(node)
    return [frozenset(found[nodes]) for nodes in sorted(found, key=int.bit_count, reverse=True)]

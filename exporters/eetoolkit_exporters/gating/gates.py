"""The network's decisions as `If` nodes with their work inside: blended gates rewritten, and everything sunk."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import onnx_ir as ir

from eetoolkit_exporters.capturing.capture import Network
from eetoolkit_exporters.cutting.blocks import exit_values
from eetoolkit_exporters.cutting.control_flow import BRANCH, Lower, worth
from eetoolkit_exporters.cutting.cut import needed_by
from eetoolkit_exporters.cutting.work import count_work
from eetoolkit_exporters.gating.blend import Blend, branch_nodes, find_blends, to_if
from eetoolkit_exporters.gating.hardness import hard_values
from eetoolkit_exporters.gating.sink import sink
from eetoolkit_exporters.graph import needs


def make_gates(network: Network, lower: Lower, symbols: Mapping[str, int]) -> list[str]:
    """Rewrites the blended gates that are worth it, and moves into every branch what only it needs.

    The last gate comes first, so that an earlier one that only it needs moves into its branch.

    Args:
        network: Its exits have their confidences.
        lower: Whether blended gates are rewritten: by the cost floor, always, or not at all.
        symbols: The sizes of dynamic dimensions, to estimate what a branch costs.

    Returns:
        What stays blended, and why: a line each.
    """
    if not lower:
        return []
    blends, notes = find_blends(network.graph, hard_values(network.graph))
    for together in reversed(_together(blends, needed_by(network))):
        for group in _by_graph(together):
            keep = {value for exit_ in network.exits for value in exit_values(exit_)}
            branches = branch_nodes(group, keep)
            if lower == "always" or any(worth(nodes, symbols, BRANCH) for nodes in branches):
                _rewrite(network, group, keep)
            elif adds := max(count_work(nodes, [], symbols).multiply_adds or 0 for nodes in branches):
                notes.append(
                    f"the gate of {group[-1].result.name!r} stays blended: what it skips costs {adds:,} multiply-adds, "
                    f"less than {BRANCH}"
                )
    keep = {value for exit_ in network.exits for value in exit_values(exit_)}
    for node in reversed(list(network.graph.all_nodes())):
        if node.op_type == "If" and node.domain == "":
            sink(node, keep)
    return notes


def _together(blends: Sequence[Blend], needed: Mapping[ir.Node, int]) -> list[list[Blend]]:
    """Returns blends that one `If` can take the place of.

    They are of one decision in one graph, none needs another's result, and the same exit is the first to need them. A
    block that feeds two of them, such as a layer with a feature map and a mask, is then skipped with both.

    Args:
        blends: In topological order.
        needed: For each node the exits that need it, one bit an exit, the first one met the lowest.
    """
    groups: list[list[Blend]] = []
    latest: dict[tuple[Hashable, ...], list[Blend]] = {}
    partners: dict[ir.Node, list[Blend]] = {}
    for blend in blends:
        decision, exits = blend.decision, needed.get(blend.node, 0)
        key = (blend.node.graph, decision.source, decision.inverted, decision.per_row, exits & -exits)
        group = latest.get(key)
        if group is None or not _ancestors(blend.node, partners).isdisjoint(other.node for other in group):
            group = latest[key] = []
            groups.append(group)
        group.append(blend)
        partners[blend.node] = group
    order = {id(blend): place for place, blend in enumerate(blends)}
    return sorted(groups, key=lambda group: order[id(group[-1])])


def _by_graph(blends: Sequence[Blend]) -> list[list[Blend]]:
    """Parts blends some of which have been moved into the branch of a later gate."""
    found: dict[ir.Graph | None, list[Blend]] = {}
    for blend in blends:
        found.setdefault(blend.node.graph, []).append(blend)
    return list(found.values())


def _ancestors(node: ir.Node, partners: Mapping[ir.Node, list[Blend]]) -> set[ir.Node]:
    """Returns the nodes of the same graph that a node needs, directly or not, when blends of a group are one node."""
    found: set[ir.Node] = set()
    waiting = needs(node)
    while waiting:
        producer = waiting.pop().producer()
        if producer is not None and producer.graph is node.graph and producer not in found:
            found.add(producer)
            waiting += needs(producer)
            waiting += [blend.result for blend in partners.get(producer, ())]
    return found


def _rewrite(network: Network, group: Sequence[Blend], keep: set[ir.Value]) -> None:
    results = [blend.result for blend in group]
    node = to_if(group, keep)
    sink(node, keep)
    instead = dict(zip(results, node.outputs, strict=True))
    for exit_ in network.exits:
        if exit_.confidence is not None:
            exit_.confidence = instead.get(exit_.confidence, exit_.confidence)
        exit_.outputs.update({name: instead.get(value, value) for name, value in exit_.outputs.items()})

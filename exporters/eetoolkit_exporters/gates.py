"""The network's decisions as `If` nodes with their work inside: blended gates rewritten, and everything sunk."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from eetoolkit_exporters.blend import Blend, find_blends, to_if
from eetoolkit_exporters.blocks import exit_values
from eetoolkit_exporters.capture import Network
from eetoolkit_exporters.control_flow import FLOOR_MULTIPLY_ADDS, Lower, worth
from eetoolkit_exporters.hardness import hard_values
from eetoolkit_exporters.sink import sink
from eetoolkit_exporters.work import count_work


def make_gates(network: Network, lower: Lower, symbols: Mapping[str, int]) -> list[str]:
    """Rewrites the blended gates that are worth it, and moves into every branch what only it needs.

    The last gate comes first, so that an earlier one that only it needs moves into its branch.

    Args:
        network: Its exits are judged.
        lower: Whether: by the cost floor, always, or not at all.
        symbols: The sizes of dynamic dimensions, to estimate what a branch costs.

    Returns:
        What stays blended, and why: a line each.
    """
    if not lower:
        return []
    blends, notes = find_blends(network.graph, hard_values(network.graph))
    for blend in reversed(blends):
        keep = {value for exit_ in network.exits for value in exit_values(exit_)}
        branches = blend.branch_nodes(keep)
        if lower == "always" or any(worth(nodes, symbols) for nodes in branches):
            _rewrite(network, blend, keep)
        elif adds := max(count_work(nodes, [], symbols).multiply_adds or 0 for nodes in branches):
            notes.append(
                f"the gate of {blend.result.name!r} stays blended: what it skips costs {adds:,} multiply-adds, less "
                f"than the {FLOOR_MULTIPLY_ADDS:,} for which a segment of its own pays"
            )
    keep = {value for exit_ in network.exits for value in exit_values(exit_)}
    for node in reversed(list(network.graph.all_nodes())):
        if node.op_type == "If" and node.domain == "":
            sink(node, keep)
    return notes


def _rewrite(network: Network, blend: Blend, keep: set[ir.Value]) -> None:
    result = blend.result
    node = to_if(blend, keep)
    sink(node, keep)
    for exit_ in network.exits:
        if exit_.confidence is result:
            exit_.confidence = node.outputs[0]
        for name, value in exit_.outputs.items():
            if value is result:
                exit_.outputs[name] = node.outputs[0]

"""The marker `exit`: an exit in a branch or a loop, where `forward` cannot return it.

In eager PyTorch it is the identity. In an export it is an operator of our own, which `capture` takes out again. What is
done while the network runs, a watcher sees: the visits of the marked exits in the order met.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, overload

import onnx_ir as ir
import torch

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import ExportError

DOMAIN = "eetoolkit"
_LOGITS = "logits"  # as `source` calls the output of an exit that is one tensor
_BETWEEN = "\n"  # an operator takes no list of strings: the outputs' names are one string


@dataclass
class Watcher:
    """What happened to marked exits while a network ran.

    Attributes:
        visits: Each exit met, in order, with its outputs.
        traced: Every exit that PyTorch traced, with its outputs' names: those of branches not taken, too.
    """

    visits: list[tuple[str, dict[str, Array]]] = field(default_factory=list)
    traced: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Mark:
    """A marked exit of a captured graph: its values lie in the subgraph in which it was marked."""

    name: str
    outputs: dict[str, ir.Value]


@dataclass
class _Process:
    marked: bool = False
    """Whether any exit was ever marked in this process; without one there is nothing to look for."""


_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)
_process = _Process()


@overload
def exit(outputs: torch.Tensor, name: str) -> torch.Tensor: ...  # noqa: A001
@overload
def exit(outputs: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]: ...  # noqa: A001
def exit(  # noqa: A001 - `ee.exit`
    outputs: torch.Tensor | Mapping[str, torch.Tensor], name: str
) -> torch.Tensor | dict[str, torch.Tensor]:
    """Marks an exit where `forward` cannot return it: in a branch of `torch.cond` or the body of `while_loop`.

    Use what it returns: PyTorch leaves out of an export what nothing depends on.

    Args:
        outputs: The exit's outputs, one row for each row of the input; a tensor is called `logits`.
        name: The exit's name. It may stand in several places, always with the same outputs.

    Returns:
        The same tensors, as new ones.

    Raises:
        ExportError: No name, no outputs, or outputs that are not tensors.
    """
    several = isinstance(outputs, Mapping)
    named = dict(outputs) if isinstance(outputs, Mapping) else {_LOGITS: outputs}
    if not isinstance(name, str) or not name:
        raise ExportError(f"ee.exit: name is {name!r}, expected the exit's name")
    if not named or not all(isinstance(tensor, torch.Tensor) for tensor in named.values()):
        raise ExportError(f"ee.exit: the outputs of {name!r} are not a tensor or a dict of tensors")
    marked = _exit(list(named.values()), name, _BETWEEN.join(named))
    return dict(zip(named, marked, strict=True)) if several else marked[0]


@torch.library.custom_op("eetoolkit::exit", mutates_args=())
def _exit(tensors: list[torch.Tensor], name: str, outputs: str) -> list[torch.Tensor]:
    _process.marked = True
    if (watcher := _watcher.get()) is not None:
        arrays = {
            output: tensor.detach().cpu().numpy().copy()
            for output, tensor in zip(outputs.split(_BETWEEN), tensors, strict=True)
        }
        watcher.visits.append((name, arrays))
    return [tensor.clone() for tensor in tensors]


def _fake_exit(tensors: list[torch.Tensor], name: str, outputs: str) -> list[torch.Tensor]:
    _process.marked = True
    if (watcher := _watcher.get()) is not None:
        watcher.traced.setdefault(name, tuple(outputs.split(_BETWEEN)))
    return [torch.empty_like(tensor) for tensor in tensors]


def _backward(_: Any, gradients: list[torch.Tensor]) -> tuple[list[torch.Tensor], None, None]:
    return list(gradients), None, None


_exit.register_fake(_fake_exit)
_exit.register_autograd(_backward)


@contextlib.contextmanager
def watching() -> Iterator[Watcher]:
    """Gives a watcher of what runs in the block."""
    token = _watcher.set(watcher := Watcher())
    try:
        yield watcher
    finally:
        _watcher.reset(token)


def forget_visits() -> None:
    """Forgets what the watcher has seen, for a run that failed and is done again."""
    if (watcher := _watcher.get()) is not None:
        watcher.visits.clear()


def any_marked() -> bool:
    """Returns whether any exit was marked in this process."""
    return _process.marked


def marker_to_onnx(tensors: Sequence[ir.Value], name: str, outputs: str) -> ir.Node:
    """Returns the node that stands for a marker in an export."""
    attributes = [ir.AttrString("name", name), ir.AttrStrings("outputs", outputs.split(_BETWEEN))]
    return ir.Node(DOMAIN, "Exit", tensors, attributes, num_outputs=len(tensors), version=1)


def take_marks(graph: ir.Graph) -> list[Mark]:
    """Puts Identity nodes for the markers, at every level, and returns the marked exits in the graph's order.

    Raises:
        ExportError: One name with different outputs.
    """
    marks: list[Mark] = []
    names: dict[str, tuple[str, ...]] = {}
    for node in [node for node in graph.all_nodes() if node.domain == DOMAIN]:
        name, outputs = node.attributes["name"].as_string(), tuple(node.attributes["outputs"].as_strings())
        if names.setdefault(name, outputs) != outputs:
            raise ExportError(
                f"exit {name!r} is marked with outputs {', '.join(outputs)} and elsewhere with "
                f"{', '.join(names[name])}; give every place the same outputs, or names of their own"
            )
        marks.append(Mark(name, dict(zip(outputs, _identities(node, graph.opset_imports.get("", 20)), strict=True))))
    graph.opset_imports.pop(DOMAIN, None)
    return marks


def _identities(marker: ir.Node, opset: int) -> list[ir.Value]:
    copies = []
    for number, (value, old) in enumerate(zip(marker.inputs, marker.outputs, strict=True)):
        node = ir.Node("", "Identity", [value], name=f"{marker.name}_{number}", version=opset)
        copy, name = node.outputs[0], old.name
        copy.type, copy.shape = old.type, old.shape
        _graph(marker).insert_before(marker, node)
        old.replace_all_uses_with(copy, replace_graph_outputs=True)
        old.name = None
        copy.name = name
        copies.append(copy)
    _graph(marker).remove(marker, safe=True)
    return copies


def _graph(node: ir.Node) -> ir.Graph:
    if not isinstance(node.graph, ir.Graph):
        raise TypeError(f"{node.name} stands in no graph")
    return node.graph

"""What `forward` returns, however it is nested, as exits with outputs, each under a name that can be read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils import _pytree

from eetoolkit_runtime.errors import ExportError

Leaf = tuple[str, str | None, Any]
"""Exit, output, value; the output is None where the exit is one tensor."""


def walk_outputs(outputs: Any) -> Iterator[tuple[str, str | None, torch.Tensor]]:
    """Yields the tensors in what `forward` returned, and what they are called.

    A tuple's or list's exits are `exit0`, `exit1`, ...; those of a mapping, a named tuple or a dataclass (as Hugging
    Face's) are its keys. A list in the place of an exit is several: `exit1_0`, `exit1_1`, or `hidden_states_0`. A
    mapping there is one exit with several outputs, `layer_0` and `layer_1` where one of these is a list. None is passed
    over, and so is what `other_outputs` names.

    Raises:
        ExportError: Nothing that could hold tensors.
    """
    return ((exit_, output, value) for exit_, output, value in _leaves(outputs) if isinstance(value, torch.Tensor))


def other_outputs(outputs: Any) -> dict[str, str]:
    """Returns what `forward` returned beside tensors: by name, its type."""
    return {
        exit_ if output is None else f"{exit_}.{output}": type(value).__name__
        for exit_, output, value in _leaves(outputs)
        if not isinstance(value, torch.Tensor)
    }


def _leaves(outputs: Any) -> Iterator[Leaf]:
    if isinstance(outputs, torch.Tensor):
        outputs = (outputs,)
    named, children = _named(outputs), _children(outputs)
    if children is None:
        raise ExportError(f"forward returned {type(outputs).__name__}, expected a tuple, list or dict of tensors")
    for name, value in children:
        yield from _exits(name if named else f"exit{name}", value)


def _exits(name: str, value: Any) -> Iterator[Leaf]:
    children = _children(value)
    if children is None:
        if value is not None:
            yield name, None, value
    elif _named(value):
        for key, child in children:
            yield from ((name, output, leaf) for output, leaf in _flat(key, child))
    else:
        for key, child in children:
            yield from _exits(f"{name}_{key}", child)


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    children = _children(value)
    if children is not None:
        for key, child in children:
            yield from _flat(f"{name}_{key}", child)
    elif value is not None:
        yield name, value


def _named(value: Any) -> bool:
    return isinstance(value, Mapping) or hasattr(value, "_fields") or dataclasses.is_dataclass(value)


def _children(value: Any) -> list[tuple[str, Any]] | None:
    """Returns what a container holds, by name or number; None where it is no container."""
    if isinstance(value, Mapping):
        return [(str(key), child) for key, child in value.items()]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, tuple | list):
        return [(str(number), child) for number, child in enumerate(value)]
    if type(value) in _pytree.SUPPORTED_NODES:
        children, _ = _pytree.SUPPORTED_NODES[type(value)].flatten_fn(value)
        return [(str(number), child) for number, child in enumerate(children)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(each.name, getattr(value, each.name)) for each in dataclasses.fields(value)]
    return None

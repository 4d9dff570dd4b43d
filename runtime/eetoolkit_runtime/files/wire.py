"""An ONNX file read as protobuf's wire format: which files it maps, where its numbers are, what it is without outputs.

A device has no `onnx` package, and this needs a dozen field numbers (https://protobuf.dev/programming-guides/encoding;
`onnx.proto` of ONNX 1.x, where numbers never change).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

_LENGTH = 2  # the wire type of what has a length: texts, messages
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_OUTPUT = 1, 5, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_ATTRIBUTE = 1, 2, 5
_ATTRIBUTE_GRAPHS = (6, 11)
_VALUE_NAME = 1
_TENSOR_NAME, _TENSOR_RAW, _TENSOR_EXTERNAL = 8, 9, 13
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_LOCATION = b"location"
# The messages on the way to a tensor's external data, by the fields that hold them: of a model its graph and functions,
# of these nodes and initializers (sparse ones too), of a node attributes, of an attribute tensors and graphs.
_Fields = dict[int, Any]
_TENSOR: _Fields = {_TENSOR_EXTERNAL: None}
_SPARSE: _Fields = {1: _TENSOR, 2: _TENSOR}
_GRAPH: _Fields = {_GRAPH_INITIALIZER: _TENSOR, 15: _SPARSE}
_NODE: _Fields = {
    _NODE_ATTRIBUTE: {5: _TENSOR, 10: _TENSOR, 22: _SPARSE, 23: _SPARSE} | dict.fromkeys(_ATTRIBUTE_GRAPHS, _GRAPH)
}
_GRAPH[_GRAPH_NODE] = _NODE
_MODEL: _Fields = {_MODEL_GRAPH: _GRAPH, 25: {7: _NODE}}


def external_files(model: bytes) -> set[str]:
    """Returns the files whose bytes a model's tensors are, as the model names them.

    Raises:
        ValueError: Not an ONNX model.
    """
    found: set[str] = set()
    _find_external(model, 0, len(model), _MODEL, found)
    return found


def _find_external(data: bytes, start: int, stop: int, inside: _Fields, found: set[str]) -> None:
    for number, _, content, _ in _each(data, start, stop):
        if content is None or number not in inside or data.find(_LOCATION, *content) < 0:
            continue
        if inside[number] is None:
            if _LOCATION.decode() in _texts(data, content, _ENTRY_KEY)[-1:]:
                found.update(_texts(data, content, _ENTRY_VALUE)[-1:])  # of a field that stands twice the last counts
        else:
            _find_external(data, *content, inside[number], found)


def raw_places(model: bytes) -> dict[str, int]:
    """Returns at which byte of a model the raw numbers begin of each initializer of its outermost graph that has such.

    Raises:
        ValueError: Not an ONNX model.
    """
    found: dict[str, int] = {}
    for number, _, graph, _ in _each(model, 0, len(model)):
        if number != _MODEL_GRAPH or graph is None:
            continue
        for part, _, tensor, _ in _each(model, *graph):
            if part == _GRAPH_INITIALIZER and tensor is not None:
                raw = [c for field, _, c, _ in _each(model, *tensor) if field == _TENSOR_RAW and c is not None]
                found.update((name, raw[-1][0]) for name in _texts(model, tensor, _TENSOR_NAME)[-1:] if raw)
    return found


def without_outputs(model: bytes, outputs: Collection[str]) -> tuple[bytes, int]:
    """Returns a model without some of its graph's outputs, and how many nodes went with them.

    A node goes where nothing else needs it. Inputs and initializers stay; no node of a branch or a body goes alone.

    Raises:
        ValueError: Not an ONNX model.
    """
    removed = 0
    parts: list[bytes] = []
    for number, start, content, end in _each(model, 0, len(model)):
        if number == _MODEL_GRAPH and content is not None:
            graph, removed = _prune(model, *content, outputs)
            parts.append(_tag(_MODEL_GRAPH) + _varint(len(graph)) + graph)
        else:
            parts.append(model[start:end])
    return b"".join(parts), removed


def _prune(data: bytes, start: int, stop: int, outputs: Collection[str]) -> tuple[bytes, int]:
    """Returns the bytes of a graph without outputs and nodes, and the number of these nodes."""
    fields = list(_each(data, start, stop))
    needed: set[str] = set()
    gone: set[int] = set()
    for place, (number, _, content, _) in enumerate(fields):
        if number == _GRAPH_OUTPUT and content is not None:
            (name,) = _texts(data, content, _VALUE_NAME)
            if name in outputs:
                gone.add(place)
            else:
                needed.add(name)
    removed = 0
    for place, (number, _, content, _) in reversed(list(enumerate(fields))):  # nodes are in topological order
        if number == _GRAPH_NODE and content is not None:
            if needed.isdisjoint(_texts(data, content, _NODE_OUTPUT)):
                gone.add(place)
                removed += 1
            else:
                needed.update(_reads(data, content))
    return b"".join(data[a:b] for place, (_, a, _, b) in enumerate(fields) if place not in gone), removed


def _reads(data: bytes, node: tuple[int, int]) -> Iterator[str]:
    """Yields the names that a node reads, those that its subgraphs may capture included."""
    yield from _texts(data, node, _NODE_INPUT)
    for number, _, content, _ in _each(data, *node):
        if number != _NODE_ATTRIBUTE or content is None:
            continue
        for kind, _, graph, _ in _each(data, *content):
            if kind not in _ATTRIBUTE_GRAPHS or graph is None:
                continue
            for part, _, inner, _ in _each(data, *graph):
                if part == _GRAPH_NODE and inner is not None:
                    yield from _reads(data, inner)
                elif part == _GRAPH_OUTPUT and inner is not None:
                    yield from _texts(data, inner, _VALUE_NAME)


def _texts(data: bytes, message: tuple[int, int], field: int) -> list[str]:
    return [data[slice(*c)].decode() for number, _, c, _ in _each(data, *message) if number == field and c is not None]


def _each(data: bytes, at: int, stop: int) -> Iterator[tuple[int, int, tuple[int, int] | None, int]]:
    """Yields (field number, where it starts, where its content is if it has a length, where it ends)."""
    while at < stop:
        start = at
        tag, at = _read_varint(data, at)
        content = None
        match tag & 7:
            case 0:
                _, at = _read_varint(data, at)
            case 1:
                at += 8
            case 2:
                length, at = _read_varint(data, at)
                content = at, at + length
                at += length
            case 5:
                at += 4
            case kind:
                raise ValueError(f"not an ONNX model: wire type {kind} at byte {start}")
        if at > stop:
            raise ValueError(f"not an ONNX model: the field at byte {start} ends behind its message")
        yield tag >> 3, start, content, at


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data):
            raise ValueError("not an ONNX model: it ends within a number")
        if shift > 63:
            raise ValueError("not an ONNX model: a number of over 10 bytes")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _tag(field: int) -> bytes:
    return _varint(field << 3 | _LENGTH)

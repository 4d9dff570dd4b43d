"""An ONNX file read as protobuf's wire format, to take outputs and what only they need out of a graph.

A device has no `onnx` package, and this needs seven field numbers (https://protobuf.dev/programming-guides/encoding;
`onnx.proto` of ONNX 1.x, where numbers never change).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

_LENGTH = 2  # the wire type of what has a length: texts, messages
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_OUTPUT = 1, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_ATTRIBUTE = 1, 2, 5
_ATTRIBUTE_GRAPHS = (6, 11)
_VALUE_NAME = 1


def without_outputs(model: bytes, outputs: Collection[str]) -> tuple[bytes, int]:
    """Returns a model without some of its graph's outputs, and how many nodes went with them.

    A node goes where nothing else needs it. Inputs and initializers stay; no node of a branch or a body goes alone.

    Raises:
        ValueError: Not an ONNX model.
    """
    removed = 0
    parts: list[bytes] = []
    for number, start, content, end in _fields(model, 0, len(model)):
        if number == _MODEL_GRAPH and content is not None:
            graph, removed = _prune(model, *content, outputs)
            parts.append(_tag(_MODEL_GRAPH) + _varint(len(graph)) + graph)
        else:
            parts.append(model[start:end])
    return b"".join(parts), removed


def _prune(data: bytes, start: int, stop: int, outputs: Collection[str]) -> tuple[bytes, int]:
    """Returns the bytes of a graph without outputs and nodes, and the number of these nodes."""
    fields = list(_fields(data, start, stop))
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
    for number, _, content, _ in _fields(data, *node):
        if number != _NODE_ATTRIBUTE or content is None:
            continue
        for kind, _, graph, _ in _fields(data, *content):
            if kind not in _ATTRIBUTE_GRAPHS or graph is None:
                continue
            for part, _, inner, _ in _fields(data, *graph):
                if part == _GRAPH_NODE and inner is not None:
                    yield from _reads(data, inner)
                elif part == _GRAPH_OUTPUT and inner is not None:
                    yield from _texts(data, inner, _VALUE_NAME)


def _texts(data: bytes, message: tuple[int, int], field: int) -> list[str]:
    return [
        data[slice(*c)].decode() for number, _, c, _ in _fields(data, *message) if number == field and c is not None
    ]


def _fields(data: bytes, at: int, stop: int) -> Iterator[tuple[int, int, tuple[int, int] | None, int]]:
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

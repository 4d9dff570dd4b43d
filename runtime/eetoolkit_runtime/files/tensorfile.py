"""Files of named tensors in the safetensors format: a header in JSON, then raw little-endian bytes in C order.

Any language reads them in a few lines (https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
import numpy as np

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.files.json_keys import refuse_twice

_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
_METADATA = "__metadata__"
_LENGTH_BYTES = 8
_ALIGNMENT = 8
_MOST_DIMENSIONS = 32

_Size = Annotated[int, msgspec.Meta(ge=0, lt=1 << 48)]


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    dtype: Literal["F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"]
    shape: Annotated[tuple[_Size, ...], msgspec.Meta(max_length=_MOST_DIMENSIONS)]
    data_offsets: tuple[_Size, _Size]


def write_tensors(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> bytes:
    """Returns the bytes of a file of tensors, which lie one after the other in this order.

    Args:
        tensors: By name; numbers and booleans.
        metadata: Texts beside them.
    """
    header: dict[str, object] = {_METADATA: dict(metadata)}
    parts: list[bytes] = []
    end = 0
    for name, tensor in tensors.items():
        start, array = end, np.asarray(tensor, order="C")
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        parts.append(array.tobytes())
        end += array.nbytes
        header[name] = _Entry(_NAMES[array.dtype], array.shape, (start, end))  # type: ignore[arg-type]
    text = msgspec.json.encode(header)
    text += b" " * (-len(text) % _ALIGNMENT)
    return b"".join([len(text).to_bytes(_LENGTH_BYTES, "little"), text, *parts])


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Returns an object of the header, none of whose keys stands twice."""
    refuse_twice(pairs)
    return dict(pairs)


def read_tensors(content: bytes) -> tuple[dict[str, Array], dict[str, str]]:
    """Returns the tensors in the bytes of a file, and its metadata.

    Raises:
        ValueError: It is damaged, or its tensors leave a gap or lie over each other.
    """
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    if len(content) < _LENGTH_BYTES or length > len(content) - _LENGTH_BYTES:
        raise ValueError(f"{len(content)} bytes cannot hold a header of {length}")
    data = memoryview(content)[_LENGTH_BYTES + length :]
    try:
        header = json.loads(content[_LENGTH_BYTES : _LENGTH_BYTES + length], object_pairs_hook=_once)
        metadata = msgspec.convert(header.pop(_METADATA, {}), dict[str, str])
        entries = msgspec.convert(header, dict[str, _Entry])
    except (msgspec.MsgspecError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"its header is damaged: {error}") from error
    tensors: dict[str, Array] = {}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        start, stop = entry.data_offsets
        dtype = np.dtype(_DTYPES[entry.dtype])
        if start != end or stop - start != math.prod(entry.shape) * dtype.itemsize or stop > len(data):
            raise ValueError(f"{name!r} is not where its header says")
        end = stop
        if entry.dtype == "BOOL" and np.frombuffer(data[start:stop], np.uint8).max(initial=0) > 1:
            raise ValueError(f"{name!r} is BOOL and has other bytes than 0 and 1")
        array = np.frombuffer(data[start:stop], dtype).reshape(entry.shape)
        tensors[name] = array.astype(dtype.newbyteorder("="))
    if end != len(data):
        raise ValueError(f"{len(data) - end} bytes at its end are no tensor's")
    return tensors, metadata

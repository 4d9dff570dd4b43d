"""One reader of numpy's files, `.npy` and `.npz`, whoever wrote them.

Headers are read by numpy; the data after it are never more than the file holds, whatever the header says.
"""

from __future__ import annotations

import math
import tokenize
from typing import BinaryIO, Protocol

import numpy as np

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import EEToolkitError, first_line
from eetoolkit_runtime.files.zips import DAMAGED, open_zip

_DAMAGED = (*DAMAGED, SyntaxError, RecursionError, tokenize.TokenError)
_CHUNK_BYTES = 16 << 20
_SUFFIX = ".npy"


class Stream(Protocol):
    """What can be read on, a pipe included."""

    def read(self, size: int = -1, /) -> bytes:
        """Returns up to `size` bytes; none at the end."""


def read_npy(stream: Stream, what: str, error: type[EEToolkitError]) -> Array:
    """Returns the array that begins here in a stream, in this machine's byte order.

    Args:
        stream: Where to read; it is left behind the array.
        what: Names the file in errors.
        error: What to raise.

    Raises:
        EEToolkitError: `error`: it is damaged or cut off, or holds Python objects or records.
    """
    try:
        return _read(stream)
    except EEToolkitError:
        raise
    except _DAMAGED as cause:
        raise error(f"{what}: not a readable .npy array ({first_line(cause)})") from cause


def read_npz(file: BinaryIO, what: str, error: type[EEToolkitError], *, stored: bool = False) -> dict[str, Array]:
    """Returns the arrays of a `.npz` by name.

    Args:
        file: Its bytes, which can be sought in.
        what: Names the file in errors.
        error: What to raise.
        stored: Whether to refuse compressed arrays, so that what it holds is no more than its size.

    Raises:
        EEToolkitError: `error`: it is damaged, or holds anything but arrays of numbers or texts.
    """
    arrays: dict[str, Array] = {}
    with open_zip(file, what, error, kind=".npz file") as archive:
        for entry in archive.infolist():
            name = entry.filename.removesuffix(_SUFFIX)
            if name == entry.filename or name in arrays:
                raise error(f"{what}: {entry.filename!r} is no array, or stands twice")
            if stored and entry.compress_type != 0:
                raise error(f"{what}: {name!r} is compressed; these arrays are stored as they are")
            with archive.open(entry) as member:
                arrays[name] = read_npy(member, f"{what}: {name!r}", error)
                if member.read(1):
                    raise error(f"{what}: {name!r} is followed by something that is no array")
    return arrays


def _read(stream: Stream) -> Array:
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"format {version[0]}.{version[1]}, which only records need")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(stream)
    if dtype.kind not in "biufcSU" or dtype.itemsize == 0:
        raise ValueError(f"its dtype is {dtype}, expected numbers or texts")
    if any(size < 0 for size in shape):
        raise ValueError(f"its shape is {list(shape)}")
    data, left = bytearray(), math.prod(shape) * dtype.itemsize
    while left:
        chunk = stream.read(min(left, _CHUNK_BYTES))
        if not chunk:
            raise ValueError(f"{left} bytes are missing")
        data += chunk
        left -= len(chunk)
    array = np.ndarray(shape, dtype, buffer=data, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)

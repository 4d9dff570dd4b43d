"""What is sent to a server and what comes back, by the Open Inference Protocol, whatever carries it.

The protocol: github.com/kserve/open-inference-protocol, version 2, and its extension for binary tensor data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec
import numpy as np

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import RemoteError
from eetoolkit_runtime.plan.types import Dim

DATATYPES = {
    "float32": "FP32", "float64": "FP64", "float16": "FP16",
    "int64": "INT64", "int32": "INT32", "int16": "INT16", "int8": "INT8",
    "uint64": "UINT64", "uint32": "UINT32", "uint16": "UINT16", "uint8": "UINT8",
    "bool": "BOOL",
}  # fmt: skip
"""What the protocol calls the dtypes of a plan."""
DTYPES = {theirs: ours for ours, theirs in DATATYPES.items()}
MOST_BYTES = 64 << 20
"""Of an answer; a longer one is not read."""


class Request(msgspec.Struct, frozen=True):
    """One row's live slots.

    Attributes:
        tensors: By input of the server's half.
        id: What the answer repeats; empty: nothing. It and `padding` are for measuring a link.
        padding: A parameter of the request without a meaning; empty: none.
    """

    tensors: dict[str, Array]
    id: str = ""
    padding: str = ""


class Reply(msgspec.Struct, frozen=True):
    """What a server sent back, not yet believed.

    Attributes:
        version: Of the model that answered; empty: it does not say.
        outputs: By name.
        parameters: What else it says.
        sent_bytes: What crossed to the server, without what TLS and the network add; by gRPC the tensors alone.
        received_bytes: And back.
        encoded: How many bytes the tensors took for one of theirs: more than 1 as JSON's numbers.
    """

    version: str
    outputs: dict[str, Array]
    parameters: Mapping[str, object]
    sent_bytes: int
    received_bytes: int
    encoded: float = 1.0


class Described(msgspec.Struct, frozen=True):
    """What a server says of a model.

    Attributes:
        name: What it calls the model.
        inputs: By name, what the protocol calls their dtypes; empty: it does not say.
    """

    name: str
    inputs: dict[str, str]


class Connections(Protocol):
    """What carries requests to one server; safe under concurrent calls."""

    def infer(self, request: Request, end: float, on_begin: Callable[[Callable[[], None]], None]) -> Reply:
        """Returns the server's reply.

        Args:
            request: What to send.
            end: When the time is up, on the clock of `time.perf_counter`.
            on_begin: Is told what breaks the request off, before it is sent; raises where nobody waits any more.

        Raises:
            RemoteError: There is none.
        """

    def ping(self, end: float) -> None:
        """Asks for next to nothing, to see how long that takes.

        Raises:
            RemoteError: The server is not ready.
        """

    def ready(self, end: float) -> Described:
        """Returns what the server says of the model, where it has it in this version, ready to answer.

        Raises:
            RemoteError: It has not, it cannot be asked, or it does not speak the protocol.
        """

    def close(self) -> None:
        """Lets go of all connections that nobody uses."""


def tensor(name: str, datatype: object, shape: object, data: object) -> Array:
    """Returns an output as an array of its own.

    Args:
        name: For errors.
        datatype: What the protocol calls its dtype.
        shape: Its sizes.
        data: Its bytes, little-endian, or its numbers, flat or nested.

    Raises:
        RemoteError: They do not fit each other.
    """
    dtype = DTYPES.get(datatype) if isinstance(datatype, str) else None
    if dtype is None or not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise RemoteError(f"the server's output {name!r} has no dtype or shape")
    try:
        if isinstance(data, bytes | memoryview):
            flat = np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).astype(dtype)
        else:
            flat = _numbers(data, dtype)
        return flat.reshape(shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise RemoteError(f"the server's output {name!r} is not {datatype}{shape}") from error


def _numbers(data: object, dtype: str) -> Array:
    """Returns numbers as JSON has them, of which null stands for NaN."""
    if not isinstance(data, list):
        raise TypeError
    found = np.asarray(data, None if np.dtype(dtype).kind != "f" else np.float64)
    if found.dtype.kind not in "biuf" or (np.dtype(dtype).kind != "f" and found.size and found.dtype.kind == "f"):
        raise TypeError
    flat = found.astype(dtype)
    if np.dtype(dtype).kind in "iub" and found.size and not np.array_equal(flat, found):
        raise OverflowError
    return flat


def fits(array: Array, dtype: str, shape: tuple[Dim, ...]) -> bool:
    """Whether an array is one row of this dtype and shape."""
    dims = [1 if dim == "batch" else dim for dim in shape]
    return (
        array.dtype == dtype
        and array.ndim == len(dims)
        and all(not isinstance(dim, int) or dim == size for dim, size in zip(dims, array.shape, strict=True))
    )


def one_number(outputs: Mapping[str, Array], name: str, kinds: str) -> Any:
    """Returns the only number of an output.

    Raises:
        RemoteError: It is not there, or is something else.
    """
    found = outputs.get(name)
    if found is None or found.size != 1 or found.dtype.kind not in kinds:
        raise RemoteError(f"the server's answer has no {name!r}, or not one number of it")
    return found.item()

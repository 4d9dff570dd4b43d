"""What of a server's reply is believed: nothing that the half it should run could not have said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import RemoteError
from eetoolkit_runtime.plan.types import ServerExit, spell
from eetoolkit_runtime.printable import cut, printable
from eetoolkit_runtime.remote.protocol import DATATYPES, Described, Reply, fits, one_number

NUMBER, CONFIDENCE = "exit", "confidence"
"""The outputs of a server's half beside its exits' own."""
_PATH, _GATES = "path", "gates"  # parameters of a reply, as JSON, where they hang on the row


class Told(msgspec.Struct, frozen=True):
    """What a server answered for one row, checked."""

    exit: ServerExit
    confidence: float
    outputs: dict[str, Array]
    path: tuple[str, ...]
    gates: tuple[tuple[str, int], ...]
    stopped_by: Literal["exit", "end"]


def recognise(described: Described, inputs: Mapping[str, str]) -> None:
    """Checks what a server says of its model against what it will be sent, as far as it says anything.

    Args:
        described: What it says.
        inputs: The dtypes of the live slots, by input of the server's half.

    Raises:
        RemoteError: It takes something else.
    """
    if not described.inputs:
        return
    expected = {name: DATATYPES[dtype] for name, dtype in inputs.items()}
    if described.inputs != expected:
        raise RemoteError(
            f"the server's model {printable(described.name)!r} takes {_spelt(described.inputs)}, "
            f"expected {_spelt(expected)}: it is not the other half of this bundle"
        )


def _spelt(inputs: Mapping[str, str]) -> str:
    return cut(", ".join(f"{printable(name)} {printable(datatype)}" for name, datatype in sorted(inputs.items())), 200)


def believe(reply: Reply, version: int, exits: Sequence[ServerExit]) -> Told:
    """Returns what a reply says.

    Args:
        reply: As it came.
        version: Of the half that was asked.
        exits: Of that half, by their numbers.

    Raises:
        RemoteError: It is of another half, of no exit, or its outputs are not those of the exit.
    """
    if reply.version and reply.version != str(version):
        raise RemoteError(f"the server answers by version {printable(reply.version)} of the model, not {version}")
    number = one_number(reply.outputs, NUMBER, "iu")
    if not 0 <= number < len(exits):
        raise RemoteError(f"the server answers by exit {number} of {len(exits)}")
    found = exits[number]
    confidence = float(one_number(reply.outputs, CONFIDENCE, "f"))
    fired = not isinstance(found.threshold, str) and confidence >= found.threshold
    ends = [exit_ for exit_ in exits if exit_.threshold == "always"]
    ran_to = found if fired or found in ends else ends[0] if len(ends) == 1 else None  # a fallback is known at the end
    path = None if ran_to is None else ran_to.path
    return Told(
        exit=found,
        confidence=confidence,
        outputs=_outputs(reply, found),
        path=_told(reply, _PATH, tuple[str, ...]) if path is None else path,
        gates=_told(reply, _GATES, tuple[tuple[str, int], ...]),
        stopped_by="exit" if fired else "end",
    )


def _outputs(reply: Reply, exit_: ServerExit) -> dict[str, Array]:
    """Returns the exit's own outputs, and no others that the half has for other exits."""
    if not exit_.outputs:  # a device's half that somebody else has written
        return {name: array for name, array in reply.outputs.items() if name not in (NUMBER, CONFIDENCE)}
    for name, slot in exit_.outputs.items():
        array = reply.outputs.get(name)
        if array is None:
            raise RemoteError(f"the server's answer has no output {name!r}")
        if not fits(array, slot.dtype, slot.shape):
            found = f"{array.dtype}[{', '.join(map(str, array.shape))}]"
            raise RemoteError(f"the server's output {name!r} is {found}, expected {spell(slot)} of one row")
    return {name: reply.outputs[name] for name in exit_.outputs}


def _told(reply: Reply, name: str, kind: Any) -> Any:
    """Returns a parameter of a reply that says what ran; () where it is not there."""
    said = reply.parameters.get(name)
    if said is None:
        return ()
    try:
        return msgspec.json.decode(said, type=kind) if isinstance(said, str) else msgspec.convert(said, kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteError(f"the server's answer says no {name}: {printable(str(said))[:80]}") from error

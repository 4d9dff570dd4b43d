"""The server's half in a model repository: what MLServer and Triton each look for, in one folder.

NAME/VERSION/ holds both servers' files, so that a later version of the model is one more folder beside it: devices that
still have the old half go on. Triton passes over what it does not know, and so does MLServer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from eetoolkit_runtime.plan.types import Dim, Manifest

BUNDLE = "bundle.ee"
"""The server's half beside its `model-settings.json`."""
MLSERVER_SETTINGS = "model-settings.json"
RUNTIME = "eetoolkit.splitting.mlserver.EarlyExitModel"

_DATATYPES = {
    "float16": "FP16", "float32": "FP32", "float64": "FP64", "bool": "BOOL",
    **{f"{u}int{bits}": f"{u.upper()}INT{bits}" for u in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip
"""The Open Inference Protocol's names."""


def write_mlserver(folder: Path, server: Manifest, version: int) -> None:
    """Writes `model-settings.json` into the folder of a version of the model."""
    settings = {
        "name": server.name,
        "implementation": RUNTIME,
        "parameters": {"uri": f"./{BUNDLE}", "version": str(version)},
        "inputs": [_metadata(spec.name, spec.dtype, spec.shape) for spec in server.inputs],
        "outputs": [_metadata(*output) for output in outputs_of(server)],
    }
    (folder / MLSERVER_SETTINGS).write_bytes(msgspec.json.format(msgspec.json.encode(settings), indent=2) + b"\n")


def outputs_of(server: Manifest) -> Iterator[tuple[str, str, Sequence[Dim]]]:
    """Yields name, dtype and shape of what an answer holds; exits whose outputs differ give different ones."""
    slots = {spec.name: (spec.dtype, spec.shape) for spec in server.inputs}
    slots |= {name: (slot.dtype, slot.shape) for name, slot in server.slots.items()}
    seen = dict[str, tuple[str, Sequence[Dim]]]()
    for exit_ in server.exits.values():
        for name, slot in exit_.outputs.items():
            seen.setdefault(name, slots[slot])
    for name, (dtype, shape) in seen.items():
        yield name, dtype, shape
    yield "exit", "int64", (1,)
    yield "confidence", "float32", (1,)


def _metadata(name: str, dtype: str, shape: Sequence[Dim]) -> dict[str, Any]:
    return {"name": name, "datatype": _DATATYPES[dtype], "shape": [d if isinstance(d, int) else -1 for d in shape]}

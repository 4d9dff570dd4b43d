"""The server's half in a model repository: what MLServer and Triton each look for, in one folder.

NAME/VERSION/ holds both servers' files, so that another half of the same model is one more folder beside it, and
devices that still have the old one go on. Either server passes over what it does not know.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from eetoolkit_runtime.errors import BundleError, ExportError
from eetoolkit_runtime.files.lock import alone
from eetoolkit_runtime.files.outfile import writing
from eetoolkit_runtime.files.paths import absolute, shown
from eetoolkit_runtime.plan.types import Dim, Manifest
from eetoolkit_runtime.single_file.description import Input, Output, read_description

BUNDLE = "bundle.ee"
"""The server's half beside its `model-settings.json`."""
MLSERVER_SETTINGS = "model-settings.json"
RUNTIME = "eetoolkit.splitting.mlserver.EarlyExitModel"
MLSERVER_OWN_SETTINGS = "settings.json"
"""What `mlserver start FOLDER` reads of the server itself, in the folder."""
TRITON_CONFIG = "config.pbtxt"
TRITON_MODEL = "model.onnx"

_DATATYPES = {
    "float16": "FP16", "float32": "FP32", "float64": "FP64", "bool": "BOOL",
    **{f"{u}int{bits}": f"{u.upper()}INT{bits}" for u in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip
"""The Open Inference Protocol's names."""


def check_repository(server: str | os.PathLike[str]) -> Path:
    """Returns the absolute path of a model repository that can be written to, whether it is there or not.

    Raises:
        BundleError: It is a file, or cannot be written to.
    """
    place = absolute(server, BundleError)
    try:
        there = next(folder for folder in (place, *place.parents) if folder.exists())
        if not there.is_dir():
            raise BundleError(f"cannot write {shown(place)}: {shown(there)} is no folder")
        if not os.access(there, os.W_OK):
            raise BundleError(f"cannot write {shown(place)}: the folder {shown(there)} cannot be written to")
    except OSError as error:
        raise BundleError(f"cannot write {shown(place)}: {error.strerror or error}") from error
    return place


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
    """Yields name, dtype and shape of what an answer may hold; exits whose outputs differ give different ones."""
    slots = {spec.name: (spec.dtype, spec.shape) for spec in server.inputs}
    slots |= {name: (slot.dtype, slot.shape) for name, slot in server.slots.items()}
    found: dict[str, tuple[str, Sequence[Dim]]] = {}
    for exit_ in server.exits.values():
        for name, slot in exit_.outputs.items():
            found.setdefault(name, slots[slot])
    for name, (dtype, shape) in found.items():
        yield name, dtype, shape
    yield "exit", "int64", (1,)
    yield "confidence", "float32", (1,)


def _metadata(name: str, dtype: str, shape: Sequence[Dim]) -> dict[str, Any]:
    return {"name": name, "datatype": _DATATYPES[dtype], "shape": [d if isinstance(d, int) else -1 for d in shape]}


def write_triton(folder: Path, name: str) -> str | None:
    """Writes the bundle in a version's folder as one ONNX file too, and `config.pbtxt` beside the folder.

    Returns:
        Why it cannot be one file; None: it is.

    Raises:
        BundleError: The bundle cannot be read, or the files cannot be written.
    """
    from eetoolkit_exporters.single_file.single_file import write_single_file

    model = folder / TRITON_MODEL
    try:
        write_single_file(folder / BUNDLE, model)
    except ExportError as error:
        return str(error)
    described = read_description(model)
    tensors = [("input", each) for each in described.inputs] + [("output", each) for each in described.outputs]
    lines = [
        f'name: "{name}"',
        'backend: "onnxruntime"',
        "max_batch_size: 0",
        "version_policy: { all { } }",
        *(line for kind, tensor in tensors for line in _tensor(kind, tensor)),
    ]
    (folder.parent / TRITON_CONFIG).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return None


def _tensor(kind: str, tensor: Input | Output) -> Iterator[str]:
    """Yields the lines of a tensor; Triton has no tensor without a dimension but by `reshape`."""
    dims = ", ".join(str(dim) if isinstance(dim, int) else "-1" for dim in tensor.shape)
    yield f"{kind} {{"
    yield f'  name: "{tensor.name}"'
    yield f"  data_type: TYPE_{_DATATYPES[tensor.dtype]}"
    yield f"  dims: [ {dims or 1} ]"
    if not dims:
        yield "  reshape: { shape: [ ] }"
    yield "}"


@contextlib.contextmanager
def room_for(place: Path, staged: Path, *, overwrite: bool) -> Iterator[None]:
    """Makes what was staged a version of its model in a repository; where the block fails, all is as it was before.

    Nobody else can put a version of that model there meanwhile. Other versions stay, and so do other models.

    Args:
        place: The repository.
        staged: NAME/VERSION in a folder on the same disk.
        overwrite: Whether the same version may be replaced.

    Raises:
        BundleError: It is there, or another's; or the version's tensors are not those of the others, and Triton has
            one `config.pbtxt` for all.
    """
    model = place / staged.parent.name
    version = model / staged.name
    place.mkdir(parents=True, exist_ok=True)
    with alone(model):
        _check_model(model, version, staged.parent, overwrite=overwrite)
        before = (model / TRITON_CONFIG).read_bytes() if (model / TRITON_CONFIG).exists() else None
        old = staged.with_name(f"{staged.name}-before")
        if version.exists():
            version.rename(old)
        try:
            _put(model, version, staged)
            yield
        except BaseException:
            shutil.rmtree(version, ignore_errors=True)
            if old.exists():
                old.rename(version)
            _restore(model, before)
            raise


@contextlib.contextmanager
def settings_for(place: Path, servers: Collection[str]) -> Iterator[None]:
    """Has MLServer run models in its own process, where nothing in the folder says how.

    With uvloop 0.23, worker processes of MLServer 1.7.1 find no event loop and end again. A runner answers on
    a thread, so one process is enough. A file that is there stays as it is; where the block fails, none is left.

    Args:
        place: The repository, which exists.
        servers: For which model servers it is.

    Raises:
        EEToolkitError: The file cannot be written.
    """
    path = place / MLSERVER_OWN_SETTINGS
    if "mlserver" not in servers or path.exists():
        yield
        return
    with writing(path, overwrite=False) as file:
        file.write(b'{"parallel_workers": 0}\n')
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _put(model: Path, version: Path, staged: Path) -> None:
    """Moves a version to its place, whole; before Triton's configuration, which is for all versions."""
    model.mkdir(exist_ok=True)
    staged.rename(version)
    config = staged.parent / TRITON_CONFIG
    if config.exists():
        with writing(model / TRITON_CONFIG, overwrite=True) as file:
            file.write(config.read_bytes())
    elif not _others(model, version):
        (model / TRITON_CONFIG).unlink(missing_ok=True)


def _restore(model: Path, config: bytes | None) -> None:
    if config is not None:
        with writing(model / TRITON_CONFIG, overwrite=True) as file:
            file.write(config)
        return
    (model / TRITON_CONFIG).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # other versions are in it
        model.rmdir()


def _check_model(model: Path, version: Path, staged: Path, *, overwrite: bool) -> None:
    if not model.exists():
        return
    names = [path.name for path in model.iterdir()]
    ours = any((model / name / MLSERVER_SETTINGS).exists() or (model / name / TRITON_MODEL).exists() for name in names)
    if names and not ours:
        raise BundleError(f"{shown(model)} exists and is no model that `split` wrote; it is left as it is")
    if version.exists() and not overwrite:
        raise BundleError(f"{shown(version)} exists; pass overwrite=True (--overwrite) to replace it")
    config, new = model / TRITON_CONFIG, staged / TRITON_CONFIG
    if _others(model, version) and config.exists() and new.exists() and config.read_bytes() != new.read_bytes():
        raise BundleError(
            f"{shown(model)} holds versions with other tensors, and Triton has one {TRITON_CONFIG} for all of them: "
            "choose another folder"
        )


def _others(model: Path, version: Path) -> bool:
    return any(path.name.isdigit() and path != version for path in model.iterdir())


def without(folder: Path) -> None:
    """Takes what MLServer needs out of a staged version: the bundle, of which Triton's one file was made."""
    shutil.rmtree(folder / BUNDLE)

"""One verb run on a device: the bundle and files are sent, the verb is run, and what it wrote is brought back."""

from __future__ import annotations

import contextlib
import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from eetoolkit.remote.environment import prepare
from eetoolkit.remote.folders import keep, kept_folder, new_folder
from eetoolkit.remote.transport import Files, Finished, Line, Transport
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.errors import DeviceError
from eetoolkit_runtime.files.paths import file_stem
from eetoolkit_runtime.plan.types import MANIFEST

_BASE = '"${XDG_CACHE_HOME:-$HOME/.cache}"/eetoolkit-device'
_DIGITS = 16
PICTURES = ("pillow>=10",)
"""What a device needs beside eetoolkit to read pictures."""
_ARRAYS = {".npy", ".npz"}


@dataclass(frozen=True)
class Job:
    """What is to be done.

    Attributes:
        verb: Of the command line.
        bundle: Which one; None where the verb takes none.
        arguments: The verb's, in which files have the names that they have on the device.
        files: These.
        results: Files that it writes, in its folder.
        python: The interpreter on the device.
        clean: Whether to remove all that is kept on the device afterwards.
    """

    verb: str
    bundle: Bundle | None
    arguments: Sequence[str] = ()
    files: Mapping[str, Path] = field(default_factory=dict)
    results: Sequence[str] = ()
    python: str = "python3"
    clean: bool = False


def run_job(device: Transport, job: Job, *, tell: Line, out: Line, err: Line) -> tuple[int, dict[str, bytes]]:
    """Runs a verb on a device; returns its exit status, and what it wrote where that is 0.

    Args:
        device: Where; its connection is ended.
        job: What.
        tell: Is told what goes on before the verb runs.
        out: Is told each line that the verb prints.
        err: Is told each line that it prints on stderr.

    Raises:
        DeviceError: The device cannot be reached, lacks what is needed, or is full.
    """
    with contextlib.closing(device):
        tell(f"connecting to {device.name}")
        with kept_folder(device, _BASE, clean=job.clean) as base, new_folder(device, base) as folder:
            pictures = any(Path(path).suffix.lower() not in _ARRAYS | {".onnx"} for path in job.files.values())
            python = prepare(device, base, job.python, PICTURES if pictures else (), tell)
            place = [] if job.bundle is None else [send_bundle(device, base, job.bundle, tell)]
            if job.files:
                device.put(dict(job.files), folder, tell)
            tell(f"running on {device.name}")
            command = shlex.join([python, "-m", "eetoolkit", job.verb, *place, *job.arguments])
            finished = device.run(
                f"cd {shlex.quote(folder)} && exec env PYTHONUNBUFFERED=1 {command}", out=out, err=err
            )
            return finished.code, collect(device, folder, job.results, finished)


def clean_up(device: Transport) -> None:
    """Removes all that is kept on a device, and ends its connection."""
    with (
        contextlib.closing(device),
        contextlib.suppress(DeviceError),  # it cannot be reached, which something else has said
        kept_folder(device, _BASE, clean=True),
    ):
        pass


def collect(device: Transport, folder: str, results: Sequence[str], finished: Finished) -> dict[str, bytes]:
    """Returns the files that a command wrote in its folder; none where it failed."""
    return {name: device.get(f"{folder}/{name}") for name in results} if finished.code == 0 else {}


def send_bundle(device: Transport, base: str, bundle: Bundle, tell: Line) -> str:
    """Returns where a bundle is on a device; it is sent where this one was not before, and is there whole or not."""
    name = file_stem(bundle.place.name.removesuffix(".zip")) or "bundle.ee"
    digest = hashlib.sha256(name.encode() + (bundle.path / MANIFEST).read_bytes()).hexdigest()[:_DIGITS]
    folder = f"{base}/bundles/{digest}"
    if device.run(f"exec test -e {shlex.quote(folder)}").code != 0:
        files: Files = {f"{name}/{file}": bundle.path / file for file in (*bundle.manifest.files, MANIFEST)}
        with new_folder(device, base) as arriving:
            device.put(files, arriving, lambda what: tell(f"{what} of the bundle"))
            keep(device, arriving, folder, "sending the bundle")
    return f"{folder}/{name}"


def named_on_device(paths: Sequence[Path]) -> dict[str, Path]:
    """Returns files by the names that they get on the device: their own, in folders where two have the same."""
    found: dict[str, Path] = {}
    for number, path in enumerate(paths):
        name = path.name if path.name not in ("", "..") else path.resolve().name
        found[name if name not in found else str(PurePosixPath(str(number), name))] = path
    return found

"""Whether a bundle's files are the ones that its manifest names."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, BinaryIO, Literal

from eetoolkit_runtime.errors import IntegrityError
from eetoolkit_runtime.files.paths import shown
from eetoolkit_runtime.files.wire import external_files
from eetoolkit_runtime.plan.manifest import decode_sealed
from eetoolkit_runtime.plan.seal import sha256_of
from eetoolkit_runtime.plan.types import MANIFEST, MANIFEST_LIMIT_BYTES, File, Manifest, Segment

if TYPE_CHECKING:
    from pathlib import Path

Check = Literal["quick", "full"]

_CHUNK_BYTES = 1 << 20
_MISSING = "is missing or not a regular file; copy or export the bundle again"


def digest(path: Path) -> File:
    """Returns SHA-256 and size in bytes of the file at `path`, read in pieces."""
    import hashlib  # it costs as much as this whole package to import

    sha, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            sha.update(chunk)
            size += len(chunk)
    return File(sha256=sha.hexdigest(), size=size)


def open_regular(path: Path) -> BinaryIO:
    """Opens a file that may be anybody's for reading; never a pipe or a device, which would wait.

    Raises:
        IntegrityError: It is no regular file.
        OSError: It cannot be read.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))  # a pipe would wait
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise IntegrityError(f"{shown(path)} is no regular file")
    return os.fdopen(handle, "rb")


def read_regular(path: Path, limit_bytes: int) -> bytes:
    """Returns the bytes of a file that may be anybody's: never more than so many, and never those of a pipe or device.

    Raises:
        IntegrityError: It is no regular file, or larger.
        OSError: It cannot be read.
    """
    with open_regular(path) as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise IntegrityError(f"{shown(path)} is over {limit_bytes >> 20} MiB, more than such a file has")
    return data


def read_manifest(folder: Path) -> Manifest:
    """Returns the manifest in a bundle's folder, its digest and its types checked.

    Raises:
        ManifestError: It is not one.
        IntegrityError: It was changed since it was written, or is no regular file.
        OSError: It is not there, or cannot be read.
    """
    path = folder / MANIFEST
    accept = f"`eetoolkit verify {shown(folder)} --accept-edit`"
    fix = f"copy or export the bundle again; if you have edited it, {accept} makes it the bundle's own"
    return decode_sealed(read_regular(path, MANIFEST_LIMIT_BYTES), str(shown(path)), fix)


def read_graph(folder: Path, manifest: Manifest, segment: Segment) -> bytes:
    """Returns the bytes of a segment's graph, which are those that the manifest says.

    Raises:
        IntegrityError: They are missing or others, are no ONNX model, or map a file that the segment does not list.
    """
    if segment.model is None:
        raise IntegrityError("a segment without a model has no graph")
    path, entry = folder / segment.model, manifest.files[segment.model]
    try:
        data = read_regular(path, entry.size)
    except OSError as error:
        raise _unreadable(path, error) from error
    _compare(path, sha256_of(data), entry.sha256)
    try:
        unlisted = external_files(data).difference(segment.weights)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{shown(path)}: {error}") from error
    if unlisted:
        raise IntegrityError(
            f"{shown(path)} maps {min(unlisted)!r}, which is not among the segment's weights; export the bundle again"
        )
    return data


def check_quick(folder: Path, manifest: Manifest) -> None:
    """Checks every file's size, and every graph; weights are not read, so that they stay unmapped.

    Raises:
        IntegrityError: A file is missing, of another size, or a graph is changed or maps a file that is not listed.
    """
    for name, entry in manifest.files.items():
        path = folder / name
        try:
            status = path.lstat()
        except OSError as error:
            raise _unreadable(path, error) from error
        if not stat.S_ISREG(status.st_mode):
            raise IntegrityError(f"{shown(path)} {_MISSING}")
        if status.st_size != entry.size:
            raise IntegrityError(
                f"{shown(path)}: {status.st_size} bytes, expected {entry.size}; copy or export the bundle again"
            )
    for segment in {(segment.model, segment.weights): segment for segment in manifest.segments.values()}.values():
        if segment.model is not None:
            read_graph(folder, manifest, segment)


def check_full(folder: Path, manifest: Manifest) -> None:
    """Checks every file's size and hash, and every graph.

    Raises:
        IntegrityError: As `check_quick`, or any file is changed.
    """
    check_quick(folder, manifest)
    for name, entry in manifest.files.items():
        try:
            found = digest(folder / name).sha256
        except OSError as error:
            raise _unreadable(folder / name, error) from error
        _compare(folder / name, found, entry.sha256)


def _unreadable(path: Path, error: OSError) -> IntegrityError:
    if isinstance(error, FileNotFoundError):
        return IntegrityError(f"{shown(path)} {_MISSING}")
    return IntegrityError(f"cannot read {shown(path)}: {error.strerror or error}")


def _compare(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise IntegrityError(
            f"{shown(path)}: sha256 {found[:12]}…, expected {expected[:12]}…: the file was changed; "
            "export the bundle again"
        )

"""Whether a bundle's files are the ones that its manifest names."""

from __future__ import annotations

from pathlib import Path

from eetoolkit_runtime.errors import IntegrityError
from eetoolkit_runtime.plan import File, Manifest

_CHUNK_BYTES = 1 << 20


def digest(path: Path) -> File:
    """Returns SHA-256 and size in bytes of the file at `path`, read in pieces."""
    import hashlib  # it costs as much as this whole package to import

    sha, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            sha.update(chunk)
            size += len(chunk)
    return File(sha256=sha.hexdigest(), size=size)


def check_quick(folder: Path, manifest: Manifest) -> None:
    """Checks every file's size, and the hash of every graph; weights are not read, so that they stay unmapped.

    Raises:
        IntegrityError: A file is missing, of another size, or a graph is changed.
    """
    graphs = {segment.model for segment in manifest.segments.values()}
    for name, entry in manifest.files.items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise IntegrityError(f"{path} is missing or not a regular file; copy or export the bundle again")
        size = path.stat().st_size
        if size != entry.size:
            raise IntegrityError(f"{path}: {size} bytes, expected {entry.size}; copy or export the bundle again")
        if name in graphs:
            _check_hash(path, entry.sha256)


def check_full(folder: Path, manifest: Manifest) -> None:
    """Checks size and hash of every file.

    Raises:
        IntegrityError: A file is missing or changed.
    """
    check_quick(folder, manifest)
    for name, entry in manifest.files.items():
        _check_hash(folder / name, entry.sha256)


def _check_hash(path: Path, expected: str) -> None:
    found = digest(path).sha256
    if found != expected:
        raise IntegrityError(
            f"{path}: sha256 {found[:12]}…, expected {expected[:12]}…: the file was changed; export the bundle again"
        )

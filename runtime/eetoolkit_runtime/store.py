"""Writing a bundle so that a kill at any moment leaves the old one or the new one, whole.

Files are named by content and never change, so they can be added beside the old ones; the manifest is the commit.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from eetoolkit_runtime.errors import BundleError, ManifestError
from eetoolkit_runtime.integrity import digest
from eetoolkit_runtime.outfile import PARTIAL, remove_stale, umask
from eetoolkit_runtime.plan import MANIFEST, File, Manifest, decode, encode

_NAMED_BY_CONTENT = re.compile(r".+-(?P<digits>[0-9a-f]{8})(\.[^.]+)?")


def named_by_content(path: Path, stem: str) -> tuple[str, File]:
    """Renames a file to `{stem}-{8 hex digits of its hash}{suffix}` and returns that name and its digest."""
    entry = digest(path)
    name = f"{stem}-{entry.sha256[:8]}{path.suffix}"
    path.replace(path.with_name(name))
    return name, entry


@contextlib.contextmanager
def staging(target: Path) -> Iterator[Path]:
    """Gives an empty folder beside `target` to write a bundle's files in; it is gone afterwards, whatever happened.

    Raises:
        BundleError: The disk is full, or another `OSError` while it is written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(target)
        folder = Path(tempfile.mkdtemp(prefix=target.name + PARTIAL, dir=target.parent))
        folder.chmod(0o777 & ~umask())
    except OSError as error:
        raise BundleError(f"cannot write {target}: {error.strerror or error}") from error
    try:
        yield folder
    except OSError as error:
        raise BundleError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_target(target: Path, *, overwrite: bool) -> None:
    """Refuses to write a bundle where something else is, or, without `overwrite`, where a bundle is.

    Raises:
        BundleError: `target` is a file, a folder that is no bundle, or an existing bundle; or its folder is closed.
    """
    try:
        _check_target(target, overwrite=overwrite)
    except OSError as error:
        raise BundleError(f"cannot write {target}: {error.strerror or error}") from error


def _check_target(target: Path, *, overwrite: bool) -> None:
    parent = next(place for place in target.absolute().parents if place.is_dir())
    for folder in (parent, *([target] if target.is_dir() else [])):
        if not os.access(folder, os.W_OK):
            raise BundleError(f"cannot write {target}: the folder {folder} cannot be written to")
    if not target.exists():
        return
    if not target.is_dir() or (any(target.iterdir()) and not (target / MANIFEST).exists()):
        raise BundleError(f"{target} exists and is not a bundle; it is left as it is: choose another name")
    if (target / MANIFEST).exists() and not overwrite:
        raise BundleError(f"{target} exists; pass overwrite=True (--overwrite) to replace it")


def commit(folder: Path, manifest: Manifest, target: Path) -> None:
    """Makes the staged `folder` and `manifest` the bundle at `target`.

    Order: every file is on disk before the manifest names it; the manifest is replaced in one step; files of the bundle
    that nothing names any more are removed last. Other people's files stay.
    """
    for path in folder.iterdir():
        sync(path)
    (folder / MANIFEST).write_bytes(encode(manifest))
    sync(folder / MANIFEST)
    sync(folder)
    if not target.exists():
        folder.rename(target)
        sync(target.parent)
        return
    for path in folder.iterdir():
        if path.name != MANIFEST:
            path.replace(target / path.name)
    sync(target)
    before = _names(target)
    (folder / MANIFEST).replace(target / MANIFEST)
    sync(target)
    for path in target.iterdir():
        if not path.is_file() or path.name == MANIFEST or path.name in manifest.files:
            continue
        if path.name in before or _is_named_by_content(path):
            path.unlink()


def _names(folder: Path) -> frozenset[str]:
    """Returns the files that the manifest in `folder` names; none where it cannot be read."""
    try:
        return frozenset(decode((folder / MANIFEST).read_bytes()).files)
    except (OSError, ManifestError):
        return frozenset()


def _is_named_by_content(path: Path) -> bool:
    """Whether a file has the name that `named_by_content` gives it: then a writer that was killed has left it."""
    match = _NAMED_BY_CONTENT.fullmatch(path.name)
    return match is not None and digest(path).sha256.startswith(match["digits"])


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on disk (POSIX fsync; a no-op for folders on Windows)."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some file systems have no fsync for folders; the rename is still atomic
        if not path.is_dir():
            raise
    finally:
        os.close(handle)

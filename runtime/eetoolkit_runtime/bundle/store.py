"""Writing a bundle so that a kill at any moment leaves the old one or the new one, whole, and so do two writers.

Files are named by content and never change, so they can be added beside the old ones; the manifest is the commit.
Writers of one bundle wait for each other: who changes what is there holds `alone` from reading it on.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from eetoolkit_runtime.arguments import checked
from eetoolkit_runtime.bundle.integrity import check_full, digest, read_regular
from eetoolkit_runtime.errors import BundleError
from eetoolkit_runtime.files.lock import alone
from eetoolkit_runtime.files.outfile import PARTIAL, remove_stale, umask
from eetoolkit_runtime.files.paths import absolute, shown
from eetoolkit_runtime.plan.manifest import decode, encode
from eetoolkit_runtime.plan.types import JOURNAL, MANIFEST, MANIFEST_LIMIT_BYTES, File, Manifest
from eetoolkit_runtime.plan.validate import check_files, is_plain, validate

_OURS = re.compile(r"-[0-9a-f]{8}\.[a-z]+$")  # what `named_by_content` gives


def named_by_content(path: Path, stem: str) -> tuple[str, File]:
    """Renames a file to `{stem}-{8 hex digits of its hash}{suffix}` and returns that name and its digest."""
    entry = digest(path)
    name = f"{stem}-{entry.sha256[:8]}{path.suffix}"
    path.replace(path.with_name(name))
    return name, entry


def in_place_of(before: str | None, new: Mapping[str, File], files: Mapping[str, File]) -> dict[str, File]:
    """Returns a manifest's `files` with `new` ones in the place of the one before, if there was one."""
    return {name: entry for name, entry in files.items() if name != before} | dict(new)


@contextlib.contextmanager
def staging(target: Path) -> Iterator[Path]:
    """Gives an empty folder beside `target` to write a bundle's files in; it is gone afterwards, whatever happened.

    Raises:
        BundleError: The disk is full, or another `OSError` while it is written.
    """
    try:
        place = target.resolve()  # what a link leads to may be on another disk than the link
        place.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(place)
        folder = Path(tempfile.mkdtemp(prefix=place.name + PARTIAL, dir=place.parent))
        folder.chmod(0o777 & ~umask())
    except OSError as error:
        raise BundleError(f"cannot write {shown(target)}: {error.strerror or error}") from error
    try:
        yield folder
    except OSError as error:
        raise BundleError(f"cannot write {shown(target)}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_target(target: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Returns the absolute path of a bundle that may be written; to be asked before any work is done for it.

    Raises:
        BundleError: `target` is a file, a folder that is no bundle, or, without `overwrite`, an existing bundle; or its
            folder is closed.
    """
    place = absolute(target, BundleError)
    try:
        _check_target(place, overwrite=overwrite)
    except OSError as error:
        raise BundleError(f"cannot write {shown(place)}: {error.strerror or error}") from error
    return place


def _check_target(target: Path, *, overwrite: bool) -> None:
    parent = next(place for place in target.parents if place.exists())
    if not parent.is_dir():
        raise BundleError(f"cannot write {shown(target)}: {shown(parent)} is no folder")
    for folder in (parent, *([target] if target.is_dir() else [])):
        if not os.access(folder, os.W_OK):
            raise BundleError(f"cannot write {shown(target)}: the folder {shown(folder)} cannot be written to")
    if not target.exists():
        return
    if not target.is_dir() or (any(target.iterdir()) and not (target / MANIFEST).exists()):
        raise BundleError(f"{shown(target)} exists and is not a bundle; it is left as it is: choose another name")
    if (target / MANIFEST).exists() and not overwrite:
        raise BundleError(f"{shown(target)} exists; pass overwrite=True (--overwrite) to replace it")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes a manifest into a staged folder, which is then a bundle that can be opened.

    Raises:
        ManifestError: It holds what no manifest may, and nobody could open.
    """
    text = encode(manifest)
    decode(text)
    (folder / MANIFEST).write_bytes(text)


def commit(folder: Path, manifest: Manifest, target: Path, *, overwrite: bool = True) -> None:
    """Makes the staged `folder` and `manifest` the bundle at `target`.

    Order: every file is on disk before the manifest names it; the manifest is replaced in one step; the files that the
    replaced manifest named and the new one does not are removed last. Other people's files stay. A journal names the
    files of both meanwhile, so that what a killed writer has left goes with the next one.

    Raises:
        BundleError: Without `overwrite`, a bundle has come to `target` since `check_target`; or another writer of it
            does not come to an end.
    """
    write_manifest(folder, manifest)
    for path in folder.iterdir():
        sync(path)
    sync(folder)
    with alone(target):
        if not overwrite:
            check_target(target, overwrite=False)  # it may have come meanwhile
        if not target.exists():
            folder.rename(target)
            sync(target.parent)
            return
        before = _names(target) | _left(target)
        (target / JOURNAL).write_bytes(msgspec.json.encode(sorted(before.union(manifest.files))))
        for path in folder.iterdir():
            if path.name != MANIFEST:
                path.replace(target / path.name)
        sync(target)
        (folder / MANIFEST).replace(target / MANIFEST)
        sync(target)
        for name in before.difference(manifest.files):
            with contextlib.suppress(OSError):  # a folder, or a name of no file: the journal may be anybody's
                (target / name).unlink()
        (target / JOURNAL).unlink()


@checked(BundleError)
def accept_edit(bundle: str | os.PathLike[str]) -> None:
    """Makes a manifest that was edited by hand the bundle's own: proves it, checks every file, renews its digest.

    Args:
        bundle: The bundle's folder.

    Raises:
        ManifestError: It is not a valid plan.
        BundleError: Nothing is there, a file is missing or changed, or the manifest cannot be written.
    """
    target = absolute(bundle, BundleError)
    with alone(target), staging(target) as folder:
        try:
            plan = decode(read_regular(target / MANIFEST, MANIFEST_LIMIT_BYTES))
        except OSError as error:
            raise BundleError(f"cannot read {shown(target / MANIFEST)}: {error.strerror or error}") from error
        validate(plan)
        check_full(target, plan)
        commit(folder, plan, target)


def _names(folder: Path) -> frozenset[str]:
    """Returns the files that the manifest in `folder` names; none where it cannot be read."""
    try:
        plan = decode(read_regular(folder / MANIFEST, MANIFEST_LIMIT_BYTES))
        check_files(plan)
        return frozenset(plan.files)
    except (OSError, BundleError):
        return frozenset()


def _left(folder: Path) -> frozenset[str]:
    """Returns the files that a killed writer may have left, by its journal; none where there is none or it is cut."""
    try:
        names = msgspec.json.decode(read_regular(folder / JOURNAL, MANIFEST_LIMIT_BYTES), type=list[str])
    except (OSError, BundleError, msgspec.MsgspecError, UnicodeDecodeError):
        return frozenset()
    return frozenset(name for name in names if is_plain(name) and _OURS.search(name))


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

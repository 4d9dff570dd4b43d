"""Writing files so that a kill at any moment leaves the old one or the new one, whole."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from eetoolkit_runtime.errors import EEToolkitError
from eetoolkit_runtime.files.paths import absolute, shown

PARTIAL = ".partial-"
"""Between a target's name and what makes the name of what is written beside it unlike all others."""
_STALE_S = 24 * 3600  # what is partial at this age belongs to a writer that was killed


def check_file(target: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Returns the path of a file that may be written; to be asked before any work is done for it.

    Raises:
        EEToolkitError: Something is there and `overwrite` is not set, or it is no file, or its folder is missing or
            closed.
    """
    try:
        return _checked(absolute(target, EEToolkitError), overwrite=overwrite)
    except OSError as error:
        raise EEToolkitError(f"cannot write {target}: {error.strerror or error}") from error


def _checked(path: Path, *, overwrite: bool) -> Path:
    if path.exists() and not path.is_file():
        kind = (
            f"a folder; name a file, such as {shown(path) / 'NAME'}"
            if path.is_dir()
            else "no file; choose another name"
        )
        raise EEToolkitError(f"{shown(path)} is {kind}")
    if path.exists() and not overwrite:
        raise EEToolkitError(f"{shown(path)} exists; pass overwrite=True (--overwrite) to replace it")
    folder = path.resolve().parent  # of what a link leads to
    if not folder.is_dir():
        raise EEToolkitError(f"{shown(path)}: the folder {shown(path.parent)} does not exist")
    if not os.access(folder, os.W_OK):
        raise EEToolkitError(f"{shown(path)}: the folder {shown(path.parent)} cannot be written to")
    return path


@contextlib.contextmanager
def writing(target: str | os.PathLike[str], *, overwrite: bool) -> Iterator[BinaryIO]:
    """Gives a file that takes the place of `target` in one step when all of it is written, and none otherwise.

    Raises:
        EEToolkitError: See `check_file`; or the disk is full, or another `OSError` while it is written.
    """
    with writing_together([target], overwrite=overwrite) as (file,):
        yield file


@contextlib.contextmanager
def writing_together(targets: Sequence[str | os.PathLike[str]], *, overwrite: bool) -> Iterator[list[BinaryIO]]:
    """Gives a file for each target; they take their places, the last target's last, when all are written whole.

    Raises:
        EEToolkitError: As `writing`; then none has taken its place.
    """
    paths = [check_file(target, overwrite=overwrite) for target in targets]
    places = [path.resolve() for path in paths]  # what a link leads to, not the link
    try:
        with contextlib.ExitStack() as stack:
            files: list[BinaryIO] = []
            partials: list[Path] = []
            for place in places:
                remove_stale(place)
                handle, name = tempfile.mkstemp(dir=place.parent, prefix=place.name + PARTIAL)
                partials.append(Path(name))
                stack.callback(partials[-1].unlink, missing_ok=True)
                files.append(stack.enter_context(os.fdopen(handle, "w+b")))
            yield files
            for file in files:
                file.flush()
                os.fsync(file.fileno())
                file.close()
            for path, place, partial in zip(paths, places, partials, strict=True):
                _checked(path, overwrite=overwrite)  # it may have come meanwhile
                partial.chmod(stat.S_IMODE(place.stat().st_mode) if place.exists() else 0o666 & ~umask())
            for place, partial in zip(places, partials, strict=True):
                partial.replace(place)
    except OSError as error:
        raise EEToolkitError(f"cannot write {shown(paths[-1])}: {error.strerror or error}") from error


def remove_stale(target: Path) -> None:
    """Removes what writers of `target` have left beside it that were killed a day ago or earlier."""
    remove_partial(target.parent, glob.escape(target.name))


def remove_partial(folder: Path, names: str) -> None:
    """Removes what killed writers have left in a folder a day ago or earlier; `names` is a pattern of their targets."""
    for killed in folder.glob(names + PARTIAL + "*"):
        with contextlib.suppress(OSError):  # another writer's, just finished, or another user's
            if time.time() - killed.lstat().st_mtime > _STALE_S:
                shutil.rmtree(killed) if killed.is_dir() and not killed.is_symlink() else killed.unlink()


def umask() -> int:
    """Returns the process's umask, which POSIX can only tell by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask

"""Writing one file so that a kill at any moment leaves the old one or the new one, whole."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from eetoolkit_runtime.errors import EEToolkitError


def check_file(target: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Returns the path of a file that may be written; to be asked before any work is done for it.

    Raises:
        EEToolkitError: Something is there and `overwrite` is not set, or it is no file, or its folder is missing or
            closed.
    """
    path = Path(target)
    if path.exists() and not path.is_file():
        kind = f"a folder; name a file, such as {path / 'NAME'}" if path.is_dir() else "no file; choose another name"
        raise EEToolkitError(f"{path} is {kind}")
    if path.exists() and not overwrite:
        raise EEToolkitError(f"{path} exists; pass overwrite=True (--overwrite) to replace it")
    folder = path.parent
    if not folder.is_dir():
        raise EEToolkitError(f"{path}: the folder {folder} does not exist")
    if not os.access(folder, os.W_OK):
        raise EEToolkitError(f"{path}: the folder {folder} cannot be written to")
    return path


@contextlib.contextmanager
def writing(target: str | os.PathLike[str], *, overwrite: bool) -> Iterator[BinaryIO]:
    """Gives a file that takes the place of `target` in one step when all of it is written, and none otherwise.

    Raises:
        EEToolkitError: See `check_file`; or the disk is full, or another `OSError` while it is written.
    """
    path = check_file(target, overwrite=overwrite)
    place = path.resolve()  # what a link leads to, not the link
    try:
        handle, name = tempfile.mkstemp(dir=place.parent, prefix=f"{place.name}.partial-")
        partial = Path(name)
        try:
            with os.fdopen(handle, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.chmod(0o666 & ~umask())
            check_file(path, overwrite=overwrite)  # it may have come meanwhile
            partial.replace(place)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise EEToolkitError(f"cannot write {path}: {error.strerror or error}") from error


def umask() -> int:
    """Returns the process's umask, which POSIX can only tell by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask

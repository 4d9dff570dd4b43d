"""A path as a caller names it, and as messages name it."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from eetoolkit_runtime.errors import EEToolkitError

if TYPE_CHECKING:
    from pathlib import Path

_STEM_CHARACTERS = 40  # of four bytes each at most, so that a digest and an ending fit into 255


def file_stem(name: str) -> str:
    """Returns what of a name may stand in a file's: nothing that names a folder or that a shell obeys."""
    return re.sub(r"[^\w.-]+", "-", name)[:_STEM_CHARACTERS]


def absolute(given: str | os.PathLike[str], error: type[EEToolkitError]) -> Path:
    """Returns a path that leads to the same place after a change of the working directory; links stay links.

    Raises:
        EEToolkitError: `error`: it is no path, or the working directory is gone.
    """
    if not isinstance(given, str | os.PathLike) or "\0" in str(given) or not str(given):
        raise error(f"got {given!r}, expected a path")
    from pathlib import Path  # in three milliseconds, which wait until there is a path

    try:
        return Path(os.path.abspath(str(given)))  # noqa: PTH100 - `resolve` follows links, `absolute` keeps `..`
    except OSError as cause:
        raise error(f"{given}: the working directory is gone; name an absolute path") from cause


def shown(path: Path) -> Path:
    """Returns a path as a user would name it: from the working directory where it lies below."""
    try:
        return path.relative_to(path.cwd())
    except (ValueError, OSError):  # elsewhere, or the working directory is gone
        return path

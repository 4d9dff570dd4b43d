"""One reader of .zip files, whatever they hold: a bundle's archive, an `.npz`."""

from __future__ import annotations

import contextlib
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from eetoolkit_runtime.errors import EEToolkitError, first_line

_KNOWN = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
DAMAGED = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, KeyError, IndexError, TypeError,
    AttributeError, NotImplementedError, RuntimeError, OverflowError, MemoryError,
)  # fmt: skip
"""What the library raises on damaged and made-up files, found by fuzzing; UnicodeError is a ValueError."""


@contextlib.contextmanager
def open_zip(
    file: BinaryIO, what: str, error: type[EEToolkitError], *, kind: str = ".zip"
) -> Iterator[zipfile.ZipFile]:
    """Gives a .zip to read; whatever the library says against it, also while its members are read, is one `error`.

    Args:
        file: Its bytes, which can be sought in.
        what: Names it in errors.
        error: What to raise.
        kind: What a user calls such a file.

    Raises:
        EEToolkitError: `error`: it is damaged, encrypted, or compressed by another method than deflate.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                if entry.compress_type not in _KNOWN:
                    raise zipfile.BadZipFile(f"{entry.filename!r} is compressed by method {entry.compress_type}")
            yield archive
    except EEToolkitError:
        raise
    except DAMAGED as cause:
        raise error(f"{what}: not a readable {kind} ({first_line(cause)})") from cause

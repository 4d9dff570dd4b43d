"""One writer at a time at one path, in this process and among all of this machine.

The system holds the lock for the process, so that one which dies lets go of it. Its file lies beside the target while
somebody writes, and is removed then.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from eetoolkit_runtime.errors import BundleError
from eetoolkit_runtime.files.paths import shown
from eetoolkit_runtime.forked import renew_after_fork

_WAIT_S = 60.0
_LOOK_S = 0.01
_BUSY = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


class _Held:
    """A lock that a thread of this process has, and how many blocks of that thread are inside.

    The file is an object, which is closed, and so lets go of the system's lock, wherever a signal handler may raise.
    """

    def __init__(self) -> None:
        self.thread = threading.RLock()
        self.depth = 0
        self.file: BinaryIO | None = None


class _Locks:
    """The locks of this process by the paths that they are of; one is gone with the last block that is inside."""

    def __init__(self) -> None:
        self._held: weakref.WeakValueDictionary[Path, _Held] = weakref.WeakValueDictionary()
        self._looking_up = threading.Lock()
        renew_after_fork(self)

    def of(self, place: Path) -> _Held:
        """Returns the lock of a path."""
        with self._looking_up:
            return self._held.setdefault(place, _Held())

    def renew(self) -> None:
        """Leaves the locks to the process that was forked, whose threads have them."""
        for held in tuple(self._held.values()):
            if held.file is not None:
                held.file.close()
            held.file, held.depth = None, 0
        self._held.clear()
        self._looking_up = threading.Lock()


_locks = _Locks()


@contextlib.contextmanager
def alone(target: Path) -> Iterator[None]:
    """Keeps all other writers of `target` out meanwhile; blocks of one thread may lie in each other.

    On a file system without locks it keeps out those of this process alone.

    Raises:
        BundleError: Another writer is not done after a minute, or no file can be made beside `target`.
    """
    place = target.resolve()
    held = _locks.of(place)
    file = place.with_name(f".{place.name}.lock")
    until = time.monotonic() + _WAIT_S
    if not held.thread.acquire(timeout=_WAIT_S):
        raise _busy(target, file)
    try:
        if held.depth == 0:
            held.file = None  # of a block that never began
            held.file = _acquire(target, file, until)
        held.depth += 1
        try:
            yield
        finally:
            held.depth -= 1
            if held.depth == 0 and held.file is not None:
                opened, held.file = held.file, None
                _release(file, opened)
    finally:
        held.thread.release()


def _acquire(target: Path, file: Path, until: float) -> BinaryIO | None:
    """Returns the locked file; None where the file system has no locks."""
    while True:
        try:
            opened = _open(file)
        except OSError as error:
            raise BundleError(f"cannot write {shown(target)}: {error.strerror or error}") from error
        try:
            _lock(opened.fileno())
            if _is(file, opened):
                return opened
        except OSError as error:
            opened.close()
            if error.errno in _NO_LOCKS:
                return None
            if error.errno not in _BUSY:
                raise BundleError(f"cannot lock {file}: {error.strerror or error}") from error
        except BaseException:  # of a signal handler
            opened.close()
            raise
        opened.close()  # another has it, or the last who had it has removed it meanwhile
        if time.monotonic() > until:
            raise _busy(target, file)
        time.sleep(_LOOK_S)


def _open(file: Path) -> BinaryIO:
    """Opens the file of a lock, which another user may have left."""
    try:
        return os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT, 0o666), "rb", 0)
    except PermissionError:
        return file.open("rb", 0)


def _busy(target: Path, file: Path) -> BundleError:
    return BundleError(f"{shown(target)} is being written by another process for {_WAIT_S:.0f} s ({file} is locked)")


def _is(file: Path, opened: BinaryIO) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(file.stat(), os.fstat(opened.fileno()))
    except FileNotFoundError:
        return False


def _release(file: Path, opened: BinaryIO) -> None:
    with contextlib.suppress(OSError):  # Windows removes no open file; it serves the next writer
        file.unlink()
    opened.close()


if sys.platform == "win32":
    import msvcrt

    def _lock(handle: int) -> None:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

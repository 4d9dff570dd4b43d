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

from eetoolkit_runtime.errors import BundleError
from eetoolkit_runtime.paths import shown

_WAIT_S = 60.0
_LOOK_S = 0.01
_BUSY = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


class _Held:
    """A lock that a thread of this process has, and how many blocks of that thread are inside."""

    def __init__(self) -> None:
        self.thread = threading.RLock()
        self.depth = 0
        self.handle: int | None = None


_held: weakref.WeakValueDictionary[Path, _Held] = weakref.WeakValueDictionary()
_looking_up = threading.Lock()


@contextlib.contextmanager
def alone(target: Path) -> Iterator[None]:
    """Keeps all other writers of `target` out meanwhile; blocks of one thread may lie in each other.

    On a file system without locks it keeps out those of this process alone.

    Raises:
        BundleError: Another writer is not done after a minute, or no file can be made beside `target`.
    """
    place = target.resolve()
    with _looking_up:
        held = _held.setdefault(place, _Held())  # gone with the last block that is inside
    file = place.with_name(f".{place.name}.lock")
    until = time.monotonic() + _WAIT_S
    if not held.thread.acquire(timeout=_WAIT_S):
        raise _busy(target, file)
    try:
        if held.depth == 0:
            held.handle = _acquire(target, file, until)
        held.depth += 1
        try:
            yield
        finally:
            held.depth -= 1
            if held.depth == 0 and held.handle is not None:
                handle, held.handle = held.handle, None
                _release(file, handle)
    finally:
        held.thread.release()


def _acquire(target: Path, file: Path, until: float) -> int | None:
    """Returns the handle of the locked file; None where the file system has no locks."""
    while True:
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise BundleError(f"cannot write {shown(target)}: {error.strerror or error}") from error
        try:
            _lock(handle)
            if _is(file, handle):
                return handle
        except OSError as error:
            if error.errno in _NO_LOCKS:
                os.close(handle)
                return None
            if error.errno not in _BUSY:
                os.close(handle)
                raise BundleError(f"cannot lock {file}: {error.strerror or error}") from error
        os.close(handle)  # another has it, or the last who had it has removed it meanwhile
        if time.monotonic() > until:
            raise _busy(target, file)
        time.sleep(_LOOK_S)


def _busy(target: Path, file: Path) -> BundleError:
    return BundleError(f"{shown(target)} is being written by another process for {_WAIT_S:.0f} s ({file} is locked)")


def _is(file: Path, handle: int) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(file.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _release(file: Path, handle: int) -> None:
    with contextlib.suppress(OSError):  # Windows removes no open file; it serves the next writer
        file.unlink()
    os.close(handle)


if sys.platform == "win32":
    import msvcrt

    def _lock(handle: int) -> None:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _forget() -> None:
        """Leaves the locks to the process that was forked, whose threads have them."""
        for held in tuple(_held.values()):
            if held.handle is not None:
                os.close(held.handle)
        _held.clear()
        global _looking_up  # noqa: PLW0603 - a thread that the child does not have may have it
        _looking_up = threading.Lock()

    os.register_at_fork(after_in_child=_forget)

"""A token that stops runs from outside: from another thread or from a signal handler."""

from __future__ import annotations

import _thread
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from eetoolkit_runtime.errors import RunError

Stop = Callable[[], None]
Result = TypeVar("Result")

_WAKE_S = 0.05  # on Windows a wait for a lock cannot be broken by Ctrl-C, so the waiting thread looks up this often


class Interrupt:
    """Stops the runs that were given it: `runner.run(x, interrupt=token)`, then `token.set()` elsewhere.

    A token that is set stays set, and stops later runs before they start, until `clear`. One token may serve any number
    of runs at once. It holds no lock, so a signal handler may call any method at any moment.
    """

    def __init__(self) -> None:
        self._set = False
        self._stops: dict[Stop, None] = {}

    def set(self) -> None:
        """Stops every run that has this token, also in the middle of a segment."""
        self._set = True
        for stop in tuple(self._stops):
            stop()

    def clear(self) -> None:
        """Lets later runs start again; those that `set` stopped stay stopped."""
        self._set = False

    def is_set(self) -> bool:
        """Whether runs are being stopped."""
        return self._set

    # For the runner. It adds and then looks at the flag; `set` raises the flag and then looks at what was added. So
    # whatever the order of the two threads, one of them sees the other.

    def add(self, stop: Stop) -> None:
        """Has `stop` called by `set`, or now where the token is set."""
        self._stops[stop] = None
        if self._set:
            stop()

    def discard(self, stop: Stop) -> None:
        """Undoes `add`."""
        self._stops.pop(stop, None)


def apart(function: Callable[[], Result], stop: Stop) -> Result:
    """Returns what `function` returns, run so that signal handlers run meanwhile.

    Python runs signal handlers in the main thread alone, and only between two of its own instructions: a handler cannot
    run while onnxruntime holds that thread. So in the main thread `function` goes to a thread of its own and the main
    thread waits, which a handler can break. `signal.set_wakeup_fd` would do without the thread, but there is one per
    process and it may be taken (asyncio does). Other threads have no handlers to wait for.

    Args:
        function: What to run.
        stop: Makes `function` return soon; called where a handler raises, as Ctrl-C does, before that is passed on.

    Raises:
        RunError: There is no thread, or no memory for it to begin.
    """
    if threading.current_thread() is not threading.main_thread():
        return function()
    results: list[Result] = []
    errors: list[BaseException] = []
    running = _thread.allocate_lock()
    running.acquire()
    try:
        try:
            start_thread(_work(function, results, errors, _Release(running)), "to run on")
        except RunError:
            running.release()
            raise
        while not running.acquire(timeout=_WAKE_S):
            pass
    except BaseException:
        stop()
        running.acquire()
        raise
    if errors:
        raise errors.pop()  # not left in a list of a frame that it points at
    if not results:
        raise RunError("no memory for a thread to run on")
    return results[0]


class _Release:
    """Releases a lock when it is told to, or when nobody has it any more."""

    def __init__(self, lock: _thread.LockType) -> None:
        self._lock = lock

    def __call__(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is released already
            self._lock.release()

    __del__ = __call__


def _work(
    function: Callable[[], Result], results: list[Result], errors: list[BaseException], release: _Release
) -> Callable[[], None]:
    """Returns what a thread does. Only that thread has it, so that `release` is called also if it cannot begin."""

    def work() -> None:
        try:
            results.append(function())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            errors.append(error)
        finally:
            release()

    return work


def start_thread(work: Callable[[], None], what: str) -> None:
    """Starts a thread; `threading` would wait for it to begin, where a signal handler may raise.

    Raises:
        RunError: The system gives none.
    """
    try:
        _thread.start_new_thread(work, ())
    except RuntimeError as error:
        raise RunError(f"no thread {what}: {error}") from error

"""The clock of this process: one thread that calls what is to be called at a time."""

from __future__ import annotations

import math
import threading
import time

from eetoolkit_runtime.forked import renew_after_fork
from eetoolkit_runtime.running.interrupt import Stop, start_thread

_LONGEST_WAIT_S = 3600.0  # a lock cannot be waited for without end


class Clock:
    """One thread for all deadlines of the process: a `threading.Timer` for each call would cost it some 90 us.

    It sleeps until the earliest deadline it was told of. A call that ends in time does not wake it, and a later
    deadline does not either, so calls that keep their deadlines cost it one look around in each.
    """

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Begins without a thread, and with nothing to call."""
        # Entered as it is: a signal handler may raise between the lines of a `Condition`, and would leave it locked.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._waiting: dict[Stop, float] = {}
        self._wakes = math.inf
        self._runs = False

    def add(self, when: float, stop: Stop) -> None:
        """Has `stop` called at `when`, on the clock of `time.perf_counter`.

        Raises:
            RunError: The clock needs a thread, and the system gives none.
        """
        with self._lock:
            if not self._runs:
                start_thread(self._watch, "for deadlines")
                self._runs = True
            self._waiting[stop] = when
            if when < self._wakes:
                self._changed.notify()

    def discard(self, stop: Stop) -> None:
        """Undoes `add`; `stop` is not being called any more."""
        with self._lock:
            self._waiting.pop(stop, None)

    def _watch(self) -> None:
        with self._changed:
            while True:
                self._ring(time.perf_counter())
                self._wakes = min(self._waiting.values(), default=math.inf)
                self._changed.wait(min(self._wakes - time.perf_counter(), _LONGEST_WAIT_S))

    def _ring(self, now: float) -> None:
        for stop in [stop for stop, when in self._waiting.items() if when <= now]:
            del self._waiting[stop]
            stop()


clock = Clock()
"""The one of this process."""
renew_after_fork(clock)

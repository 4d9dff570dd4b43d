"""How long segments take, learnt from their runs: what a deadline goes by, and what Ctrl-C needs to reach a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from eetoolkit_runtime.clock import clock
from eetoolkit_runtime.interrupt import apart

LONG_MS = 50.0
"""How long a segment may keep Python from running signal handlers."""
_KNOWN = 3  # runs: the first ones are slower
_TRY_AFTER = 16
Call = Callable[[Any, Any], object]


class Pace:
    """How long one segment takes with inputs of one shape.

    It is expected to take what the bundle's profile says, else the least time in which it has ended; where it was
    broken off or ended too late, at least the time that it had taken by then. The first runs of a plain call count, and
    all runs of a call that may be stopped. A call with less time left does not start it. What is expected without a
    profile may be wrong by now, so such calls are counted by the time that they had left: when that adds up to
    16 times what is expected, the segment is tried again.

    Attributes:
        runs: How many of its runs were watched.
        long: Whether the last of these took so long that a signal handler must be able to run meanwhile.
        may_loop: Whether its graph has a loop, so that a run may take any time whatever the others took.
    """

    __slots__ = ("_expected_ms", "_left_ms", "_profiled_ms", "long", "may_loop", "runs")

    def __init__(self, profiled_ms: float | None = None) -> None:
        self.runs = 0
        self.long = False
        self.may_loop = False
        self._profiled_ms = profiled_ms or 0.0
        self._expected_ms = profiled_ms
        self._left_ms = 0.0

    @property
    def known(self) -> bool:
        """Whether it was watched often enough."""
        return self.runs >= _KNOWN

    @property
    def surely_short(self) -> bool:
        """Whether a signal handler can wait until it ends."""
        return self.runs > 0 and not self.long and not self.may_loop

    def fits(self, left_ms: float) -> bool:
        """Returns whether a call that has so much time left may start it."""
        expected_ms = self._expected_ms
        if expected_ms is None or left_ms >= expected_ms:
            return True
        if left_ms < self._profiled_ms:
            return False
        self._left_ms += left_ms
        if self._left_ms < _TRY_AFTER * expected_ms:
            return False
        self._left_ms = 0.0
        return True

    def ended(self, took_ms: float) -> None:
        """Learns from a run that ended in time."""
        self._watched(took_ms)
        self._expected_ms = took_ms if self._expected_ms is None else min(self._expected_ms, took_ms)

    def stopped(self, took_ms: float) -> None:
        """Learns from a run that was broken off, or ended too late."""
        self._watched(took_ms)
        self._expected_ms = max(self._expected_ms or 0.0, took_ms)

    def _watched(self, took_ms: float) -> None:
        self.runs += 1
        self.long = took_ms >= LONG_MS


def watched(call: Call, pace: Pace) -> Call:
    """Returns what runs a segment as `call` does, learns from it, and lets signal handlers run where it takes long.

    Python runs signal handlers between two of its own instructions, in the main thread. So there a segment that has
    never run or that took long runs on a thread of its own. One that was short but has a loop runs as it is; if it is
    not done after 50 ms, it is broken off and begun again on a thread of its own. A segment writes nothing that it
    reads, so it can be begun again.
    """

    def run(binding: Any, options: Any) -> None:
        started = time.perf_counter()
        if pace.surely_short or threading.current_thread() is not threading.main_thread():
            call(binding, options)
        elif pace.long or not pace.runs:
            apart(partial(call, binding, options), partial(_terminate, options))
        else:
            _run_or_begin_again(partial(call, binding, options), options)
        pace.ended((time.perf_counter() - started) * 1e3)

    return run


def _terminate(options: Any) -> None:
    options.terminate = True


def _run_or_begin_again(run: Callable[[], object], options: Any) -> None:
    stop = partial(_terminate, options)
    again = False
    clock.add(time.perf_counter() + LONG_MS / 1e3, stop)
    try:
        run()
    except Exception:
        again = options.terminate
        if not again:
            raise
    finally:
        clock.discard(stop)
    options.terminate = False  # which may have been too late to matter
    if again:
        apart(run, stop)

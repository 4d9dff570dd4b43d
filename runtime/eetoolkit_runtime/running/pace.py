"""How long segments take, learnt from their runs: what a deadline goes by, and what Ctrl-C needs to reach a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from eetoolkit_runtime.running.clock import clock
from eetoolkit_runtime.running.interrupt import apart

LONG_MS = 50.0
"""How long a segment may keep Python from running signal handlers."""
_KNOWN = 3  # runs: the first ones are slower
_TRY_AFTER = 16
Argument = TypeVar("Argument")
Result = TypeVar("Result")


class Pace:
    """How long one segment takes with inputs of one shape.

    It is expected to take what the bundle's profile says, else the least time in which it has ended, and at least the
    time after which it was broken off. A call with less time left does not start it. What is expected without a profile
    may be wrong by now, so the time that such calls had left is added up: at 16 times what is expected, the segment is
    tried again. All runs of calls that look at each segment count, and the first three of plain ones.

    Attributes:
        runs: How many of its runs were watched.
        long: Whether the last of these took so long that a signal handler must be able to run meanwhile.
        may_loop: Whether its graph has a loop, so that a run may take any time whatever the others took.
    """

    __slots__ = ("_expected_ms", "_left_ms", "_profiled_ms", "long", "may_loop", "runs")

    def __init__(self, profiled_ms: float = 0.0) -> None:
        self.runs = 0
        self.long = False
        self.may_loop = False
        self._profiled_ms = profiled_ms
        self._expected_ms = 0.0  # nothing is known
        self._left_ms = 0.0

    @property
    def settled(self) -> bool:
        """Whether it need not be watched: it was often enough, and always ends soon."""
        return self.runs >= _KNOWN and not self.long and not self.may_loop

    def fits(self, left_ms: float) -> bool:
        """Returns whether a call that has so much time left may start it."""
        expected_ms = max(self._profiled_ms, self._expected_ms)
        if left_ms >= expected_ms or left_ms < self._profiled_ms:
            return left_ms >= expected_ms
        self._left_ms += left_ms
        if self._left_ms < _TRY_AFTER * expected_ms:
            return False
        self._left_ms, self._expected_ms = 0.0, 0.0
        return True

    def ended(self, took_ms: float) -> None:
        """Learns from a run that ended."""
        self._watched(took_ms)
        self._expected_ms = min(self._expected_ms or took_ms, took_ms)

    def stopped(self, took_ms: float) -> None:
        """Learns from a run that was broken off."""
        self._watched(took_ms)
        self._expected_ms = max(self._expected_ms, took_ms)

    def _watched(self, took_ms: float) -> None:
        self.runs += 1
        self.long = took_ms >= LONG_MS


class Paces(dict[str, Pace]):
    """The paces of segments by name, made when they are asked for, from what a profile says."""

    def __init__(self, expected_ms: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self._expected_ms = expected_ms or {}

    def __missing__(self, name: str) -> Pace:
        pace = self[name] = Pace(self._expected_ms.get(name, 0.0))
        return pace


def watched(
    call: Callable[[Argument, Any], Result], pace: Pace, plain: Any = None
) -> Callable[[Argument, Any], Result]:
    """Returns what runs a segment as `call` does, and lets signal handlers run where it takes long.

    Python runs signal handlers between two of its own instructions, in the main thread. So there a segment that has
    never run, that took long or that may loop runs on a thread of its own, for which the main thread waits. With the
    options `plain`, which are no watch's, it learns from the run; and one that may loop but was short runs as it is: if
    it is not done after 50 ms, it is broken off and begun again on a thread. Segments do not write what they read.
    """

    def run(argument: Argument, options: Any) -> Result:
        here = partial(call, argument, options)
        if threading.current_thread() is threading.main_thread() and (pace.long or pace.may_loop or not pace.runs):
            short = options is plain and pace.runs and not pace.long
            again = partial(apart, here, partial(_terminate, options))
            here = partial(_run_or_begin_again, here, again, options) if short else again
        if options is not plain:
            return here()
        started = time.perf_counter()
        result = here()
        pace.ended((time.perf_counter() - started) * 1e3)
        return result

    return run


def _terminate(options: Any) -> None:
    options.terminate = True


def _run_or_begin_again(run: Callable[[], Result], again: Callable[[], Result], options: Any) -> Result:
    stop = partial(_terminate, options)
    clock.add(time.perf_counter() + LONG_MS / 1e3, stop)
    try:
        return run()
    except Exception:
        if not options.terminate:
            raise
    finally:
        clock.discard(stop)
        options.terminate = False  # which may have been raised too late to matter
    return again()

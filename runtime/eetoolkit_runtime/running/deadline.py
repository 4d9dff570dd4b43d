"""What may stop a call before its end: a deadline, a token, and the clock that watches over both."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self

import onnxruntime as ort

from eetoolkit_runtime.arguments import is_number, shortened
from eetoolkit_runtime.errors import DeadlineError, InputError, RunError
from eetoolkit_runtime.running.clock import clock
from eetoolkit_runtime.running.interrupt import Interrupt
from eetoolkit_runtime.running.pace import Pace, Paces


class Stopped(Exception):  # noqa: N818 - no error: what it ends may have an answer
    """Says inside the runner that no further segment may run."""


class Watch:
    """Watches over one call: it is asked between two segments, and within one it raises onnxruntime's `terminate`.

    onnxruntime looks at `terminate` between two nodes of a graph, those of a loop's body included, so a single node is
    never broken off. The options are this call's own: a flag that is raised too late harms no other.

    Attributes:
        options: What the call's segments are run with.
        stopped_by: Why no further segment may run; None while one may.
        cut: Whether a segment was not run, or not to its end, because of that.
        broken: Whether a segment was left unfinished, so that its tensors may be in any state.
        path: The segments finished so far.
    """

    def __init__(self, deadline_ms: float | None, interrupt: Interrupt | None) -> None:
        started = time.perf_counter()
        if interrupt is not None and not isinstance(interrupt, Interrupt):
            raise InputError(f"interrupt is {interrupt!r}, expected an `Interrupt`")
        if deadline_ms is not None and not (is_number(deadline_ms) and deadline_ms > 0):
            raise InputError(f"deadline_ms is {shortened(deadline_ms)}, expected milliseconds, more than 0")
        self.options = ort.RunOptions()
        self.options.log_severity_level = 4  # what stops a segment on purpose is no error to print
        self.stopped_by: Literal["deadline", "interrupt"] | None = None
        self.cut = False
        self.broken = False
        self.path: list[str] = []
        self._deadline_ms = deadline_ms
        self._end = math.inf if deadline_ms is None else started + float(deadline_ms) / 1e3
        self._interrupt = interrupt
        self._process = os.getpid()
        self._paces = Paces()

    def expect(self, paces: Paces) -> None:
        """Says how long segments take."""
        self._paces = paces

    def require(self, segment: str) -> None:
        """Returns where `segment` may run.

        Raises:
            Stopped: The token is set, the time is up, or it is less than the segment takes.
            RunError: The call began in the process from which this one was forked.
        """
        if self._process != os.getpid():
            raise RunError("this process was forked in the middle of a call; begin the call anew")
        if self._end != math.inf and self.stopped_by is None:
            left_ms = (self._end - time.perf_counter()) * 1e3
            if left_ms <= 0 or not self._paces[segment].fits(left_ms):
                self.time_up()
        if self.stopped_by is not None:
            self.cut = True
            raise Stopped

    def error(self) -> DeadlineError:
        """Returns what is raised where there is no answer yet."""
        ran = f"ran {', '.join(self.path)}" if self.path else "no segment was finished"
        if self.stopped_by == "interrupt":
            return DeadlineError(f"interrupted before there was an answer; {ran}")
        return DeadlineError(f"no answer within deadline_ms {float(self._deadline_ms or 0):g}; {ran}")

    # Called from other threads and from signal handlers.

    def time_up(self) -> None:
        """Stops the call because of its deadline."""
        self.stopped_by = self.stopped_by or "deadline"
        self.options.terminate = True

    def interrupt(self) -> None:
        """Stops the call because of its token."""
        self.stopped_by = self.stopped_by or "interrupt"
        self.options.terminate = True

    def __enter__(self) -> Self:
        if self._end != math.inf:
            clock.add(self._end, self.time_up)
        if self._interrupt is not None:
            self._interrupt.add(self.interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._end != math.inf:
            clock.discard(self.time_up)
        if self._interrupt is not None:
            self._interrupt.discard(self.interrupt)


def watched_by(watch: Watch | None, pace: Pace, run: Callable[[], object]) -> float:
    """Runs a segment and returns its milliseconds; its pace learns from a watched run, also from one broken off."""
    started = time.perf_counter()
    try:
        run()
    except Exception:
        if watch is not None and watch.stopped_by is not None:
            pace.stopped((time.perf_counter() - started) * 1e3)
        raise
    took_ms = (time.perf_counter() - started) * 1e3
    if watch is not None:
        pace.ended(took_ms)
    return took_ms

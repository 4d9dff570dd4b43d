"""The link to a server: a request that is answered in time, is sent again where that may help, or is given up."""

from __future__ import annotations

import _thread
import contextlib
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import TypeVar

from eetoolkit_runtime.errors import RemoteError, first_line
from eetoolkit_runtime.forked import keep_for_ever
from eetoolkit_runtime.log import log
from eetoolkit_runtime.plan.types import ServerExit
from eetoolkit_runtime.remote.protocol import Connections, Reply, Request
from eetoolkit_runtime.remote.reply import Told, believe, recognise
from eetoolkit_runtime.remote.settings import RemoteSettings

_LOOK_UP_S = 0.05  # on Windows a wait for a lock cannot be broken by Ctrl-C
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 1.0  # between two attempts of a call
_FIRST_REST_S, _LONGEST_REST_S = 0.1, 10.0  # in which a server that failed twice is not asked
_PATIENT = 3.0  # times what a request is expected to take: who waited less has learnt nothing of the server
_WEIGHT = 0.2  # of the last request in what one is expected to take

Stop = Callable[[], None]
Result = TypeVar("Result")


class Link:
    """Asks one server. Safe under concurrent calls; begins anew in a forked process.

    A server that fails twice in a row is left alone for a tenth of a second, then for twice as long each time, up to
    ten seconds: calls that could wait for it meanwhile do not. One answer ends that. A call whose deadline was near has
    learnt nothing of the server.

    Args:
        settings: Where and how.
        version: Of the half that must answer.
        exits: Of that half, by their numbers.

    Attributes:
        took_ms: What a request is expected to take, by the settings and by those that were answered; None: not known.
        last_failure: Why the last request had no answer; None: it had one.

    Raises:
        RemoteError: gRPC is asked for and its client is not installed.
    """

    def __init__(self, settings: RemoteSettings, version: int, exits: Sequence[ServerExit]) -> None:
        if settings.address.protocol == "grpc" and not (find_spec("tritonclient") and find_spec("grpc")):
            raise RemoteError("gRPC needs tritonclient: pip install 'eetoolkit[remote]'")
        self.settings = settings
        self.took_ms = settings.expected_ms
        self.last_failure: RemoteError | None = None
        self._version = version
        self._exits = tuple(exits)
        self._failures = 0
        self._rests_until = 0.0
        self._lock = threading.Lock()
        self._connections: Connections | None = None

    def may_ask(self) -> bool:
        """Whether the server is to be asked now; False while it rests after failures."""
        return self._failures < 2 or time.perf_counter() >= self._rests_until

    def ask(self, request: Request, end: float, wait: Wait | None = None) -> Told:
        """Returns what the server answers.

        Args:
            request: One row's live slots.
            end: When the time is up, on the clock of `time.perf_counter`.
            wait: What may be stopped; None: nothing stops it.

        Raises:
            RemoteError: There is no answer, or none that may be believed.
        """
        started, wait = time.perf_counter(), wait or Wait()
        try:
            told = believe(self._send(request, end, wait), self._version, self._exits)
        except RemoteError as error:
            now, known_ms = time.perf_counter(), self.took_ms
            hurried = now >= end and known_ms is not None and (now - started) * 1e3 < _PATIENT * known_ms
            if not wait.stopped:  # the caller has stopped it, which says nothing of the server
                self._failed(error, counts=not hurried)
            raise
        self._answered((time.perf_counter() - started) * 1e3)
        return told

    def measure(self, request: Request | None, end: float) -> Reply | None:
        """Sends one request, or asks for next to nothing, without a second attempt.

        Raises:
            RemoteError: There is no answer.
        """
        connections = self._open()
        if request is None:
            connections.ping(end)
            return None
        reply = connections.infer(request, end, lambda _stop: None)
        believe(reply, self._version, self._exits)
        return reply

    def check(self, inputs: Mapping[str, str]) -> None:
        """Asks whether the server has the other half of this bundle, ready to answer.

        Args:
            inputs: The dtypes of the live slots, by input of the server's half.

        Raises:
            RemoteError: It has not, it cannot be asked, or what answers does not speak the protocol.
        """
        wait, end = Wait(), time.perf_counter() + self.settings.timeout_ms / 1e3
        recognise(wait.result(lambda: self._open().ready(end), end), inputs)

    def close(self) -> None:
        """Lets go of all connections; a later request opens others."""
        with self._lock:
            connections, self._connections = self._connections, None
        if connections is not None:
            connections.close()

    def renew(self) -> None:
        """Begins anew in a forked process: the parent's connections are the parent's."""
        if self._connections is not None:
            keep_for_ever(self._connections)  # a channel of gRPC would wait for threads that are not here
        self._lock = threading.Lock()
        self._connections = None
        self._failures, self._rests_until = 0, 0.0

    def _open(self) -> Connections:
        with self._lock:
            if self._connections is None:
                if self.settings.address.protocol == "grpc":
                    from eetoolkit_runtime.remote.grpc import Grpc

                    self._connections = Grpc(self.settings, self._version)
                else:
                    from eetoolkit_runtime.remote.rest import Rest

                    self._connections = Rest(self.settings, self._version)
            return self._connections

    def _send(self, request: Request, end: float, wait: Wait) -> Reply:
        """Returns the reply to a request, sent again where that may help and there is time."""
        for attempt in range(self.settings.retries + 1):
            try:
                return wait.result(lambda: self._open().infer(request, end, wait.begins), end)
            except RemoteError as error:
                pause_s = random.uniform(0.5, 1) * min(_FIRST_PAUSE_S * 2**attempt, _LONGEST_PAUSE_S)  # noqa: S311
                late = time.perf_counter() + pause_s >= end
                if not error.again or late or attempt == self.settings.retries or wait.pause(pause_s):
                    raise
        raise AssertionError("unreachable")

    def _answered(self, took_ms: float) -> None:
        if self.last_failure is not None:
            log("warning", "the server at %s answers again", self.settings.address.place)
        self.last_failure, self._failures = None, 0
        known = self.took_ms
        nearer = known is not None and took_ms < known / 2  # by another link than before
        self.took_ms = took_ms if known is None or nearer else known + _WEIGHT * (took_ms - known)

    def _failed(self, error: RemoteError, *, counts: bool) -> None:
        """Keeps the reason; a failure that counts brings the server nearer to a rest."""
        if self.last_failure is None or str(self.last_failure) != str(error):
            log("warning", "the server at %s gives no answer: %s", self.settings.address.place, error)
        self.last_failure = error
        if not counts:
            return
        self._failures += 1
        rest_s = min(_FIRST_REST_S * 2.0 ** min(self._failures - 2, 30), _LONGEST_REST_S)
        self._rests_until = time.perf_counter() + rest_s


class Wait:
    """A wait for a request on a thread of its own, which ends in time whatever the request does.

    A name that is looked up or a byte that trickles may hold a thread longer than any time-out of a socket says. Locks
    are taken as in `running.interrupt`, so that a signal handler may stop the wait at any moment.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._bell = _thread.allocate_lock()
        self._bell.acquire()
        self._break_off: Stop | None = None
        self._given_up = False

    def begins(self, break_off: Stop) -> None:
        """Is told what breaks the request off.

        Raises:
            RemoteError: Nobody waits for it any more, so it is not to be sent.
        """
        self._break_off = break_off
        if self._given_up:
            raise RemoteError("given up")

    def stop(self) -> None:
        """Ends the wait without an answer."""
        self.stopped = True
        self._ring()

    def result(self, request: Callable[[], Result], end: float) -> Result:
        """Returns what a request returns.

        Raises:
            RemoteError: It failed, was stopped, or the time is up.
        """
        results: list[Result] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                results.append(request())
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
                errors.append(error)
            finally:
                self._ring()

        over = False
        try:
            threading.Thread(target=work, name="eetoolkit-remote", daemon=True).start()
            while not (over := bool(results or errors)) and not self.stopped and time.perf_counter() < end:
                self._bell.acquire(timeout=max(0.0, min(end - time.perf_counter(), _LOOK_UP_S)))
        except RuntimeError as error:
            raise RemoteError(f"no thread to ask the server on: {error}") from error
        finally:
            if not over:  # also where a signal handler has raised
                self._given_up = True
                if self._break_off is not None:
                    self._break_off()
        if not over:  # what breaking it off has made of it is no answer of the server's
            raise RemoteError("interrupted" if self.stopped else "no answer in time")
        if errors:
            raise _typed(errors.pop())
        return results[0]

    def pause(self, seconds: float) -> bool:
        """Waits before another attempt; returns whether it was stopped meanwhile."""
        end = time.perf_counter() + seconds
        while not self.stopped and time.perf_counter() < end:
            self._bell.acquire(timeout=max(0.0, min(end - time.perf_counter(), _LOOK_UP_S)))
        return self.stopped

    def _ring(self) -> None:
        with contextlib.suppress(RuntimeError):  # it rings already
            self._bell.release()


def _typed(error: BaseException) -> BaseException:
    """Returns an error that is ours for any that reading a stranger's bytes may raise."""
    if isinstance(error, RemoteError) or not isinstance(error, Exception):
        return error
    found = RemoteError(f"the server's answer cannot be read: {type(error).__name__}: {first_line(error)}")
    found.__cause__ = error
    return found

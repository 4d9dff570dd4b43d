"""Measuring the link to a server: requests of more and fewer bytes, in turns."""

from __future__ import annotations

import time
from statistics import median

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import RemoteError
from eetoolkit_runtime.profiling.latency import summarise
from eetoolkit_runtime.profiling.link import LinkCost, took_ms
from eetoolkit_runtime.remote.link import Link
from eetoolkit_runtime.remote.protocol import Reply, Request
from eetoolkit_runtime.running.inputs import Inputs
from eetoolkit_runtime.running.runner import Runner

_ROUNDS, _MOST_ROUNDS = 5, 200
_WARM_UP = 3
_FIRST_BYTES, _MOST_BYTES = 1 << 12, 1 << 21  # added to a request, to see what bytes take
_BACK_BYTES = 1 << 11  # an id comes back in several headers, which clients bound: gRPC's from 8 KiB on, by chance
_PLAIN = 3.0  # spreads of a request by which a larger one must take longer, for its bytes to be told from noise
_LEAST_MS = 1e-6


def measure_link(runner: Runner, row: Inputs, *, seconds: float) -> LinkCost:
    """Returns what it costs to go on at a runner's server with a row, from this machine.

    In turns: a question that moves next to nothing, the row's own request, and the same with bytes added that mean
    nothing: a parameter for the way to the server, and the request's id, which comes back, for the way from it. What
    these add is what the bytes take, since nothing else differs; more is added until it can be told from the noise.

    Args:
        runner: What runs up to the cut, with a server. The caller makes it, so that its sessions are as the caller's
            others are: onnxruntime refuses some beside each other.
        row: One input, as `Runner.run` takes it; it is sent whatever its exits say.
        seconds: How long it may take, but for five rounds at least.

    Raises:
        RemoteError: The server cannot be asked, or its answer cannot be believed.
    """
    handover = runner.remote
    if handover is None:
        raise RemoteError("no server was given")
    probe = _Probe(handover.link, handover.hand_over(row))
    for _ in range(_WARM_UP):
        probe.ping()
        probe.plain()
    return probe.measure(handover.split.local, time.perf_counter() + seconds)


class _Probe:
    """Sends one row's live slots again and again, with more or less beside them."""

    def __init__(self, link: Link, tensors: dict[str, Array]) -> None:
        self._link, self._tensors = link, tensors

    def ping(self) -> float:
        """Returns how long next to nothing takes, in milliseconds."""
        return self._timed(None)[0]

    def plain(self) -> tuple[float, Reply]:
        """Returns how long the row takes, and its reply."""
        spent_ms, reply = self._timed(Request(self._tensors))
        if reply is None:
            raise RemoteError("the server gave no answer")
        return spent_ms, reply

    def measure(self, at: str, end: float) -> LinkCost:
        """Measures in rounds until `end`, on the clock of `time.perf_counter`."""
        up_bytes, down_bytes = self._enough(up=True), self._enough(up=False)
        pings: list[float] = []
        plains: list[float] = []
        ups: list[float] = []
        downs: list[float] = []
        sent = received = 0
        encoded = 1.0
        while len(pings) < _ROUNDS or (time.perf_counter() < end and len(pings) < _MOST_ROUNDS):
            pings.append(self.ping())
            plain_ms, reply = self.plain()
            plains.append(plain_ms)
            sent, received, encoded = reply.sent_bytes, reply.received_bytes, reply.encoded
            if up_bytes:
                ups.append(self._padded(up_bytes, up=True)[0])
            if down_bytes:
                downs.append(self._padded(down_bytes, up=False)[0])
        up = _rate(up_bytes, ups, plains, 0.0)
        down = None
        if down_bytes:  # the id went there before it came back
            back = self._padded(down_bytes, up=False)[1].received_bytes - received
            down = _rate(back, downs, plains, took_ms(down_bytes, up))
        moving = took_ms(sent, up) + took_ms(received, down)
        return LinkCost(
            at=at,
            protocol=self._link.settings.address.protocol,
            round_trip=summarise(pings),
            request=summarise(plains),
            server=summarise([max(a - b - moving, _LEAST_MS) for a, b in zip(plains, pings, strict=True)]),
            sent_bytes=sent,
            received_bytes=received,
            up_mbit_s=up,
            down_mbit_s=down,
            encoded=encoded,
        )

    def _enough(self, *, up: bool) -> int:
        """Returns how many bytes to add so that they can be told; 0 where the server does not take them."""
        plain = [self.plain()[0] for _ in range(_ROUNDS)]
        wanted_ms = median(plain) + _PLAIN * (max(plain) - min(plain))
        first, most = (_FIRST_BYTES, _MOST_BYTES) if up else (_BACK_BYTES, _BACK_BYTES)
        size = first
        try:
            while self._padded(size, up=up)[0] < wanted_ms and 4 * size <= most:
                size *= 4
        except RemoteError:
            return size // 4 if size > first else 0
        return size

    def _padded(self, size: int, *, up: bool) -> tuple[float, Reply]:
        padding = "x" * size
        request = Request(self._tensors, padding=padding) if up else Request(self._tensors, id=padding)
        spent_ms, reply = self._timed(request)
        if reply is None:
            raise RemoteError("the server gave no answer")
        return spent_ms, reply

    def _timed(self, request: Request | None) -> tuple[float, Reply | None]:
        started = time.perf_counter()
        reply = self._link.measure(request, started + self._link.settings.timeout_ms / 1e3)
        return (time.perf_counter() - started) * 1e3, reply


def _rate(size_bytes: int, with_ms: list[float], without_ms: list[float], less_ms: float) -> float | None:
    """Returns megabits a second by what bytes added to a request's median; None where that is nothing."""
    if not with_ms or size_bytes <= 0:
        return None
    added_ms = median(with_ms) - median(without_ms) - less_ms
    return size_bytes * 8 / added_ms / 1e3 if added_ms > 0 else None

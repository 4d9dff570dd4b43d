"""A link as a proxy on loopback: half the round trip each way, and bytes at a bandwidth, without using the processor.

What comes is held until a link of this speed would have passed it on: one piece leaves behind the other, and arrives
half a round trip later. TCP's own slow start and losses are not played.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Iterator

_PIECE = 1 << 14


@contextlib.contextmanager
def slow_link(port: int, round_trip_ms: float, mbit_s: float) -> Iterator[int]:
    """Gives the port of a proxy before a port of this machine.

    Args:
        port: Where the server listens.
        round_trip_ms: What is added to a request and its answer together.
        mbit_s: Megabits a second, each way.
    """
    listening = socket.create_server(("127.0.0.1", 0))
    opened: list[socket.socket] = []
    thread = threading.Thread(target=_accept, args=(listening, port, round_trip_ms / 2e3, mbit_s, opened), daemon=True)
    thread.start()
    try:
        yield int(listening.getsockname()[1])
    finally:
        for each in (listening, *opened):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        thread.join()


def _accept(listening: socket.socket, port: int, delay_s: float, mbit_s: float, opened: list[socket.socket]) -> None:
    while True:
        try:
            client, _ = listening.accept()
            server = socket.create_connection(("127.0.0.1", port))
        except OSError:
            return
        opened += [client, server]
        for source, target in ((client, server), (server, client)):
            target.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            waiting: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
            threading.Thread(target=_take, args=(source, waiting, delay_s, mbit_s), daemon=True).start()
            threading.Thread(target=_give, args=(target, waiting), daemon=True).start()


def _take(
    source: socket.socket, waiting: queue.SimpleQueue[tuple[float, bytes]], delay_s: float, mbit_s: float
) -> None:
    """Says of each piece when it arrives; an empty one is the end."""
    free = 0.0
    piece = b"-"
    while piece:
        try:
            piece = source.recv(_PIECE)
        except OSError:
            piece = b""
        free = max(free, time.monotonic()) + len(piece) * 8 / mbit_s / 1e6
        waiting.put((free + delay_s, piece))


def _give(target: socket.socket, waiting: queue.SimpleQueue[tuple[float, bytes]]) -> None:
    """Passes each piece on when it is due."""
    with contextlib.suppress(OSError):
        while True:
            due, piece = waiting.get()
            left = due - time.monotonic()
            if left > 0:
                time.sleep(left)
            if not piece:
                target.shutdown(socket.SHUT_WR)
                return
            target.sendall(piece)

"""A proxy on loopback that fails on purpose: it loses, cuts, holds and trickles what passes, and keeps every byte."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

_PIECE = 1 << 16
_PATIENCE_S = 20.0  # of a thread for a test that has failed


@dataclass(frozen=True)
class Fault:
    """What happens to one connection.

    Attributes:
        kind: `refuse`: it is closed when it comes; `cut`: it is closed after some bytes; `hold`: after these bytes
            nothing passes before the proxy's `release` is set; `trickle`: bytes pass one by one, each when
            the proxy's `drip` is set anew, `delay`: all that passes waits for so many seconds.
        of: Which way: what is sent to the server, or what comes back.
        after: Bytes that still pass.
        seconds: Of a delay.
    """

    kind: Literal["refuse", "cut", "hold", "trickle", "delay"]
    of: Literal["request", "answer"] = "answer"
    after: int = 0
    seconds: float = 0.0


class Proxy:
    """Passes on what comes to a server, but for the faults that it is told.

    Attributes:
        faults: What happens to the next connections, in order; those after them are whole.
        sent: All bytes to the server, by connection.
        answered: All bytes from it.
        connections: How many there were.
        release: Ends `hold`.
    """

    def __init__(self, host: str, port: int) -> None:
        self.faults: deque[Fault] = deque()
        self.sent: list[bytearray] = []
        self.answered: list[bytearray] = []
        self.connections = 0
        self.release = threading.Event()
        self._target = host, port
        self._closed = threading.Event()
        self._open: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """Ends all connections and waits for all threads."""
        self._closed.set()
        self.release.set()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.drop()
        for thread in self._threads:
            thread.join(_PATIENCE_S)

    def drop(self) -> None:
        """Ends all connections that there are."""
        for each in tuple(self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            fault = self.faults.popleft() if self.faults else None
            if fault is not None and fault.kind == "refuse":
                client.close()
                continue
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            self._open += [client, server]
            self.sent.append(bytearray())
            self.answered.append(bytearray())
            ways = (("request", client, server, self.sent[-1]), ("answer", server, client, self.answered[-1]))
            for way, source, target, kept in ways:
                own = fault if fault is not None and fault.of == way else None
                thread = threading.Thread(target=self._pass, args=(source, target, kept, own), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pass(self, source: socket.socket, target: socket.socket, kept: bytearray, fault: Fault | None) -> None:
        left = None if fault is None else fault.after
        with contextlib.suppress(OSError):
            while piece := source.recv(_PIECE):
                if fault is None or left is None:
                    kept += piece
                    target.sendall(piece)
                    continue
                whole, rest = piece[:left], piece[left:]
                left -= len(whole)
                kept += whole
                target.sendall(whole)
                if not rest:
                    continue
                if fault.kind == "cut":
                    break
                left = self._late(target, kept, rest, fault)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _late(self, target: socket.socket, kept: bytearray, rest: bytes, fault: Fault) -> int | None:
        """Passes what a fault has kept back; returns how many bytes pass before the next fault, None: all."""
        if fault.kind == "trickle":
            for byte in rest:
                if self._closed.wait(fault.seconds):
                    return None
                target.sendall(bytes([byte]))
                kept.append(byte)
            return 0
        if fault.kind == "hold":
            self.release.wait(_PATIENCE_S)
        else:
            self._closed.wait(fault.seconds)
        kept += rest
        target.sendall(rest)
        return None if fault.kind == "hold" else 0


@contextlib.contextmanager
def proxied(port: int, *faults: Fault) -> Iterator[Proxy]:
    """Gives a proxy before a port of this machine."""
    proxy = Proxy("127.0.0.1", port)
    proxy.faults.extend(faults)
    try:
        yield proxy
    finally:
        proxy.close()

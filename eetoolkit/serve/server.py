"""Serving until Ctrl-C: sockets, https, and an end that lets uploads finish."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

_MOST_CONNECTIONS = 200
_LAST_S = 10  # for what is under way when it is stopped


def serve_until_stopped(
    app: ASGIApp, listener: socket.socket, certificate: Path | None = None, *, started: Callable[[], None]
) -> None:
    """Serves an application on a socket that listens; returns after Ctrl-C, when what was under way is answered.

    Args:
        app: What to serve.
        listener: Is closed at the end.
        certificate: Of https, with its key; None: http.
        started: Is called when it answers.
    """
    # Its errors are bugs, and keep their tracebacks; what strangers send to the port is none.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    config = uvicorn.Config(
        app, http=_Protocol, ws="none", lifespan="off", log_config=None, access_log=False, server_header=False,
        proxy_headers=False, limit_concurrency=_MOST_CONNECTIONS, timeout_graceful_shutdown=_LAST_S,
        ssl_certfile=certificate,
    )  # fmt: skip
    with contextlib.suppress(KeyboardInterrupt):  # which uvicorn raises again when it has come to its end
        _Server(config, started).run(sockets=[listener])


class _Protocol(H11Protocol):
    def shutdown(self) -> None:
        """Ends a connection, at once where nothing is under way on it.

        By https a close waits for the other side's, and a browser answers it only when it needs the connection again.
        """
        super().shutdown()
        if self.transport.is_closing() and self.transport.get_write_buffer_size() == 0:
            self.transport.abort()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._tell = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._tell()

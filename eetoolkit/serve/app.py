"""The web application: one secret address, a fixed set of files below it, and profiles that come back."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Collection, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from eetoolkit.serve.addresses import host_of
from eetoolkit.serve.headers import HEADERS
from eetoolkit.serve.profiles import LIMIT_BYTES, Saved, WrongBundleError, keep
from eetoolkit.serve.site import Served, Site
from eetoolkit_runtime.errors import BundleError, EEToolkitError

_BODY_S = 30.0  # for a profile to come whole
_MOST_CLIENTS = 1000
_MOST_REFUSED = 10
_UNKEPT = {"cache-control": "no-store"}
_STATUS = ((WrongBundleError, 409), (BundleError, 400), (EEToolkitError, 507))
"""Of what `keep` raises; the last is a disk that is full, say."""


@dataclass(frozen=True)
class Connected:
    """A device that has opened the page for the first time.

    Attributes:
        address: Its own.
    """

    address: str


@dataclass(frozen=True)
class Refused:
    """A device that knows the secret and has asked by a name that is not known.

    Attributes:
        host: The name.
    """

    host: str


Event = Connected | Refused | Saved
Tell = Callable[[Event], None]


@dataclass(frozen=True)
class Serving:
    """How a site is served.

    Attributes:
        token: The secret part of the address.
        hosts: Names and addresses by which it may be asked for, in lower case.
        profiles: Where profiles that come back are kept.
        tell: Is told who came and what was kept.
    """

    token: str
    hosts: Collection[str]
    profiles: Path
    tell: Tell = lambda _event: None


def new_token() -> str:
    """Returns a secret of 128 bits, as an address may hold it."""
    return secrets.token_urlsafe(16)


def make_app(site: Site, serving: Serving) -> ASGIApp:
    """Returns the application (ASGI) that serves a site."""
    handlers = _Handlers(site, serving)
    routes = [
        Route("/{token}", handlers.to_folder, methods=["GET"]),
        Route("/{token}/profiles/{number:int}", handlers.take_profile, methods=["POST"]),
        Route("/{token}/{path:path}", handlers.send_file, methods=["GET"]),
    ]
    return _guarded(Starlette(routes=routes), serving)


def _guarded(app: ASGIApp, serving: Serving) -> ASGIApp:
    """Returns an application that answers who names this host and the secret, and says nothing to others.

    A page of another host cannot read what this one answers, but its owner may let that host's name lead here (DNS
    rebinding); the browser then says that name.
    """
    secret = serving.token.encode()
    fixed = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
    refused: set[str] = set()

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *fixed]
            await send(message)

        named = [host_of(value.decode("latin-1")) for name, value in scope["headers"] if name == b"host"]
        given = scope["path"].split("/")[1] if scope["path"].startswith("/") else ""
        knows = secrets.compare_digest(given.encode("utf-8", "surrogatepass"), secret)
        answer = app
        if len(named) != 1 or named[0] not in serving.hosts:
            answer = PlainTextResponse("Misdirected Request", 421)
            if knows and len(refused) < _MOST_REFUSED and not refused.issuperset(named):
                refused.update(named)
                serving.tell(Refused(", ".join(named)))
        elif not knows:
            answer = PlainTextResponse("Not Found", 404)
        await answer(scope, receive, send_with_headers)

    return guarded


class _RefusalError(Exception):
    """What a client has sent is not taken; the text says why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class _Handlers:
    def __init__(self, site: Site, serving: Serving) -> None:
        self._site = site
        self._serving = serving
        self._met: set[str] = set()

    async def to_folder(self, _: Request) -> Response:
        """Leads from the address without its last slash to the one with it, on which all paths lean."""
        return Response(status_code=308, headers={"location": f"/{self._serving.token}/"})

    async def send_file(self, request: Request) -> Response:
        path = request.path_params["path"]
        try:
            found = await run_in_threadpool(self._site.find, path)
        except EEToolkitError as error:
            return _refused(409, str(error))
        if found is None:
            return PlainTextResponse("Not Found", 404)
        if path in ("", "index.html"):
            self._greet(request)
        return await _answer(request, found)

    async def take_profile(self, request: Request) -> Response:
        try:
            saved = await self._kept(request)
        except _RefusalError as refusal:
            return _refused(refusal.status, str(refusal))
        except EEToolkitError as error:
            return _refused(next(status for kind, status in _STATUS if isinstance(error, kind)), str(error))
        self._serving.tell(saved)
        return JSONResponse({"saved": saved.path, "next": saved.next}, 201, _UNKEPT)

    async def _kept(self, request: Request) -> Saved:
        """Takes what is sent, and keeps it if it is a profile of the bundle that the path names."""
        number = request.path_params["number"]
        if number >= len(self._site.shelves):
            raise _RefusalError(404, f"there is no bundle {number}; open the page again")
        try:
            async with asyncio.timeout(_BODY_S):
                body = await _bounded_body(request)
        except TimeoutError as error:
            raise _RefusalError(408, f"the profile did not come whole within {_BODY_S:.0f} s; send it again") from error
        except ClientDisconnect as error:
            raise _RefusalError(400, "the profile did not come whole") from error
        return await run_in_threadpool(keep, body, self._site.shelves[number].bundle, self._serving.profiles)

    def _greet(self, request: Request) -> None:
        address = "" if request.client is None else request.client.host
        if address not in self._met and len(self._met) < _MOST_CLIENTS:
            self._met.add(address)
            self._serving.tell(Connected(address))


async def _answer(request: Request, file: Served) -> Response:
    packed = file.gzipped is not None and _takes_gzip(request.headers.get("accept-encoding", ""))
    tag = f'"{file.tag}{"-gzip" if packed else ""}"'
    headers = {"etag": tag, "cache-control": file.cache}
    if file.gzipped is not None:
        headers["vary"] = "accept-encoding"
    if tag in [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    content = file.content
    if packed and file.gzipped is not None:
        content, headers["content-encoding"] = file.gzipped, "gzip"
    if isinstance(content, bytes):
        return Response(content, 200, headers, file.media_type)
    if not await run_in_threadpool(content.is_file):
        return _refused(409, f"{content.name} is gone on the computer; open the page again")
    return FileResponse(content, 200, headers, file.media_type)


def _takes_gzip(header: str) -> bool:
    """Whether a client that says this in `Accept-Encoding` takes gzip (RFC 9110, 12.5.3)."""
    for each in header.lower().split(","):
        name, _, weight = each.partition(";")
        if name.strip() in ("gzip", "*"):
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


async def _bounded_body(request: Request) -> bytes:
    """Returns what a client has sent; more than a profile has is not read on."""
    too_much = _RefusalError(413, f"over {LIMIT_BYTES >> 20} MiB were sent, more than a profile has")
    told = request.headers.get("content-length", "0")
    if not told.isdigit() or int(told) > LIMIT_BYTES:
        raise too_much
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LIMIT_BYTES:
            raise too_much
    return bytes(body)


def _refused(status: int, why: str) -> Response:
    return JSONResponse({"error": why}, status, _UNKEPT)

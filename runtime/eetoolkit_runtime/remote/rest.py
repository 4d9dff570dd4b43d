"""The Open Inference Protocol over HTTP, by the standard library's client: kept connections, TLS, time that is kept."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any
from urllib.parse import quote

import msgspec
import numpy as np

from eetoolkit_runtime.errors import RemoteError, first_line
from eetoolkit_runtime.printable import cut, flat
from eetoolkit_runtime.remote.protocol import DATATYPES, MOST_BYTES, Described, Reply, Request, tensor
from eetoolkit_runtime.remote.settings import RemoteSettings

_PIECE = 1 << 16
_HEADER = "Inference-Header-Content-Length"  # of the extension: how much of a body is JSON
_BINARY = "binary_tensor_data"
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL")  # what OpenSSL calls an answer in clear
_BUSY = (429, 502, 503, 504)

Begin = Callable[[Callable[[], None]], None]


class _Output(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    data: Any = None
    parameters: dict[str, Any] | None = None


class _Body(msgspec.Struct):
    outputs: list[_Output]
    model_version: str | None = None
    parameters: dict[str, Any] | None = None


class _Input(msgspec.Struct):
    name: str
    datatype: str


class _Model(msgspec.Struct):
    name: str
    inputs: list[_Input] | None = None


class _Metadata(msgspec.Struct):
    extensions: list[str] = []


class Rest:
    """Connections to one server, each used by one request at a time and kept for the next.

    `http.client` follows no redirects, asks no proxy and keeps no cookies, so a request goes where the settings say.
    A thread may hang in `getaddrinfo`, which no time-out reaches: `Link` waits for it no longer than the call may take.

    Args:
        settings: Where and how.
        version: Which half must answer.
    """

    def __init__(self, settings: RemoteSettings, version: int) -> None:
        self._settings, self._address = settings, settings.address
        self._context: ssl.SSLContext | None = None
        if settings.address.encrypted:
            try:
                self._context = ssl.create_default_context(cafile=settings.certificates)
            except ssl.SSLError as error:
                raise RemoteError(
                    f"certificates {settings.certificates} cannot be read: {first_line(error)}"
                ) from error
        self._model = f"/v2/models/{quote(settings.address.model, safe='')}/versions/{version}"
        self._headers = {"User-Agent": "eetoolkit", "Accept-Encoding": "identity"}
        if settings.token is not None:
            self._headers["Authorization"] = f"Bearer {settings.token}"
        self._idle: deque[http.client.HTTPConnection] = deque()
        self._binary: bool | None = None

    def infer(self, request: Request, end: float, on_begin: Begin) -> Reply:
        """See `Connections`."""
        if self._binary is None:
            self._binary = self._takes_binary(end, on_begin)
        body, json_size = encode(request, binary=self._binary)
        headers = {"Content-Type": "application/json"}
        if self._binary:
            headers = {"Content-Type": "application/octet-stream", _HEADER: str(json_size)}
        path = f"{self._model}/infer"
        found, text = self._ask("POST", path, body, headers, end, on_begin)
        sent = {"Host": self._address.place, "Content-Length": str(len(body)), **self._headers, **headers}
        sent_bytes = len(body) + len(f"POST {path} HTTP/1.1") + _size_of_head(sent.items())
        received_bytes = len(text) + len("HTTP/1.1 200 OK") + _size_of_head(found.getheaders())
        reply = decode(text, found.getheader(_HEADER), sent_bytes=sent_bytes, received_bytes=received_bytes)
        return reply if self._binary else msgspec.structs.replace(reply, encoded=_encoded(request, len(body)))

    def ping(self, end: float) -> None:
        """See `Connections`."""
        self._ask("GET", "/v2/health/ready", None, {}, end, _ignore)

    def ready(self, end: float) -> Described:
        """See `Connections`. Any web server may answer with status 200, so the model's metadata is asked for too."""
        self._ask("GET", f"{self._model}/ready", None, {}, end, _ignore)
        _, text = self._ask("GET", self._model, None, {}, end, _ignore)
        try:
            found = msgspec.json.decode(text, type=_Model)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise RemoteError(
                f"what answers does not speak the Open Inference Protocol: {_got(text)} where a model's metadata "
                "was expected"
            ) from error
        return Described(found.name, {each.name: each.datatype for each in found.inputs or ()})

    def close(self) -> None:
        """See `Connections`."""
        while True:
            try:
                self._idle.pop().close()
            except IndexError:
                return

    def _takes_binary(self, end: float, on_begin: Begin) -> bool:
        """Whether the server takes tensors as bytes, by what it says of itself."""
        _, text = self._ask("GET", "/v2", None, {}, end, on_begin)
        try:
            return _BINARY in msgspec.json.decode(text, type=_Metadata).extensions
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return False

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: dict[str, str],
        end: float,
        on_begin: Begin,
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """Returns a response of status 200 and its body."""
        while True:
            connection, used = self._take()
            try:
                response, text = _exchange(connection, method, path, body, self._headers | headers, end, on_begin)
            except BaseException as error:
                connection.close()
                if used and isinstance(error, ConnectionError | http.client.BadStatusLine):
                    self.close()  # it was closed while nobody used it, and so may the others be
                    continue
                if isinstance(error, OSError | http.client.HTTPException | ValueError):
                    raise _failure(error) from error
                raise
            if not response.will_close:
                self._idle.append(connection)
            _check_status(response, text, self._settings)
            return response, text

    def _take(self) -> tuple[http.client.HTTPConnection, bool]:
        """Returns a connection, and whether it was used before."""
        with contextlib.suppress(IndexError):
            return self._idle.pop(), True
        address = self._address
        if self._context is None:
            return http.client.HTTPConnection(address.host, address.port), False
        return http.client.HTTPSConnection(address.host, address.port, context=self._context), False


def _exchange(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | None,
    headers: dict[str, str],
    end: float,
    on_begin: Begin,
) -> tuple[http.client.HTTPResponse, bytes]:
    """Sends a request and returns the response with its body, read against the clock."""
    on_begin(partial(_break_off, connection, sock := []))
    connection.timeout = _left(end)
    if connection.sock is None:
        connection.connect()
    sock.append(connection.sock)
    connection.sock.settimeout(_left(end))
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    if (response.length or 0) > MOST_BYTES:
        raise ValueError(f"an answer of {response.length} bytes, more than {MOST_BYTES}")
    if response.length is None and not response.chunked and response.status == http.client.OK:
        raise http.client.IncompleteRead(b"")  # a head that was cut looks like this
    pieces, size = [], 0
    while True:
        sock[0].settimeout(_left(end))
        piece = response.read1(_PIECE)
        if not piece:
            break
        pieces.append(piece)
        size += len(piece)
        if size > MOST_BYTES:
            raise ValueError(f"an answer of more than {MOST_BYTES} bytes")
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    response.close()  # the response, so that the connection is free for the next
    return response, b"".join(pieces)


def _left(end: float) -> float:
    left = end - time.perf_counter()
    if left <= 0:
        raise TimeoutError
    return left


def _break_off(connection: http.client.HTTPConnection, known: list[socket.socket]) -> None:
    """Wakes the thread that waits for a connection."""
    for each in (*known, connection.sock):
        if each is not None:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def _ignore(_stop: Callable[[], None]) -> None:
    """What nobody breaks off."""


def _failure(error: Exception) -> RemoteError:
    """Returns what is raised where a connection failed."""
    if isinstance(error, TimeoutError):
        return RemoteError("no answer in time")
    if isinstance(error, ssl.SSLCertVerificationError):
        return RemoteError(f"the server's certificate is not trusted: {error.verify_message}")
    if isinstance(error, ssl.SSLError) and error.reason in _NO_TLS:
        return RemoteError("the server speaks no TLS at this port: use http://, or the port at which it does")
    if isinstance(error, http.client.IncompleteRead):
        return RemoteError("the server's answer ended too early", again=True)
    if isinstance(error, ValueError):
        return RemoteError(f"the server sent {first_line(error)}")
    return RemoteError(f"the connection failed: {first_line(error)}", again=True)


def _check_status(response: http.client.HTTPResponse, text: bytes, settings: RemoteSettings) -> None:
    status = response.status
    if status == http.client.OK:
        return
    if 300 <= status < 400:
        raise RemoteError(f"the server redirects elsewhere (status {status}), which is not followed")
    if status in (401, 403):
        raise RemoteError(settings.refused(f"status {status}"))
    said = _said(text)
    if status == 404:
        raise RemoteError(f"the server does not run the other half of this bundle (status 404{said})")
    raise RemoteError(f"the server answers with status {status}{said}", again=status in _BUSY)


def _got(text: bytes) -> str:
    """Returns what a body is that is not the protocol's, for people."""
    start = text.lstrip()
    if start[:1] == b"<":
        return "got a web page, such as a captive portal's or another server's,"
    return f"got {cut(flat(start[:200].decode(errors='replace')), 80)!r}" if start else "got nothing"


def _said(text: bytes) -> str:
    """Returns what an error's body says, for people."""
    try:
        found = msgspec.json.decode(text, type=dict[str, Any]).get("error")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    return f": {cut(found, 200)}" if isinstance(found, str) and found else ""


def encode(request: Request, *, binary: bool) -> tuple[bytes, int]:
    """Returns a request's body, and how many bytes of it are JSON.

    Args:
        request: The tensors.
        binary: Whether they follow the JSON as bytes.

    Raises:
        RemoteError: JSON has no such number.
    """
    inputs, raw = [], []
    for name, array in request.tensors.items():
        said: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": DATATYPES[str(array.dtype)]}
        if binary:
            raw.append(np.asarray(array, array.dtype.newbyteorder("<"), order="C").tobytes())
            said["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            said["data"] = _as_numbers(name, array)
        inputs.append(said)
    body: dict[str, Any] = {"inputs": inputs}
    if request.id:
        body["id"] = request.id
    parameters: dict[str, Any] = {"binary_data_output": True} if binary else {}
    if request.padding:
        parameters["padding"] = request.padding
    if parameters:
        body["parameters"] = parameters
    text = msgspec.json.encode(body)
    return b"".join((text, *raw)), len(text)


def _encoded(request: Request, body_bytes: int) -> float:
    """Returns how many bytes of a JSON body the tensors take for one of theirs, beside what holds them."""
    size = sum(array.nbytes for array in request.tensors.values())
    none = {name: array.ravel()[:0] for name, array in request.tensors.items()}
    around, _ = encode(msgspec.structs.replace(request, tensors=none), binary=False)
    return max(1.0, (body_bytes - len(around)) / size) if size else 1.0


def _as_numbers(name: str, array: np.ndarray[Any, Any]) -> list[Any]:
    what = None
    if array.dtype == np.float16:
        what = "is float16, which has no form in JSON"
    elif array.dtype.kind == "f" and not np.isfinite(array).all():
        what = "is not finite, which JSON cannot say"
    if what is not None:
        raise RemoteError(f"{name!r} {what}, and this server takes no binary tensors by REST; use grpcs://")
    found: list[Any] = array.ravel().tolist()
    return found


def _size_of_head(fields: Iterable[tuple[str, str]]) -> int:
    """Returns how many bytes the fields of a head take, the two line ends around them included."""
    return sum(len(name) + len(value) + len(": \r\n") for name, value in fields) + len("\r\n\r\n")


def decode(text: bytes, header: str | None, *, sent_bytes: int, received_bytes: int) -> Reply:
    """Returns the reply that a body holds.

    Args:
        text: The body.
        header: How many bytes of it are JSON, as the server says; None: all.
        sent_bytes: The request's.
        received_bytes: The response's.

    Raises:
        RemoteError: It is no reply.
    """
    try:
        json_size = len(text) if header is None else int(header)
        body = msgspec.json.decode(text[: max(json_size, 0)], type=_Body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        what = _got(text) if text.lstrip()[:1] == b"<" else first_line(error)
        raise RemoteError(f"the server's answer cannot be read: {what.rstrip(',')}") from error
    outputs, rest = {}, memoryview(text)[json_size:]
    for each in body.outputs:
        size = (each.parameters or {}).get("binary_data_size")
        data = each.data
        if size is not None:
            if type(size) is not int or not 0 <= size <= len(rest):
                raise RemoteError(f"the server's answer is shorter than its output {each.name!r}")
            data, rest = rest[:size], rest[size:]
        outputs[each.name] = tensor(each.name, each.datatype, each.shape, data)
    if len(rest):
        raise RemoteError(f"the server's answer has {len(rest)} bytes that no output claims")
    return Reply(body.model_version or "", outputs, body.parameters or {}, sent_bytes, received_bytes)

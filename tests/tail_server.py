"""A model server in a thread that runs the server's half of a bundle by the protocol, or does what a test tells it."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.plan.halves import version_of
from eetoolkit_runtime.remote.protocol import DATATYPES, DTYPES
from eetoolkit_runtime.running.runner import Runner

HEADER = "Inference-Header-Content-Length"
Tensors = dict[str, Array]


@dataclass
class Sent:
    """An answer on its way: what a fault changes before it goes out."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Seen:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def tensors(self) -> Tensors:
        """The tensors of an `infer`."""
        json_size = int(self.headers.get(HEADER.lower(), len(self.body)))
        found, rest = {}, self.body[json_size:]
        for each in json.loads(self.body[:json_size])["inputs"]:
            dtype = DTYPES[each["datatype"]]
            if "data" in each:
                values = np.array(each["data"], dtype)
            else:
                size = each["parameters"]["binary_data_size"]
                values, rest = np.frombuffer(rest[:size], dtype), rest[size:]
            found[each["name"]] = values.reshape(each["shape"])
        assert not rest
        return found


Change = Callable[[Sent], None]


class TailServer:
    """Answers as a server does that has the other half.

    Attributes:
        seen: Every request.
        changes: What happens to the next answers of `infer`, in order; those after them are right.
        always: What happens to all of them.
        binary: Whether it takes tensors as bytes.
        token: What a request must bring; None: nothing.
        metadata: What it says of the model, as JSON.
        portal: What stands before it answers instead, whatever is asked; None: nothing does.
    """

    def __init__(self, half: Runner, model: str = "it", context: ssl.SSLContext | None = None) -> None:
        self.seen: list[Seen] = []
        self.changes: deque[Change] = deque()
        self.always: Change | None = None
        self.binary = True
        self.token: str | None = None
        self.portal: bytes | None = None
        self.half = half
        specs = half.bundle.manifest.inputs
        self.metadata: object = {
            "name": model, "versions": [], "platform": "", "outputs": [],
            "inputs": [{"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": [-1, 4]} for spec in specs],
        }  # fmt: skip
        self.version = str(version_of(half.bundle.manifest))
        self._model = model
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                outer._answer(self)

            do_POST = do_GET  # noqa: N815 - the library's name

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                """Clients of these tests go away as they please."""

        self._http = Server(("127.0.0.1", 0), Handler)
        if context is not None:
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self.port = int(self._http.server_address[1])
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def inferred(self) -> list[Seen]:
        """The requests that asked for an answer."""
        return [seen for seen in self.seen if seen.path.endswith("/infer")]

    def url(self, port: int | None = None, scheme: str = "http") -> str:
        """Returns where its model is, or where it is behind a proxy."""
        return f"{scheme}://localhost:{port or self.port}/v2/models/{self._model}"

    def close(self) -> None:
        """Stops it."""
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("Content-Length", 0))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        seen = Seen(handler.command, handler.path, headers, handler.rfile.read(length))
        if len(seen.body) < length:
            return
        self.seen.append(seen)
        sent = self._right(seen)
        if seen.path.endswith("/infer"):
            change = self.changes.popleft() if self.changes else self.always
            if change is not None:
                change(sent)
        if self.portal is not None:
            sent = Sent(200, {}, self.portal)
        handler.send_response(sent.status)
        for name, value in ({"Content-Length": str(len(sent.body))} | sent.headers).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(sent.body)

    def _right(self, seen: Seen) -> Sent:
        if self.token is not None and seen.headers.get("authorization") != f"Bearer {self.token}":
            return Sent(401, {}, b'{"error": "who are you"}')
        own = f"/v2/models/{self._model}/versions/{self.version}"
        if seen.path == "/v2":
            extensions = ["binary_tensor_data"] if self.binary else []
            return Sent(200, {}, json.dumps({"name": "it", "version": "1", "extensions": extensions}).encode())
        if seen.path in ("/v2/health/ready", f"{own}/ready"):
            return Sent(200, {}, b"")
        if seen.path == own:
            return Sent(200, {}, json.dumps(self.metadata).encode())
        if seen.path == f"{own}/infer":
            return self.reply(*self.answer(seen.tensors), request=seen)
        return Sent(404, {}, b'{"error": "no such model"}')

    def answer(self, tensors: Tensors) -> tuple[Tensors, dict[str, str]]:
        """Returns the outputs for the tensors of a request, and what it says beside them."""
        answer = self.half.run(tensors)
        number = np.array([list(self.half.bundle.exits).index(answer.exit)], np.int64)
        outputs = answer.outputs | {"exit": number, "confidence": np.array([answer.confidence], np.float32)}
        return outputs, {"path": json.dumps(answer.path), "gates": json.dumps(answer.gates)}

    def reply(self, outputs: Tensors, parameters: dict[str, str], request: Seen | None = None) -> Sent:
        """Returns an answer with these outputs."""
        said: list[dict[str, Any]] = []
        raw = b""
        for name, array in outputs.items():
            each = {"name": name, "shape": list(array.shape), "datatype": DATATYPES[str(array.dtype)]}
            if self.binary:
                raw += array.tobytes()
                each["parameters"] = {"binary_data_size": array.nbytes}
            else:
                each["data"] = array.ravel().tolist()
            said.append(each)
        body: dict[str, Any] = {"model_name": "it", "model_version": self.version, "outputs": said}
        if request is not None:
            size = int(request.headers.get(HEADER.lower(), len(request.body)))
            body |= {key: value for key, value in json.loads(request.body[:size]).items() if key == "id"}
        text = json.dumps(body | {"parameters": parameters}).encode()
        return Sent(200, {HEADER: str(len(text))} if self.binary else {}, text + raw)


@contextlib.contextmanager
def serving(half: Runner, **options: Any) -> Iterator[TailServer]:
    """Gives a server over a half."""
    server = TailServer(half, **options)
    try:
        yield server
    finally:
        server.close()

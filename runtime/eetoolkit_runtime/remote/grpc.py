"""The Open Inference Protocol over gRPC, by Triton's client: `pip install 'eetoolkit[remote]'`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from eetoolkit_runtime.errors import RemoteError, first_line
from eetoolkit_runtime.remote.protocol import DATATYPES, DTYPES, MOST_BYTES, Described, Reply, Request, tensor
from eetoolkit_runtime.remote.settings import RemoteSettings

_AGAIN = ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "ABORTED")
_CONTENTS = {
    "FP32": "fp32_contents", "FP64": "fp64_contents", "BOOL": "bool_contents",
    "INT64": "int64_contents", "INT32": "int_contents", "INT16": "int_contents", "INT8": "int_contents",
    "UINT64": "uint64_contents", "UINT32": "uint_contents", "UINT16": "uint_contents", "UINT8": "uint_contents",
}  # fmt: skip
"""Where a message holds an output's numbers that does not hold its bytes."""


class Grpc:
    """A channel to one server; gRPC keeps its deadlines itself, connects again by itself, and shares the channel.

    Args:
        settings: Where and how.
        version: Which half must answer.

    Raises:
        RemoteError: The client is not installed.
    """

    def __init__(self, settings: RemoteSettings, version: int) -> None:
        try:
            import tritonclient.grpc as client
        except ImportError as error:
            raise RemoteError("gRPC needs tritonclient: pip install 'eetoolkit[remote]'") from error
        self._triton = client
        self._settings, address = settings, settings.address
        self._model, self._version = address.model, str(version)
        self._headers = None if settings.token is None else {"authorization": f"Bearer {settings.token}"}
        options = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", MOST_BYTES),
            ("grpc.enable_http_proxy", 0),  # a request goes where the settings say
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2000),
        ]
        self._client = client.InferenceServerClient(
            address.place, ssl=address.encrypted, root_certificates=settings.certificates, channel_args=options
        )

    def infer(self, request: Request, end: float, on_begin: Callable[[Callable[[], None]], None]) -> Reply:  # noqa: ARG002
        """See `Connections`. Nothing breaks it off but its own time, which ends with the call's."""
        inputs = []
        for name, array in request.tensors.items():
            given = self._triton.InferInput(name, list(array.shape), DATATYPES[str(array.dtype)])
            given.set_data_from_numpy(np.ascontiguousarray(array))
            inputs.append(given)
        found = self._call(
            self._client.infer, end, model_name=self._model, inputs=inputs, model_version=self._version,
            request_id=request.id, parameters={"padding": request.padding} if request.padding else None,
        )  # fmt: skip
        message = found.get_response()
        outputs = {}
        for place, output in enumerate(message.outputs):
            data: object = None
            if place < len(message.raw_output_contents):
                data = message.raw_output_contents[place]
            elif output.datatype in _CONTENTS:
                data = list(getattr(output.contents, _CONTENTS[output.datatype]))
            if output.datatype not in DTYPES:
                raise RemoteError(f"the server's output {output.name!r} has the datatype {output.datatype!r}")
            outputs[output.name] = tensor(output.name, output.datatype, list(output.shape), data)
        said = {name: getattr(value, str(value.WhichOneof("parameter_choice")), None)
                for name, value in message.parameters.items()}  # fmt: skip
        sent_bytes = sum(array.nbytes for array in request.tensors.values()) + len(request.id) + len(request.padding)
        return Reply(message.model_version, outputs, said, sent_bytes, message.ByteSize())

    def ping(self, end: float) -> None:
        """See `Connections`."""
        if not self._call(self._client.is_server_ready, end):
            raise RemoteError("the server is not ready", again=True)

    def ready(self, end: float) -> Described:
        """See `Connections`."""
        if not self._call(self._client.is_model_ready, end, model_name=self._model, model_version=self._version):
            raise RemoteError("the server does not run the other half of this bundle")
        found = self._call(self._client.get_model_metadata, end, model_name=self._model, model_version=self._version)
        if not found.name:  # an empty message is what any other service's may be read as
            raise RemoteError("the server does not say which model it has: it does not speak the protocol")
        return Described(found.name, {each.name: each.datatype for each in found.inputs})

    def close(self) -> None:
        """See `Connections`."""
        self._client.close()

    def _call(self, method: Callable[..., Any], end: float, **arguments: Any) -> Any:
        """Returns what the client's method returns within the time that is left."""
        left = end - time.perf_counter()
        if left <= 0:
            raise RemoteError("no answer in time")
        try:
            return method(headers=self._headers, client_timeout=left, **arguments)
        except self._triton.InferenceServerException as error:
            raise _failure(error, self._settings) from error


def _failure(error: Any, settings: RemoteSettings) -> RemoteError:
    """Returns what is raised where a call failed."""
    status = str(error.status() or "").removeprefix("StatusCode.")
    said = first_line(Exception(error.message() or ""))
    if status == "DEADLINE_EXCEEDED":
        return RemoteError("no answer in time")
    if status in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return RemoteError(settings.refused(status))
    if status == "NOT_FOUND":
        return RemoteError(f"the server does not run the other half of this bundle ({status}: {said})")
    if status in _AGAIN:
        return RemoteError(f"the connection failed ({status}: {said})", again=True)
    return RemoteError(f"the server answers with {status or 'an error'}: {said}")

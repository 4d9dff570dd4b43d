"""The server's half of a bundle under MLServer: `implementation` of the `model-settings.json` that `split` writes.

MLServer finds the class by its name; it needs eetoolkit, without any extra, in MLServer's environment. `parameters` in
`model-settings.json` may hold `extra`, the `Runner`'s own settings: `{"threads": 1}`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from mlserver import MLModel, types
from mlserver.codecs import NumpyCodec
from mlserver.codecs.numpy import to_datatype
from mlserver.errors import InferenceError, MLServerError
from mlserver.utils import get_model_uri

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import EEToolkitError, InputError
from eetoolkit_runtime.running.runner import Runner


class EarlyExitModel(MLModel):
    """Answers one row a request by a `Runner`, on a thread, so that the server stays free for others.

    The answer has the outputs of the exit that fired; `exit`, its place among the bundle's exits; and `confidence`. Its
    parameters `path` and `gates` hold JSON: the segments that ran, and the decisions met.
    """

    _runner: Runner

    async def load(self) -> bool:
        """Opens the bundle that `parameters.uri` names; where it is none, MLServer does not start."""
        parameters = self.settings.parameters
        settings = {} if parameters is None else dict(parameters.extra or {})
        uri = await get_model_uri(self.settings)
        self._runner = await asyncio.to_thread(Runner, uri, **{"load": "eager", "check": "full", **settings})
        return True

    async def unload(self) -> bool:
        """Closes it."""
        self._runner.close()
        return True

    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        """Returns the answer.

        Raises:
            InferenceError: Tensors that the bundle does not take (400).
            MLServerError: The run failed, or an output is infinite and was asked for over REST (500).
        """
        try:
            inputs = {tensor.name: NumpyCodec.decode_input(tensor) for tensor in payload.inputs}
            answer = await asyncio.to_thread(self._runner.run, inputs)
        except (InputError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise InferenceError(str(error)) from error
        except EEToolkitError as error:
            raise MLServerError(str(error), status_code=500) from error
        number = np.array([list(self._runner.bundle.exits).index(answer.exit)], np.int64)
        confidence = np.array([answer.confidence], np.float32)
        tensors = {**answer.outputs, "exit": number, "confidence": confidence}
        if not _over_grpc(payload) and any(map(_infinite, tensors.values())):
            raise MLServerError("an output is infinite, which JSON has no number for; ask over gRPC", status_code=500)
        said = {"path": answer.path, "gates": answer.gates}
        return types.InferenceResponse(
            model_name=self.name,
            model_version=self.version,
            outputs=[_encoded(name, array) for name, array in tensors.items()],
            parameters=types.Parameters(**{key: msgspec.json.encode(value).decode() for key, value in said.items()}),
        )


def _infinite(array: Array) -> bool:
    return array.dtype.kind == "f" and bool(np.isinf(array).any())


def _over_grpc(payload: types.InferenceRequest) -> bool:
    """Whether a request came over gRPC, whose clients all say so (gRPC over HTTP2, "User Agents")."""
    headers: Mapping[str, str] = getattr(payload.parameters, "headers", None) or {}
    return headers.get("user-agent", "").startswith("grpc-")


def _encoded(name: str, array: Array) -> types.ResponseOutput:
    """Returns a tensor as it is: MLServer's own codec makes NaN `None`, which its gRPC cannot send."""
    data: Any = array.ravel().tolist()
    return types.ResponseOutput(name=name, shape=list(array.shape), datatype=to_datatype(array.dtype), data=data)

"""gRPC: what is sent and what is believed, with a server in this process by the client's own stubs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from plans import chain, row
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse

import eetoolkit as ee
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.plan.halves import cut_point, halves, version_of
from eetoolkit_runtime.remote.protocol import DATATYPES
from eetoolkit_runtime.running.handover import Handover

AMPLE_MS, SOON_MS = 20_000.0, 200.0
EARLY = row(0.1, 0.9)
Change = Callable[[ModelInferResponse], object]


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Runs the server's half, or fails as a test says."""

    def __init__(self, half: ee.Runner) -> None:
        self.half = half
        self.raw = True
        self.named, self.datatype = "it", "FP32"
        self.change: Change | None = None
        self.status: grpc.StatusCode | None = None
        self.hold: threading.Event | None = None
        self.seen: list[tuple[ModelInferRequest, dict[str, str]]] = []

    def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        return service_pb2.ModelReadyResponse(ready=request.version == str(version_of(self.half.bundle.manifest)))

    def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        reply = service_pb2.ModelMetadataResponse(name=self.named)
        for spec in self.half.bundle.manifest.inputs:
            reply.inputs.add(name=spec.name, datatype=self.datatype, shape=[-1, 4])
        return reply

    def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerReadyResponse(ready=True)

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.seen.append((request, dict(context.invocation_metadata())))
        if self.hold is not None:
            self.hold.wait(AMPLE_MS / 1e3)
        if self.status is not None:
            context.abort(self.status, "no")
        tensors = {
            each.name: np.frombuffer(raw, np.float32).reshape(each.shape)
            for each, raw in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        answer = self.half.run(tensors)
        number = np.array([list(self.half.bundle.exits).index(answer.exit)], np.int64)
        given = answer.outputs | {"exit": number, "confidence": np.array([answer.confidence], np.float32)}
        reply = ModelInferResponse(model_name=request.model_name, model_version=request.model_version)
        for name, array in given.items():
            output = reply.outputs.add(name=name, datatype=DATATYPES[str(array.dtype)], shape=array.shape)
            if self.raw:
                reply.raw_output_contents.append(array.tobytes())
            elif array.dtype == np.int64:
                output.contents.int64_contents.extend(array.ravel().tolist())
            else:
                output.contents.fp32_contents.extend(array.ravel().tolist())
        if self.change is not None:
            self.change(reply)
        return reply


class Served:
    """A bundle, its device's half, and the server."""

    def __init__(self, folder: Path) -> None:
        self.whole = ee.load(chain(0.5, 0.5).save(folder))
        found = halves(self.whole.manifest, cut_point(self.whole.manifest, "exit0"))
        self.device = Bundle(self.whole.path, found.device)
        self.half = ee.Runner(Bundle(self.whole.path, found.server), threads=1)
        self.servicer = Servicer(self.half)
        self.server = grpc.server(ThreadPoolExecutor(2))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self.servicer, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def open(self, side: str, **more: Any) -> ee.Runner:
        given = {"url": f"grpc://127.0.0.1:{self.port}/v2/models/it", "timeout_ms": AMPLE_MS, "retries": 0} | more
        if side == "whole":
            given["from"] = "exit0"
        return ee.Runner(self.whole if side == "whole" else self.device, threads=1, remote=given)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path / "it.ee")
    yield served
    served.server.stop(None).wait()
    served.half.close()


def remote(runner: ee.Runner) -> Handover:
    assert runner.remote is not None
    return runner.remote


@pytest.mark.parametrize("raw", [True, False], ids=["bytes", "numbers"])
@pytest.mark.parametrize("side", ["whole", "device"])
def test_a_server_that_speaks_grpc_goes_on(side: str, raw: bool, served: Served) -> None:
    served.servicer.raw = raw
    with served.open(side, token="hush") as runner:  # noqa: S106
        remote(runner).check()
        for _ in range(2):
            answer = runner.run(EARLY)
            assert (answer.exit, answer.path, answer.remote) == ("exit1", ("segment0", "segment1"), True)
            np.testing.assert_array_equal(answer.outputs["logits"], EARLY * 4)
        assert not runner.run(row(0.9)).remote
    (request, said), _ = served.servicer.seen
    assert said["authorization"] == "Bearer hush"
    assert (request.model_name, request.id, dict(request.parameters)) == ("it", "", {})
    assert [(each.name, list(each.shape), each.datatype) for each in request.inputs] == [
        ("h0", [1, 4], "FP32"), ("x", [1, 4], "FP32")
    ]  # fmt: skip
    assert list(request.raw_input_contents) == [(EARLY * 2).tobytes(), EARLY.tobytes()]


def test_check_compares_what_the_server_says_of_its_model(served: Served) -> None:
    with served.open("device") as runner:
        served.servicer.datatype = "FP16"
        with pytest.raises(
            ee.RemoteError, match=r"^the server's model 'it' takes h0 FP16, x FP16, expected h0 FP32, x"
        ):
            remote(runner).check()
        served.servicer.named = ""
        with pytest.raises(ee.RemoteError, match=r"does not say which model it has"):
            remote(runner).check()


def renamed(reply: ModelInferResponse) -> None:
    reply.outputs[0].name = "other"


def retyped(reply: ModelInferResponse) -> None:
    reply.outputs[0].datatype = "BYTES"


def reshaped(reply: ModelInferResponse) -> None:
    del reply.outputs[0].shape[:]
    reply.outputs[0].shape.extend([2, 2])


def cut_short(reply: ModelInferResponse) -> None:
    reply.raw_output_contents[0] = reply.raw_output_contents[0][:3]


def beyond(reply: ModelInferResponse) -> None:
    reply.raw_output_contents[1] = np.array([7], np.int64).tobytes()


def without_bytes(reply: ModelInferResponse) -> None:
    del reply.raw_output_contents[:]


def another_version(reply: ModelInferResponse) -> None:
    reply.model_version = "1"


WRONG: dict[str, tuple[Change | grpc.StatusCode, str]] = {
    "another name": (renamed, "has no output 'logits'"),
    "another datatype": (retyped, "output 'logits' has the datatype 'BYTES'"),
    "another shape": (reshaped, "'logits' is float32[2, 2], expected"),
    "cut short": (cut_short, "output 'logits' is not FP32[1, 4]"),
    "an exit beyond": (beyond, "answers by exit 7 of 2"),
    "no bytes": (without_bytes, "output 'logits' is not FP32[1, 4]"),
    "another version": (another_version, "answers by version 1"),
    "not found": (grpc.StatusCode.NOT_FOUND, "does not run the other half of this bundle (NOT_FOUND: no)"),
    "no token": (grpc.StatusCode.UNAUTHENTICATED, "wants a token (UNAUTHENTICATED): pass token="),
    "unavailable": (grpc.StatusCode.UNAVAILABLE, "the connection failed (UNAVAILABLE: no)"),
    "internal": (grpc.StatusCode.INTERNAL, "the server answers with INTERNAL: no"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_answer_is_not_believed(name: str, served: Served) -> None:
    wrong, text = WRONG[name]
    for side in ("whole", "device"):
        served.servicer.change, served.servicer.status = None, None
        if isinstance(wrong, grpc.StatusCode):
            served.servicer.status = wrong
        else:
            served.servicer.change = wrong
        with served.open(side) as runner:
            answer = runner.run(EARLY)
            expected = ("exit1", "exit", False) if side == "whole" else ("exit0", "remote", False)
            assert (answer.exit, answer.stopped_by, answer.remote) == expected
            assert text in str(remote(runner).last_failure)


def test_a_slow_server_holds_no_call_longer_than_its_time(served: Served) -> None:
    served.servicer.hold = threading.Event()
    with served.open("device") as runner:
        runner.run(row(0.9))  # which opens the first segment
        answer = runner.run(EARLY, deadline_ms=SOON_MS)
        assert (answer.exit, answer.stopped_by) == ("exit0", "deadline")
        token = ee.Interrupt()
        token.set()
        with pytest.raises(ee.DeadlineError, match="interrupted before there was an answer"):
            runner.run(EARLY, interrupt=token)
    served.servicer.hold.set()


def test_a_server_that_is_not_there(served: Served) -> None:
    served.server.stop(None).wait()
    with served.open("device", retries=1) as runner:
        answer = runner.run(EARLY)
        assert (answer.exit, answer.stopped_by, answer.remote) == ("exit0", "remote", False)
        assert "the connection failed (UNAVAILABLE" in str(remote(runner).last_failure)
        with pytest.raises(ee.RemoteError):
            remote(runner).check()

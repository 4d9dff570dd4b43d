"""What `split` writes, under the model servers themselves: MLServer, and with EETOOLKIT_SERVERS=1 Triton."""

from __future__ import annotations

import json
import os
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inference_servers import MLServer, free_port, mlserver, python, triton, triton_environment
from plans import Array, Draft, chain, column, gate, leave, over_half, row

import eetoolkit as ee
from eetoolkit.splitting.repository import BUNDLE
from eetoolkit_runtime.plan.types import Split

NAMES = {"float32": "FP32", "float16": "FP16", "uint8": "UINT8", "int64": "INT64"}
DTYPES = {name: dtype for dtype, name in NAMES.items()}
with_triton = pytest.mark.skipif(
    "EETOOLKIT_SERVERS" not in os.environ, reason="EETOOLKIT_SERVERS (`make servers`) tests Triton, in some 20 s"
)


def gate_behind() -> Draft:
    """An exit, and behind it rows with x[1] > 0.5 take a way of their own: -h0, or h0 / x[2], which may be infinite."""
    draft = chain(0.5, weights=True)
    del draft.segments["segment1"]
    draft.slot("open", "bool", ("batch",))
    draft.slot("sure", shape=("batch",))
    draft.segment(
        "segment1", over_half("open", 1), reads=["x"], writes=["open"], next=gate("open", "minus", "over")
    )  # fmt: skip
    draft.segment("minus", "y = Neg(h)", reads={"h": "h0"}, writes=["y"], next="head")
    draft.segment(
        "over", f"{column('by', 2)}  y = Div(h, by)", reads={"h": "h0", "x": "x"}, writes=["y"], next="head"
    )  # fmt: skip
    draft.segment(
        "head", f"{column('sure', 3)}  logits = Identity(y)", reads=["x", "y"], writes=["sure", "logits"],
        exit=leave("last", "logits", "sure"),
    )  # fmt: skip
    return draft


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with a whole bundle, its device's half and its repository."""
    folder = tmp_path_factory.mktemp("split")
    gate_behind().save(folder / "whole.ee")
    ee.split(folder / "whole.ee", "exit0", folder / "device.ee", folder / "repo")
    return folder


@pytest.fixture(scope="module")
def said(folder: Path) -> Split:
    found = ee.load(folder / "device.ee").manifest.split
    assert found is not None
    return found


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[MLServer]:
    with mlserver(folder / "repo") as started:
        yield started


def ask(url: str, body: Any = None) -> tuple[int, Any]:
    """Returns status and JSON of an answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})  # noqa: S310 - loopback
    try:
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def tensors_of(arrays: Mapping[str, Array]) -> dict[str, Any]:
    return {
        "inputs": [
            {
                "name": name, "shape": list(array.shape), "datatype": NAMES[str(array.dtype)],
                "data": [None if np.isnan(value) else value for value in array.ravel().tolist()],
            }
            for name, array in arrays.items()
        ]
    }  # fmt: skip


def arrays_of(answer: Any) -> dict[str, Array]:
    return {
        each["name"]: np.array(each["data"], DTYPES[each["datatype"]]).reshape(each["shape"])
        for each in answer["outputs"]
    }


def crossing(folder: Path, said: Split, x: Array) -> dict[str, Array]:
    with ee.Runner(folder / "device.ee", threads=1) as runner:
        last = runner.run_all_exits(x)[-1]
    return {name: last.outputs[output] for name, output in said.sends.items()}


def infer(said: Split, version: int | None = None) -> str:
    return f"/v2/models/{said.model}/versions/{said.version if version is None else version}/infer"


@pytest.mark.parametrize("x", [row(0.1, 0.9, 0.5, 0.7), row(0.1, 0.2, 0.3, 0.1), row(0.1, 0.2, 0.0, np.nan)])
def test_mlserver_answers_as_the_whole_and_says_which_way(
    x: Array, folder: Path, said: Split, server: MLServer
) -> None:
    with ee.Runner(folder / "whole.ee", threads=1) as runner:
        whole = runner.run(x)
    status, answer = ask(server.rest + infer(said), tensors_of(crossing(folder, said, x)))
    if np.isinf(whole.outputs["logits"]).any():
        assert (status, answer) == (
            500,
            {"error": "an output is infinite, which JSON has no number for; ask over gRPC"},
        )
        return
    assert status == 200
    assert (answer["model_name"], answer["model_version"]) == (said.model, str(said.version))
    found = arrays_of(answer)
    assert said.exits[int(found.pop("exit")[0])].name == whole.exit
    assert float(found.pop("confidence")[0]) == pytest.approx(whole.confidence, nan_ok=True, abs=0)
    assert found.keys() == whole.outputs.keys()
    for name, array in found.items():
        assert array.tobytes() == whole.outputs[name].tobytes()
    assert tuple(json.loads(answer["parameters"]["path"])) == whole.path[1:]
    assert [tuple(each) for each in json.loads(answer["parameters"]["gates"])] == list(whole.gates)


def test_mlserver_tells_what_it_takes_and_gives(said: Split, server: MLServer) -> None:
    status, found = ask(f"{server.rest}/v2/models/{said.model}/versions/{said.version}")
    assert status == 200
    assert [(each["name"], each["datatype"], each["shape"]) for each in found["inputs"]] == [
        ("h0", "FP32", [-1, 4]), ("x", "FP32", [-1, 4]),
    ]  # fmt: skip
    assert [each["name"] for each in found["outputs"]] == ["logits", "exit", "confidence"]


def test_mlserver_refuses_what_it_does_not_have_and_does_not_take_in_one_line(said: Split, server: MLServer) -> None:
    one = np.zeros((1, 4), np.float32)
    for version, given, expected in (
        (
            said.version + 1,
            {"h0": one, "x": one},
            (404, f"Model {said.model} with version {said.version + 1} not found"),
        ),
        (said.version, {"h0": one}, (400, "got inputs ['h0'], expected ['h0', 'x']")),
        (
            said.version,
            {"h0": one, "x": one[:, :3]},
            (400, "input 'x': got shape [1, 3], expected x: float32[batch, 4]"),
        ),
    ):
        status, answer = ask(server.rest + infer(said, version), tensors_of(given))
        assert (status, answer["error"][: len(expected[1])]) == expected
        assert "\n" not in answer["error"]
    wrong = tensors_of({"h0": one, "x": one})
    wrong["inputs"][0]["data"] = [1, 2, 3]
    status, answer = ask(server.rest + infer(said), wrong)
    assert status == 400
    assert "reshape" in answer["error"]


def test_over_grpc_nan_and_infinities_come_as_they_are(folder: Path, said: Split, server: MLServer) -> None:
    given = crossing(folder, said, row(0.1, 0.2, 0.0, np.nan))
    program = (
        "import json, sys\n"
        "import numpy as np\n"
        "from tritonclient.grpc import InferenceServerClient, InferInput\n"
        "address, model, version, tensors = json.loads(sys.stdin.read())\n"
        "inputs = []\n"
        "for name, data in tensors.items():\n"
        "    inputs.append(InferInput(name, [1, 4], 'FP32'))\n"
        "    inputs[-1].set_data_from_numpy(np.array([data], np.float32))\n"
        "found = InferenceServerClient(address).infer(model, inputs, version)\n"
        "print([found.as_numpy(name).ravel().tolist() for name in ('logits', 'exit', 'confidence')])\n"
    )
    told = [server.grpc, said.model, str(said.version), {name: array[0].tolist() for name, array in given.items()}]
    done = subprocess.run(
        [python(), "-c", program], input=json.dumps(told), capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.stdout == "[[inf, inf, nan, nan], [0], [nan]]\n", done.stderr


def test_another_bundle_at_the_same_port_has_no_such_version(
    folder: Path, said: Split, server: MLServer, tmp_path: Path
) -> None:
    draft = gate_behind()
    draft.segment("minus", "y = Abs(h)", reads={"h": "h0"}, writes=["y"], next="head")
    other = ee.split(draft.save(tmp_path / "other.ee"), "exit0", tmp_path / "d.ee", tmp_path / "repo")
    assert (other.model, other.version != said.version) == (said.model, True)
    given = tensors_of(crossing(folder, said, row(0.1, 0.9)))
    server.restart(tmp_path / "repo")
    try:
        assert ask(server.rest + infer(said), given)[0] == 404
        assert ask(server.rest + infer(said, other.version), given)[0] == 200
    finally:
        server.restart(folder / "repo")
    assert ask(server.rest + infer(said), given)[0] == 200


def test_tritons_configuration_is_what_its_own_client_reads(folder: Path, said: Split) -> None:
    text = (folder / "repo" / said.model / "config.pbtxt").read_text()
    program = (
        "import sys\n"
        "from google.protobuf import json_format, text_format\n"
        "from tritonclient.grpc.model_config_pb2 import ModelConfig\n"
        "found = text_format.Parse(sys.stdin.read(), ModelConfig())\n"
        "print(json_format.MessageToJson(found, indent=None, sort_keys=True))\n"
    )
    try:
        interpreter = python()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"MLServer's environment, which has Triton's client, cannot be made: {error}")
    done = subprocess.run([interpreter, "-c", program], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["name"], found["backend"]) == (said.model, "onnxruntime")
    assert found["versionPolicy"] == {"all": {}}
    assert "maxBatchSize" not in found  # 0: a batch is none of Triton's concerns
    assert found["input"] == [{"dataType": "TYPE_FP32", "dims": ["1", "4"], "name": name} for name in ("h0", "x")]
    assert [(each["name"], each["dims"], each.get("reshape")) for each in found["output"]] == [
        ("logits", ["1", "4"], None), ("exit", ["1"], {}), ("confidence", ["1"], {}),
    ]  # fmt: skip


@with_triton
def test_triton_runs_the_servers_half_by_its_python_backend(folder: Path, said: Split) -> None:
    bundle = folder / "repo" / said.model / str(said.version) / BUNDLE
    with triton(bundle, said.model, said.version) as (rest, _), ee.Runner(folder / "whole.ee", threads=1) as runner:
        for x in (row(0.1, 0.9, 0.5, 0.7), row(0.1, 0.2, 0.3, 0.1)):
            whole = runner.run(x)
            status, answer = ask(rest + infer(said), tensors_of(crossing(folder, said, x)))
            assert status == 200, answer
            found = arrays_of(answer)
            assert said.exits[int(found["exit"][0])].name == whole.exit
            np.testing.assert_array_equal(found["logits"], whole.outputs["logits"])
        status, answer = ask(rest + infer(said, said.version + 1), tensors_of(crossing(folder, said, x)))
        assert status == 404 or "version" in answer["error"]


@with_triton
def test_triton_finds_the_model_in_the_repository_and_misses_nothing_but_the_backend(folder: Path, said: Split) -> None:
    interpreter, environment = triton_environment()
    binary = next(interpreter.parents[1].glob("lib/python*/site-packages/pytriton/tritonserver"))
    ports = [f"--{kind}-port={free_port()}" for kind in ("http", "grpc", "metrics")]
    libraries = f"{binary}/external_libs:{environment['LD_LIBRARY_PATH']}"
    done = subprocess.run(
        [binary / "bin/tritonserver", f"--model-repository={folder / 'repo'}", "--model-control-mode=explicit",
         f"--load-model={said.model}", "--exit-on-error=true", f"--backend-directory={binary}/backends", *ports],
        env={**environment, "LD_LIBRARY_PATH": libraries}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    text = done.stdout + done.stderr
    wrong = [line for line in text.splitlines() if re.match(r"E\d", line)]
    assert done.returncode != 0
    assert any(
        f"failed to load '{said.model}' version {said.version}" in line and "onnxruntime" in line for line in wrong
    ), text
    assert all("onnxruntime" in line or "Cuda" in line for line in wrong), wrong  # that, and no graphics card

"""Both halves with a real MLServer on loopback, over REST and gRPC: its answers are the whole bundle's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from inference_servers import MLServer, mlserver
from plans import chain, row

import eetoolkit as ee
from eetoolkit_runtime.plan.types import Split
from eetoolkit_runtime.running.handover import Handover

ROWS = [row(0.9), row(0.1, 0.9), row(0.1, 0.1, 0.3), row(0.2, 0.4)]
REMOTE = {"timeout_ms": 20_000.0, "retries": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    chain(0.5, 0.5).save(folder / "whole.ee")
    ee.split(folder / "whole.ee", "exit0", folder / "device.ee", folder / "repository", servers=["mlserver"])
    rows = np.random.default_rng(0).uniform(0, 1, (40, 4)).astype(np.float32) * (0.4, 1, 1, 1)
    for kind in ("float16", "uint8"):
        ee.split(
            folder / "whole.ee", "exit0", folder / f"{kind}.ee", folder / "repository", servers=["mlserver"],
            crossing=kind, rows=rows.astype(np.float32),
        )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[MLServer]:
    with mlserver(folder / "repository") as server:
        yield server


def url(server: MLServer, protocol: str, said: Split) -> str:
    base = server.rest if protocol == "rest" else f"grpc://{server.grpc}"
    return f"{base}/v2/models/{said.model}"


def remote(runner: ee.Runner) -> Handover:
    assert runner.remote is not None
    return runner.remote


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
@pytest.mark.parametrize("side", ["whole", "device"])
def test_a_real_server_goes_on(side: str, protocol: str, folder: Path, server: MLServer) -> None:
    said = ee.load(folder / "device.ee").manifest.split
    assert said is not None
    given = REMOTE | {"url": url(server, protocol, said)} | ({"from": "exit0"} if side == "whole" else {})
    with (
        ee.Runner(folder / "whole.ee", threads=1) as alone,
        ee.Runner(folder / f"{side}.ee", threads=1, remote=given) as runner,
    ):
        remote(runner).check()
        right = [alone.run(x) for x in ROWS]
        for found in ([runner.run(x) for x in ROWS], runner.run_batch(np.concatenate(ROWS))):
            assert remote(runner).last_failure is None
            for answer, whole in zip(found, right, strict=True):
                assert answer.remote is (whole.exit != "exit0")
                assert (answer.exit, answer.path, answer.stopped_by) == (whole.exit, whole.path, whole.stopped_by)
                assert answer.confidence == whole.confidence
                np.testing.assert_allclose(answer.outputs["logits"], whole.outputs["logits"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("kind", "protocol"), [("float16", "grpc"), ("uint8", "grpc"), ("uint8", "rest")])
def test_what_crosses_in_fewer_bytes_is_answered_nearly_alike(
    kind: str, protocol: str, folder: Path, server: MLServer
) -> None:
    bundle = ee.load(folder / f"{kind}.ee")
    assert bundle.manifest.split is not None
    given = REMOTE | {"url": url(server, protocol, bundle.manifest.split)}
    with (
        ee.Runner(folder / "whole.ee", threads=1) as alone,
        ee.Runner(bundle, threads=1, remote=given) as runner,
    ):
        for x in ROWS:
            answer, right = runner.run(x), alone.run(x)
            assert (answer.exit, answer.remote) == (right.exit, right.exit != "exit0")
            np.testing.assert_allclose(answer.outputs["logits"], right.outputs["logits"], rtol=0, atol=0.1)
        assert remote(runner).last_failure is None


def test_float16_has_no_form_in_json(folder: Path, server: MLServer) -> None:
    bundle = ee.load(folder / "float16.ee")
    assert bundle.manifest.split is not None
    given = REMOTE | {"url": url(server, "rest", bundle.manifest.split)}
    with ee.Runner(bundle, threads=1, remote=given) as runner:
        answer = runner.run(ROWS[1])
        assert (answer.exit, answer.stopped_by) == ("exit0", "remote")
        assert "is float16, which has no form in JSON" in str(remote(runner).last_failure)
        assert "use grpcs://" in str(remote(runner).last_failure)


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_a_real_server_of_another_bundle_is_not_asked_to_answer(
    protocol: str, folder: Path, server: MLServer, tmp_path: Path
) -> None:
    said = ee.load(folder / "device.ee").manifest.split
    assert said is not None
    other = chain(0.5, 0.6).save(tmp_path / "other.ee")
    given = REMOTE | {"from": "exit0", "url": url(server, protocol, said)}
    with ee.Runner(other, threads=1, remote=given) as runner:
        with pytest.raises(ee.RemoteError):
            remote(runner).check()
        answer = runner.run(ROWS[1])
        assert (answer.exit, answer.remote) == ("exit1", False)
        assert "does not run the other half of this bundle" in str(remote(runner).last_failure)


def test_a_real_server_is_stopped_and_started_anew(
    folder: Path, server: MLServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eetoolkit_runtime.remote.link._LONGEST_REST_S", 0.0)
    said = ee.load(folder / "device.ee").manifest.split
    assert said is not None
    with ee.Runner(folder / "device.ee", threads=1, remote=REMOTE | {"url": url(server, "rest", said)}) as runner:
        assert runner.run(ROWS[1]).remote
        server.stop()
        for _ in range(3):
            answer = runner.run(ROWS[1])
            assert (answer.exit, answer.stopped_by, answer.remote) == ("exit0", "remote", False)
        server.start(folder / "repository")
        assert runner.run(ROWS[1]).exit == "exit1"

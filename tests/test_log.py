"""The logger `eetoolkit` tells what is opened, and nothing while rows run."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import parser
from plans import chain, row

import eetoolkit as ee
from eetoolkit_runtime.bundle.store import accept_edit
from eetoolkit_runtime.log import LOGGER, log

NETWORK = """<ir_version: 9, opset_import: ["" : 18]>
network (float[N, 4] x) => (float[N, 4] early, float[N, 4] late) {
    early = Sin(x)
    late = Cos(early)
}
"""


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert {record.name for record in caplog.records} <= {LOGGER}
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found


def test_a_bundle_its_runner_and_its_segments_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    path = chain(0.5, 0.5).save(tmp_path / "it.ee")
    digest = msgspec.json.decode((path / "manifest.json").read_bytes())["digest"]
    told(caplog)
    with ee.Runner(path, threads=1) as runner:
        sealed, opened, settings = told(caplog)
        assert sealed == f"{path / 'manifest.json'} has the digest {digest}"
        assert opened == f"opened the bundle {runner.bundle}"
        assert settings.startswith(f"runner of {runner.bundle.manifest.name}: SessionSettings(threads=1, spin='brief'")
        assert settings.endswith("fallback last")
        for x, name in ((row(0.9), "segment0"), (row(0, 0.9), "segment1")):
            runner.run(x)
            (message,) = told(caplog)
            assert message.startswith(f"opened the segment {name} in ")
            assert message.endswith(" ms on CPUExecutionProvider")
            runner.run(x)
            assert told(caplog) == []


def test_an_export_tells_its_stages(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    onnx.save(parser.parse_model(NETWORK), tmp_path / "net.onnx")
    bundle = ee.export(tmp_path / "net.onnx", np.ones((1, 4), np.float32), tmp_path / "it.ee")
    assert "export.py" in {record.filename for record in caplog.records}
    found = [message for message in told(caplog) if not message.startswith(("opened", "runner"))]
    assert found == [
        "captured a graph of 2 nodes, exits early, late",
        "sample rows run through the network: 1",
        "cut the graph into the segments segment0, segment1",
        f"wrote and proved the bundle {bundle}",
    ]


def test_a_strangers_name_is_printable(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    path = chain().save(tmp_path / "it.ee")
    manifest = msgspec.json.decode((path / "manifest.json").read_bytes())
    (path / "manifest.json").write_bytes(msgspec.json.encode(manifest | {"name": "a\nforged line\x1b[31m"}))
    accept_edit(path)
    ee.Runner(path, threads=1).close()
    messages = told(caplog)
    assert any("forged line" in message for message in messages)
    assert all(message.isprintable() for message in messages)


def test_without_a_handler_nothing_is_shown_and_nothing_is_made_of_it(capfd: pytest.CaptureFixture[str]) -> None:
    class Dear:
        def __str__(self) -> str:
            raise AssertionError("it is spelled though nobody listens")

    logging.getLogger(LOGGER).setLevel(logging.WARNING)
    log("info", "%s", Dear())
    logging.getLogger(LOGGER).setLevel(logging.NOTSET)
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger(LOGGER).handlers)
    assert capfd.readouterr() == ("", "")


def test_a_device_that_does_not_log_does_not_import_it(tmp_path: Path) -> None:
    script = """
import sys
import numpy as np
{extra}
from eetoolkit_runtime import Runner
with Runner(sys.argv[1], threads=1) as runner:
    runner.run(np.zeros((1, 4), np.float32))
print("logging" in sys.modules)
"""
    path = chain().save(tmp_path / "it.ee")
    for extra, found in (("", "False"), ("import logging", "True")):
        done = subprocess.run(
            [sys.executable, "-c", script.format(extra=extra), str(path)], capture_output=True, text=True, check=True
        )
        assert (done.stdout.strip(), done.stderr) == (found, "")

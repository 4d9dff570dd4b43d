"""onnxruntime's telemetry: off for the command line, told by `doctor`, and the user's to decide."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import onnxruntime as ort
import pytest

from eetoolkit_runtime.doctor.machine_findings import examine_machine
from eetoolkit_runtime.running import telemetry

CI = ("CI", "GITHUB_ACTIONS", "ORT_RUNNING_UNIT_TESTS")
TELLS = os.name == "posix" and tuple(map(int, ort.__version__.split(".")[:2])) >= (1, 29)


@pytest.mark.parametrize(
    ("environment", "off"),
    [({}, False), ({"ORT_DISABLE_TELEMETRY": "1"}, True), ({"ORT_DISABLE_TELEMETRY": "true"}, True),
     ({"ORT_DISABLE_TELEMETRY": "0"}, False), ({"ORT_DISABLE_TELEMETRY": ""}, False), ({"CI": "true"}, True)],
)  # fmt: skip
def test_the_environment_decides(environment: dict[str, str], off: bool) -> None:
    assert telemetry.tells(environment) is (TELLS and not off)


def test_doctor_tells_and_says_what_to_set(tmp_path: Path) -> None:
    found = {finding.name: finding for finding in examine_machine(tmp_path, {})}
    assert ("telemetry" in found) is TELLS
    if TELLS:
        assert found["telemetry"].fix == "set ORT_DISABLE_TELEMETRY=1 before onnxruntime is imported"
    off = {finding.name for finding in examine_machine(tmp_path, {"ORT_DISABLE_TELEMETRY": "1"})}
    assert "telemetry" not in off


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads where Linux tells them, and looks into ~/.cache")
@pytest.mark.parametrize("given", [None, "0"])
def test_the_command_line_switches_it_off_unless_the_user_has_decided(given: str | None, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in (*CI, telemetry.SWITCH)}
    environment |= {"HOME": str(tmp_path), "OPENBLAS_NUM_THREADS": "1"} | ({telemetry.SWITCH: given} if given else {})
    environment.pop("XDG_CACHE_HOME", None)
    code = "import sys; from eetoolkit.cli import main; main(['doctor', '--json'])"
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert run.returncode == 0, run.stderr
    kept = [path for path in tmp_path.rglob("*") if "onnxruntime" in path.name]
    assert bool(kept) is (TELLS and given == "0")
    assert ('"telemetry"' in run.stdout) is (TELLS and given == "0")


def test_importing_the_library_sets_nothing() -> None:
    environment = {name: value for name, value in os.environ.items() if name != telemetry.SWITCH}
    code = "import os, eetoolkit, eetoolkit_runtime; eetoolkit.Runner; print(os.environ.get('ORT_DISABLE_TELEMETRY'))"
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert run.stdout.strip() == "None"

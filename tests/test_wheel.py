"""What a device installs: the wheel, its size, and what is in it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from eetoolkit import zoo

ROOT = Path(__file__).parent.parent
MOST_BYTES = 950_000  # of which the page of `serve`, built, has some 40,000
ROOMS = {"eetoolkit", "eetoolkit_exporters", "eetoolkit_runtime"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < MOST_BYTES


def test_the_wheel_holds_all_code_but_the_zoos_and_no_weights(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    places = {ROOT: "eetoolkit", ROOT / "exporters": "eetoolkit_exporters", ROOT / "runtime": "eetoolkit_runtime"}
    files = {path.relative_to(base) for base, room in places.items() for path in (base / room).rglob("*.*")}
    systems = {f"eetoolkit/zoo/{name}.py" for name in ({*zoo.names(), "residual"} - {"branchynet"})}
    left_out = {"__pycache__", "checkpoints", "page"}
    assert held == {str(path) for path in files if not left_out & set(path.parts)} - systems
    assert {Path(name).suffix for name in held} <= {".py", ".html", ".css", ".js", ".svg", ".typed", ""}
    assert {name.split("/")[0] for name in held} == ROOMS


def test_the_wheel_asks_for_what_a_device_has_wheels_of(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(next(name for name in archive.namelist() if name.endswith("/METADATA"))).decode()
    needed = [line.removeprefix("Requires-Dist: ") for line in metadata.splitlines() if line.startswith("Requires-D")]
    always = sorted(name.split(">")[0] for name in needed if ";" not in name)
    assert always == ["click", "msgspec", "numpy", "onnxruntime", "rich"]

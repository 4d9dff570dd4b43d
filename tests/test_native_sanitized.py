"""The native runner under sanitizers: cases, damaged plans and files, threads. `make native` runs them, in minutes.

`FUZZ_SECONDS` says how long damaged files are read.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import fuzzing
import native_build
import numpy as np
import pytest
from native_build import ask
from plans import chain, row
from test_native import CONFORMANCE

import eetoolkit as ee

WHY_NOT = native_build.why_not() or (
    "" if "EETOOLKIT_SANITIZE" in os.environ else "set EETOOLKIT_SANITIZE=1 for sanitizers"
)
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
QUICK_TO_BUILD = {"CMAKE_BUILD_TYPE": "Debug", "CMAKE_CXX_FLAGS_DEBUG": "-O0 -g1", "CMAKE_C_FLAGS_DEBUG": "-O0 -g1"}


@pytest.fixture(scope="session")
def addresses() -> Path:
    """Returns the programs with the sanitizers of addresses and of undefined behaviour."""
    return native_build.build("build-asan", EE_SANITIZE="address,undefined", **QUICK_TO_BUILD)


@pytest.fixture(scope="session")
def threads() -> Path:
    """Returns the programs with the sanitizer of threads."""
    return native_build.build("build-tsan", EE_SANITIZE="thread", **QUICK_TO_BUILD)


def test_every_case_is_clean(addresses: Path) -> None:
    done = ask(addresses / "ee-conformance", CONFORMANCE, "--threads", "1")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


def test_reading_damaged_files_is_clean(addresses: Path, tmp_path: Path) -> None:
    whole = [path for path in CONFORMANCE.rglob("*") if path.is_file() and path.name != "case.json"]
    arrays = []
    for number, dtype in enumerate(("float32", "int64", "bool")):
        arrays.append(tmp_path / f"{number}.npy")
        np.save(arrays[-1], np.ones((2, 3), dtype))
    seconds = os.environ.get("FUZZ_SECONDS", "10")
    done = native_build.run(addresses / "ee-fuzz", seconds, "1", *whole, *arrays)
    assert int(done.stdout.split()[0]) > 1000


def damaged_cases(folder: Path, count: int) -> Iterator[Path]:
    """Writes damaged plans that are valid still, with Python's answers, and yields their folders."""
    (folder / "whole").mkdir()
    seeds = fuzzing.runnable(folder / "whole")
    files = [path for path in (folder / "whole").iterdir() if path.is_file()]
    rng = random.Random(1)  # noqa: S311 - damage is no secret
    for number in range(count):
        place, case = folder / "bundles" / str(number), folder / "cases" / str(number)
        place.mkdir(parents=True)
        for path in files:
            os.link(path, place / path.name)
        (place / "manifest.json").write_bytes(fuzzing.in_plan(rng, rng.choice(seeds)))
        try:
            bundle = ee.load(place)
            spec = bundle.manifest.inputs[0]
            shape = [dim if isinstance(dim, int) else 1 for dim in spec.shape]
            draw = np.random.default_rng(number)
            rows = [{spec.name: draw.normal(size=shape).astype(spec.dtype)} for _ in range(3)]
            native_build.write_case(case, bundle, rows, 0.0)
        except ee.EEToolkitError:  # refused, as tests/test_native.py says of the native runner too
            shutil.rmtree(case, ignore_errors=True)
            continue
        yield case


def test_damaged_plans_that_are_valid_still_are_run_cleanly_and_answer_as_in_python(
    addresses: Path, tmp_path: Path
) -> None:
    cases = list(damaged_cases(tmp_path, 150))
    assert len(cases) > 20
    done = ask(addresses / "ee-conformance", tmp_path / "cases", "--threads", "1")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


def test_threads_that_share_a_bundle_are_clean_of_races(threads: Path, tmp_path: Path) -> None:
    folder = chain().save(tmp_path / "b.ee")
    np.save(tmp_path / "x.npy", row(0.1))
    done = ask(threads / "ee-threads", folder, tmp_path / "x.npy", "--threads", "1")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr

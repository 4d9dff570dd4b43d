"""Runs every conformance case, and digits through every system of the zoo, by all runners, here and on emulated ARM64.

`python tests/platforms.py` does all and keeps what was found for the table of README (`make test-arm64`); `--quick`
runs the conformance cases alone, on one processor; `--only node chromium` renews the rows of these alone. The zoo runs
as it is exported and with all segments in int8. Expected is what the normative interpreter says here, every graph in a
session of its own. Where Debian's packages cannot be had it says so loudly and leaves ARM64 out; the same for Node and
Chromium.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import arm64_root
import native_build
import numpy as np
import web_platforms
from debian import UnavailableError
from program_output import output_of

import eetoolkit as ee
from conformance import CASES, HERE, Case, Run, write
from eetoolkit import zoo
from eetoolkit.demo.exporting import Trained, export_system, load_system
from eetoolkit_exporters.capturing.cascade import open_source
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.bundle import load
from eetoolkit_runtime.bundle.golden import read_golden
from eetoolkit_runtime.verify import DEFAULT_TOLERANCE

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "platforms.json"
MACHINES = {0x3E: "x86_64", 0xB7: "aarch64"}
"""By `e_machine` of an ELF header (System V ABI, chapter 4)."""
CPUS = {"cortex-a72": "Raspberry Pi 4", "cortex-a76": "Raspberry Pi 5"}
DIGITS, DIGITS_IN_INT8 = 50, 6
TOLERANCE = 1e-4
NEAR = 1e-3
"""A confidence of int8 nearer to its threshold may be on either side of it; rows with such a one are not asked."""
KINDS = ("python", "native", "node", "chromium")


@dataclass(frozen=True)
class Python:
    """Python's runner somewhere.

    Attributes:
        name: The table's.
        machine: What it must say that it runs on.
        program: Its Python.
        environment: What that needs beside this process's own.
    """

    name: str
    machine: str
    program: Path
    environment: Mapping[str, str]

    def answer(self, cases: Path) -> dict[str, Any]:
        """Returns by what it ran the cases of a folder, and what each found."""
        runner = Path(__file__).with_name("case_runner.py")
        found: dict[str, Any] = json.loads(output_of(self.name, (self.program, runner, cases), self.environment))
        if found["machine"] != self.machine:
            raise SystemExit(f"{self.name}: ran on {found['machine']}")
        return {"by": found["by"], "cases": found["cases"]}


@dataclass(frozen=True)
class Native:
    """The native runner somewhere.

    Attributes:
        name: The table's.
        machine: What it must be compiled for.
        programs: Where it was built.
        library: Its onnxruntime.
        emulated: Makes the command that runs a program of it.
        environment: What that needs beside this process's own.
    """

    name: str
    machine: str
    programs: Path
    library: Path
    emulated: Callable[[Path], tuple[str, ...]]
    environment: Mapping[str, str]

    def answer(self, cases: Path) -> dict[str, Any]:
        """Returns the same; how far outputs differ it does not say, only that it is within a case's tolerance."""
        program, verify = self.programs / "ee-conformance", self.programs / "ee-verify"
        machine = MACHINES[int.from_bytes(program.read_bytes()[18:20], "little")]
        if machine != self.machine:
            raise SystemExit(f"{self.name}: made for {machine}")
        environment = {**self.environment, "EETOOLKIT_ONNXRUNTIME": str(self.library)}
        *lines, _ = output_of(self.name, (*self.emulated(program), cases), environment).splitlines()
        verdicts = dict(line.split(": ", 1) for line in lines)
        found: dict[str, Any] = {}
        for path in sorted(cases.glob("*/case.json")):
            name, case = path.parent.name, json.loads(path.read_bytes())
            wrong = [verdict] if (verdict := verdicts.get(name, "not run")) != "ok" else []
            samples = len(read_golden(load(path.parent / "bundle")))
            if samples:
                report = output_of(
                    self.name, (*self.emulated(verify), path.parent / "bundle"), environment
                ).splitlines()
                wrong += [] if report[-1].startswith("verify passed") else report
            told = {"runs": len(case["runs"]), "ties": 0, "samples": samples, "difference": case["tolerance"]}
            found[name] = {**told, "failures": wrong}
        return {"by": {"onnxruntime": self.library.name.split(".so.")[1]}, "cases": found}


Platform = Python | Native | web_platforms.Node | web_platforms.Chromium


def unpacked_wheel(folder: Path) -> Path:
    """Builds the wheel that a device installs, and returns the folder that holds what is in it."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "wheel")
    return folder / "wheel"


def chosen(only: Sequence[str], cpus: Mapping[str, str], folder: Path) -> tuple[list[Platform], list[str]]:
    """Returns the platforms that are asked for, all where none is, and why some are left out, if they are."""
    found: list[Platform] = []
    reasons: list[str] = []
    if not only or {"python", "native"} & set(only):
        some, why = everywhere(unpacked_wheel(folder), cpus)
        found += some
        reasons += [why] if why else []
    if not only or {"node", "chromium"} & set(only):
        more, why = web_platforms.everywhere()
        found += more
        reasons += [why] if why else []
    return [each for each in found if not only or each.name.split(",")[0].lower() in only], reasons


def everywhere(wheel: Path, cpus: Mapping[str, str]) -> tuple[list[Python | Native], str]:
    """Returns this machine's runners and those of the emulated processors, and why some are left out, if they are."""
    found: list[Python | Native] = [Python("Python, x86-64", "x86_64", Path(sys.executable), {})]
    boards = {cpu: f"ARM64 as in a {board}" for cpu, board in cpus.items()}
    try:
        python, packages = arm64_root.python(), arm64_root.device_packages()
        alone = {"PYTHONPATH": os.pathsep.join([str(wheel), str(packages)]), "PYTHONNOUSERSITE": "1"}
        found += [
            Python(f"Python, {board}", "aarch64", python, {**alone, "QEMU_CPU": cpu}) for cpu, board in boards.items()
        ]
        if why := native_build.why_not():
            return found, why
        root = arm64_root.compiler()
    except UnavailableError as error:
        return found, str(error)
    here, there = native_build.build(), native_build.build("build-arm64", **_for_arm64(root))
    found.append(Native("native, x86-64", "x86_64", here, native_build.LIBRARY, lambda program: (str(program),), {}))
    (library,) = packages.glob("onnxruntime/capi/libonnxruntime.so.*")
    found += [
        Native(f"native, {board}", "aarch64", there, library, arm64_root.emulated, {"QEMU_CPU": cpu})
        for cpu, board in boards.items()
    ]
    return found, ""


def _for_arm64(root: Path) -> dict[str, str]:
    tools = {"C_COMPILER": "gcc", "CXX_COMPILER": "g++", "AR": "ar", "RANLIB": "ranlib", "STRIP": "strip"}
    found = {f"CMAKE_{key}": str(root / "bin" / f"aarch64-linux-gnu-{name}") for key, name in tools.items()}
    return {**found, "CMAKE_SYSTEM_NAME": "Linux", "CMAKE_SYSTEM_PROCESSOR": "aarch64", "CMAKE_SYSROOT": str(root)}


def write_zoo(folder: Path) -> None:
    """Writes cases for every system of the zoo, its first held-out digits: as it is exported, and in int8."""
    for name in zoo.names():
        trained = load_system(zoo.find(name))
        with tempfile.TemporaryDirectory() as temporary:
            bundle, small = export_system(trained, Path(temporary) / f"{name}.ee"), Path(temporary) / "int8.ee"
            rows = rows_of(trained)
            ee.quantize(bundle, rows[DIGITS:], small, segments="all", max_disagreement=0.05, seconds=0.1)
            write_system(folder, trained, bundle, load(small))
        print(f"{name}: exported", file=sys.stderr)


def rows_of(trained: Trained) -> list[dict[str, Array]]:
    """Returns the held-out digits by input."""
    names = open_source(trained.exported, trained.example).inputs
    return [dict(zip(names, row, strict=True)) for row in trained.rows]


def write_system(folder: Path, trained: Trained, bundle: ee.Bundle, small: ee.Bundle) -> None:
    """Writes the cases of a system, of its bundle and of the quantised one."""
    rows, name = rows_of(trained), trained.system.name
    clear, largest = clear_rows(small, rows)
    golden = small.manifest.golden
    stated = DEFAULT_TOLERANCE if golden is None else golden.tolerance
    for which, made, shown, tolerance in (
        ("zoo", bundle, rows[:DIGITS], TOLERANCE),
        ("zoo_int8", small, clear, stated * largest),
    ):
        (folder / which / name).mkdir(parents=True)
        copied = functools.partial(shutil.copytree, made.path)
        write(Case(trained.system.title, copied, [Run(row) for row in shown], tolerance), folder / which / name)


def clear_rows(bundle: ee.Bundle, rows: Iterable[Mapping[str, Array]]) -> tuple[list[Mapping[str, Array]], float]:
    """Returns the first rows whose confidences are not near their thresholds, and the largest output, at least 1."""
    limits = {name: said.threshold for name, said in bundle.exits.items() if not isinstance(said.threshold, str)}
    largest = 1.0
    clear: list[Mapping[str, Array]] = []
    with ee.Runner(bundle, threads=1) as runner:
        for row in rows:
            met = runner.run_all_exits(row)
            if all(abs(each.confidence - limits.get(each.exit, math.inf)) > NEAR for each in met):
                clear.append(row)
                largest = max(largest, *(np.abs(values).max() for each in met for values in each.outputs.values()))
            if len(clear) == DIGITS_IN_INT8:
                break
    return clear, float(largest)


def main() -> int:
    """Runs the cases everywhere; returns whether any platform differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the conformance cases alone, on one processor")
    parser.add_argument("--zoo", type=Path, help="where the zoo's cases are kept; made where it is missing")
    parser.add_argument(
        "--only", nargs="+", default=[], choices=KINDS, help="the platforms to run; what is known of others is kept"
    )
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        cpus = dict(islice(CPUS.items(), 1 if asked.quick else None))
        platforms, left_out = chosen(asked.only, cpus, Path(temporary))
        sets = {"conformance": HERE / CASES}
        if not asked.quick:
            systems = asked.zoo or Path(temporary) / "systems"
            if not systems.exists():
                write_zoo(systems)
            sets |= {which: systems / which for which in ("zoo", "zoo_int8")}
        found: dict[str, dict[str, Any]] = {}
        for platform in platforms:
            found[platform.name] = {name: platform.answer(cases) for name, cases in sets.items()}
            print("\n".join(said(platform.name, found[platform.name])), flush=True)
    if left_out:
        print(f"\n!! ONLY {', '.join(found)}; the rest IS SKIPPED: {'; '.join(left_out)}\n", file=sys.stderr)
    elif not asked.quick:
        known = json.loads(RESULTS.read_text()) if asked.only else {}
        RESULTS.write_text(json.dumps(known | found, indent=1) + "\n")
    missing = bool(asked.only and left_out)
    return int(missing or any(failures(answered) for sets in found.values() for answered in sets.values()))


def failures(answered: Mapping[str, Any]) -> list[str]:
    """Returns what was not as it should be."""
    return [f"{case}: {text}" for case, each in answered["cases"].items() for text in each["failures"]]


def said(name: str, found: Mapping[str, Any]) -> Iterator[str]:
    """Yields what a platform found, in a line for each set of cases."""
    for which, answered in found.items():
        cases = answered["cases"].values()
        runs, ties, golden = (sum(each[key] for each in cases) for key in ("runs", "ties", "samples"))
        furthest = max(each["difference"] for each in cases)
        yield f"{name}: {which}: {runs} rows, {ties} ties, {golden} golden samples, outputs within {furthest:.1e}"
        yield from failures(answered)


if __name__ == "__main__":
    sys.exit(main())

"""Runs every conformance case, and digits through every system of the zoo, on emulated ARM64 and on this machine.

`python tests/platforms.py` does all and keeps what was found for the table of README (`make test-arm64`); `--quick`
runs the conformance cases alone, on one processor. Expected is what the normative interpreter says, every graph in a
session of its own. Where Debian's packages cannot be had it says so loudly and leaves ARM64 out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import arm64_root

from conformance import CASES, HERE, Case, Run, write
from eetoolkit import zoo
from eetoolkit.demo.exporting import Trained, export_system, load_system
from eetoolkit_exporters.capturing.cascade import open_source

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "platforms.json"
CPUS = {"cortex-a72": "Raspberry Pi 4", "cortex-a76": "Raspberry Pi 5"}
DIGITS = 50
TOLERANCE = 1e-4
LONGEST_S = 1800


@dataclass(frozen=True)
class Platform:
    """Where cases are run.

    Attributes:
        name: The table's.
        machine: What it must say that it runs on.
        command: What runs the cases of a folder, which is its last argument.
        environment: What it needs beside this process's own.
    """

    name: str
    machine: str
    command: tuple[str, ...]
    environment: Mapping[str, str]

    def answer(self, cases: Path) -> dict[str, Any]:
        """Returns by what it ran the cases of a folder, and what each found."""
        command, environment = [*self.command, str(cases)], {**os.environ, **self.environment}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LONGEST_S, check=False)
        if not done.stdout:
            raise SystemExit(f"{self.name}: ended with {done.returncode}\n{done.stderr}")
        found: dict[str, Any] = json.loads(done.stdout)
        if found["machine"] != self.machine:
            raise SystemExit(f"{self.name}: ran on {found['machine']}")
        return found


def unpacked_wheel(folder: Path) -> Path:
    """Builds the wheel that a device installs, and returns the folder that holds what is in it."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "wheel")
    return folder / "wheel"


def platforms(wheel: Path, cpus: Mapping[str, str]) -> list[Platform]:
    """Returns this machine's Python and those of the emulated processors.

    Raises:
        UnavailableError: What emulates them cannot be had.
    """
    runner = str(Path(__file__).with_name("case_runner.py"))
    python, packages = arm64_root.python(), arm64_root.device_packages()
    alone = {"PYTHONPATH": os.pathsep.join([str(wheel), str(packages)]), "PYTHONNOUSERSITE": "1"}
    return [
        Platform("Python, x86-64", "x86_64", (sys.executable, runner), {}),
        *(
            Platform(f"Python, ARM64 as in a {board}", "aarch64", (str(python), runner), {**alone, "QEMU_CPU": cpu})
            for cpu, board in cpus.items()
        ),
    ]


def write_zoo(folder: Path) -> None:
    """Writes a case for every system of the zoo, its first held-out digits."""
    for name in zoo.names():
        trained = load_system(zoo.find(name))
        names = open_source(trained.exported, trained.example).inputs
        runs = [Run(dict(zip(names, row, strict=True))) for row in trained.rows[:DIGITS]]

        def build(path: Path, trained: Trained = trained) -> Path:
            return export_system(trained, path).path

        (folder / name).mkdir(parents=True)
        write(Case(trained.system.title, build, runs, TOLERANCE), folder / name)
        print(f"{name}: exported", file=sys.stderr)


def main() -> int:
    """Runs the cases everywhere; returns whether any platform differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the conformance cases alone, on one processor")
    parser.add_argument("--zoo", type=Path, help="where the zoo's cases are kept; made where it is missing")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        try:
            everywhere = platforms(
                unpacked_wheel(Path(temporary)), dict(islice(CPUS.items(), 1 if asked.quick else None))
            )
        except arm64_root.UnavailableError as error:
            print(f"\n!! ARM64 IS SKIPPED: its packages cannot be had: {error}\n", file=sys.stderr)
            return 0
        sets = {"conformance": HERE / CASES}
        if not asked.quick:
            sets["zoo"] = asked.zoo or Path(temporary) / "zoo"
            if not sets["zoo"].exists():
                write_zoo(sets["zoo"])
        found: dict[str, dict[str, Any]] = {}
        for platform in everywhere:
            found[platform.name] = {name: platform.answer(cases) for name, cases in sets.items()}
            print("\n".join(said(platform.name, found[platform.name])), flush=True)
    if not asked.quick:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    return int(any(failures(answered) for sets in found.values() for answered in sets.values()))


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

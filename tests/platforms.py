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
        command: What runs the cases of a folder, which is its last argument.
        environment: What it needs beside this process's own.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]

    def answer(self, cases: Path) -> dict[str, Any]:
        """Returns what was found, by case."""
        environment = {**os.environ, **self.environment}
        done = subprocess.run(
            [*self.command, str(cases)], env=environment, capture_output=True, text=True, timeout=LONGEST_S, check=False
        )
        if not done.stdout:
            raise SystemExit(f"{self.name}: ended with {done.returncode}\n{done.stderr}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found


def unpacked_wheel(folder: Path) -> Path:
    """Builds the wheel that a device installs, and returns the folder that holds what is in it."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "wheel")
    return folder / "wheel"


def platforms(wheel: Path, cpus: Mapping[str, str]) -> Iterator[Platform]:
    """Yields this machine's Python, and those of the emulated processors, as far as they can be had."""
    runner = str(Path(__file__).with_name("case_runner.py"))
    yield Platform("Python x86-64", (sys.executable, runner), {})
    try:
        python, packages = arm64_root.python(), arm64_root.device_packages()
    except arm64_root.UnavailableError as error:
        print(f"\n!! ARM64 IS SKIPPED: its packages cannot be had: {error}\n", file=sys.stderr)
        return
    alone = {"PYTHONPATH": os.pathsep.join([str(wheel), str(packages)]), "PYTHONNOUSERSITE": "1"}
    for cpu, board in cpus.items():
        yield Platform(f"Python arm64, {cpu} ({board})", (str(python), runner), {**alone, "QEMU_CPU": cpu})


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
    """Runs the cases everywhere; returns how many platforms differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the conformance cases alone, on one processor")
    quick = parser.parse_args().quick
    cpus = dict(list(CPUS.items())[:1]) if quick else CPUS
    with tempfile.TemporaryDirectory() as temporary:
        sets = {"conformance": HERE / CASES}
        if not quick:
            sets["zoo"] = Path(temporary) / "zoo"
            write_zoo(sets["zoo"])
        found = {
            platform.name: {name: platform.answer(cases) for name, cases in sets.items()}
            for platform in platforms(unpacked_wheel(Path(temporary)), cpus)
        }
    failures = [
        f"{platform}: {case}: {text}"
        for platform, answered in found.items()
        for cases in answered.values()
        for case, each in cases.items()
        for text in each["failures"]
    ]
    print("\n".join(failures))
    for platform, answered in found.items():
        print(f"{platform}: " + ", ".join(f"{name} {said(cases)}" for name, cases in answered.items()))
    if not quick:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    return len(failures)


def said(cases: Mapping[str, Any]) -> str:
    """Returns in a few words what a set of cases found."""
    runs, golden = (sum(each[key] for each in cases.values()) for key in ("runs", "samples"))
    furthest = max(each["difference"] for each in cases.values())
    return f"{len(cases)} bundles, {runs} rows and {golden} golden samples, outputs within {furthest:.1e}"


if __name__ == "__main__":
    sys.exit(1 if main() else 0)

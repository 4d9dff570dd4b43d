"""What the tests of `serve` share: a bundle, a page and a package of npm that are small, and a profile of a phone."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec
import pytest
from plans import chain, recorded, row

import eetoolkit as ee
from eetoolkit.serve import onnxruntime_web, site
from eetoolkit.serve.onnxruntime_web import Package
from eetoolkit_runtime.profiling.profile import digests
from eetoolkit_runtime.running.runner import Runner

DIST = {name: name.encode() * 100 for name in onnxruntime_web.PACKAGE.files}
PAGE = {"index.html": "<!doctype html><title>tests</title>" + " " * 2000, "page.js": "let a", "icon.svg": "<svg/>"}


def bundle(folder: Path) -> Path:
    """Writes a bundle of three exits with a golden sample, its names as `ee.export` gives them; returns its path."""
    draft = chain(weights=True)
    with Runner(draft.save(folder / "first.ee"), threads=1) as runner:
        draft.samples = [recorded(runner, row(0.9, 0.1))]
    return draft.save(folder / "chain.ee")


def archive(folder: Path, files: Mapping[str, bytes] = DIST) -> tuple[Path, Package]:
    """Writes a `.tgz` as npm packs it; returns its path and what it is to be."""
    target = folder / "onnxruntime-web-0.0.1.tgz"
    with tarfile.open(target, "w:gz") as packed:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(target.read_bytes()).digest()).decode()
    digested = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return target, Package("onnxruntime-web", "0.0.1", integrity, digested)


def static(folder: Path) -> Path:
    """Writes a page; returns its folder."""
    target = folder / "static"
    target.mkdir()
    for name, text in PAGE.items():
        (target / name).write_text(text, encoding="utf-8")
    return target


def lend(patch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Has `serve` take a small page, and a small package, of which it returns the `.tgz`."""
    packed, package = archive(folder)
    patch.setattr(onnxruntime_web, "PACKAGE", package)
    patch.setattr(site, "STATIC", static(folder))
    return packed


def profile(opened: ee.Bundle, **changes: Any) -> bytes:
    """Returns a profile of a bundle as a phone's browser would send it."""
    took = {"runs": 9, "mean_ms": 1.0, "p50_ms": 1.0, "p90_ms": 1.1, "p99_ms": 1.2}
    segments = {
        name: {"exit": None if each.exit is None else each.exit.name, "latency": took}
        for name, each in opened.manifest.segments.items()
    }
    found: dict[str, Any] = {
        "version": 6,
        "bundle": opened.manifest.name,
        "files": digests(opened.manifest),
        "measured": "2026-01-01T00:00:00Z",
        "machine": {"processor": "Pixel 8", "cores": 9},
        "backend": "onnxruntime-web 1.30.0, wasm",
        "providers": ["wasm"],
        "threads": 4,
        "segments": segments,
        "exits": {name: {"latency": took} for name in opened.exits},
    }
    return msgspec.json.encode(found | changes)


ROOT = Path(__file__).parents[1]
ONNXRUNTIME = ROOT / "runtime/web/node_modules/onnxruntime-web/dist"
"""The real package, where `npm ci` has fetched it."""


@dataclass(frozen=True)
class Server:
    """An `eetoolkit serve` in a process of its own, with its real page and the real onnxruntime-web.

    Attributes:
        folder: Its working directory.
        address: Where its page is.
        fingerprint: Of the certificate that it made; None without https.
        lines: What it prints, an object a line.
    """

    folder: Path
    address: str
    fingerprint: str | None
    lines: IO[str]

    def event(self, kind: str) -> dict[str, Any]:
        """Waits for an event and returns it, the others before it forgotten."""
        for line in self.lines:
            if (found := json.loads(line))["event"] == kind:
                return dict(found)
        raise AssertionError(f"the server has ended without {kind}")


@contextmanager
def started(folder: Path, *arguments: str) -> Iterator[Server]:
    """Gives a server of the bundles of a folder that `arguments` name, and ends it."""
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "runtime", ROOT / "exporters")))
    settings = {**os.environ, "PYTHONPATH": paths, "EETOOLKIT_CACHE": str(folder / "cache"), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "eetoolkit", "serve", *arguments, "--json", "--onnxruntime-web", str(ONNXRUNTIME)]
    with (folder / "stderr.txt").open("w+") as errors:
        process = subprocess.Popen(command, cwd=folder, env=settings, text=True, stdout=subprocess.PIPE, stderr=errors)
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            assert first, (folder / "stderr.txt").read_text()
            told = json.loads(first)
            yield Server(folder, told["address"], told["fingerprint"], process.stdout)
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
        assert (folder / "stderr.txt").read_text() == ""


if __name__ == "__main__":  # `serve` in a process of its own
    from eetoolkit.cli import main

    with pytest.MonkeyPatch.context() as own:
        lend(own, Path(sys.argv[1]))
        main(sys.argv[2:])

"""Node and Chromium as platforms that answer cases, by the programs of `runtime/web/programs`."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import browser
import web_build
from program_output import output_of

ORT = web_build.MODULES / "onnxruntime-web" / "dist"
_HEADERS = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm", ".html": "text/html"}
_ANSWER = """async (names) => {
  const ort = await import("/ort/ort.wasm.min.mjs");
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = "/ort/";
  const { answerCases } = await import("/build/conformance.browser.js");
  const read = async (path) => {
    const answer = await fetch("/cases/" + path);
    if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
    return new Uint8Array(await answer.arrayBuffer());
  };
  const cases = await answerCases(read, names, ort);
  return JSON.stringify({ isolated: crossOriginIsolated, ort: ort.env.versions.web, cases });
}"""


@dataclass(frozen=True)
class Node:
    """The runner of `runtime/web` on onnxruntime-node."""

    name: str = "Node, x86-64"
    machine: str = "x86_64"

    def answer(self, cases: Path) -> dict[str, Any]:
        """Returns by what it ran the cases of a folder, and what each found."""
        program = web_build.build() / "conformance.node.mjs"
        found = json.loads(output_of(self.name, ("node", program, cases)))
        if found["machine"] != self.machine:
            raise SystemExit(f"{self.name}: ran on {found['machine']}")
        return {"by": found["by"], "cases": found["cases"]}


@dataclass(frozen=True)
class Chromium:
    """The same on onnxruntime-web, in a page, one thread."""

    name: str = "Chromium, x86-64"

    def answer(self, cases: Path) -> dict[str, Any]:
        """Returns by what it ran the cases of a folder, and what each found."""
        names = sorted(path.parent.name for path in cases.glob("*/case.json"))
        folders = {"cases": cases, "build": web_build.build(), "ort": ORT}
        with (
            served(folders) as address,
            browser.started() as program,
            browser.opened(program, address) as tab,
        ):
            found = json.loads(tab.page.evaluate(_ANSWER, names))
            if not found["isolated"]:
                raise SystemExit(f"{self.name}: the page is not isolated; it complains: {tab.complaints}")
            by = {"Chromium": program.version.partition(".")[0], "onnxruntime-web": found["ort"]}
        return {"by": by, "cases": found["cases"]}


def everywhere() -> tuple[list[Node | Chromium], str]:
    """Returns what can answer here, and why some are left out, if they are."""
    if reason := web_build.why_not():
        return [], reason
    if reason := browser.why_not():
        return [Node()], reason
    return [Node(), Chromium()], ""


@contextlib.contextmanager
def served(folders: Mapping[str, Path]) -> Iterator[str]:
    """Serves folders by their names, beside an empty page, to this machine alone; gives the page's address."""
    handler = functools.partial(_Files, folders)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


class _Files(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, folders: Mapping[str, Path], *arguments: Any) -> None:
        self.folders = folders
        super().__init__(*arguments)

    def do_GET(self) -> None:
        held = self._held()
        self.send_response(404 if held is None else 200)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        suffix = ".html" if self.path == "/" else Path(self.path).suffix
        self.send_header("Content-Type", _TYPES.get(suffix, "application/octet-stream"))
        self.send_header("Content-Length", str(len(held or b"")))
        self.end_headers()
        self.wfile.write(held or b"")

    def _held(self) -> bytes | None:
        if self.path == "/":
            return b'<!doctype html><html lang="en"><title>cases</title><link rel="icon" href="data:,">'
        _, name, *rest = self.path.split("/")
        path = self.folders.get(name, Path("/nowhere")).joinpath(*rest)
        return path.read_bytes() if ".." not in rest and path.is_file() else None

    def log_message(self, *_: object) -> None:
        """Says nothing."""

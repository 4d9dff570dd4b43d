"""A page of headless Chromium that measures: served from this machine, isolated, so that its clock is fine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

WEB = Path(__file__).parents[1] / "runtime" / "web"
CHROMIUM = Path("/usr/bin/chromium")
"""Debian's; where it is not, playwright's own."""
_PAGE = b'<!doctype html><title>benchmark</title><script type="module" src="chain.browser.js"></script>'
_DAY_MS = 24 * 3600 * 1000


class _Handler(SimpleHTTPRequestHandler):
    """Serves a folder, the program and onnxruntime-web, isolated from other origins."""

    extensions_map: ClassVar = {"": "application/octet-stream", ".js": "text/javascript", ".mjs": "text/javascript",
                                ".wasm": "application/wasm", ".json": "application/json"}  # fmt: skip

    def translate_path(self, path: str) -> str:
        """As its class, but for what is not in the folder."""
        if path.startswith("/ort/"):
            return str(WEB / "node_modules" / "onnxruntime-web" / "dist" / Path(path).name)
        if path == "/chain.browser.js":
            return str(WEB / "build" / "chain.browser.js")
        return super().translate_path(path)

    def do_GET(self) -> None:
        """Answers with the page itself or a file."""
        if self.path != "/":
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(_PAGE)))
        self.end_headers()
        self.wfile.write(_PAGE)
        return None

    def end_headers(self) -> None:
        """Adds what isolates the page."""
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Is silent."""


class Page:
    """What opens a page over a folder, each time a new one.

    Args:
        browser: Of playwright.
        address: Where the folder is served.
    """

    def __init__(self, browser: Any, address: str) -> None:
        self._browser = browser
        self._address = address

    def measure(self, _folder: Path, seed: int, seconds: float) -> dict[str, Any]:
        """Returns what a new page measured."""
        page = self._browser.new_page()
        page.set_default_timeout(_DAY_MS)
        page.goto(self._address)
        page.wait_for_function("globalThis.measured !== undefined")
        found: dict[str, Any] = page.evaluate("([seed, seconds]) => measured(seed, seconds)", [seed, seconds])
        page.close()
        if not found["isolated"]:
            raise RuntimeError("the page is not isolated, so its clock is coarse")
        return found

    @staticmethod
    @contextmanager
    def over(folder: Path) -> Iterator[Page]:
        """Serves a folder to a browser of its own."""
        from playwright.sync_api import sync_playwright

        server = ThreadingHTTPServer(("localhost", 0), partial(_Handler, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        own = str(CHROMIUM) if CHROMIUM.exists() else None
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=own, args=["--no-sandbox"])
                yield Page(browser, f"http://localhost:{server.server_port}/")
                browser.close()
        finally:
            server.shutdown()
            server.server_close()

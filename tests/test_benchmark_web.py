"""The benchmark of the web runner: what it makes of measured times, and the page that it serves."""

from __future__ import annotations

import threading
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.request import urlopen

import pytest

from benchmarks import web
from benchmarks.cases.case import Case
from benchmarks.web_page import Handler


def _found(full_ms: float) -> dict[str, Any]:
    took = {web.FULL: full_ms, web.BUNDLE: 0.5, web.BY_HAND: 1.05, web.SAME: 1.0, web.BARE: 0.8, web.LAST: 2.0}
    times = [[[ms] * 4 for ms in took.values()] for _ in range(3)]
    return {"names": list(took), "times": times, "versions": {"common": "1.30.0"}}


@pytest.mark.parametrize(("full_ms", "met"), [(1.1, True), (1.2, False)])
def test_a_full_path_is_held_against_the_session_with_the_same_outputs(full_ms: float, met: bool) -> None:
    case = cast("Case", SimpleNamespace(title="some network"))
    row = web.row_of(case, "Node", [_found(full_ms), _found(full_ms)])
    assert row["met"] is met
    assert row["ratios"]["full path / same outputs"] == pytest.approx((full_ms, full_ms, full_ms))
    assert row["ratios"]["call / last exit"][0] == pytest.approx(0.25)
    assert web.row_of(case, "Chromium", [_found(full_ms)])["met"] is None
    cells = [spell(row) for _, spell in web.SECTION.columns]
    assert f"{full_ms:.3f} ({full_ms:.3f} to {full_ms:.3f})" in cells


def test_the_page_is_isolated_and_serves_the_folder(tmp_path: Path) -> None:
    (tmp_path / "web.json").write_text("{}")
    server = ThreadingHTTPServer(("localhost", 0), partial(Handler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        for path, text in (("", b"chain.browser.js"), ("web.json", b"{}")):
            with urlopen(f"http://localhost:{server.server_port}/{path}") as answer:
                assert text in answer.read()
                assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
                assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    finally:
        server.shutdown()
        server.server_close()

"""The package of `runtime/web`: what is committed is what building gives, and packages are named by their hash."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import web_build
import web_platforms

FOLDER = web_build.FOLDER
needs_node = pytest.mark.skipif(bool(web_build.why_not()), reason=web_build.why_not())


@needs_node
def test_the_page_that_is_committed_is_what_building_gives() -> None:
    before = {path.name: path.read_bytes() for path in web_build.STATIC.glob("*")}
    if not before:
        pytest.skip("there is no page yet")
    web_build.build()
    after = {path.name: path.read_bytes() for path in web_build.STATIC.glob("*")}
    assert after == before, "commit what `make web` has built in eetoolkit/serve/static"
    asked = ["git", "status", "--porcelain", "--", str(web_build.STATIC)]
    known = subprocess.run(asked, cwd=web_build.ROOT, capture_output=True, text=True, check=False)
    assert known.stdout == "", "commit what `make web` has built in eetoolkit/serve/static"


@needs_node
def test_the_programs_are_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    web_build.build()
    monkeypatch.setattr(web_build, "run", lambda *command: pytest.fail(f"ran {command}"))
    built = web_build.build()
    assert (built / "conformance.node.mjs").is_file()
    assert (built / "conformance.browser.js").is_file()


def test_the_lock_file_says_what_and_not_from_where() -> None:
    packages = json.loads((FOLDER / "package-lock.json").read_text())["packages"]
    fetched = {name: told for name, told in packages.items() if name and not told.get("link")}
    assert fetched
    assert all(told["integrity"].startswith("sha512-") for told in fetched.values())
    assert not any("resolved" in told for told in fetched.values())


def test_the_cases_server_gives_its_folders_and_nothing_else(tmp_path: Path) -> None:
    from urllib.error import HTTPError
    from urllib.request import urlopen

    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.mjs").write_text("here")
    (tmp_path / "out").write_text("secret")
    with web_platforms.served({"in": tmp_path / "in"}) as address:
        with urlopen(f"{address}in/a.mjs") as answer:  # noqa: S310 - our own
            assert answer.read() == b"here"
            assert answer.headers["Content-Type"] == "text/javascript"
            assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        for path in ("in/../out", "out", "other/a.mjs"):
            with pytest.raises(HTTPError) as refused:
                urlopen(address + path)  # noqa: S310 - our own
            refused.value.close()
            assert refused.value.code == 404

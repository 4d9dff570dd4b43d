"""What the server answers: its own files to who knows the address, and nothing to others."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import DIST, PAGE, archive, bundle, profile, static

import eetoolkit as ee
from eetoolkit_runtime.profiling.profile import Profile

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from starlette.testclient import TestClient

from eetoolkit.serve.app import Connected, Event, Refused, Serving, make_app
from eetoolkit.serve.headers import HEADERS
from eetoolkit.serve.onnxruntime_web import assets
from eetoolkit.serve.profiles import LIMIT_BYTES, Saved
from eetoolkit.serve.site import Shelf, site_of

TOKEN = "an-address-of-22-signs"  # noqa: S105 - of these tests
ORT = "ort/ort-wasm-simd-threaded.wasm"


@dataclass
class Served:
    """A bundle that is served to a client in this process."""

    folder: Path
    place: Path
    app: Any
    told: list[Event] = field(default_factory=list)

    def get(self, path: str, **headers: str) -> Any:
        return self.client().get(f"/{TOKEN}/{path}", headers=headers)

    def post(self, content: bytes, number: int = 0, **headers: str) -> Any:
        return self.client().post(f"/{TOKEN}/profiles/{number}", content=content, headers=headers)

    def client(self, host: str = "127.0.0.1:8000") -> TestClient:
        return TestClient(self.app, base_url=f"http://{host}", follow_redirects=False)

    @property
    def profiles(self) -> Path:
        return self.folder / "profiles"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    bundle(folder)
    packed, package = archive(folder)
    assets(packed, package=package, cache=folder / "cache")
    static(folder)
    return folder


@pytest.fixture
def served(made: Path, tmp_path: Path) -> Iterator[Served]:
    place = shutil.copytree(made / "chain.ee", tmp_path / "chain.ee")
    _, package = archive(made)
    files = assets(package=package, cache=made / "cache")
    site = site_of([Shelf(place)], files, "localhost", static=made / "static")
    told: list[Event] = []
    serving = Serving(TOKEN, {"127.0.0.1", "localhost", "box.local"}, tmp_path / "profiles", told.append)
    yield Served(tmp_path, place, make_app(site, serving), told)


# Files


def test_the_page_onnxruntimes_files_and_the_bundles_are_there(served: Served) -> None:
    assert served.get("").text == served.get("index.html").text == PAGE["index.html"]
    assert served.get("page.js").text == PAGE["page.js"]
    for name, content in DIST.items():
        assert served.get(f"ort/{name}").content == content
    for path in served.place.iterdir():
        assert served.get(f"bundles/0/{path.name}").content == path.read_bytes()


def test_the_description_says_what_is_served_and_how(served: Served) -> None:
    assert served.get("serve.json").json() == {
        "version": 1,
        "eetoolkit": ee.__version__,
        "onnxruntime_web": "1.30.0",
        "upload": True,
        "mode": "localhost",
        "bundles": [
            {
                "name": "drafted",
                "path": "bundles/0/",
                "command": f"eetoolkit tune {served.place} --data YOUR.npz --profile profiles/DEVICE.json "
                "--max-accuracy-drop 0.01 --apply",
            }
        ],
    }


def test_the_address_without_its_last_slash_leads_to_the_one_with_it(served: Served) -> None:
    found = served.client().get(f"/{TOKEN}")
    assert (found.status_code, found.headers["location"]) == (308, f"/{TOKEN}/")


TYPES = {
    "": "text/html; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "serve.json": "application/json",
    ORT: "application/wasm",
    "ort/ort.wasm.min.mjs": "text/javascript; charset=utf-8",
    "bundles/0/manifest.json": "application/json",
}


@pytest.mark.parametrize("path", TYPES)
def test_a_file_has_its_type(served: Served, path: str) -> None:
    assert served.get(path).headers["content-type"] == TYPES[path]


OUTSIDE = (
    "bundles/0/..%2f..%2fchain.ee/manifest.json",
    "bundles/0/%2e%2e/0/manifest.json",
    "..%2f" * 8 + "etc/passwd",
    "bundles/0/..%5c..%5cmanifest.json",
    "bundles/0//manifest.json",
    "bundles//0/manifest.json",
    "/etc/passwd",
    "bundles/0/secret.txt",
    "bundles/0/manifest.json%00.txt",
    "bundles/0/",
    "bundles/1/manifest.json",
    "bundles/-1/manifest.json",
    "bundles/00/manifest.json",
    "bundles/\u0660/manifest.json",
    "bundles/0/link.json",
)


def asked(app: Any, path: str, method: str = "GET", host: bytes = b"localhost") -> tuple[int, dict[str, str]]:
    """Returns status and headers of a request whose path no client has cleaned."""
    from urllib.parse import unquote

    sent: list[dict[str, Any]] = []

    messages = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not messages:
            await asyncio.Event().wait()  # until the answer is there
        return messages.pop()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": unquote(path), "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": [(b"host", host)], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000),
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_path_leads_to_another_file(served: Served, path: str) -> None:
    (served.place / "secret.txt").write_text("not of the bundle")
    (served.place / "link.json").symlink_to(served.place / "manifest.json")
    assert asked(served.app, f"/{TOKEN}/{path}")[0] == 404
    assert asked(served.app, f"/{TOKEN}/bundles/0/manifest.json")[0] == 200


# Who may ask


@pytest.mark.parametrize(
    "path", ["/", "", f"/{TOKEN[:-1]}/", f"/{TOKEN}x/", "/é/", f"//{TOKEN}/", f"/{TOKEN.upper()}/"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_who_does_not_know_the_secret_learns_nothing(served: Served, path: str, method: str) -> None:
    status, headers = asked(served.app, path, method)
    assert (status, headers["content-length"]) == (404, "9")
    assert "allow" not in headers
    assert served.told == []


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.nip.io", "", "[::1]:8000"]
)
def test_a_foreign_host_is_refused(served: Served, host: str) -> None:
    assert asked(served.app, f"/{TOKEN}/", host=host.encode())[0] == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "box.local:1", "127.0.0.1:65535"])
def test_a_host_that_is_served_is_answered_at_any_port(served: Served, host: str) -> None:
    assert asked(served.app, f"/{TOKEN}/", host=host.encode())[0] == 200


def test_a_foreign_host_is_told_once_and_only_of_who_knows_the_secret(served: Served) -> None:
    asked(served.app, "/guess/", host=b"evil.example")
    for _ in range(2):
        asked(served.app, f"/{TOKEN}/", host=b"my-vpn:8443")
    assert served.told == [Refused("my-vpn")]


def test_who_opens_the_page_is_told_once(served: Served) -> None:
    client = served.client()
    for path in ("serve.json", "", "index.html"):
        client.get(f"/{TOKEN}/{path}")
    assert served.told == [Connected("testclient")]


def test_other_methods_are_refused(served: Served) -> None:
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "POST"):
        assert asked(served.app, f"/{TOKEN}/serve.json", method)[0] == 405
    assert asked(served.app, f"/{TOKEN}/serve.json", "HEAD")[0] == 200
    assert asked(served.app, f"/{TOKEN}/profiles/0", "GET")[0] == 404


@pytest.mark.parametrize(
    ("path", "method", "host", "status"),
    [
        (f"/{TOKEN}/", "GET", b"localhost", 200),
        (f"/{TOKEN}", "GET", b"localhost", 308),
        (f"/{TOKEN}/{ORT}", "GET", b"localhost", 200),
        (f"/{TOKEN}/nothing", "GET", b"localhost", 404),
        (f"/{TOKEN}/serve.json", "PUT", b"localhost", 405),
        (f"/{TOKEN}/profiles/0", "POST", b"localhost", 400),
        ("/guess/", "GET", b"localhost", 404),
        (f"/{TOKEN}/", "GET", b"evil.example", 421),
    ],
)
def test_every_answer_has_the_headers(served: Served, path: str, method: str, host: bytes, status: int) -> None:
    found, headers = asked(served.app, path, method, host)
    assert found == status
    assert HEADERS.items() <= headers.items()


def test_a_mistake_of_ours_has_the_headers_too(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("eetoolkit.serve.site.Site.find", fail)
    found = TestClient(served.app, base_url="http://localhost", raise_server_exceptions=False).get(f"/{TOKEN}/")
    assert (found.status_code, found.text) == (500, "Internal Server Error")
    assert HEADERS.items() <= dict(found.headers).items()


def test_the_policy_lets_the_page_load_and_send_nothing_elsewhere() -> None:
    policy = dict(each.split(" ", 1) for each in HEADERS["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert not any("http" in sources or "*" in sources or "unsafe-inline" in sources for sources in policy.values())
    isolating = ("cross-origin-opener-policy", "cross-origin-embedder-policy")
    assert [HEADERS[name] for name in isolating] == ["same-origin", "require-corp"]


# Compressed and cached


def test_what_is_compressed_is_the_same(served: Served) -> None:
    client = served.client()
    for path in ("", ORT):
        plain = client.get(f"/{TOKEN}/{path}", headers={"accept-encoding": "identity"})
        packed = client.get(f"/{TOKEN}/{path}", headers={"accept-encoding": "br, gzip;q=0.5"})
        assert packed.content == plain.content
        assert packed.headers["content-encoding"] == "gzip"
        assert "content-encoding" not in plain.headers
        assert int(packed.headers["content-length"]) < int(plain.headers["content-length"])
        assert packed.headers["etag"] != plain.headers["etag"]
        assert packed.headers["vary"] == plain.headers["vary"] == "accept-encoding"


@pytest.mark.parametrize("said", ["identity", "", "br", "gzip;q=0", "gzip; q=0.0, br", "x-gzip"])
def test_who_takes_no_gzip_gets_none(served: Served, said: str) -> None:
    assert "content-encoding" not in served.get(ORT, **{"accept-encoding": said}).headers


@pytest.mark.parametrize("path", ["", ORT, "bundles/0/manifest.json", "serve.json"])
def test_what_a_browser_has_is_not_sent_again(served: Served, path: str) -> None:
    tag = served.get(path).headers["etag"]
    again = served.get(path, **{"if-none-match": f'"other", {tag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert served.get(path, **{"if-none-match": '"other"'}).status_code == 200


def test_only_names_that_hold_their_hash_are_kept_without_asking(served: Served) -> None:
    kept = {path.name: served.get(f"bundles/0/{path.name}").headers["cache-control"] for path in served.place.iterdir()}
    assert kept.pop("manifest.json") == "no-cache"
    for name, control in kept.items():
        hashed = hashlib.sha256((served.place / name).read_bytes()).hexdigest()[:8] in name
        assert ("immutable" in control) == hashed, name
    assert len({*kept.values()}) == 1


# A bundle that changes meanwhile


def test_a_bundle_that_is_tuned_is_served_as_it_is_then(served: Served) -> None:
    from plans import edit

    before = served.get("bundles/0/manifest.json")
    edit(served.place, name="renamed")
    after = served.get("bundles/0/manifest.json")
    assert after.content == (served.place / "manifest.json").read_bytes() != before.content
    assert served.get("serve.json").json()["bundles"][0]["name"] == "renamed"


def test_two_bundles_of_one_name_are_told_apart(served: Served, made: Path) -> None:
    other = shutil.copytree(served.place, served.folder / "other.ee")
    site = site_of([Shelf(served.place), Shelf(other)], {}, "localhost", static=made / "static")
    found = site.find("serve.json")
    assert found is not None
    assert isinstance(found.content, bytes)
    names = [each["name"] for each in json.loads(found.content)["bundles"]]
    name = ee.load(other).manifest.name
    assert names == [f"{name} ({served.place})", f"{name} ({other})"]


def test_a_bundle_that_is_damaged_meanwhile_is_said_to_be(served: Served) -> None:
    (served.place / "manifest.json").write_text("{")
    found = served.get("bundles/0/manifest.json")
    assert found.status_code == 409
    assert found.json()["error"].startswith(f"{served.place / 'manifest.json'}")


def test_a_file_that_is_gone_is_said_to_be(served: Served) -> None:
    name = next(path.name for path in served.place.iterdir() if path.suffix == ".onnx")
    (served.place / name).unlink()
    found = served.get(f"bundles/0/{name}")
    assert (found.status_code, found.json()) == (
        409,
        {"error": f"{name} is gone on the computer; open the page again"},
    )


# Profiles


def test_a_profile_is_kept_and_the_next_command_said(served: Served) -> None:
    sent = profile(ee.load(served.place))
    found = served.post(sent)
    path = served.profiles / "pixel-8.json"
    command = f"eetoolkit tune {served.place} --data YOUR.npz --profile {path} --max-accuracy-drop 0.01 --apply"
    assert (found.status_code, found.json()) == (201, {"saved": str(path), "next": command})
    assert served.told == [Saved("drafted", str(path), command)]
    assert Profile.read(path).machine.processor == "Pixel 8"


def test_tune_takes_the_profile_that_a_phone_has_sent(served: Served) -> None:
    opened = ee.load(served.place)
    served.post(profile(opened))
    rows = np.random.default_rng(0).uniform(0, 1, (60, 4)).astype(np.float32)
    report = ee.tune(opened, rows, rows.argmax(axis=1), profile=served.profiles / "pixel-8.json", force=True)
    assert report.unit == "ms"


REFUSED: dict[str, tuple[Callable[[ee.Bundle], bytes], int, str]] = {
    "nothing": (lambda _: b"", 400, "is not a profile: "),
    "not JSON": (lambda _: b"<html>", 400, "is not a profile: JSON is malformed"),
    "not text": (lambda _: b'{"version": 6, "machine": "\xff"}', 400, "is not a profile: "),
    "deep": (lambda _: b'{"machine":' + b"[" * 100_000, 400, "is not a profile: "),
    "another version": (lambda opened: profile(opened, version=5), 400, "profile version 5, this eetoolkit reads 6"),
    "an unknown key": (lambda opened: profile(opened, more=1), 400, "unknown field `more`"),
    "no segments": (lambda opened: profile(opened, segments={}), 400, "do not name the same exits"),
    "another bundle": (lambda opened: profile(opened, files={"a.onnx": "0" * 64}), 409, "is of another bundle"),
    "too large": (lambda opened: profile(opened) + b" " * LIMIT_BYTES, 413, "over 1 MiB were sent"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_profile_of_the_bundle_is_refused_in_a_line(served: Served, what: str) -> None:
    make, status, why = REFUSED[what]
    found = served.post(make(ee.load(served.place)))
    assert found.status_code == status
    assert why in found.json()["error"]
    assert "\n" not in found.json()["error"]
    assert not served.profiles.exists()
    assert served.told == []


def test_a_body_without_a_length_is_bounded_and_not_read_on(served: Served) -> None:
    read = 0

    def pieces() -> Iterator[bytes]:
        nonlocal read
        for _ in range(1000):
            read += 1 << 16
            yield b" " * (1 << 16)

    async def upload() -> int:
        sent: list[Any] = []
        source = pieces()

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": next(source), "more_body": True}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
            "path": f"/{TOKEN}/profiles/0", "raw_path": b"", "query_string": b"", "root_path": "",
            "headers": [(b"host", b"localhost")], "client": None, "server": ("localhost", 1),
        }  # fmt: skip
        await served.app(scope, receive, send)
        return int(sent[0]["status"])

    assert asyncio.run(upload()) == 413
    assert LIMIT_BYTES < read <= LIMIT_BYTES + (1 << 17)


@pytest.mark.parametrize("length", ["-1", "1e3", "9" * 30, "x"])
def test_a_length_that_is_none_is_refused(served: Served, length: str) -> None:
    found = served.post(b"{}", **{"content-length": length})
    assert found.status_code == 413


def test_a_bundle_that_is_not_served_takes_no_profile(served: Served) -> None:
    found = served.post(profile(ee.load(served.place)), number=1)
    assert (found.status_code, found.json()) == (404, {"error": "there is no bundle 1; open the page again"})


def test_a_folder_that_cannot_be_written_is_said(served: Served) -> None:
    served.profiles.write_text("a file")
    found = served.post(profile(ee.load(served.place)))
    assert found.status_code == 507
    assert found.json()["error"].startswith(f"cannot write into {served.profiles}: ")


def test_a_packed_bundle_is_served_as_well(made: Path, served: Served, tmp_path: Path) -> None:
    packed = ee.load(served.place).pack(tmp_path / "chain.zip")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EETOOLKIT_CACHE", str(tmp_path / "cache"))
        site = site_of([Shelf(packed)], {}, "https", static=made / "static")
        app = make_app(site, Serving(TOKEN, {"localhost"}, tmp_path / "profiles"))
        client = TestClient(app, base_url="http://localhost")
        manifest = client.get(f"/{TOKEN}/bundles/0/manifest.json").json()
        about = client.get(f"/{TOKEN}/serve.json").json()
    assert manifest == json.loads((served.place / "manifest.json").read_text())
    assert about["mode"] == "https"
    assert "--apply" not in about["bundles"][0]["command"]

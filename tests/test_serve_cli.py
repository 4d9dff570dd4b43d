"""`eetoolkit serve`: what it prints, when it is refused, and how it ends."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from serving import bundle, lend, profile
from shell import WICKED

import eetoolkit as ee
from eetoolkit.cli import main

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("segno")
pytest.importorskip("cryptography")

from starlette.testclient import TestClient

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("source"))


@pytest.fixture
def here(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Gives the working directory with a bundle `b.ee` in it; `serve` starts, sends a profile to itself, and ends."""
    shutil.copytree(source, tmp_path / "b.ee")
    (tmp_path / "lent").mkdir()
    monkeypatch.setenv("EETOOLKIT_CACHE", str(tmp_path / "cache"))
    lend(monkeypatch, tmp_path / "lent").rename(tmp_path / "ort.tgz")
    monkeypatch.setattr("eetoolkit.serve.addresses.lan_addresses", lambda: ("192.168.1.5", "10.0.0.2"))
    monkeypatch.setattr("eetoolkit.serve.addresses.host_names", lambda: ("box.local",))
    monkeypatch.setattr("eetoolkit.serve.app.new_token", lambda: "SECRET")
    monkeypatch.setattr("eetoolkit.serve.server.serve_until_stopped", visit)
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def visit(app: Any, listener: socket.socket, certificate: Path | None = None, *, started: Any) -> None:
    started()
    client = TestClient(app, base_url="http://localhost")
    client.get("/SECRET/")
    client.get("/SECRET/", headers={"host": "vpn\x1b[31m"})
    client.post("/SECRET/profiles/0", content=profile(ee.load("b.ee")))


def call(*arguments: str, columns: int | None = None, **more: str) -> Result:
    settings = {} if columns is None else {"FORCE_COLOR": "1", "COLUMNS": str(columns)}
    done = CliRunner(env=settings | more).invoke(main, ["serve", "b.ee", "--onnxruntime-web", "ort.tgz", *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def lines(done: Result) -> list[str]:
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()


NEXT = "eetoolkit tune b.ee --data YOUR.npz --profile profiles/pixel-8.json --max-accuracy-drop 0.01 --apply"
EVENTS = [
    "testclient opened the page",
    "refused: a device asked for 'vpn\\x1b[31m'; --lan --host NAME allows another name",
    f"profiles/pixel-8.json saved, of drafted; next: {NEXT}",
    "stopped",
]


def test_by_default_this_computer_alone_may_open_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eetoolkit.serve.addresses.lan_addresses", lambda: pytest.fail("not asked for"))
    first, *others = lines(call("--port", str(port := free_port())))
    assert first == f"http://127.0.0.1:{port}/SECRET/"
    assert others == [
        "This computer alone may open it; --lan lets phones in your network.",
        "Profiles go to profiles. Ctrl-C ends it.",
        *EVENTS,
    ]
    assert ee.Profile.read("profiles/pixel-8.json").bundle == "drafted"


def test_for_a_network_the_browsers_warning_is_said_beforehand(here: Path) -> None:
    port = free_port()
    first, also, what, warns, fingerprint, where, *events = lines(call("--lan", "--port", str(port)))
    assert (first, also) == (f"https://192.168.1.5:{port}/SECRET/", f"also https://10.0.0.2:{port}/SECRET/")
    assert what == "Phones in your network may open it, by https."
    assert warns == "The browser warns once: this computer made the certificate itself."
    assert len(fingerprint.rpartition(" ")[2].split(":")) == 32
    assert where == "Profiles go to profiles. Ctrl-C ends it."
    assert events == EVENTS
    again = lines(call("--lan", "--port", str(port)))
    assert again[3] == "A browser that has not been here warns: this computer made the certificate itself."
    assert again[4] == fingerprint
    assert "profiles/pixel-8-2.json saved" in again[-2]


def test_by_http_it_is_said_what_is_missing(here: Path) -> None:
    found = lines(call("--lan", "--http", "--host", "Box.Lan"))
    assert found[0].startswith("http://box.lan:")
    assert "By http a browser has one thread, no camera stream and no WebCrypto." in found[3]
    assert not (here / "cache/certificates").exists()


def test_the_certificate_names_every_host_that_is_answered(here: Path) -> None:
    from cryptography import x509

    told = json.loads(lines(call("--lan", "--host", "box.lan", "--json"))[0])
    made = x509.load_pem_x509_certificate(Path(told["certificate"]).read_bytes())
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {"box.lan", "box.local", "localhost"}
    assert set(map(str, names.get_values_for_type(x509.IPAddress))) == {"192.168.1.5", "10.0.0.2", "127.0.0.1"}


def test_json_is_an_object_a_line_the_address_first(here: Path) -> None:
    port = free_port()
    first, *events = map(json.loads, lines(call("--json", "--port", str(port), "--profiles", "mine")))
    assert first == {
        "address": f"http://127.0.0.1:{port}/SECRET/",
        "addresses": [f"http://127.0.0.1:{port}/SECRET/"],
        "mode": "localhost",
        "profiles": "mine",
        "certificate": None,
        "fingerprint": None,
    }
    assert [event["event"] for event in events] == ["connected", "refused", "saved", "stopped"]
    assert events[2]["path"] == "mine/pixel-8.json"


def test_a_qr_code_is_drawn_where_it_fits(here: Path) -> None:
    def drawn(*arguments: str, **settings: Any) -> list[str]:
        return [line for line in lines(call(*arguments, **settings)) if "▀" in line or "▄" in line]

    wide = drawn("--lan", columns=100)
    assert len(wide) > 12
    assert len({len(line) for line in wide}) == 1
    assert not drawn("--lan", columns=20)
    assert not drawn("--lan")
    assert not drawn("--lan", "--no-qr", columns=100)
    assert not drawn(columns=100)


@pytest.mark.parametrize("plain", [False, True])
def test_the_qr_code_says_the_address(plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import segno

    from eetoolkit.cli.serve_lines import _qr_code

    text = "https://192.168.1.5:8443/abcdefghijklmnopqrstuv/"
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    if plain:
        monkeypatch.setenv("NO_COLOR", "1")
    halves = {" ": (0, 0), "▀": (1, 0), "▄": (0, 1), "█": (1, 1)}
    coloured = _qr_code(text)
    drawn = [click.unstyle(line) for line in coloured]
    assert (drawn == coloured) == plain
    rows = [[halves[sign][half] != plain for sign in line] for line in drawn for half in (0, 1)]
    expected = [[bool(dark) for dark in row] for row in segno.make_qr(text, error="l").matrix_iter(border=2)]
    assert rows[: len(expected)] == expected


def test_names_of_strangers_are_shown_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    from eetoolkit.cli.serve_lines import TextLines
    from eetoolkit.serve.profiles import Saved

    TextLines(qr=False).event(Saved(WICKED, "profiles/a.json", f"eetoolkit tune {WICKED}"))
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert out.rstrip("\n").isprintable()
    assert "\\x1b[31m" in out


# Refused


USAGE = {
    "http alone": (("--http",), "--http goes with --lan"),
    "host alone": (("--host", "a"), "--host goes with --lan"),
    "overwrite alone": (("--overwrite",), "--overwrite goes with --export"),
    "export and lan": (("--export", "p", "--lan"), "--lan does not go with --export"),
    "export and open": (("--export", "p", "--open"), "--open does not go with --export"),
    "export and host": (("--export", "p", "--host", "a"), "--host does not go with --export"),
    "export and port": (("--export", "p", "--port", "1"), "--port does not go with --export"),
    "export and profiles": (("--export", "p", "--profiles", "a"), "--profiles does not go with --export"),
    "no host": (("--lan", "--host", "http://a"), "expected a name or an IPv4 address, without a port"),
    "no port": (("--port", "0"), "0 is not in the range 1<=x<=65535"),
}


@pytest.mark.parametrize("what", USAGE)
def test_options_that_do_not_go_together_are_refused(here: Path, what: str) -> None:
    arguments, why = USAGE[what]
    done = call(*arguments)
    assert done.exit_code == 2
    assert why in " ".join(done.stderr.split())


def test_a_damaged_bundle_is_refused_at_start(here: Path) -> None:
    weights = next(path for path in Path("b.ee").iterdir() if path.suffix == ".bin")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    done = call()
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {weights}")


def test_a_port_that_is_taken_is_said(here: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = call("--port", str(port := taken.getsockname()[1]))
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: port {port} of 127.0.0.1 is taken by another program: ")


def test_a_computer_without_a_network_is_told(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eetoolkit.serve.addresses.lan_addresses", lambda: ())
    done = call("--lan")
    assert done.stderr == ("error: this computer has no address in a network; connect it, or name one with --host\n")


@pytest.mark.parametrize("package", ["starlette", "uvicorn", "cryptography", "segno"])
def test_a_missing_extra_is_named_before_any_work(here: Path, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    def refuse(name: str) -> None:
        if name == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", refuse)
    from eetoolkit.cli.serve import serve

    monkeypatch.setattr(type(main), "get_command", lambda *_: serve)
    done = call("--lan")
    assert done.stderr == f"error: this needs {package}: install the extra 'serve' (README: Install)\n"


def test_a_page_that_is_not_built_is_said(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eetoolkit.serve.site.STATIC", here / "lent")
    assert "the page is not there, " in call().stderr


# Files


def test_export_says_what_it_wrote(here: Path) -> None:
    (said,) = lines(call("--export", "page"))
    assert said.startswith("page: ")
    assert said.endswith("; README.md says which headers a web server must send")
    assert (here / "page/bundles/0/manifest.json").is_file()
    again = call("--export", "page")
    assert (again.exit_code, again.stderr) == (1, "error: page exists; pass --overwrite to replace it\n")
    told = json.loads(call("--export", "page", "--overwrite", "--json").stdout)
    assert told["folder"] == "page"
    assert told["size_bytes"] == sum(path.stat().st_size for path in Path("page").rglob("*") if path.is_file())


# In a process of its own


def test_https_by_the_certificate_it_has_made_and_an_end_that_waits_for_an_upload(source: Path, tmp_path: Path) -> None:
    shutil.copytree(source, tmp_path / "b.ee")
    (tmp_path / "lent").mkdir()
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "runtime", ROOT / "exporters", ROOT / "tests")))
    settings = {**os.environ, "PYTHONPATH": paths, "EETOOLKIT_CACHE": str(tmp_path / "cache")}
    serving = [sys.executable, str(ROOT / "tests/serving.py"), str(tmp_path / "lent"), "serve", "b.ee", "--lan"]
    options = ["--host", "127.0.0.1", "--json", "--onnxruntime-web", "lent/onnxruntime-web-0.0.1.tgz"]
    with subprocess.Popen(
        [*serving, *options], cwd=tmp_path, env=settings, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        first = server.stdout.readline()
        if not first:
            pytest.fail(server.communicate()[1])
        told = json.loads(first)
        trusting = ssl.create_default_context(cafile=told["certificate"])
        port, path = told["address"].split("/")[2].split(":")[1], "/" + told["address"].split("/")[3]
        found: dict[str, str] = {}
        for host in ("127.0.0.1", "localhost"):
            page = http.client.HTTPSConnection(host, int(port), context=trusting, timeout=30)
            page.request("GET", f"{path}/")
            found[host] = page.getresponse().read().decode()
            page.close()
        assert found["127.0.0.1"] == found["localhost"]
        assert "<title>tests</title>" in found["localhost"]

        sent = profile(ee.load(tmp_path / "b.ee"))
        with trusting.wrap_socket(
            socket.create_connection(("127.0.0.1", int(port)), timeout=30), server_hostname="127.0.0.1"
        ) as upload:
            head = f"POST {path}/profiles/0 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(sent)}\r\n"
            upload.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
            assert upload.recv(1000).startswith(b"HTTP/1.1 100 Continue")
            server.send_signal(signal.SIGINT)
            upload.sendall(sent)
            answer = http.client.HTTPResponse(upload)
            answer.begin()
            kept = json.loads(answer.read())
        out, err = server.communicate(timeout=30)
    assert (answer.status, kept["saved"]) == (201, "profiles/pixel-8.json")
    assert ee.Profile.read(tmp_path / kept["saved"]).bundle == "drafted"
    assert [json.loads(line)["event"] for line in out.splitlines()] == ["connected", "saved", "stopped"]
    assert (server.returncode, err) == (0, "")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])

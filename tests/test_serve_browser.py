"""The page of `eetoolkit serve` in a real browser, on a real server: what people do on it, and what can go wrong."""

from __future__ import annotations

import functools
import http.server
import json
import re
import shlex
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from browser import Open, why_not
from click.testing import CliRunner
from once import digits_bundle
from page_checks import MEASURED, SMALL, UNNAMED
from page_user import GOLDEN, drawn, profiled, seen, settled, shown, told, verified
from serving import ONNXRUNTIME, Server, started

import eetoolkit as ee
from eetoolkit.cli import main
from eetoolkit.serve.addresses import lan_addresses
from eetoolkit.serve.headers import HEADERS
from eetoolkit_runtime.running.runner import Runner

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("cryptography")
pytest.importorskip("segno")
_LACK = why_not() or ("" if ONNXRUNTIME.is_dir() else "the page is not tested: run `npm ci` in runtime/web")
pytestmark = pytest.mark.skipif(bool(_LACK), reason=_LACK)

UNTRUSTED = "The Cross-Origin-Opener-Policy header has been ignored"
"""What Chromium says of a page by http, where no header makes it isolated."""


@pytest.fixture(scope="module")
def images() -> np.ndarray[Any, np.dtype[np.float32]]:
    """Returns digits that the network has not seen; the first eight are the bundle's golden samples."""
    from eetoolkit.zoo.digits import digits

    return (digits("test").images / 16).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with the trained digits network as `digits.ee`."""
    place = tmp_path_factory.mktemp("served")
    shutil.copytree(digits_bundle(tmp_path_factory), place / "digits.ee")
    return place


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """Gives what serves it to this computer alone."""
    with started(folder, "digits.ee") as found:
        yield found


@pytest.fixture(scope="module")
def one_of_each(folder: Path, images: Any) -> Path:
    """Returns a file with a digit for each exit, which answers it."""
    with Runner(folder / "digits.ee", threads=1) as runner:
        exits = [runner.run({"image": image[None]}).exit for image in images]
    np.save(folder / "one-of-each.npy", images[[exits.index(name) for name in ("exit0", "exit1", "exit2")]])
    return folder / "one-of-each.npy"


# One sitting


def test_from_a_bundle_to_a_profile_and_a_tuned_bundle(open_tab: Open, server: Server, images: Any) -> None:
    tab = open_tab(server.address)
    page = tab.page
    assert page.get_by_test_id("bundle").inner_text() == "digits"
    page.get_by_test_id("verify").wait_for()
    assert (
        page.get_by_test_id("about").inner_text()
        == "3 segments, 3 exits; takes image 1 \N{MULTIPLICATION SIGN} 8 \N{MULTIPLICATION SIGN} 8"
    )
    assert verified(page)[-1] == "verify passed, tolerance 1e-04"
    saved = profiled(page, seconds=1).get_by_text("profiles/")
    event = server.event("saved")
    assert saved.first.inner_text() == event["path"]

    found = ee.Profile.read(server.folder / event["path"])
    assert (found.bundle, list(found.segments)) == ("digits", ["segment0", "segment1", "segment2"])
    assert list(found.exits) == ["exit0", "exit1", "exit2"]
    assert 1 <= found.rows <= GOLDEN
    assert re.fullmatch(r"onnxruntime-web 1\.\d+\.\d+, wasm, isolated", found.backend)
    assert found.providers == ("CPUExecutionProvider",)
    assert found.threads == int(page.get_by_test_id("threads").input_value())
    assert re.fullmatch(r"\w+, (x86-|arm)64", found.machine.processor)
    assert all(segment.latency is not None for segment in found.segments.values())

    from eetoolkit.zoo.digits import digits

    np.savez(server.folder / "val.npz", image=images, labels=digits("test").labels)
    program, *words = shlex.split(page.get_by_test_id("next").inner_text().replace("YOUR.npz", "val.npz"))
    assert program == "eetoolkit"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(server.folder)
        shutil.copytree("digits.ee", "kept.ee")
        words[words.index("digits.ee")] = "kept.ee"
        words[words.index("--max-accuracy-drop") + 1] = "0.05"  # which the rows are enough to show
        done = CliRunner().invoke(main, [*words, "--json", "--no-calibrate"])
    assert done.exit_code == 0, done.output
    tuned = json.loads(done.stdout)
    assert tuned["costs"].startswith(f"a profile of {found.machine.processor}, ")
    assert (tuned["unit"], tuned["goal_met"]) == ("ms", True)
    before, after = (thresholds(server.folder / name) for name in ("digits.ee", "kept.ee"))
    assert after != before
    assert {name: after[name] for name in tuned["chosen"]["thresholds"]} == tuned["chosen"]["thresholds"]
    assert tab.complaints == []
    assert {urlsplit(url).netloc for url in tab.requests} == {urlsplit(server.address).netloc}


def test_what_is_drawn_chosen_and_picked_by_keyboard_is_answered_as_in_python(
    open_tab: Open, server: Server, images: Any, tmp_path: Path
) -> None:
    from PIL import Image

    page = open_tab(server.address, width=360, has_touch=True).page
    with Runner(server.folder / "digits.ee", threads=1) as runner:
        answers = [runner.run({"image": image[None]}) for image in images]
        deep = next(n for n, answer in enumerate(answers) if len(answer.path) == 3)

        drawn(page)
        assert page.get_by_test_id("class").inner_text() in "0123456789"
        assert shown(page) == told(runner.run({"image": seen(page)}))

        pixels = np.rint(images[deep][0] * 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "digit.png")
        page.get_by_test_id("way-file").click()
        page.get_by_test_id("try-file").set_input_files(tmp_path / "digit.png")
        page.get_by_text("what the network sees").wait_for()
        np.testing.assert_array_equal(seen(page)[0, 0], pixels.astype(np.float32) / np.float32(255))
        found = shown(page)
        assert found == told(runner.run({"image": seen(page)}))
        assert found["ran"] == ["segment0", "segment1", "segment2"]
        assert found["not run"] == "All segments were run"

        reached(page, "Draw", "File")
        page.keyboard.press("ArrowLeft")
        page.get_by_test_id("sample-0").wait_for()
        for number in range(GOLDEN):
            page.keyboard.press("Tab")
            while page.evaluate("document.activeElement.dataset.testid") != f"sample-{number}":
                page.keyboard.press("Tab")
            page.keyboard.press("Enter" if number % 2 else "Space")
            page.locator(f"[data-testid=sample-{number}][aria-pressed=true]").wait_for()
            settled(page)
            assert shown(page) == told(answers[number]), number
            assert page.get_by_test_id("expected").is_visible()
            assert page.locator("[aria-live=polite].hidden").last.inner_text().startswith(shown(page)["class"])


def thresholds(bundle: Path) -> dict[str, object]:
    """Returns the thresholds in a bundle by exit."""
    segments = ee.load(bundle).manifest.segments.values()
    return {each.exit.name: each.exit.threshold for each in segments if each.exit is not None}


def reached(page: Page, *names: str) -> None:
    """Goes on by Tab until the radio buttons have the focus."""
    page.locator("h1").click()
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.type") == "radio":
            assert page.evaluate("document.activeElement.parentElement.innerText") in names
            return
    raise AssertionError("Tab never comes to the choice of inputs")


# What goes wrong


def test_who_has_not_the_address_sees_nothing(open_tab: Open, server: Server) -> None:
    page = open_tab("about:blank").page
    parts = urlsplit(server.address)
    for path in ("/", "/AAAAAAAAAAAAAAAAAAAAAA/", "/AAAAAAAAAAAAAAAAAAAAAA/serve.json", parts.path + "stderr.txt"):
        answer = page.goto(f"{parts.scheme}://{parts.netloc}{path}")
        assert answer is not None
        assert answer.status == 404, path
        assert "digits" not in page.content()


def damaged(route: Route) -> None:
    """Answers with a file of which one byte is another."""
    answer = route.fetch()
    content = bytearray(answer.body())
    content[len(content) // 2] ^= 0xFF
    route.fulfill(response=answer, body=bytes(content))


def test_a_damaged_segment_reads_as_on_the_command_line_and_the_next_attempt_is_good(
    open_tab: Open, server: Server, tmp_path: Path
) -> None:
    shutil.copytree(server.folder / "digits.ee", tmp_path / "digits.ee")
    segment = next((tmp_path / "digits.ee").glob("segment1-*.onnx"))
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 0xFF
    segment.write_bytes(content)
    said = CliRunner().invoke(main, ["verify", str(tmp_path / "digits.ee")]).stderr
    assert segment.name in said

    tab = open_tab("about:blank")
    page = tab.page
    page.context.route(re.compile("segment1-.*onnx"), damaged)
    page.goto(server.address)
    page.get_by_test_id("verify").click()
    alert = page.get_by_role("alert").locator("p").inner_text()
    assert alert.rpartition(segment.name)[2] == said.strip().rpartition(segment.name)[2]
    assert segment.name in alert
    page.context.unroute_all()
    page.get_by_test_id("again").click()
    page.get_by_text("answers here as its network did").wait_for()


def test_a_changed_manifest_is_not_opened(open_tab: Open, server: Server) -> None:
    def changed(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=answer.text().replace("0.9", "0.1"))

    page = open_tab("about:blank").page
    page.context.route("**/manifest.json", changed)
    page.goto(server.address)
    alert = page.get_by_test_id("error").inner_text()
    assert "manifest.json" in alert
    assert "digest" in alert
    assert page.get_by_test_id("verify").count() == 0


def test_two_tabs_at_once(open_tab: Open, server: Server) -> None:
    tabs = [open_tab(server.address) for _ in range(2)]
    for tab in tabs:
        tab.page.get_by_test_id("verify").click()
    for tab in tabs:
        tab.page.get_by_text("answers here as its network did").wait_for()
        assert tab.complaints == []


def test_a_profile_is_kept_when_the_server_is_lost(open_tab: Open, server: Server, tmp_path: Path) -> None:
    page = open_tab(server.address).page
    page.context.route("**/profiles/*", lambda route: route.abort())
    profiled(page, "error")
    assert "Is eetoolkit serve still running" in page.get_by_test_id("error").inner_text()
    with page.expect_download() as download:
        page.get_by_test_id("download").click()
    download.value.save_as(tmp_path / "kept.json")
    kept = ee.Profile.read(tmp_path / "kept.json")
    page.context.unroute_all()
    page.get_by_test_id("again").click()
    page.get_by_test_id("next").wait_for()
    assert ee.Profile.read(server.folder / server.event("saved")["path"]) == kept


# In other modes


def test_by_http_in_a_network_there_is_one_thread_and_the_page_says_so(
    open_tab: Open, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "digits.ee", tmp_path / "digits.ee")
    if not lan_addresses():
        pytest.skip("this machine is in no network, so that the page by http is not tested")
    with started(tmp_path, "digits.ee", "--lan", "--http") as found:
        tab = open_tab(found.address)
        page = tab.page
        assert page.evaluate("[isSecureContext, crossOriginIsolated, typeof crypto.subtle]") == [
            False, False, "undefined",
        ]  # fmt: skip
        assert "Over http a browser gives a page one thread" in page.get_by_test_id("mode").inner_text()
        assert page.get_by_test_id("threads").count() == 0
        assert verified(page)[-1] == "verify passed, tolerance 1e-04"
        page.get_by_test_id("way-file").click()
        assert page.get_by_test_id("try-photo").get_attribute("capture") == "environment"
        profiled(page)
        profile = ee.Profile.read(tmp_path / found.event("saved")["path"])
        assert (profile.threads, profile.backend.partition("wasm, ")[2]) == (1, "not isolated")
        assert [words for words in tab.complaints if UNTRUSTED not in words] == []


def test_by_https_a_page_in_a_network_is_isolated(open_tab: Open, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "digits.ee", tmp_path / "digits.ee")
    with started(tmp_path, "digits.ee", "--lan", "--host", "localhost") as found:
        tab = open_tab(found.address, ignore_https_errors=True)
        assert tab.page.evaluate("[isSecureContext, crossOriginIsolated]") == [True, True]
        assert verified(tab.page)[-1] == "verify passed, tolerance 1e-04"
        assert tab.complaints == []


@contextmanager
def web_server(folder: Path, headers: Mapping[str, str]) -> Iterator[str]:
    """Gives the address of Python's own web server, which knows nothing of the page."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def end_headers(self) -> None:
            for name, value in headers.items():
                self.send_header(name, value)
            super().end_headers()

        def log_message(self, *_: object) -> None:
            pass

    handler: Callable[..., Any] = functools.partial(Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{serving.server_address[1]}/"
        finally:
            serving.shutdown()
            thread.join()


def test_as_static_files_with_the_headers_and_without(open_tab: Open, folder: Path, tmp_path: Path) -> None:
    bundle, target = str(folder / "digits.ee"), tmp_path / "page"
    done = CliRunner().invoke(main, ["serve", bundle, "--export", str(target), "--onnxruntime-web", str(ONNXRUNTIME)])
    assert done.exit_code == 0, done.output
    for headers, notice in ((HEADERS, "kept by downloading it"), ({}, "one thread, since it is not isolated")):
        with web_server(target, headers) as address:
            tab = open_tab(address)
            page = tab.page
            assert page.evaluate("crossOriginIsolated") == bool(headers)
            assert notice in page.get_by_test_id("mode").inner_text()
            assert verified(page)[-1] == "verify passed, tolerance 1e-04"
            profiled(page, "download")
            with page.expect_download() as download:
                page.get_by_test_id("download").click()
            download.value.save_as(tmp_path / "own.json")
            assert ee.Profile.read(tmp_path / "own.json").bundle == "digits"
            assert tab.complaints == []
            assert not any("profiles" in url for url in tab.requests)


# How it looks


@pytest.mark.parametrize(("width", "dark"), [(360, True), (1280, False)], ids=["360-dark", "1280-light"])
def test_it_can_be_read_and_touched_on_every_screen(
    open_tab: Open, server: Server, one_of_each: Path, width: int, dark: bool
) -> None:
    tab = open_tab(server.address, width=width, dark=dark)
    page = tab.page
    page.get_by_test_id("pad").wait_for()
    assert page.evaluate(UNNAMED) == []
    verified(page)
    page.get_by_test_id("profile-files").set_input_files(one_of_each)
    profiled(page, seconds=0.5)
    drawn(page)
    page.locator("summary").evaluate_all("all => all.forEach((each) => (each.parentElement.open = true))")
    texts = page.evaluate(MEASURED)
    assert len(texts) > 60
    assert [text for text in texts if text["contrast"] < 4.5] == []
    assert [text for text in texts if text["left"] < 0 or text["right"] > width + 0.5] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ways = page.locator("[data-testid^=way-]").all()
    for way in ways:
        way.click()
        assert page.evaluate(SMALL) == []
        assert page.evaluate(UNNAMED) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert {"Draw", "File", "Samples"} <= {way.inner_text() for way in ways}
    assert [text for text in page.evaluate(MEASURED) if text["contrast"] < 4.5] == []
    assert tab.complaints == []

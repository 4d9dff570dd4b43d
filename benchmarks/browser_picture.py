"""README's picture of `serve` in a browser: `python -m benchmarks.browser_picture`, on a quiet machine.

It needs what the tests of the page need: `npm ci` in runtime/web, and a Chromium (`make browser`).
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

import eetoolkit as ee
from eetoolkit.zoo import branchynet, digits

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs/images/browser.png"
WIDTH, SCALE = 720, 2
"""CSS pixels, and pixels of the picture to each."""
MOST_BYTES = 150_000
COLOURS = 160
GOLDEN = 8
STROKE = (
    (0.62, 0.2), (0.4, 0.24), (0.3, 0.45), (0.32, 0.7), (0.5, 0.82),
    (0.66, 0.7), (0.62, 0.55), (0.45, 0.52), (0.34, 0.62),
)  # fmt: skip
"""A six, in shares of the square that is drawn on."""
_LONGEST_MS = 120_000


def main() -> None:
    """Profiles the digits network in Chromium for ten seconds, draws a digit, and saves what the page shows."""
    with tempfile.TemporaryDirectory() as folder:
        images = (digits.digits("test").images / 16)[:GOLDEN]
        bundle = Path(folder) / "digits.ee"
        ee.export(branchynet.load(), images[:1], bundle, labels=digits.LABELS, golden_inputs=images)
        ort = ROOT / "runtime/web/node_modules/onnxruntime-web/dist"
        command = [sys.executable, "-m", "eetoolkit", "serve", bundle.name, "--json", "--onnxruntime-web", str(ort)]
        with subprocess.Popen(command, cwd=folder, text=True, stdout=subprocess.PIPE) as server:
            try:
                content = _taken(json.loads(server.stdout.readline())["address"] if server.stdout else "")
            finally:
                server.send_signal(signal.SIGINT)
    few = Image.open(io.BytesIO(content)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    few.save(PICTURE, optimize=True)
    if (size := PICTURE.stat().st_size) > MOST_BYTES:
        raise SystemExit(f"{PICTURE.name} has {size} bytes, expected at most {MOST_BYTES}: take fewer COLOURS")


def _taken(url: str) -> bytes:
    """Returns the picture of a page, from the profile's figures to the digit that was drawn, as PNG."""
    from playwright.sync_api import sync_playwright

    chromium = os.environ.get("EETOOLKIT_CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        window = browser.new_context(viewport={"width": WIDTH, "height": 1600}, device_scale_factor=SCALE)
        window.set_default_timeout(_LONGEST_MS)
        page = window.new_page()
        page.goto(url)
        page.get_by_test_id("profile").click()
        page.get_by_test_id("next").wait_for()
        _draw(page)
        page.get_by_text("what the network sees").wait_for()
        page.mouse.move(0, 0)
        top = page.locator("dl.figures").evaluate("each => each.getBoundingClientRect().top + scrollY")
        bottom = page.get_by_test_id("pad").evaluate("each => each.getBoundingClientRect().bottom + scrollY")
        content = page.screenshot(
            full_page=True, clip={"x": 0, "y": top - 12, "width": WIDTH, "height": bottom - top + 19}
        )
        browser.close()
    return content


def _draw(page: Page) -> None:
    pad = page.get_by_test_id("pad")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    if box is None:
        raise SystemExit("the page has nothing to draw on")
    for number, (x, y) in enumerate(STROKE):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=6)
        if number == 0:
            page.mouse.down()
    page.mouse.up()
    page.wait_for_timeout(400)  # the answer to the last of it


if __name__ == "__main__":
    main()

"""A headless Chromium that opens pages, driven by Playwright.

The Chromium is the machine's own: Playwright's browsers are never downloaded. Tests take the fixture `open_tab`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "headless_shell")
LONGEST_MS = 120_000
"""How long anything may take on a slow machine before a test gives up."""


def find_chromium() -> str | None:
    """Returns where a Chromium is: what the variable EETOOLKIT_CHROMIUM says, else one on the path."""
    return os.environ.get("EETOOLKIT_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def why_not() -> str:
    """Returns why no page can be opened here; empty where one can."""
    if find_chromium() is None:
        return "nothing is tested in a browser: there is no Chromium; `make browser`, or set EETOOLKIT_CHROMIUM"
    if importlib.util.find_spec("playwright") is None:
        return "nothing is tested in a browser: there is no playwright; pip install '.[dev]'"
    return ""


@dataclass(frozen=True)
class Tab:
    """An open page, and what happened in it.

    Attributes:
        page: Playwright's.
        requests: Addresses that it asked for, in order.
        complaints: What Chromium or the page wrote to the console, and errors that nothing caught.
    """

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


Open = Callable[..., Tab]
"""What the fixture `open_tab` gives: `opened`, of one browser."""


@contextmanager
def started() -> Iterator[Browser]:
    """Gives a Chromium of its own; while it lives, this thread can start no other event loop."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Browser, url: str, *, width: int = 1280, dark: bool = False, **options: Any) -> Iterator[Tab]:
    """Gives a page that has loaded, in a window of some width; `options` are those of Playwright's `new_context`."""
    scheme = "dark" if dark else "light"
    with browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, **options) as context:
        context.set_default_timeout(LONGEST_MS)
        tab = Tab(context.new_page())
        tab.page.on("request", lambda request: tab.requests.append(request.url))
        tab.page.on("console", lambda message: tab.complaints.append(message.text))
        tab.page.on("pageerror", lambda error: tab.complaints.append(str(error)))
        tab.page.goto(url)
        tab.page.evaluate("document.fonts.ready.then(() => true)")
        yield tab

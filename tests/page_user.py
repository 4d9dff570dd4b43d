"""What a user of `serve`'s page does and sees, with the digits network, and the same in Python."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

import eetoolkit as ee

if TYPE_CHECKING:
    from playwright.sync_api import Page

GOLDEN = 8
SEVEN = [(0.3, 0.25), (0.7, 0.25), (0.45, 0.8)]
"""A stroke, in shares of the square that is drawn on."""


def verified(page: Page) -> list[str]:
    """Verifies; returns the lines that are shown."""
    page.get_by_test_id("verify").click()
    lines = page.get_by_test_id("verify-result").locator("pre").inner_text().splitlines()
    assert page.get_by_text(f"as its network did, on all {GOLDEN} golden samples").is_visible()
    return [str(line) for line in lines]


def profiled(page: Page, until: str = "next", seconds: float = 0.2) -> Any:
    """Profiles for less time than the page offers, and waits for what is shown then."""
    page.get_by_test_id("seconds").evaluate(f"all => (all.options[0].value = '{seconds}', all.selectedIndex = 0)")
    page.get_by_test_id("profile").click()
    page.get_by_test_id(until).wait_for()
    return page.get_by_test_id("saved")


def drawn(page: Page) -> None:
    """Draws a seven with the mouse."""
    pad = page.get_by_test_id("pad")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    assert box is not None
    for number, (x, y) in enumerate(SEVEN):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=4)
        if number == 0:
            page.mouse.down()
    page.mouse.up()
    page.get_by_test_id("class").wait_for()
    settled(page)


def settled(page: Page) -> None:
    """Waits until the answer shown stays for some frames."""
    page.evaluate(
        """async () => {
            const frame = () => new Promise(requestAnimationFrame), place = document.querySelector(".answer");
            for (let still = 0, last = ""; still < 12; await frame()) {
              still = place.innerHTML === last ? still + 1 : 0;
              last = place.innerHTML;
            }
        }"""
    )


def seen(page: Page) -> Any:
    """Returns the input that the page shows as what the network sees, 1 x 1 x 8 x 8."""
    grey = page.evaluate(
        "() => { const c = document.querySelector('.seen canvas'); "
        "return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].filter((_, n) => n % 4 === 0) }"
    )
    return np.asarray(grey, np.float32).reshape(1, 1, 8, 8) / np.float32(255)


def shown(page: Page) -> dict[str, Any]:
    """Returns the answer on the page."""
    exit_, sure = re.fullmatch(r"(\w+) answered, ([\d.]+%) sure.*", page.get_by_test_id("exit").inner_text()).groups()  # type: ignore[union-attr]
    return {
        "class": page.get_by_test_id("class").inner_text(),
        "exit": exit_,
        "sure": sure,
        "ran": page.locator("[data-testid=strip] .ran b").all_inner_texts(),
        "not run": page.get_by_test_id("not-run").locator("b").inner_text(),
    }


WORK = {"segment0": 270_480, "segment1": 7_681_600, "segment2": 11_521_600}
"""Multiply-adds, as `eetoolkit inspect` has them."""


def told(answer: ee.Answer) -> dict[str, Any]:
    """Returns an answer of Python's in the page's words."""
    share = 1 - sum(WORK[name] for name in answer.path) / sum(WORK.values())
    left = len(answer.path) < len(WORK)
    return {
        "class": str(int(answer.outputs["logits"].argmax())),
        "exit": answer.exit,
        "sure": f"{100 * answer.confidence:.1f}%",
        "ran": list(answer.path),
        "not run": f"{100 * share:.1f}% of the multiply-adds not run" if left else "All segments were run",
    }

"""What the tests share: every network of `networks`, exported once, and a browser."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import browser as chromium
import lean_torch
import pytest

if TYPE_CHECKING:
    from networks.compiled import Compiled
    from playwright.sync_api import Browser


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the tests of one network next to each other, so that `pytest -n` exports it in one worker."""
    names = {item: _network(item) for item in items}
    files = {path: number for number, path in enumerate(dict.fromkeys(item.path for item in items))}
    networks = {name: number for number, name in enumerate(dict.fromkeys(names.values()))}
    items.sort(key=lambda item: (files[item.path], networks[names[item]]))


def pytest_collection_finish() -> None:
    """Has Python look for cycles in what tests make, and never again in all that is imported by now."""
    if "PYTEST_XDIST_WORKER" in os.environ:  # each worker will export
        lean_torch.expect_exports()
    gc.freeze()


def pytest_runtest_setup() -> None:
    """Has torch take no more time than the test is about."""
    lean_torch.settle()


def _network(item: pytest.Item) -> str | None:
    parameters = getattr(item, "callspec", None)
    return None if parameters is None else parameters.params.get("compiled")


@pytest.fixture(scope="session")
def _compiled() -> dict[str, Compiled]:
    return {}


@pytest.fixture
def compiled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _compiled: dict[str, Compiled]
) -> Compiled:
    """Returns the network that the test's parameter names, exported once in this process."""
    from networks import CASES  # torch and transformers, which the device's tests do without
    from networks.compiled import Compiled, export_case

    name = request.param
    if name not in _compiled:
        case, folder = CASES[name], tmp_path_factory.mktemp(name)
        model = case.build(folder)
        _compiled[name] = Compiled(case, model, export_case(case, model, folder / f"{name}.ee"))
    return _compiled[name]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Gives a Chromium, where there is one."""
    if reason := chromium.why_not():
        pytest.skip(reason)
    with chromium.started() as program:
        yield program


@pytest.fixture
def open_tab(browser: Browser) -> Iterator[chromium.Open]:
    """Gives what opens pages in it, which are closed after the test."""
    with ExitStack() as tabs:
        yield lambda url, **options: tabs.enter_context(chromium.opened(browser, url, **options))

"""The native runner: it answers, proves and refuses as the Python runtime does."""

from __future__ import annotations

from pathlib import Path

import native_build
import pytest
from native_build import ask

CASES = Path(__file__).parents[1] / "runtime" / "conformance" / "cases"
pytestmark = pytest.mark.skipif(bool(native_build.why_not()), reason=native_build.why_not())


@pytest.fixture(scope="session")
def programs() -> Path:
    return native_build.build()


def test_it_answers_every_case(programs: Path) -> None:
    done = ask(programs / "ee-conformance", CASES)
    count = len(list(CASES.glob("*/case.json")))
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith(f"{count} of {count} cases answered as expected\n")

"""Processes that are forked from one with runners: their calls answer, or say what to do."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from plans import chain

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

FORKED = """
    import os, signal, sys
    import numpy as np
    from eetoolkit_runtime import Runner

    runner = Runner(sys.argv[1], threads=2, pool=sys.argv[2], load=sys.argv[3])
    rows = np.array([[0.1, 0.9, 0, 0], [0.9, 0.1, 0, 0]], np.float32)

    def answers():
        plain = [runner.run(row[None]) for row in rows]
        return [
            [(answer.exit, answer.confidence, answer.path) for answer in some]
            for some in (plain, runner.run_batch(rows), [runner.run(row[None], deadline_ms=1e5) for row in rows])
        ]

    before = answers()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            print("child", answers() == before, len(runner.opened), flush=True)
        except Exception as error:
            print("child", type(error).__name__, error, flush=True)
        {end}
    _, status = os.waitpid(child, 0)
    print("parent", answers() == before, status)
"""


def forked(folder: Path, pool: str, load: str, end: str, telemetry: str = "1") -> subprocess.CompletedProcess[str]:
    script = textwrap.dedent(FORKED).format(end=end)
    return subprocess.run(
        [sys.executable, "-c", script, str(folder), pool, load], capture_output=True, text=True, timeout=120,
        check=True, env=os.environ | {"ORT_DISABLE_TELEMETRY": telemetry},
    )  # fmt: skip


REFINED = """
    import os, signal, sys
    import numpy as np
    from eetoolkit_runtime import Runner

    runner = Runner(sys.argv[1], threads=1)
    answers = runner.refine(np.array([[0.1, 0.9, 0, 0]], np.float32), deadline_ms=1e5)
    next(answers)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            next(answers)
        except Exception as error:
            print(type(error).__name__, error, flush=True)
        os._exit(0)
    print(os.waitpid(child, 0)[1], next(answers).exit)
"""


def test_a_call_that_was_begun_before_the_fork_says_so_in_the_child_and_goes_on_in_the_parent(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(REFINED), str(chain().save(tmp_path / "b"))],
        capture_output=True, text=True, timeout=120, check=True, env=os.environ | {"ORT_DISABLE_TELEMETRY": "1"},
    )  # fmt: skip
    expected = "RunError this process was forked in the middle of a call; begin the call anew"
    assert run.stdout.splitlines() == [expected, "0 exit1"]


@pytest.mark.parametrize("end", ["sys.exit()", "os._exit(0)", "runner.close(); sys.exit()"])
@pytest.mark.parametrize("load", ["lazy", "background"])
def test_a_call_in_the_child_opens_its_own_sessions_and_answers_as_in_the_parent(
    tmp_path: Path, load: str, end: str
) -> None:
    run = forked(chain().save(tmp_path / "b"), "own", load, end)
    assert run.stdout.splitlines() == ["child True 2", "parent True 0"]
    assert run.stderr == ""


def test_a_child_of_a_process_with_a_shared_pool_says_what_to_do(tmp_path: Path) -> None:
    run = forked(chain().save(tmp_path / "b"), "shared", "lazy", "os._exit(0)")
    child, parent = run.stdout.splitlines()
    assert child.startswith("child RunError this process was forked from one with pool='shared'")
    assert "gunicorn: no --preload" in child
    assert parent == "parent True 0"


def test_a_child_that_telemetry_will_keep_from_ending_is_warned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CI", "GITHUB_ACTIONS", "ORT_RUNNING_UNIT_TESTS"):
        monkeypatch.delenv(name, raising=False)
    from eetoolkit_runtime.running.telemetry import tells

    run = forked(chain().save(tmp_path / "b"), "own", "lazy", "os._exit(0)", telemetry="0")
    assert run.stdout.splitlines() == ["child True 2", "parent True 0"]
    assert run.stderr.count("set ORT_DISABLE_TELEMETRY=1 before the import") == tells({})

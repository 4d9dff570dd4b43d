"""Sessions are opened once, with the settings that were asked for, and nothing is replaced silently."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest
from plans import chain, row

from eetoolkit_runtime.arguments import shortened
from eetoolkit_runtime.bundle.bundle import load
from eetoolkit_runtime.errors import IntegrityError, RunError
from eetoolkit_runtime.running import sessions
from eetoolkit_runtime.running.runner import Runner
from eetoolkit_runtime.running.sessions import Sessions, SessionSettings

SPIN_US = "session.intra_op.spin_duration_us"
SPINNING = "session.intra_op.allow_spinning"
STOP = "session.force_spinning_stop"


def entry(options: ort.SessionOptions, key: str) -> str | None:
    """Returns a session's configuration entry; None where it was not set."""
    try:
        return str(options.get_session_config_entry(key))
    except RuntimeError:
        return None


def refusal(**settings: Any) -> str:
    """Returns the text of the error."""
    with pytest.raises(RunError) as caught:
        SessionSettings(**settings)
    return str(caught.value)


@pytest.mark.parametrize("threads", [0, -1, 1025, 2**40, 10**400])
def test_fewer_threads_than_one_and_more_than_any_machine_has_are_refused(threads: int) -> None:
    assert refusal(threads=threads) == f"threads is {shortened(threads)}, expected 1 to 1024, or None for one per core"


@pytest.mark.parametrize("threads", ["2", 1.5])
def test_threads_that_are_no_number_of_threads_are_refused(threads: Any) -> None:
    assert refusal(threads=threads).startswith("threads is ")


def test_an_unknown_spin_is_refused() -> None:
    assert refusal(spin="forever") == "spin is 'forever', expected 'always', 'brief' or 'never'"


def test_an_unknown_pool_is_refused() -> None:
    assert refusal(pool="mine") == "pool is 'mine', expected 'own' or 'shared'"


def test_a_provider_that_this_onnxruntime_lacks_is_refused_not_replaced() -> None:
    message = refusal(providers=("NoSuchExecutionProvider", "CPUExecutionProvider"))
    available = ort.get_available_providers()
    assert message == f"providers ['NoSuchExecutionProvider'] are not in this onnxruntime; it has {available}"


def test_no_provider_at_all_is_refused() -> None:
    assert "it has [" in refusal(providers=())


def test_a_provider_may_have_options() -> None:
    settings = SessionSettings(providers=(("CPUExecutionProvider", {"arena": "1"}),))
    assert settings.providers[0][0] == "CPUExecutionProvider"


def test_one_providers_name_may_be_given_as_a_string(tmp_path: Path) -> None:
    with Runner(chain().save(tmp_path / "b"), threads=1, providers="CPUExecutionProvider") as runner:
        assert runner.run(row(0.9)).exit == "exit0"


def test_a_session_on_other_providers_than_asked_for_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Elsewhere:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(ort, "InferenceSession", Elsewhere)
    settings = SessionSettings(providers=("CUDAExecutionProvider",))
    with pytest.raises(RunError) as caught:
        settings.open("a.onnx", "segment 'a'")
    assert str(caught.value) == (
        "segment 'a': CUDAExecutionProvider refuses it: onnxruntime runs it on CPUExecutionProvider"
    )


def test_onnxruntime_is_asked_for_no_fallback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    original = ort.InferenceSession

    def session(path: str, options: ort.SessionOptions, **settings: Any) -> ort.InferenceSession:
        asked.update(settings)
        return original(path, options, **settings)

    monkeypatch.setattr(ort, "InferenceSession", session)
    with Runner(chain().save(tmp_path / "b"), threads=1) as runner:
        runner.run(row(0.9))
    assert asked == {"providers": ["CPUExecutionProvider"], "enable_fallback": 0}


def test_threads_are_those_asked_for() -> None:
    assert SessionSettings(threads=3).options().intra_op_num_threads == 3
    assert SessionSettings().options().intra_op_num_threads == 0  # onnxruntime's word for one per core


def test_workers_that_spin_briefly_do_so_for_20_us() -> None:
    assert entry(SessionSettings(spin="brief").options(), SPIN_US) == "20"


def test_an_onnxruntime_without_brief_spinning_stops_its_workers_after_each_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sessions, "VERSION", (1, 20))
    options = SessionSettings(spin="brief").options()
    assert (entry(options, STOP), entry(options, SPIN_US)) == ("1", None)


def test_workers_that_never_spin_are_told_so() -> None:
    assert entry(SessionSettings(spin="never").options(), SPINNING) == "0"


def test_workers_that_always_spin_are_left_alone() -> None:
    options = SessionSettings(spin="always").options()
    assert [entry(options, key) for key in (SPIN_US, SPINNING, STOP)] == [None, None, None]


@pytest.mark.parametrize("spin", ["always", "brief", "never"])
@pytest.mark.parametrize("threads", [None, 1, 2])
def test_settings_do_not_change_the_answer(tmp_path: Path, spin: Any, threads: int | None) -> None:
    with Runner(chain().save(tmp_path / "b"), threads=threads, spin=spin) as runner:
        assert runner.run(row(0.1, 0.9)).exit == "exit1"


def test_a_graph_that_is_not_onnx_is_an_integrity_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"\x08\x07 no graph")
    with pytest.raises(IntegrityError) as caught:
        SessionSettings(threads=1).open(str(tmp_path / "a.onnx"), "segment 'a'")
    message = str(caught.value)
    assert message.startswith(f"segment 'a': onnxruntime {ort.__version__} cannot load {tmp_path / 'a.onnx'}: ")
    assert "\n" not in message
    assert caught.value.__cause__ is not None


def test_a_failure_to_load_that_is_no_utf8_is_an_integrity_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        b"\xff".decode()  # what some of onnxruntime's failures come as

    monkeypatch.setattr(ort, "InferenceSession", fail)
    with pytest.raises(IntegrityError, match=r"^segment 'a': onnxruntime .* cannot load a\.onnx: "):
        SessionSettings().open("a.onnx", "segment 'a'")


def test_a_session_is_opened_when_it_is_first_asked_for_and_then_kept(tmp_path: Path) -> None:
    opened = Sessions(load(chain().save(tmp_path / "b")), SessionSettings(threads=1))
    assert opened.opened == ()
    first = opened["segment1"]
    assert opened["segment1"] is first
    opened.open_all()
    assert opened.opened == ("segment1", "segment0", "segment2")
    opened.close()
    assert opened.opened == ()


def test_a_session_that_failed_to_open_is_tried_again(tmp_path: Path) -> None:
    folder = chain().save(tmp_path / "b")
    opened = Sessions(load(folder), SessionSettings(threads=1))
    graph = next(folder.glob("segment0-*.onnx"))
    graph.rename(tmp_path / "away")
    with pytest.raises(IntegrityError, match="segment 'segment0'"):
        _ = opened["segment0"]
    (tmp_path / "away").rename(graph)
    assert opened["segment0"].session.get_inputs()[0].name == "x"


# The shared pool belongs to the process, so each of these has one of its own.

SHARED = """
    import json, sys
    import numpy as np
    from eetoolkit_runtime import Runner
    from eetoolkit_runtime.errors import EEToolkitError

    folder, x = sys.argv[1], np.array([[0.1, 0.9, 0, 0]], np.float32)

    def run(**settings):
        try:
            with Runner(folder, **settings) as runner:
                return runner.run(x).exit
        except EEToolkitError as error:
            return f"{type(error).__name__}: {error}"
"""


def shared(folder: Path, *calls: str) -> tuple[list[str], str]:
    """Returns what each call gives in one new process, and what that process writes to its standard error."""
    script = textwrap.dedent(SHARED) + f"print(json.dumps([{', '.join(f'run({call})' for call in calls)}]))"
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_the_shared_pool_gives_the_same_answers_in_every_runner_of_the_process(tmp_path: Path) -> None:
    found, _ = shared(
        chain().save(tmp_path / "b"), *["pool='shared', threads=2"] * 2, "pool='shared', threads=2, load='eager'"
    )
    assert found == ["exit1", "exit1", "exit1"]


def test_the_shared_pool_prints_nothing(tmp_path: Path) -> None:
    _, stderr = shared(chain().save(tmp_path / "b"), "pool='shared', threads=2")
    assert stderr == ""


def test_the_shared_pool_may_have_a_thread_per_core(tmp_path: Path) -> None:
    found, _ = shared(chain().save(tmp_path / "b"), "pool='shared'", "pool='shared'")
    assert found == ["exit1", "exit1"]


def test_the_shared_pool_cannot_change_its_threads(tmp_path: Path) -> None:
    found, _ = shared(chain().save(tmp_path / "b"), "pool='shared', threads=2", "pool='shared', threads=1")
    assert found == [
        "exit1",
        "RunError: pool='shared' has 2 threads in this process already, asked for 1: onnxruntime sets it once",
    ]


def test_a_pool_of_its_own_after_the_shared_one_is_refused_with_the_reason(tmp_path: Path) -> None:
    found, _ = shared(chain().save(tmp_path / "b"), "pool='shared', threads=2", "threads=2")
    assert found[0] == "exit1"
    assert found[1].startswith("RunError: ")
    assert "pool='shared'" in found[1]


def test_the_shared_pool_after_a_pool_of_its_own_works_or_says_why(tmp_path: Path) -> None:
    found, _ = shared(chain().save(tmp_path / "b"), "threads=1", "pool='shared', threads=2")
    assert found[0] == "exit1"
    assert found[1] == "exit1" or "pool='shared'" in found[1]

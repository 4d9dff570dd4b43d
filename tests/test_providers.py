"""Segments run on the providers that were asked for; one that refuses is named with its reason, in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import providers as environments
import pytest
from click.testing import CliRunner
from plans import chain, row

import eetoolkit as ee
from eetoolkit.cli import main
from eetoolkit_runtime.running.providers import choose_providers, expected_providers, of_segment
from eetoolkit_runtime.running.sessions import SessionSettings

ROOT = Path(__file__).parent.parent
CASES = ROOT / "runtime/conformance/cases"
CPU = "CPUExecutionProvider"
FAKE = "FakeExecutionProvider"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return chain(0.5, 0.5).save(tmp_path / "chain.ee")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[Any]]]:
    """Has onnxruntime know a provider that runs on the CPU; gives what sessions were asked for."""
    seen: list[list[Any]] = []

    class Session(ort.InferenceSession):  # type: ignore[misc] # of no stated type
        def __init__(self, model: Any, options: Any, *, providers: list[Any], enable_fallback: int) -> None:
            seen.append(providers)
            super().__init__(model, options, providers=[CPU], enable_fallback=enable_fallback)
            self.named = [each if isinstance(each, str) else each[0] for each in providers]

        def get_providers(self) -> list[str]:
            return list(dict.fromkeys([*self.named, CPU]))

    monkeypatch.setattr(ort, "get_available_providers", lambda: [FAKE, CPU])
    monkeypatch.setattr(ort, "InferenceSession", Session)
    yield seen


def refuse(monkeypatch: pytest.MonkeyPatch, how: Callable[[], None]) -> None:
    """Has the provider do something where a session is made on it; onnxruntime then has the CPU in its place."""
    real = ort.InferenceSession

    def session(model: Any, options: Any, *, providers: list[Any], enable_fallback: int) -> Any:
        if providers != [CPU]:
            how()
        return real(model, options, providers=[CPU], enable_fallback=enable_fallback)

    monkeypatch.setattr(ort, "get_available_providers", lambda: [FAKE, CPU])
    monkeypatch.setattr(ort, "InferenceSession", session)


def test_threads_that_open_segments_at_once_leave_stderr_as_it_was(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, leave = [threading.Event() for _ in range(2)], [threading.Event() for _ in range(2)]

    def hold() -> None:
        number = int(threading.current_thread().name)
        inside[number].set()
        leave[number].wait(10)

    def opens() -> None:
        with pytest.raises(ee.ProviderError):
            ee.Runner(bundle, threads=1, load="eager", providers=[FAKE])

    refuse(monkeypatch, hold)
    before = os.fstat(2)
    threads = [threading.Thread(target=opens, name=str(number)) for number in range(2)]
    threads[0].start()
    assert inside[0].wait(10)
    threads[1].start()
    inside[1].wait(0.2)
    for number, thread in enumerate(threads):
        leave[number].set()
        thread.join()
    assert os.path.samestat(os.fstat(2), before)


def test_a_process_without_stderr_opens_segments(
    bundle: Path, asked: list[list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with ee.Runner(bundle, threads=1, load="eager", providers=[FAKE]) as runner:
        assert runner.providers == (FAKE, CPU)


def test_providers_are_for_all_segments_or_by_segment(bundle: Path, asked: list[list[Any]]) -> None:
    with ee.Runner(bundle, threads=1, load="eager", providers=[(FAKE, {"a": 1}), CPU]) as runner:
        assert runner.providers == (FAKE, CPU)
    assert asked == [[(FAKE, {"a": 1}), CPU]] * 3
    asked.clear()
    with ee.Runner(bundle, threads=1, load="eager", providers={"segment1": FAKE, "segment2": [FAKE, CPU]}) as runner:
        assert asked == [[CPU], [FAKE], [FAKE, CPU]]
        assert runner.providers == (FAKE, CPU)
        assert runner.run(row(0, 1)).exit == "exit1"


def test_the_command_line_passes_names_and_options_on(bundle: Path, asked: list[list[Any]]) -> None:
    x, own = bundle.parent / "x.npy", ("--threads", "1", "--pool", "own")
    np.save(x, row(0.9))
    for arguments in (("run", bundle, x), ("profile", bundle, "--inputs", x, "--seconds", "0")):
        asked.clear()
        result = CliRunner().invoke(
            main, [*map(str, arguments), *own, "--provider", f"{FAKE}:a=1,b=x=y", "--provider", CPU]
        )
        assert result.exit_code == 0, result.output
        assert asked and all(each == [(FAKE, {"a": "1", "b": "x=y"}), (CPU, {})] for each in asked)
    for wrong in (":a=1", f"{FAKE}:a", f"{FAKE}:=1"):
        result = CliRunner().invoke(main, ["run", str(bundle), str(x), *own, "--provider", wrong])
        assert result.exit_code == 2
        assert f"{wrong!r}, expected NAME or NAME:KEY=VALUE" in result.output
    result = CliRunner().invoke(main, ["run", str(bundle), str(x), *own, "--provider", "Missing"])
    assert "providers ['Missing'] are not in this onnxruntime" in result.output


def test_a_profile_and_tuning_agree_on_what_runs_by_segment(bundle: Path, asked: list[list[Any]]) -> None:
    x = np.random.default_rng(0).uniform(0, 1, (40, 4)).astype(np.float32)
    by_segment = {"segment1": FAKE}
    found = ee.profile(bundle, x, threads=1, seconds=0, providers=by_segment)
    assert found.providers == (FAKE, CPU)
    how = {"profile": found, "max_accuracy_drop": 0.5, "calibrate": False, "threads": 1}
    assert ee.tune(bundle, x, np.arange(40) % 2, providers=by_segment, **how).unit == "ms"
    with pytest.raises(ee.TuneError, match=f"of a run on {FAKE}, {CPU}, expected {CPU}; profile again"):
        ee.tune(bundle, x, np.arange(40) % 2, **how)


def test_what_sessions_will_say_is_known_beforehand() -> None:
    for given, expected in (
        (None, (CPU,)),
        (FAKE, (FAKE, CPU)),
        ([CPU, FAKE], (CPU, FAKE)),
        ({"a": FAKE, "b": [("Other", {}), CPU]}, (FAKE, "Other", CPU)),
        ([("Plug/GPU", {})], ("Plug", CPU)),
    ):
        assert expected_providers(choose_providers(given)) == expected
    assert of_segment(choose_providers({"a": FAKE}), "b") == (CPU,)


def test_a_segment_that_is_not_there_and_providers_of_no_kind_are_refused(bundle: Path) -> None:
    with pytest.raises(ee.ProviderError, match="no segment 'segment9' with a model"):
        ee.Runner(bundle, providers={"segment9": CPU})
    for given in ({}, {"segment0": []}, {"segment0": [3]}, [(CPU, 3)], []):
        with pytest.raises(
            ee.ProviderError, match=r"expected a list of names or of \(name, options\), or such lists by"
        ):
            ee.Runner(bundle, providers=given)


def test_a_provider_that_refuses_is_named_with_its_reason(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def logs() -> None:
        line = b"\x1b[1;31m2026 [E:onnxruntime:Default, bridge.cc:23 Create] /o/f.cc:14 f(int) [ERROR] no such card\n"
        os.write(2, b"a warning of a library\n" + line + b"\x1b[m\n")

    refuse(monkeypatch, logs)
    with pytest.raises(ee.ProviderError) as caught:
        ee.Runner(bundle, threads=1, load="eager", providers={"segment1": FAKE})
    assert str(caught.value) == f"segment 'segment1': {FAKE} refuses it: no such card"
    assert capfd.readouterr().err == ""


def test_a_provider_that_raises_is_no_fault_of_the_graph(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raises() -> None:
        raise RuntimeError("cannot compile\nand more")

    refuse(monkeypatch, raises)
    with pytest.raises(ee.ProviderError) as caught:
        ee.Runner(bundle, threads=1, providers=FAKE).run(row(1))
    assert str(caught.value) == f"segment 'segment0': {FAKE} refuses it: cannot compile"
    assert not isinstance(caught.value, ee.BundleError)


def test_a_graph_that_no_provider_loads_stays_an_integrity_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, lambda: None)
    (tmp_path / "a.onnx").write_bytes(b"\x08\x07 no graph")
    with pytest.raises(ee.IntegrityError, match="cannot load"):
        SessionSettings(providers=(FAKE,)).open(str(tmp_path / "a.onnx"), "segment 'a'")


def test_the_cpu_takes_over_only_where_that_was_asked_for_and_never_silently(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, lambda: None)
    with pytest.raises(
        ee.ProviderError, match=f"^segment 'segment0': {FAKE} refuses it: onnxruntime runs it on {CPU}$"
    ):
        ee.Runner(bundle, threads=1, load="eager", providers=FAKE)
    told = f"segment 'segment0': {FAKE} refuses it: onnxruntime runs it on {CPU}; it runs on the CPU"
    with (
        pytest.warns(RuntimeWarning, match=told),
        ee.Runner(bundle, threads=1, providers=FAKE, provider_fallback=True) as runner,
    ):
        assert runner.run(row(1)).exit == "exit0"
        assert runner.providers == (CPU,)


def test_what_others_write_on_stderr_before_and_after_is_theirs(
    bundle: Path, asked: list[list[Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    print("before", file=sys.stderr)
    with ee.Runner(bundle, threads=1, load="eager", providers=FAKE):
        print("after", file=sys.stderr)
    assert capfd.readouterr().err == "before\nafter\n"


# Real ones


def there(name: str, script: str, *arguments: object) -> Any:
    """Returns what a script prints as JSON in the environment of a provider; it must write nothing on stderr."""
    python = environments.python_of(name)
    if not python.exists():
        print(f"\nNOT TESTED: the provider {name}: `make providers` installs it", file=sys.__stderr__)
        pytest.skip(f"{name} is not installed; run `make providers`")
    environment = os.environ | {"PYTHONPATH": str(ROOT / "runtime")}
    done = subprocess.run(
        [str(python), "-c", script, *map(str, arguments)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


_COMPARE = """
import json, sys
import numpy as np
from eetoolkit_runtime import Runner, load
from eetoolkit_runtime.errors import ProviderError
from eetoolkit_runtime.running.inputs import golden_rows
{first}
found = {{}}
for folder in sys.argv[1:]:
    bundle = load(folder)
    if all(segment.model is None for segment in bundle.manifest.segments.values()):
        continue  # nothing to run
    worst = 0.0
    try:
        asked = {{"threads": 1, "load": "eager", "providers": {providers!r}}}
        with Runner(bundle, threads=1) as cpu, Runner(bundle, **asked) as other:
            for row in golden_rows(bundle):
                for a, b in zip(cpu.run_all_exits(row), other.run_all_exits(row), strict=True):
                    assert a.exit == b.exit and a.path == b.path
                    for key, array in a.outputs.items():
                        own = array.astype(np.float64)
                        worst = max(worst, float(np.max(np.abs(own - b.outputs[key]), initial=0)))
            found[folder] = [worst, list(other.providers)]
    except ProviderError as error:
        found[folder] = str(error)
print(json.dumps(found))
"""
_REFUSES = """
import json, sys
from eetoolkit_runtime import Runner
from eetoolkit_runtime.errors import ProviderError
{first}
try:
    Runner(sys.argv[1], threads=1, load="eager", providers={providers!r})
except ProviderError as error:
    print(json.dumps(str(error)))
"""
_GGML = "import os; os.environ['ORT_GGML_LOG'] = 'off'; import onnxruntime_ggml; onnxruntime_ggml.register()"


@pytest.mark.parametrize(
    ("name", "first", "provider"), [("openvino", "", "OpenVINOExecutionProvider"), ("plugin", _GGML, "ggml")]
)
def test_bundles_answer_on_a_provider_as_on_the_cpu(bundle: Path, name: str, first: str, provider: str) -> None:
    folders = [bundle, *sorted(path.parent for path in CASES.rglob("manifest.json"))]
    found = there(name, _COMPARE.format(first=first, providers=[provider]), *folders)
    answered = {folder: each for folder, each in found.items() if not isinstance(each, str)}
    refused = {folder: each for folder, each in found.items() if isinstance(each, str)}
    print(f"{provider}: {len(answered)} bundles answered, {len(refused)} refused", sorted(refused.values())[:3])
    assert len(answered) > len(refused)
    assert all(told.startswith("segment ") and f"{provider} refuses it: " in told for told in refused.values())
    assert all(providers == [provider, CPU] for _, providers in answered.values())
    assert max(worst for worst, _ in answered.values()) < 1e-2


@pytest.mark.parametrize(
    ("name", "first", "provider", "reason"),
    [
        ("openvino", "", ("OpenVINOExecutionProvider", {"device_type": "GPU"}), "Device GPU is not available"),
        ("plugin", _GGML, ("ggml", {"device": "gpu"}), "no gpu backend is available"),
        ("plugin", _GGML, ("ggml/NPU", {}), "has no device of the kind 'NPU'; it has CPU"),
    ],
)
def test_a_real_provider_that_refuses_says_why_in_one_line(
    bundle: Path, name: str, first: str, provider: tuple[str, dict[str, str]], reason: str
) -> None:
    told = there(name, _REFUSES.format(first=first, providers=[provider]), bundle)
    assert told.startswith("segment 'segment0': ")
    assert provider[0].partition("/")[0] in told
    assert reason in told
    assert "\n" not in told

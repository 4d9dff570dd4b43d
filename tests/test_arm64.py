"""The root of arm64 packages and the runs in it, as far as neither packages nor emulation are needed."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path

import arm64_root
import debian
import msgspec
import platforms
import pytest
import raspberry_pi
from case_runner import answer_case
from pages import ROOT, blocks

from eetoolkit import zoo

CASE = ROOT / "runtime" / "conformance" / "cases" / "chain"
PARAGRAPHS = """Types: deb
# http://example.org/of/another/time
URIs: http://example.org/debian
Suites: bookworm bookworm-updates
Signed-By: /usr/share/keyrings/debian.gpg

Types: deb
URIs: http://example.org/bookworm-security
Suites: bookworm-security

Types: deb
URIs: http://example.org/another
Suites: another-bookworm
"""
DEBIAN = """Types: deb
URIs: http://example.org/debian
Suites: trixie trixie-updates
Signed-By: /usr/share/keyrings/debian.gpg
"""
LINES = (
    "# deb http://example.org/old bookworm main\ndeb http://example.org/debian bookworm main\n\ndeb http://o.org/ x y\n"
)


def test_only_entries_of_debian_itself_are_taken_and_with_another_suite() -> None:
    found = [text for _, text in debian.sources([("a.sources", PARAGRAPHS), ("b.list", LINES)], "bookworm", "trixie")]
    assert found == [
        DEBIAN,
        "Types: deb\nURIs: http://example.org/bookworm-security\nSuites: trixie-security\n",
        "deb http://example.org/debian trixie main\n",
    ]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns an empty cache, on a machine without apt and dpkg."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_where_packages_cannot_be_had_it_is_said_loudly_and_nothing_fails(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["platforms.py", "--quick"])
    monkeypatch.setattr(platforms, "unpacked_wheel", lambda folder: folder)
    assert platforms.main() == 0
    said = capsys.readouterr()
    assert said.out.startswith("Python, x86-64: conformance: ")
    assert "!! ONLY Python, x86-64; the rest IS SKIPPED: [Errno 2] No such file or directory: 'dpkg'" in said.err


def test_what_is_there_is_taken_where_newer_packages_cannot_be_had(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("root", "emulator"):
        (cache / "eetoolkit" / "arm64" / name).mkdir(parents=True)
        (cache / "eetoolkit" / "arm64" / name / debian.MADE_OF).touch()
    assert arm64_root.python() == cache / "eetoolkit" / "arm64" / "root" / "usr" / "bin" / "python3"
    assert "those of the last time are taken" in capsys.readouterr().err


def changed(folder: Path, number: int, **told: object) -> Path:
    """Returns a copy of a case in which the answer to a row says something else."""
    shutil.copytree(CASE, folder)
    case = msgspec.json.decode((CASE / "case.json").read_bytes())
    case["runs"][number]["answer"] |= told
    (folder / "case.json").write_bytes(msgspec.json.encode(case))
    return folder


@pytest.mark.parametrize("told", [{"exit": "exit1"}, {"path": ["here"]}, {"gates": [["here", 1]]}, {"prediction": 3}])
def test_another_exit_path_or_decision_is_a_failure(tmp_path: Path, told: dict[str, object]) -> None:
    ((key, value),) = told.items()
    found = answer_case(changed(tmp_path / "case", 7, **told))
    assert found.ties == 0
    assert len(found.failures) == 1
    assert found.failures[0].startswith(f"run 7: answer: {key} is ")
    assert found.failures[0].endswith(f"expected {value!r}")


def test_a_confidence_at_its_threshold_may_be_on_either_side_of_it(tmp_path: Path) -> None:
    case = msgspec.json.decode((CASE / "case.json").read_bytes())
    met, missed = case["runs"][0], case["runs"][1]  # by nothing, and by one float32
    for number, run, other in ((0, met, 2), (1, missed, 0)):
        found = answer_case(changed(tmp_path / str(number), number, **run["visits"][other]))
        assert (found.ties, found.failures) == (1, [])


def test_a_platform_must_run_on_what_it_says(tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\necho \'{"machine": "x86_64", "by": {}, "cases": {}}\'\n')
    program.chmod(0o755)
    assert platforms.Python("here", "x86_64", program, {}).answer(tmp_path) == {"by": {}, "cases": {}}
    with pytest.raises(SystemExit, match="there: ran on x86_64"):
        platforms.Python("there", "aarch64", program, {}).answer(tmp_path)


def native(folder: Path, *said: str, verified: str = "verify passed,") -> platforms.Native:
    """Returns a platform whose programs say these lines, whatever they are asked; they are made for what `echo` is."""
    shutil.copy("/bin/echo", folder / "ee-conformance")
    machine = platforms.MACHINES[int.from_bytes((folder / "ee-conformance").read_bytes()[18:20], "little")]
    library = folder / "libonnxruntime.so.1.2.3"

    def stand_in(program: Path) -> tuple[str, ...]:
        return ("echo", verified) if program.name == "ee-verify" else ("printf", "%s\\n", *said)

    return platforms.Native("native", machine, folder, library, stand_in, {})


def test_what_the_native_runner_says_is_read_by_case(tmp_path: Path) -> None:
    found = native(tmp_path, "chain: run 3: exit is a: b", "gate: ok").answer(CASE.parent)
    assert found["by"] == {"onnxruntime": "1.2.3"}
    failed = {name: each["failures"] for name, each in found["cases"].items() if each["failures"]}
    assert failed.pop("chain") == ["run 3: exit is a: b"]
    assert set(map(tuple, failed.values())) == {("not run",)}
    assert found["cases"]["gate"]["failures"] == []
    unverified = native(tmp_path, "criterion_vote: ok", verified="verify FAILED (1),").answer(CASE.parent)["cases"]
    assert unverified["criterion_vote"]["samples"] > 0
    assert unverified["criterion_vote"]["failures"][0].startswith("verify FAILED (1), ")
    with pytest.raises(SystemExit, match="native: made for "):
        dataclasses.replace(native(tmp_path), machine="another").answer(CASE.parent)


def test_the_kept_results_are_of_all_runners_on_their_processors_and_nothing_failed() -> None:
    kept = msgspec.json.decode(platforms.RESULTS.read_bytes())
    cases = {path.name for path in CASE.parent.iterdir()}
    where = ["x86-64", *(f"ARM64 as in a {board}" for board in platforms.CPUS.values())]
    everywhere = {f"{runner}, {each}" for runner in ("Python", "native") for each in where}
    assert set(kept) == everywhere | {"Node, x86-64", "Chromium, x86-64"}
    for name, sets in kept.items():
        assert set(sets["conformance"]["cases"]) == cases, name
        assert set(sets["zoo"]["cases"]) == set(sets["zoo_int8"]["cases"]) == set(zoo.names()), name
        assert all(not platforms.failures(answered) for answered in sets.values()), name


def test_every_command_of_the_page_says_where_it_belongs() -> None:
    shown = [text for language, text in blocks(ROOT / "docs" / "raspberry-pi.md") if language == "sh"]
    assert shown
    assert all(text.startswith((raspberry_pi.HOST, raspberry_pi.BOARD)) for text in shown)


def test_files_go_to_the_board_and_back(tmp_path: Path) -> None:
    board = tmp_path / "board"
    board.mkdir()
    script = tmp_path / "scp"
    script.write_text(raspberry_pi.COPY.format(board=board))
    (tmp_path / "a").write_text("a")
    copy = ["sh", str(script), "-r", "a", "pi@raspberrypi.local:b"]
    subprocess.run(copy, cwd=tmp_path, check=True)
    assert (board / "b").read_text() == "a"
    subprocess.run(["sh", str(script), "pi@raspberrypi.local:b", "."], cwd=tmp_path, check=True)
    assert (tmp_path / "b").read_text() == "a"

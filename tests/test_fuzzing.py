"""Some thousand damaged files for every reader, the same ones each time; `make fuzz` runs a million."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from eetoolkit_runtime.errors import EEToolkitError

INPUTS = {"manifest": 4_000, "zip": 600, "input": 2_000, "picture": 1_200, "golden": 600, "profile": 2_000,
          "record": 600, "graph": 4_000, "run": 300}  # fmt: skip
"""How many inputs of each reader: a second or two on a quiet core."""
MOST_MIB = 512

FUZZ = """
    import sys
    sys.path.insert(0, sys.argv[1])
    import fuzzing
    counts = fuzzing.fuzz(int(sys.argv[3]), 0, sys.argv[2])
    print(counts[sys.argv[2], "refused"], counts[sys.argv[2], "taken"], fuzzing.peak_mib())
"""


@pytest.mark.parametrize("reader", INPUTS)
def test_a_damaged_file_is_a_typed_error_or_holds(reader: str, tmp_path: Path) -> None:
    code = "\n".join(line.strip() for line in FUZZ.splitlines())
    command = [sys.executable, "-W", "error", "-c", code, str(Path(__file__).parent), reader, str(INPUTS[reader])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    refused, taken, peak_mib = map(int, done.stdout.split())
    assert refused + taken == INPUTS[reader]
    assert taken > 0, "nothing gets as far as what lies behind the reader"
    assert refused > 0 or reader == "graph"
    assert peak_mib < MOST_MIB


def test_the_fuzzer_notices_a_bare_exception(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import fuzzing

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fuzzing.profiles, "decode", lambda *_: {}["x"])
    with pytest.raises(KeyError):
        fuzzing.fuzz(1, 0, "profile")
    assert (tmp_path / "fuzz-profile").exists()


def test_a_seed_gives_the_same_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    import fuzzing

    seen: list[bytes] = []

    def kept(text: bytes, what: str) -> None:
        seen.append(text)
        raise EEToolkitError("kept")

    real = fuzzing.profiles.decode
    monkeypatch.setattr(fuzzing.profiles, "encode", lambda _: b'{"version": 3, "rows": [1, 2, 3]}')
    monkeypatch.setattr(fuzzing.profiles, "decode", kept)
    assert real is not kept
    for _ in range(2):
        fuzzing.fuzz(30, 7, "profile")
    assert seen[:30] == seen[30:]
    assert len(set(seen)) > 10

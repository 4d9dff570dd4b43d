"""`eetoolkit pack` and `eetoolkit truncate`."""

from __future__ import annotations

import json
from pathlib import Path

import onnxruntime as ort
import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace
from plans import chain, edit, gated, row, swapped

import eetoolkit as ee
from eetoolkit.cli import main
from eetoolkit_runtime.arguments import shortened
from eetoolkit_runtime.plan.types import TensorSpec


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EETOOLKIT_CACHE", str(tmp_path / "cache"))
    return chain(weights=True).save(tmp_path / "chain.ee").parent


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_pack_writes_a_zip_beside_the_bundle_that_runs_as_well(here: Path) -> None:
    result = call("pack", "chain.ee")
    size = (here / "chain.ee.zip").stat().st_size
    assert result.stdout == f"chain.ee.zip: {size / 1e3:.1f} kB\n"
    assert ee.load(here / "chain.ee.zip").manifest == ee.load(here / "chain.ee").manifest


def test_pack_takes_a_name_a_trailing_slash_and_the_current_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("pack", "chain.ee/", "-o", "out.zip").exit_code == 0
    assert (here / "out.zip").is_file()
    monkeypatch.chdir(here / "chain.ee")
    assert call("pack", ".").exit_code == 0
    assert (here / "chain.ee.zip").is_file()


def test_pack_does_not_overwrite_silently(here: Path) -> None:
    call("pack", "chain.ee")
    assert call("pack", "chain.ee").stderr == ("error: chain.ee.zip exists; pass --overwrite to replace it\n")
    found = json.loads(call("pack", "chain.ee", "--overwrite", "--json").stdout)
    assert found == {"path": "chain.ee.zip", "size_bytes": (here / "chain.ee.zip").stat().st_size}


def test_pack_single_file_writes_one_onnx_beside_the_bundle(here: Path) -> None:
    result = call("pack", "chain.ee", "--single-file")
    size = (here / "chain.onnx").stat().st_size
    assert result.stdout == f"chain.onnx: {size / 1e3:.1f} kB, described by chain.json\n"
    session = ort.InferenceSession(here / "chain.onnx")
    _, index, confidence = session.run(["logits", "exit", "confidence"], {"x": row(0.2, 0.9)})
    assert (int(index), float(confidence)) == (1, pytest.approx(0.9))


def test_pack_single_file_takes_a_zip_and_a_name_and_does_not_overwrite_silently(here: Path) -> None:
    call("pack", "chain.ee")
    found = json.loads(call("pack", "chain.ee.zip", "-o", "out.onnx", "--single-file", "--json").stdout)
    size = (here / "out.onnx").stat().st_size
    assert found == {"path": "out.onnx", "size_bytes": size, "description": "out.json"}
    again = call("pack", "chain.ee", "--output", "out.onnx", "--single-file")
    assert (again.exit_code, again.stderr) == (
        1, "error: out.onnx exists; pass --overwrite to replace it\n"
    )  # fmt: skip
    assert call("pack", "chain.ee", "--output", "out.onnx", "--single-file", "--overwrite").exit_code == 0


def test_pack_single_file_says_in_one_line_what_is_wrong(here: Path) -> None:
    assert call("pack", "nowhere.ee", "--single-file").stderr == "error: nowhere.ee does not exist\n"
    swapped().save(here / "swapped.ee")  # its exit answers with its slots `a` and `b`
    gated().save(here / "gated.ee")
    assert call("pack", "swapped.ee", "--single-file").exit_code == 0
    edit(here / "gated.ee", inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", 4)),), start="nowhere")
    wrong = call("pack", "gated.ee", "--single-file")
    assert (wrong.exit_code, wrong.stderr.count("\n")) == (1, 1)
    assert wrong.stderr == "error: manifest.json: start is 'nowhere', which is not a segment\n"


def test_truncate_makes_a_bundle_that_always_answers_there(here: Path) -> None:
    result = call("truncate", "chain.ee", "--at", "exit1")
    assert result.stdout.startswith("drafted: 2 segments, exits exit0, exit1, ")
    assert result.stdout.endswith(" in chain-exit1.ee\n")
    assert list(ee.load("chain-exit1.ee").exits) == ["exit0", "exit1"]


def test_truncate_of_a_zip_writes_beside_the_zip(here: Path) -> None:
    call("pack", "chain.ee")
    assert json.loads(call("truncate", "chain.ee.zip", "--at", "exit0", "--json").stdout)["path"] == "chain-exit0.ee"
    assert (here / "chain-exit0.ee").is_dir()


def test_truncate_at_an_exit_whose_name_is_no_files_writes_beside_the_bundle(here: Path) -> None:
    draft = chain()
    second = draft.segments["segment1"]
    assert second.exit is not None
    draft.segments["segment1"] = replace(second, exit=replace(second.exit, name="heads_1"))
    draft.options["titles"] = {"heads_1": "../heads/1"}
    draft.save(here / "heads.ee")
    result = call("truncate", "heads.ee", "--at", "../heads/1")
    assert result.stdout.endswith(" in heads-..-heads-1.ee\n")
    assert list(ee.load("heads-..-heads-1.ee").exits) == ["exit0", "heads_1"]
    for name in ("no/such", "x" * 300):
        assert call("truncate", "heads.ee", "--at", name).stderr.startswith(
            f"error: no exit {shortened(name)}; the exits are "
        )


def test_truncate_does_not_overwrite_silently_and_knows_the_exits(here: Path) -> None:
    call("truncate", "chain.ee", "--at", "exit0", "-o", "short.ee")
    again = call("truncate", "chain.ee", "--at", "exit0", "-o", "short.ee")
    assert (again.exit_code, again.stderr) == (
        1, "error: short.ee exists; pass --overwrite to replace it\n"
    )  # fmt: skip
    assert call("truncate", "chain.ee", "--at", "exit0", "-o", "short.ee", "--overwrite").exit_code == 0
    assert (
        call("truncate", "chain.ee", "--at", "no").stderr == "error: no exit 'no'; the exits are exit0, exit1, exit2\n"
    )


def test_the_same_one_file_is_written_from_python(here: Path) -> None:
    assert call("pack", "chain.ee", "--single-file", "-o", "shell.onnx").exit_code == 0
    assert ee.write_single_file("chain.ee", "python.onnx") == here / "python.onnx"
    assert (here / "python.onnx").read_bytes() == (here / "shell.onnx").read_bytes()
    with pytest.raises(ee.EEToolkitError, match=r"python\.onnx"):
        ee.write_single_file("chain.ee", "python.onnx")

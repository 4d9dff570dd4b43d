"""`eetoolkit inspect`: the table, its JSON, and the drawings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace
from plans import chain, edit, looped

from eetoolkit.cli import main
from eetoolkit_runtime.plan.manifest import decode
from eetoolkit_runtime.plan.types import Preprocess, TensorSpec, Work


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = chain(0.5, 0.25, weights=True).save(tmp_path_factory.mktemp("inspect") / "chain.ee")
    plan = decode((folder / "manifest.json").read_bytes())
    work = Work(nodes=3, parameters=25_557_032, multiply_adds=4_089_184_256)
    segments = {name: replace(segment, work=work) for name, segment in plan.segments.items()}
    return edit(folder, segments=segments, labels=("cat", "dog", "bee", "ant"))


def inspect(*arguments: str | Path, columns: int | None = None) -> Result:
    env = {} if columns is None else {"FORCE_COLOR": "1", "COLUMNS": str(columns), "TERM": "xterm"}
    result = CliRunner(env=env).invoke(main, ["inspect", *map(str, arguments)], catch_exceptions=False, color=True)
    assert result.exit_code == 0, result.stderr
    return result


def test_header_says_what_goes_in_and_comes_out(bundle: Path) -> None:
    lines = inspect(bundle).stdout.splitlines()
    assert "input    x: float32[batch, 4]" in lines
    assert "output   logits: float32[batch, 4]" in lines
    assert "labels   4: cat, dog, bee, ant" in lines
    assert "golden   none" in lines
    assert "created  tests 1, opset 18" in lines


def test_header_tells_preprocess_notes_and_single_row_bundles(tmp_path: Path) -> None:
    picture = TensorSpec(name="x", dtype="float32", shape=("batch", 3, 8, 9))
    folder = edit(
        chain().save(tmp_path / "b.ee"), inputs=(picture,), batch=1, notes=("two gates stay inside",),
        fallback="most_confident",
        preprocess={"x": Preprocess(layout="NCHW", resize=(8, 9), std=(1.0, 2.0, 3.0))},
    )  # fmt: skip
    lines = inspect(folder).stdout.splitlines()
    assert "preprocess  x: NCHW, 8x9, scale 0.00392157, mean 0, std 1, 2, 3" in lines
    assert "batch       row by row" in lines
    assert "fallback    where none fires, the most confident exit answers" in lines
    assert "note        two gates stay inside" in lines
    assert not any(line.startswith("needs") for line in lines)


def test_header_tells_which_onnxruntime_it_takes(tmp_path: Path) -> None:
    folder = edit(chain().save(tmp_path / "b.ee"), onnxruntime="1.24")
    assert "needs    onnxruntime 1.24 or newer" in inspect(folder).stdout.splitlines()
    assert json.loads(inspect(folder, "--json").stdout)["onnxruntime"] == "1.24"


def test_table_to_a_pipe_is_one_line_a_segment_with_exact_numbers(bundle: Path) -> None:
    table = inspect(bundle).stdout.partition("\n\n")[2].splitlines()
    heading = "segment   reads  writes  nodes  parameters  multiply-adds  bytes  exit   criterion  threshold  next"
    assert table[0].split() == heading.split()
    assert table[1].split("  ")[0] == "segment0"
    assert "25,557,032  4,089,184,256" in table[1]
    assert [line.split()[-2] for line in table[1:]] == ["0.5", "0.25", "always"]
    assert len(table) == 4


@pytest.mark.parametrize("columns", [80, 60])
def test_table_on_a_narrow_terminal_fits_it_and_loses_nothing(bundle: Path, columns: int) -> None:
    from rich.text import Text

    lines = [Text.from_ansi(line).plain for line in inspect(bundle, columns=columns).stdout.splitlines()]
    assert max(map(len, lines)) <= columns
    text = " ".join(" ".join(lines).split())
    exact = ("25,557,032", "4,089,184,256")
    for part in ("segment1", *exact, "max_prob", ">= 0.25", "confidence1", "reads", "writes", "next"):
        assert part in text


def test_table_shows_moves_gates_and_bounds(tmp_path: Path) -> None:
    text = inspect(looped(leave_at=0.5).save(tmp_path / "loop.ee")).stdout
    assert "y = x, i = zero" in text
    assert "if more: step, else head (at most 9 visits)" in text


def test_json_holds_everything_exactly(bundle: Path) -> None:
    found = json.loads(inspect(bundle, "--json").stdout)
    assert found["exits"] == ["exit0", "exit1", "exit2"]
    assert found["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["batch", 4]}]
    assert [segment["threshold"] for segment in found["segments"]] == [0.5, 0.25, "always"]
    assert found["segments"][0]["multiply_adds"] == 4_089_184_256
    assert found["segments"][0]["next"] == {"kind": "goto", "segment": "segment1"}
    files = [path for path in bundle.iterdir() if path.name != "manifest.json"]
    assert found["size_bytes"] == sum(path.stat().st_size for path in files)
    assert found["files"] == len(files)


def test_drawing_goes_to_stdout(bundle: Path) -> None:
    assert inspect(bundle, "--mermaid").stdout.startswith("flowchart TD\n")


def test_two_forms_at_once_are_refused(bundle: Path) -> None:
    result = CliRunner().invoke(main, ["inspect", str(bundle), "--json", "--mermaid"])
    assert result.exit_code == 2
    assert "--json and --mermaid exclude each other" in result.stderr

"""NAME.json beside NAME.onnx: what other languages know of a plan as one file, and checking the file by it anywhere."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from plans import Draft, chain, leave, looped, only_moves, recorded, row
from test_runner_plans import Generator, inputs_of
from test_single_file import Array, with_one_output

import eetoolkit as ee
from eetoolkit.cli import main
from eetoolkit_runtime.bundle.golden import Sample, Visit
from eetoolkit_runtime.plan.types import Preprocess
from eetoolkit_runtime.single_file import golden
from eetoolkit_runtime.single_file.description import json_schema
from eetoolkit_runtime.verify import may_answer

DOCS = Path(__file__).parents[1] / "docs"
ROWS = (row(0.6, 0.7, 0.8), row(0.2, 0.7, 0.8), row(0.2, 0.3, 0.8))
"""Of which `chain` answers one at each exit."""


def packed(draft: Draft, folder: Path, rows: tuple[Array, ...] = ROWS) -> Path:
    """Returns the one file of a draft, its golden samples what its runner gives for the rows."""
    with ee.Runner(draft.save(folder / "without.ee"), fallback="last") as runner:
        draft.samples = [recorded(runner, x) for x in rows]
    return ee.write_single_file(draft.save(folder / "b.ee"), folder / "n.onnx")


def described(path: Path) -> dict[str, Any]:
    return json.loads(path.with_suffix(".json").read_text())


def edit(path: Path, old: str, new: str) -> None:
    """Edits the description of a file."""
    text = path.with_suffix(".json").read_text()
    assert old in text
    path.with_suffix(".json").write_text(text.replace(old, new, 1))


def verified(path: Path) -> tuple[int, list[str]]:
    """Returns how `eetoolkit verify` ends, and what it says, each line."""
    done = CliRunner().invoke(main, ["verify", path.name])
    return done.exit_code, done.output.splitlines()


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return packed(chain(weights=True), tmp_path)


# What it says


def test_the_committed_json_schema_is_that_of_the_description() -> None:
    assert (DOCS / "single-file.schema.json").read_bytes() == json_schema(), (
        "write eetoolkit_runtime.single_file.description.json_schema() to docs/single-file.schema.json"
    )


def test_the_page_names_every_key_of_the_description() -> None:
    page = (DOCS / "single-file.md").read_text(encoding="utf-8")
    definitions = json.loads(json_schema())["$defs"].values()
    keys = {key for definition in definitions for key in definition.get("properties", ())}
    assert keys == {key for key in keys if f"`{key}`" in page}


def test_it_says_what_goes_in_and_what_comes_out(tmp_path: Path) -> None:
    draft = Draft({"x": ("float32", ("batch", 1, 2, 2))})
    draft.slot("sure", shape=("batch",))
    body = "axes = Constant<value_ints = [1]>()  y = Flatten(x)  sure = ReduceMax<keepdims = 0>(y, axes)"
    draft.segment("only", body, reads=["x"], writes=["y", "sure"], exit=leave("only", "y", "sure"))
    how = Preprocess(layout="NCHW", resize=(2, 2), mean=(0.5,))
    draft.options |= {"labels": ("a", "b", "c", "d"), "titles": {"x": "the pixels"}, "preprocess": {"x": how}}
    found = described(packed(draft, tmp_path, (np.ones((1, 1, 2, 2), np.float32),)))
    prepared = {"layout": "NCHW", "resize": [2, 2], "scale": 1 / 255, "mean": [0.5], "std": [1.0]}
    assert found["inputs"] == [
        {"name": "x", "title": "the pixels", "dtype": "float32", "shape": [1, 1, 2, 2], "preprocess": prepared}
    ]
    assert [(output["name"], output["dtype"], output["shape"]) for output in found["outputs"]] == [
        ("logits", "float32", [1, 4]), ("exit", "int64", []), ("confidence", "float32", []),
    ]  # fmt: skip
    assert found["labels"] == ["a", "b", "c", "d"]
    assert found["exits"] == [{"name": "only", "scores": {"output": "logits", "scale": "logits", "axis": 1}}]
    assert (found["opsets"], found["ir_version"], found["onnxruntime"]) == ({"ai.onnx": 18}, 10, "1.18")


def test_numbers_of_a_tensor_stand_on_one_line(path: Path) -> None:
    (line,) = {line.strip() for line in path.with_suffix(".json").read_text().splitlines() if "[0.6" in line}
    assert line == '"data": [0.6, 0.7, 0.8, 0.0]'


def test_it_is_the_same_every_time(path: Path, tmp_path: Path) -> None:
    first = path.with_suffix(".json").read_bytes()
    ee.write_single_file(tmp_path / "b.ee", path, overwrite=True)
    assert path.with_suffix(".json").read_bytes() == first


# Thresholds


def answered(model: Path | bytes, options: ort.SessionOptions | None = None) -> list[int]:
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return [int(session.run(["exit"], {"x": x})[0]) for x in ROWS]


def test_a_threshold_is_changed_by_its_initializer_and_by_its_bytes(path: Path) -> None:
    assert answered(path) == [0, 1, 2]
    first, second, last = described(path)["exits"]
    assert (first["threshold"]["value"], second["threshold"]["value"], "threshold" in last) == (0.5, 0.5, False)
    for place, wanted in ((first["threshold"], [1, 1, 2]), (second["threshold"], [0, 2, 2])):
        options, limit = ort.SessionOptions(), ort.OrtValue.ortvalue_from_numpy(np.array(0.75, np.float32))
        options.add_initializer(place["initializer"], limit)
        assert answered(path, options) == wanted
        content = bytearray(path.read_bytes())
        content[place["offset"] : place["offset"] + 4] = np.array(0.75, "<f4").tobytes()
        assert answered(bytes(content)) == wanted


def test_an_exit_that_never_answers_has_no_threshold(tmp_path: Path) -> None:
    draft = chain()
    segment = draft.segments["segment0"]
    never = msgspec.structs.replace(segment.exit, threshold="never")
    draft.segments["segment0"] = msgspec.structs.replace(segment, exit=never)
    path = packed(draft, tmp_path)
    assert described(path)["exits"][0] == {
        "name": "exit0", "scores": {"output": "logits", "scale": "logits", "axis": 1}, "disabled": True,
    }  # fmt: skip
    report = ee.verify(path)
    assert report.passed
    assert [check.samples for check in report.exits] == [0, 5, 4]


def test_a_threshold_that_float32_cannot_hold_is_not_described(tmp_path: Path) -> None:
    draft = chain()
    segment = draft.segments["segment0"]
    draft.segments["segment0"] = msgspec.structs.replace(
        segment, exit=msgspec.structs.replace(segment.exit, threshold=1e300)
    )
    path = packed(draft, tmp_path)
    assert ["threshold" in exit_ for exit_ in described(path)["exits"]] == [False, True, False]
    assert ee.verify(path).passed


# Which answers are right


def visits(*confidences: float) -> list[Visit]:
    return [Visit(f"exit{k}", {}, confidence) for k, confidence in enumerate(confidences)]


@pytest.mark.parametrize(
    ("confidences", "last", "most_confident"),
    [
        ((0.6, 0.9, 0.7), [0], [0]),
        ((0.50005, 0.9, 0.7), [0, 1], [0, 1]),
        ((0.2, 0.49995, 0.7), [1, 2], [1, 2]),
        ((0.2, 0.4, 0.1), [2], [1]),
        ((0.2, 0.4, 0.39985), [2], [1, 2]),
        ((0.2, 0.4, 0.4), [2], [1, 2]),
        ((float("nan"), 0.1, float("nan")), [2], [1]),
        ((float("nan"), float("nan"), float("nan")), [2], [2]),
    ],
)
def test_right_are_the_exit_that_answers_and_those_that_rounding_may_choose(
    confidences: tuple[float, ...], last: list[int], most_confident: list[int], tmp_path: Path
) -> None:
    exits, met = ee.load(chain().save(tmp_path / "b.ee")).exits, visits(*confidences)
    for expected, fallback in ((last, False), (most_confident, True)):
        right = {id(visit) for visit in may_answer(met, exits, 1e-4, most_confident=fallback)}
        assert [place for place, visit in enumerate(met) if id(visit) in right] == expected


def test_several_answers_are_right_where_a_confidence_is_at_its_threshold(tmp_path: Path) -> None:
    path = packed(chain(), tmp_path, (row(0.50003, 0.7, 0.8), row(0.49997, 0.7, 0.8)))
    assert [sample["right"] for sample in described(path)["golden"]["samples"]] == [[0, 1], [0, 1]]
    report = ee.verify(path)
    assert report.passed
    assert [check.ties for check in report.exits] == [1, 1, 0]


@pytest.mark.parametrize("fallback", ["last", "most_confident"])
def test_every_exit_is_checked_of_every_fallback(fallback: str, tmp_path: Path) -> None:
    draft = chain()
    draft.options["fallback"] = fallback
    report = ee.verify(packed(draft, tmp_path, (*ROWS, row(0.1, 0.4, 0.2))))
    assert report.passed, report
    assert [check.samples for check in report.exits] == ([5, 5, 6] if fallback == "last" else [5, 6, 1])


def test_an_exit_in_a_loop_is_checked_at_its_first_visit(tmp_path: Path) -> None:
    draft = looped(leave_at=0.45, max_visits=4)
    path = packed(draft, tmp_path, (row(2.4, 1), row(0.7)))
    assert ee.verify(path).passed


@pytest.mark.parametrize("part", range(3))
def test_random_plans_pass_at_every_exit(part: int, tmp_path: Path) -> None:
    checked = 0
    for seed in range(12 * part, 12 * part + 12):
        draft = with_one_output(Generator(seed).draft)
        draft.options["fallback"] = ("last", "most_confident")[seed % 2]
        with ee.Runner(draft.save(tmp_path / f"{seed}"), fallback="last") as runner:
            for x in inputs_of(seed)[1:4]:
                with contextlib.suppress(ee.RunError):  # the plan has no answer
                    met = runner.run_all_exits(x)
                    visits = tuple(Visit(answer.exit, answer.outputs, answer.confidence) for answer in met)
                    draft.samples.append(Sample(x, visits))
        path = ee.write_single_file(draft.save(tmp_path / f"{seed}"), tmp_path / f"{seed}.onnx")
        if "golden" in described(path):
            report = ee.verify(path)
            assert report.passed, f"seed {seed}: {report}"
            checked += sum(check.samples for check in report.exits)
    assert checked > 20


# Verifying


def test_a_file_that_is_as_it_was_passes(path: Path) -> None:
    status, lines = verified(path)
    assert (status, lines[-1]) == (0, "verify passed, tolerance 1e-04")
    assert [line.split(",")[0] for line in lines[:-1]] == [f"exit{k}: 4 samples" for k in range(3)]


def test_a_device_checks_it_with_its_three_libraries(path: Path) -> None:
    program = (
        "import sys; from eetoolkit_runtime.single_file.verify import verify_single_file;"
        "print(verify_single_file('n.onnx').passed, {'onnx', 'onnx_ir', 'torch', 'click'} & sys.modules.keys())"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=path.parent, capture_output=True, text=True, check=True)
    assert run.stdout == "True set()\n"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"data": [0.6, 0.7', '"data": [0.4, 0.7', "sample 0: exit1 answered, expected exit0"),
        ('"confidence": 0.6', '"confidence": 0.61', "sample 0: exit0: confidence off by 1.0e-02, more than 1e-04"),
        ('"confidence": 0.7', '"confidence": 0.75', "sample 0 at exit1: exit1: confidence off by 5.0e-02, more than "),
    ],
)
def test_another_golden_answer_is_one_line_each(path: Path, old: str, new: str, said: str) -> None:
    edit(path, old, new)
    status, lines = verified(path)
    assert status == 1
    assert any(line.startswith(said) for line in lines), lines
    assert lines[-1].startswith("verify FAILED")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"version": 1', '"version": 2', 'n.json: "version" is 2, this eetoolkit reads 1; update eetoolkit'),
        ('"format": "eetoolkit-', '"format": "', "n.json: \"format\" is 'single-file', expected "),
        (
            '"exits"',
            '"doors"',
            "n.json: Object contains unknown field `doors`; copy it again, or pack the bundle again",
        ),
        ('"exit": 0', '"exit": 7', "n.json: damaged golden samples (tuple index out of range); pack the bundle again"),
        ('"data": [0.6, ', '"data": [', "n.json: damaged golden samples (3 numbers for the shape [1, 4]); "),
        ('"right": [0]', '"right": [3]', "n.json: damaged golden samples (right is [3], of 3 answers); "),
        ('"value": 0.5', '"value": 0.6', "n.json: the threshold of exit0 is not at byte "),
        ('"onnxruntime": "1.', '"onnxruntime": "99.', "n.onnx needs onnxruntime 99.18 or newer, this is "),
    ],
)
def test_a_description_that_does_not_fit_is_one_line(path: Path, old: str, new: str, said: str) -> None:
    edit(path, old, new)
    status, (line,) = verified(path)
    assert status == 1
    assert line.startswith(f"error: {said}")


def test_a_changed_file_and_a_missing_one_are_one_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole.replace(b"Gather", b"Gether", 1)):
        path.write_bytes(content)
        status, (line,) = verified(path)
        assert status == 1
        assert line.startswith(f"error: n.onnx is not the file that n.json describes: {len(content)} bytes of sha256 ")
        assert line.endswith("; copy both again, or pack the bundle again")
    path.write_bytes(whole)
    path.with_suffix(".json").unlink()
    assert verified(path) == (
        1, ["error: n.json is missing, which describes n.onnx; copy it again, or pack the bundle again"],
    )  # fmt: skip


def test_without_golden_samples_there_is_nothing_to_compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = ee.write_single_file(chain().save(tmp_path / "b.ee"), tmp_path / "n.onnx")
    assert verified(path) == (1, ["error: n.json has no golden samples; export the network with golden_inputs"])
    with pytest.raises(ee.InputError, match="compare the bundle with the network"):
        ee.verify(path, model="net.onnx")
    with pytest.raises(ee.InputError, match="tolerance is -1"):
        ee.verify(packed(chain(), tmp_path / "other"), tolerance=-1)


def test_samples_that_json_cannot_hold_lie_in_a_file_of_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(golden, "_MOST_NUMBERS", 10)
    path = packed(chain(), tmp_path)
    tensors = tmp_path / "n.golden.safetensors"
    assert described(path)["golden"]["tensors"]["size"] == tensors.stat().st_size
    assert described(path)["golden"]["samples"][0]["inputs"] == {"x": {"shape": [1, 4], "tensor": "0"}}
    assert verified(path)[0] == 0
    for suffix in (".onnx", ".json", ".golden.safetensors"):
        (tmp_path / f"n{suffix}").rename(tmp_path / f"renamed{suffix}")
    assert verified(path.with_name("renamed.onnx"))[0] == 0
    renamed = tmp_path / "renamed.golden.safetensors"
    renamed.write_bytes(bytes(reversed(renamed.read_bytes())))
    status, (line,) = verified(path.with_name("renamed.onnx"))
    assert (status, line.partition(":")[2].partition(":")[0]) == (
        1, " renamed.golden.safetensors is not the file that renamed.json describes",
    )  # fmt: skip
    renamed.unlink()
    os.mkfifo(renamed)  # which a reader would wait for
    assert verified(path.with_name("renamed.onnx"))[1] == ["error: renamed.golden.safetensors is no regular file"]
    renamed.unlink()
    _, (line,) = verified(path.with_name("renamed.onnx"))
    assert line.startswith("error: renamed.golden.safetensors is missing, which renamed.json describes; copy it again")


def test_infinity_and_large_integers_are_not_in_json() -> None:
    for value in (np.array([np.inf], np.float32), np.array([2**60]), np.array([np.nan], np.float16)):
        sample = golden.RightSample({"x": value}, tuple(visits(0.5)), (0,))
        assert golden.encode_samples([sample], ["exit0"], 1e-4)[1] is not None
    for value in (np.array([0.1], np.float32), np.array([2**50]), np.array([True]), np.array([7], np.uint8)):
        sample = golden.RightSample({"x": value}, tuple(visits(0.5)), (0,))
        encoded, tensors = golden.encode_samples([sample], ["exit0"], 1e-4)
        assert tensors is None
        assert encoded is not None
        assert np.array(encoded.samples[0].inputs["x"].data, value.dtype) == value


# Writing


def test_files_are_written_together_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = chain().save(tmp_path / "b.ee")
    (tmp_path / "n.json").write_text("a profile")
    for overwrite, said in ((False, "n.json exists; pass overwrite=True"), (True, "describes no ONNX file of ours")):
        with pytest.raises(ee.EEToolkitError, match=said):
            ee.write_single_file(bundle, tmp_path / "n.onnx", overwrite=overwrite)
    assert (tmp_path / "n.json").read_text() == "a profile"
    (tmp_path / "n.json").unlink()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with (
        monkeypatch.context() as patch,
        pytest.raises(ee.EEToolkitError, match=r"cannot write .*n\.onnx: No space left"),
    ):
        patch.setattr("os.fsync", full)
        ee.write_single_file(bundle, tmp_path / "n.onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"b.ee"}
    ee.write_single_file(bundle, tmp_path / "n.onnx")
    ee.write_single_file(bundle, tmp_path / "n.onnx", overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"b.ee", "n.onnx", "n.json"}


def test_a_plan_without_a_model_is_described_too(tmp_path: Path) -> None:
    assert ee.verify(packed(only_moves(), tmp_path)).passed

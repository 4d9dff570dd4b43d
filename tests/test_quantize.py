"""Quantising real bundles, end to end: figures against an independent recomputation, what is written, what is not."""

from __future__ import annotations

import html
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from quantized_bundles import QUICK, costs, edit, folder_bytes, left, logits, own_folder
from shell import call

import eetoolkit as ee
from eetoolkit.quantizing.rows import read_parts
from eetoolkit.zoo import branchynet, digits
from eetoolkit_exporters.quantizing import write
from eetoolkit_runtime.bundle.golden import read_golden
from eetoolkit_runtime.verify import verify

TRAIN = digits.digits("train")
X, Y = (TRAIN.images / 16)[:600], TRAIN.labels[:600]
METHODS = {"segment0": "static", "segment1": "static", "segment2": "static"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ee.Bundle:
    """BranchyNet on digits, with labels, golden digits and a saved profile."""
    folder = tmp_path_factory.mktemp("source")
    bundle = ee.export(
        branchynet.load(), X[:1], folder / "digits.ee", labels=digits.LABELS, golden_inputs=X[-8:],
        preprocess=digits.PREPROCESS,
    )  # fmt: skip
    return ee.profile(bundle, X[:5], **QUICK).save(bundle)


@pytest.fixture(scope="module")
def profiled(source: ee.Bundle) -> ee.Profile:
    return ee.Profile.read(source)


@pytest.fixture(scope="module")
def report(source: ee.Bundle, tmp_path_factory: pytest.TempPathFactory) -> ee.QuantizationReport:
    return ee.quantize(source, X, tmp_path_factory.mktemp("whole") / "whole.ee", Y, segments="all", **QUICK)


@pytest.fixture(scope="module")
def whole(report: ee.QuantizationReport) -> ee.Bundle:
    """Every segment quantised."""
    assert report.path is not None
    return ee.load(report.path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return own_folder(tmp_path, monkeypatch)


def test_the_figures_are_those_of_rows_that_calibrated_and_chose_nothing(
    source: ee.Bundle, whole: ee.Bundle, report: ee.QuantizationReport
) -> None:
    parts = read_parts(source, X, Y, max_disagreement=0.01)
    drawn = [row[0].tobytes() for part in (parts.calibrate, parts.choose, parts.report) for row in part.rows]
    assert len(drawn) == len(X) == sum(report.rows.values())
    assert set(drawn) == {row[None].astype(np.float32).tobytes() for row in X}
    rows, labels = np.concatenate([row[0] for row in parts.report.rows]), parts.report.labels
    (before, sure_before), (after, sure_after) = logits(source, rows), logits(whole, rows)
    assert [change.name for change in report.exits] == list(source.exits)
    for e, change in enumerate(report.exits):
        classes = before[e].argmax(1), after[e].argmax(1)
        assert change.rows == len(rows) == report.rows["report"]
        assert change.agreement.value == pytest.approx(np.mean(classes[0] == classes[1]))
        assert change.before is not None
        assert change.after is not None
        assert change.before.value == pytest.approx(np.mean(classes[0] == labels))
        assert change.after.value == pytest.approx(np.mean(classes[1] == labels))
        shift = np.abs(sure_after[e] - sure_before[e])
        assert change.shift == pytest.approx(np.quantile(shift, (0.5, 0.99)), abs=1e-6)
        assert change.shift[1] > 0, "it is quantised"
        assert change.within == (np.mean(classes[0] != classes[1]) <= 0.01)
        assert change.agreement.low <= change.agreement.value <= change.agreement.high


def test_bytes_are_those_on_disk(source: ee.Bundle, whole: ee.Bundle, report: ee.QuantizationReport) -> None:
    assert (report.before_bytes, report.after_bytes) == (folder_bytes(source), folder_bytes(whole))
    assert report.after_bytes < 0.4 * report.before_bytes
    for each in report.segments:
        for bundle, said in ((source, each.before_bytes), (whole, each.after_bytes)):
            segment = bundle.manifest.segments[each.name]
            assert said == sum((bundle.path / str(file)).stat().st_size for file in (segment.model, *segment.weights))
        assert each.after_bytes < each.before_bytes
        assert (each.method, each.why) == ("static", None)


def test_the_manifest_says_what_was_done_and_the_rest_is_as_before(source: ee.Bundle, whole: ee.Bundle) -> None:
    plan, said = whole.manifest, whole.manifest.quantization
    assert said is not None
    assert (said.segments, said.activations, said.stale) == (METHODS, "uint8", True)
    assert said.rows == len(read_parts(source, X, Y, max_disagreement=0.01).calibrate)
    assert {"onnxruntime", "per_channel", "reduce_range"} <= said.created_with.keys()
    assert plan.name == "whole"
    for field in ("labels", "titles", "preprocess", "limits", "inputs", "outputs", "slots", "start", "fallback"):
        assert getattr(plan, field) == getattr(source.manifest, field), field
    assert {name: exit_.threshold for name, exit_ in plan.exits.items()} == {
        name: exit_.threshold for name, exit_ in source.exits.items()
    }
    assert source.manifest.profile is not None
    assert plan.profile is None, "it is of the float segments"


def test_golden_samples_are_what_the_quantised_segments_give(source: ee.Bundle, whole: ee.Bundle) -> None:
    own, float_ones = read_golden(whole), read_golden(source)
    assert len(own) == len(float_ones) == 8
    given = np.concatenate([sample.inputs["image"] for sample in own])
    np.testing.assert_array_equal(given, np.concatenate([sample.inputs["image"] for sample in float_ones]))
    kept = np.array([[visit.outputs["logits"][0] for visit in sample.visits] for sample in own]).swapaxes(0, 1)
    np.testing.assert_allclose(kept, logits(whole, given)[0], atol=1e-6)
    assert np.abs(kept - logits(source, given)[0]).max() > 1e-3, "they are not the float network's"
    found = ee.verify(whole)
    assert found.passed
    assert whole.manifest.golden is not None
    assert found.tolerance == whole.manifest.golden.tolerance > 1e-4
    assert found.compared_with is not None
    assert found.compared_with.startswith("golden samples of the quantised segments")
    assert not verify(whole, float_ones, tolerance=1e-4).passed


def test_thresholds_are_stale_until_they_are_tuned_and_when_that_is_undone(
    report: ee.QuantizationReport, whole: ee.Bundle, tmp_path: Path
) -> None:
    assert report.advice is not None
    assert whole.stale_remark is not None
    own = tmp_path / "own.ee"
    shutil.copytree(whole.path, own)
    tuned = ee.tune(own, X, Y, max_accuracy_drop=0.2, threads=1).apply(force=True)
    assert tuned.stale_remark is None
    assert tuned.manifest.quantization == edit(whole.manifest.quantization, stale=False)
    assert ee.undo_tuning(tuned).manifest.quantization == whole.manifest.quantization


def test_named_segments_are_quantised_and_no_others(source: ee.Bundle, folder: Path) -> None:
    found = ee.quantize(source, X[:250], folder / "out.ee", segments=["segment1"], **QUICK)
    assert [(each.method, each.why) for each in found.segments] == [
        ("float", "not asked for"), ("static", None), ("float", "not asked for"),
    ]  # fmt: skip
    said = ee.load(folder / "out.ee").manifest.quantization
    assert said is not None
    assert said.segments == {"segment1": "static"}
    assert (found.exits[0].agreement.value, found.exits[0].shift[1]) == (1, pytest.approx(0, abs=1e-6))
    assert found.exits[0].before is None, "there are no labels"
    assert found.exits[1].shift[1] > 0
    assert left(folder) == ["out.ee"]


REFUSED: dict[str, tuple[dict[str, Any], type[ee.EEToolkitError], str]] = {
    "another name": ({"segments": ["segmnt1"]}, ee.InputError, "no segment 'segmnt1'; .*did you mean 'segment1'"),
    "no names": ({"segments": []}, ee.InputError, "segments is empty; there are segment0, "),
    "one name alone": ({"segments": "segment1"}, ee.ExportError, "segments is 'segment1', expected 'all' or a list"),
    "a method that does not apply": (
        {"segments": {"segment1": "blockwise"}}, ee.InputError, "'segment1' cannot be blockwise; it can be static",
    ),
    "another method than float16": (
        {"segments": {"segment1": "static"}, "weights": "float16"}, ee.InputError, "it can be float16",
    ),
    "too few rows": ({"inputs": X[:100]}, ee.InputError, "100 rows are too few, expected at least 220: 20 to"),
    "no rows": ({"inputs": None}, ee.InputError, "the data are None"),
    "no rows to tune by": ({"inputs": None, "weights": "float16", "tune": True}, ee.InputError, "the data are None"),
    "raw pixels": ({"inputs": np.rint(X * 255)}, ee.InputError, "values are 0 to 255, the golden samples' 0 to 1"),
    "another shape": ({"inputs": X[:, :, :4]}, ee.InputError, r"got shape \[600, 1, 4, 8\]"),
    "tuning without labels": ({"tune": True}, ee.InputError, "no labels, which tuning takes"),
    "tuning by other classes": ({"labels": Y + 1, "tune": True}, ee.TuneError, "counted from 1: labels - 1"),
    "tuning by floats": ({"labels": Y * 1.0, "tune": True}, ee.TuneError, r"labels.astype\('int64'\)"),
    "a goal without tuning": ({"max_accuracy_drop": 0.1}, ee.InputError, "pass tune=True too"),
    "a bound of 0": ({"max_disagreement": 0}, ee.InputError, "max_disagreement is 0"),
    "a goal that is no share": ({"tune": True, "max_accuracy_drop": 7.0}, ee.TuneError, "expected a share from 0 to 1"),
    "no profiles": ({"profile": []}, ee.TuneError, "profile is empty"),
    "a profile that is not there": ({"profile": "none.json"}, ee.BundleError, "none.json does not exist"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_refused_before_any_work(
    case: str, source: ee.Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, error, said = REFUSED[case]
    given = {"inputs": X, "output": folder / "out.ee", **QUICK, **options}
    monkeypatch.setattr("eetoolkit_exporters.quantizing.candidates.quantized", lambda *_: pytest.fail("it worked"))
    with pytest.raises(error, match=said) as caught:
        ee.quantize(source, **given)
    assert "\n" not in str(caught.value)
    assert left(folder) == []


def test_what_is_in_the_way_is_left_as_it_is(source: ee.Bundle, whole: ee.Bundle, folder: Path) -> None:
    before = {path: path.read_bytes() for path in source.path.iterdir()}
    with pytest.raises(ee.BundleError, match="pass overwrite=True"):
        ee.quantize(source, X, whole.path, **QUICK)
    with pytest.raises(ee.ExportError, match="is the bundle that is quantised"):
        ee.quantize(source, X, source.path, overwrite=True, **QUICK)
    (folder / "notes").mkdir()
    (folder / "notes" / "one").touch()
    with pytest.raises(ee.BundleError, match="is not a bundle"):
        ee.quantize(source, X, folder / "notes", overwrite=True, **QUICK)
    with pytest.raises(ee.ExportError, match="is quantised already; quantise the float bundle"):
        ee.quantize(whole, X, folder / "twice.ee", **QUICK)
    assert left(folder) == ["notes"]
    assert before == {path: path.read_bytes() for path in source.path.iterdir()}


@pytest.mark.parametrize("at", ["reading rows", "quantising", "choosing methods", "proving"])
def test_an_interrupt_leaves_what_was_there(
    at: str, source: ee.Bundle, profiled: ee.Profile, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(what: str, _done: int, _total: int) -> None:
        if what == at:
            raise KeyboardInterrupt

    def proof(bundle: ee.Bundle) -> Any:
        interrupt("proving" if bundle.path.name.startswith("out.ee") else "", 0, 0)
        return verify(bundle)

    monkeypatch.setattr(write, "verify", proof)
    out = folder / "out.ee"
    shutil.copytree(source.path, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        ee.quantize(
            source, X[:250], out, profile=costs(profiled, dict.fromkeys(METHODS, 0.5)), overwrite=True,
            progress=interrupt, **QUICK,
        )  # fmt: skip
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert left(folder) == ["out.ee"]


# By made profiles


def test_a_segment_that_int8_makes_slower_stays_float(source: ee.Bundle, profiled: ee.Profile, folder: Path) -> None:
    measured = costs(profiled, {"segment0": 1.5, "segment1": 0.25, "segment2": 0.25})
    found = ee.quantize(source, X, folder / "out.ee", Y, profile=measured, **QUICK)
    assert [each.method for each in found.segments] == ["float", "static", "static"]
    assert found.segments[0].why == "static is not faster here: 1.50 times float's latency"
    assert [(each.before_ms, each.after_ms) for each in found.segments] == [(1, 1.5), (1, 0.25), (1, 0.25)]
    visits = [cost.visits for cost in profiled.segments.values()]
    share = (visits[0] + 0.25 * visits[1] + 0.25 * visits[2]) / sum(visits)
    assert found.verdict.startswith(f"{share:.2f} times the time of a call by profiles of ")
    assert (found.ratio, found.before_ms, found.after_ms) == (None, None, None), "nothing was timed here"
    assert left(folder) == ["out.ee"]


def test_where_nothing_is_faster_nothing_is_written(source: ee.Bundle, profiled: ee.Profile, folder: Path) -> None:
    measured = costs(profiled, dict.fromkeys(METHODS, 1.0))
    found = ee.quantize(source, X, folder / "out.ee", Y, profile=measured, **QUICK)
    assert (found.pays, found.path, found.advice) == (False, None, None)
    assert found.verdict == "int8 does not pay: segment0: static is not faster here: 1.00 times float's latency"
    assert found.after_bytes == found.before_bytes
    assert [each.method for each in found.segments] == ["float"] * 3
    assert left(folder) == []


def test_profiles_of_what_another_run_wrote_are_of_these_graphs(
    source: ee.Bundle, whole: ee.Bundle, profiled: ee.Profile, folder: Path
) -> None:
    measured = costs(profiled, {"segment0": 0.5, "segment1": 0.5, "segment2": 2.0})
    paths = [measured(bundle).write(folder / f"{bundle.manifest.name}.json") for bundle in (source, whole)]
    found = ee.quantize(source, X, folder / "out.ee", Y, profile=paths, **QUICK)
    assert [each.method for each in found.segments] == ["static", "static", "float"]
    again = ee.load(folder / "out.ee").manifest
    for name in ("segment0", "segment1"):
        own, before = again.segments[name], whole.manifest.segments[name]
        assert again.files[str(own.model)].sha256 == whole.manifest.files[str(before.model)].sha256
    with pytest.raises(ee.TuneError, match="no profile is of its quantised form: write that with --segments all"):
        ee.quantize(source, X, folder / "no.ee", Y, profile=paths[0], **QUICK)
    with pytest.raises(ee.TuneError, match=r"no profile is of .*digits.ee: run `eetoolkit profile` of it"):
        ee.quantize(source, X, folder / "no.ee", Y, profile=paths[1], **QUICK)
    assert left(folder) == ["digits.json", "out.ee", "whole.json"]


# With tuning


@pytest.mark.parametrize(("rows", "met"), [(600, True), (120, None)])
def test_thresholds_are_applied_where_the_goal_is_met(
    source: ee.Bundle, folder: Path, rows: int, met: bool | None
) -> None:
    found = ee.quantize(
        source, X[:rows], folder / "out.ee", Y[:rows], segments=["segment1"], tune=True, max_disagreement=0.05,
        max_accuracy_drop=0.5, **QUICK,
    )  # fmt: skip
    assert found.tuning is not None
    assert found.tuning.goal_met == met
    assert set(found.rows) == {"calibrate", "choose", "report", "tune"}
    assert sum(found.rows.values()) == rows
    assert sum(found.tuning.rows.values()) == found.rows["tune"]
    out = ee.load(folder / "out.ee")
    assert out.manifest.quantization is not None
    assert out.manifest.quantization.stale == (not met)
    assert (out.manifest.tuning is not None) == (found.advice is None) == bool(met)
    assert found.after_bytes == folder_bytes(out)
    limits = [exit_.threshold for exit_ in out.exits.values()]
    assert (limits == [exit_.threshold for exit_ in source.exits.values()]) == (not met)
    assert ee.verify(out).passed
    assert left(folder) == ["out.ee"]


# On the command line


@pytest.fixture
def files(
    source: ee.Bundle, whole: ee.Bundle, profiled: ee.Profile, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, ...]:
    """Returns the command that quantises digits with made profiles, and a working directory for it."""
    monkeypatch.chdir(folder)
    np.savez("rows.npz", image=X, labels=Y)
    np.savez("few.npz", image=X[:50])
    np.savez("pixels.npz", image=X * 255)
    measured = costs(profiled, {"segment0": 2.0, "segment1": 0.25, "segment2": 0.25})
    for bundle in (source, whole):
        measured(bundle).write(f"{bundle.manifest.name}.json")
    profiles = ("--profile", "digits.json", "--profile", "whole.json")
    return ("quantize", str(source.path), "--data", "rows.npz", "-o", "out.ee", "--threads", "1", *profiles)


def test_the_command_writes_a_bundle_and_says_what_it_cost(files: tuple[str, ...], folder: Path) -> None:
    done = call(*files)
    assert (done.exit_code, done.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert " of the bytes of digits" in lines[0]
    assert "bundle out.ee" in lines
    assert any(line.startswith("segment0 float 1.000 2.000 ") and "static is not faster here" in line for line in lines)
    assert any(line.startswith("segment1 static 1.000 0.250 ") for line in lines)
    assert [line.split()[0] for line in lines if line.startswith("exit")] == ["exit0", "exit1", "exit2"]
    again = call(*files)
    assert (again.exit_code, again.stdout) == (1, "")
    assert again.stderr == "error: out.ee exists; pass --overwrite to replace it\n"
    assert call("verify", "out.ee").exit_code == 0
    assert call("tune", "out.ee", "--data", "rows.npz", "--apply", "--force", "--threads", "1").exit_code == 0
    said = ee.load("out.ee").manifest.quantization
    assert said is not None
    assert said.segments == {"segment1": "static", "segment2": "static"}
    assert not said.stale
    assert [name for name in left(folder) if name.startswith("temporary")] == []


def test_a_process_of_its_own_prints_json_alone_and_leaves_logging_as_it_was(files: tuple[str, ...]) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    code = """if True:
        import atexit, logging, pathlib
        import eetoolkit.cli as cli
        atexit.register(lambda: pathlib.Path("left").write_text(str(logging.root.handlers)))
        cli.main()"""
    command = [sys.executable, "-c", code, *files, "--json", "--report", "page.html"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if not line.endswith(" s")] == [], "progress alone"
    found = msgspec.json.decode(done.stdout, type=ee.QuantizationReport)
    assert (found.path, found.pays) == ("out.ee", True)
    assert found.verdict in html.unescape(Path("page.html").read_text())
    assert Path("left").read_text() == "[]"


def test_ctrl_c_leaves_nothing(files: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    before = left(folder)
    monkeypatch.setattr("eetoolkit_exporters.quantizing.candidates.quantized", interrupted)
    done = call(*files)
    assert (done.exit_code, done.stdout, done.stderr) == (130, "", "interrupted: nothing was written\n")
    assert left(folder) == before


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("--data", "few.npz"), 1, "50 rows are too few, expected at least 220"),
        (("--data", "pixels.npz"), 1, "scale them as in training"),
        (("--data", "digits.json"), 1, "digits.json"),
        (("--segments", "segmnt1"), 1, "did you mean 'segment1'?"),
        (("--profile", "rows.npz"), 1, "rows.npz"),
        (("--activations", "int4"), 2, "'int4' is not one of 'uint8', 'int8'"),
        (("--max-disagreement", "0"), 2, "0"),
    ],
)
def test_wrong_input_is_one_line(
    files: tuple[str, ...], folder: Path, arguments: tuple[str, ...], status: int, said: str
) -> None:
    before = left(folder)
    done = call(*files, *arguments)
    assert (done.exit_code, done.stdout) == (status, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1 or status == 2
    assert left(folder) == before

"""What a quantised bundle says of itself, and still says when it is cut, pruned or packed."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import parser
from plans import Draft, chain, edit, joined, recorded, row

import eetoolkit as ee
from eetoolkit.cli import main
from eetoolkit.showing.summary import spell_quantization
from eetoolkit_runtime.doctor.bundle_findings import examine_bundle
from eetoolkit_runtime.doctor.quantized_findings import quantized_findings
from eetoolkit_runtime.log import LOGGER
from eetoolkit_runtime.plan.still_true import unmeasured, with_stale
from eetoolkit_runtime.plan.types import Activations, Method, Quantization, Tuning
from eetoolkit_runtime.running.runner import Runner

STALE = "thresholds and temperatures are still those of the float bundle; renew them: eetoolkit tune"


def quantized(
    folder: Path,
    methods: Mapping[str, Method],
    activations: Activations | None = None,
    *,
    stale: bool = True,
    draft: Draft | None = None,
) -> ee.Bundle:
    """Returns a bundle that says that its segments were quantised."""
    draft = chain(0.5, 0.5) if draft is None else draft
    with Runner(draft.save(folder / "float"), threads=1) as runner:
        draft.samples = [recorded(runner, row(0.9)), recorded(runner, row(0, 0.9))]
    made = {"onnxruntime": "1.32.0", "reduce_range": 0}
    said = Quantization(segments=dict(methods), activations=activations, rows=8, created_with=made, stale=stale)
    draft.options["quantization"] = said
    return ee.load(draft.save(folder / "q.ee"))


def said(bundle: ee.Bundle) -> Quantization:
    assert bundle.manifest.quantization is not None
    return bundle.manifest.quantization


def test_a_truncated_bundle_says_it_of_the_segments_it_has_and_nothing_of_it_can_be_tuned(tmp_path: Path) -> None:
    methods: dict[str, Method] = {"segment0": "blockwise", "segment1": "static", "segment2": "dynamic"}
    whole = quantized(tmp_path, methods, "uint8")
    two, one = (said(ee.truncate(whole, at, tmp_path / at)) for at in ("exit1", "exit0"))
    assert (two.segments, two.activations) == ({"segment0": "blockwise", "segment1": "static"}, "uint8")
    assert (one.segments, one.activations) == ({"segment0": "blockwise"}, None)
    assert (two.stale, one.stale) == (False, False)
    assert (one.rows, one.created_with) == (8, said(whole).created_with)


def test_of_a_bundle_cut_before_its_quantised_segments_nothing_is_said(tmp_path: Path) -> None:
    short = ee.truncate(quantized(tmp_path, {"segment2": "dynamic"}), "exit1", tmp_path / "short.ee")
    assert short.manifest.quantization is None


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [("dynamic", "static", "static"), (None, "blockwise", "blockwise"), ("float16", "blockwise", "blockwise")],
)
def test_segments_that_are_joined_are_what_their_parts_were(
    first: Method | None, second: Method, found: Method, tmp_path: Path
) -> None:
    methods: dict[str, Method] = {"segment1": second, **({} if first is None else {"segment0": first})}
    activations: Activations | None = "uint8" if "static" in methods.values() else None
    pruned = ee.prune(quantized(tmp_path, methods, activations), ["exit0"], tmp_path / "p.ee")
    assert said(pruned).segments == {"segment0": found}
    assert said(pruned).activations == activations
    assert said(pruned).stale


def test_pruned_of_all_exits_that_may_fire_there_is_nothing_to_tune(tmp_path: Path) -> None:
    pruned = ee.prune(quantized(tmp_path, {"segment2": "dynamic"}), ["exit0", "exit1"], tmp_path / "p.ee")
    assert said(pruned).segments == {"segment0": "dynamic"}
    assert not said(pruned).stale


def test_a_segment_of_moves_alone_is_not_quantised(tmp_path: Path) -> None:
    whole = quantized(tmp_path, {"head": "dynamic"}, draft=joined())
    assert said(ee.prune(whole, [], tmp_path / "p.ee")).segments == {"join": "dynamic"}


def test_a_packed_bundle_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EETOOLKIT_CACHE", str(tmp_path / "cache"))
    whole = quantized(tmp_path, {"segment1": "static"}, "int8")
    assert said(ee.load(whole.pack(tmp_path / "q.zip"))) == said(whole)


def test_float16_weights_leave_thresholds_as_good(tmp_path: Path) -> None:
    half = quantized(tmp_path, {"segment1": "float16"}, stale=False).manifest
    assert with_stale(half, stale=True) == half
    mixed = quantized(tmp_path / "mixed", {"segment0": "float16", "segment1": "dynamic"}, stale=False).manifest
    assert with_stale(mixed, stale=True).quantization != mixed.quantization


def test_what_was_measured_goes_and_what_undoes_stays() -> None:
    tuning = Tuning(
        goal="g", metric="m", costs="c", seed=0, rows={}, figures={"score": (1, 1, 1)},
        thresholds={"a": 0.5}, exits_before={"a": "never"}, constants_before={"t": (1.0,)},
    )  # fmt: skip
    assert unmeasured(tuning) == msgspec.structs.replace(tuning, figures={})
    assert unmeasured(None) is None


def test_stale_thresholds_are_told_to_the_log_once_and_by_no_print(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    stale = quantized(tmp_path, {"segment1": "dynamic"})
    caplog.clear()
    caplog.set_level(logging.INFO, LOGGER)
    with Runner(stale.path, threads=1) as runner:
        runner.run(row(0.9))
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warned == [f"{stale.path}: {STALE} {stale.path} --data DATA --apply"]
    assert capfd.readouterr() == ("", "")
    caplog.clear()
    ee.load(quantized(tmp_path / "fresh", {"segment1": "dynamic"}, stale=False).path)
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]


def test_it_is_told_how_many_of_its_segments_are_quantised(tmp_path: Path) -> None:
    assert str(quantized(tmp_path, {"segment1": "dynamic"})).startswith("drafted: 3 segments (1 quantised), exits")


def test_the_command_that_runs_it_warns_once_on_stderr(tmp_path: Path) -> None:
    stale = quantized(tmp_path, {"segment1": "dynamic"})
    np.save(tmp_path / "x.npy", np.concatenate([row(0.9), row(0, 0.9)]))
    for options in ([], ["--json"]):
        result = CliRunner().invoke(main, ["run", "--pool", "own", str(stale.path), str(tmp_path / "x.npy"), *options])
        assert result.exit_code == 0
        assert len(result.stdout.splitlines()) == 2
        assert result.stderr.startswith(f"warning: {STALE}")
        assert result.stderr.count("float bundle") == 1


def test_inspecting_it_shows_the_method_of_each_segment_and_that_thresholds_are_stale(tmp_path: Path) -> None:
    folder = str(quantized(tmp_path, {"segment1": "static", "segment2": "dynamic"}, "uint8").path)
    lines = CliRunner().invoke(main, ["inspect", folder]).stdout.splitlines()
    made = "onnxruntime 1.32.0, reduce_range 0"
    assert f"quantised  1 static, 1 dynamic, uint8 activations, calibrated on 8 rows; {made}" in lines
    assert sum(line.startswith(f"stale      {STALE}") for line in lines) == 1
    header, *rows = lines[lines.index("") + 1 :]
    place = header.index("quantised")
    assert [row[place:].split()[0] for row in rows if row.startswith("segment")] == ["-", "static", "dynamic"]


def test_in_json_it_is_a_key_that_leaves_no_default_out(tmp_path: Path) -> None:
    fresh = quantized(tmp_path, {"segment1": "dynamic"}, stale=False)
    told = json.loads(CliRunner().invoke(main, ["inspect", str(fresh.path), "--json"]).stdout)
    assert told["quantization"] == {
        "segments": {"segment1": "dynamic"}, "activations": None, "rows": 8,
        "created_with": {"onnxruntime": "1.32.0", "reduce_range": 0}, "stale": False,
    }  # fmt: skip
    assert [segment["quantized"] for segment in told["segments"]] == [None, "dynamic", None]


def test_packing_it_as_one_file_warns(tmp_path: Path) -> None:
    stale = quantized(tmp_path, {"segment1": "dynamic"})
    result = CliRunner().invoke(main, ["pack", str(stale.path), "--single-file", "-o", str(tmp_path / "one.onnx")])
    assert (result.exit_code, result.stderr.startswith(f"warning: {STALE}")) == (0, True)


def test_verifying_it_says_whose_golden_samples_these_are(tmp_path: Path) -> None:
    report = ee.verify(quantized(tmp_path, {"segment1": "dynamic"}))
    assert report.passed
    told = "golden samples of the quantised segments, made by onnxruntime 1.32.0"
    assert report.compared_with == told
    assert str(report).splitlines()[-2:] == [f"compared with {told}", "verify passed, tolerance 1e-04"]


def test_only_static_segments_are_said_to_be_calibrated() -> None:
    said = Quantization(segments={"segment1": "blockwise"}, rows=8, created_with={"bits": 8})
    assert spell_quantization(said) == "1 blockwise; bits 8"


def test_verifying_it_against_the_network_says_that_quantising_alone_makes_differences(tmp_path: Path) -> None:
    text = '<ir_version: 9, opset_import: ["" : 18]> n (float[batch,4] x) => (float[batch,4] a, float[batch,4] y) '
    float_, other = tmp_path / "float.onnx", tmp_path / "other.onnx"
    onnx.save(parser.parse_model(text + "{ a = Sin(x) y = Cos(a) }"), float_)
    onnx.save(
        parser.parse_model(text + "{ b = Sin(x) c = Constant<value_float = 1.01>() a = Mul(b, c) y = Cos(a) }"), other
    )
    exported = ee.export(float_, np.ones((1, 4), np.float32), tmp_path / "q.ee")
    assert ee.verify(exported, other).compared_with is None
    said = Quantization(segments={exported.manifest.start: "dynamic"}, rows=8, created_with={})
    edit(exported.path, quantization=said)
    report = ee.verify(exported.path, other)
    assert not report.passed
    assert "compared with the float network: quantising alone makes differences" in str(report)
    assert f"`eetoolkit verify {exported.place}`" in str(report)


X86, ARM = "processor : 0\nflags\t\t: fpu sse2 avx2", "processor : 0\nFeatures\t: fp asimd"


@pytest.mark.parametrize(
    ("processor", "methods", "activations", "told"),
    [
        (f"{X86} avx512_vnni", {"segment0": "static"}, "uint8", "this processor has VNNI"),
        (f"{X86} avx_vnni", {"segment0": "dynamic"}, None, "this processor has VNNI"),
        (X86, {"segment0": "static"}, "uint8", "this processor has no VNNI: sums of uint8 times int8 saturate"),
        (X86, {"segment0": "dynamic"}, None, "this processor has no VNNI: sums of uint8 times int8 saturate"),
        (X86, {"segment0": "static"}, "int8", "this processor has no VNNI, with which"),
        (X86, {"segment0": "blockwise"}, None, "this processor has no VNNI, with which"),
        (f"{ARM} asimddp", {"segment0": "static"}, "uint8", "this processor has the dot product of 8 bits"),
        (ARM, {"segment0": "blockwise"}, None, "this processor has no dot product of 8 bits"),
        (X86, {"segment0": "float16"}, None, None),
        ("", {"segment0": "static"}, "uint8", None),
    ],
)
def test_the_doctor_says_what_eight_bits_meet_on_a_processor(
    processor: str, methods: dict[str, Method], activations: Activations | None, told: str | None, tmp_path: Path
) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text(f"{processor}\n")
    bundle = quantized(tmp_path, methods, activations, stale=False)
    found = list(quantized_findings(bundle, tmp_path))
    assert [finding.what.startswith(told) for finding in found if told] == ([] if told is None else [True])
    warned = [finding for finding in found if finding.state == "warning"]
    assert len(warned) == (told is not None and ("saturate" in told or "no dot" in told))
    assert all(finding.fix for finding in warned)


def test_weights_of_seven_bits_do_not_saturate(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text(f"{X86}\n")
    bundle = quantized(tmp_path, {"segment0": "static"}, "uint8", stale=False)
    made = msgspec.structs.replace(said(bundle), created_with={"reduce_range": 1})
    (finding,) = quantized_findings(
        msgspec.structs.replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, quantization=made)), tmp_path
    )
    assert finding.state == "ok"


def test_the_doctor_names_stale_thresholds_and_says_what_it_verified_by(tmp_path: Path) -> None:
    stale = quantized(tmp_path, {"segment1": "dynamic"})
    found = {finding.name: finding for finding in examine_bundle(stale.path, seconds=0)}
    assert found["thresholds"].fix == f"eetoolkit tune {stale.path} --data DATA --apply"
    assert found["verify"].what == "2 golden samples give what the quantised segments gave"

"""A bundle in two halves answers as the whole does, bit for bit; and what `split` writes, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from halving import cuts_that_differ
from once import digits_bundle
from plans import Draft, chain, gated, joined, leave, looped, recorded, row, two_slots
from test_runner_plans import Generator, inputs_of

import eetoolkit as ee
from eetoolkit.cli import main
from eetoolkit.splitting import split as splitting
from eetoolkit.splitting.crossing import coding_of, loss
from eetoolkit.splitting.repository import BUNDLE, MLSERVER_OWN_SETTINGS, MLSERVER_SETTINGS, TRITON_CONFIG, TRITON_MODEL
from eetoolkit.tuning.manifest import replaced
from eetoolkit_runtime.bundle.bundle import Bundle, load
from eetoolkit_runtime.bundle.golden import read_golden
from eetoolkit_runtime.bundle.rewriting import change_bundle
from eetoolkit_runtime.errors import BundleError, ExportError, InputError, TuneError
from eetoolkit_runtime.files.tensorfile import read_tensors
from eetoolkit_runtime.plan.halves import cut_point, cut_points, halves, version_of
from eetoolkit_runtime.plan.types import Manifest, TensorSpec
from eetoolkit_runtime.running.runner import Runner
from eetoolkit_runtime.single_file.description import description_path

CONFORMANCE = Path(__file__).parents[1] / "runtime" / "conformance" / "cases"
ROWS = [row(a, b, c) for a in (0.1, 0.9) for b in (0.2, 0.9) for c in (0.3, 1.7)]
GENERATED = 12


def rows_of(case: Path) -> list[dict[str, np.ndarray]]:
    """Returns the rows of a case that end with an answer."""
    tensors, _ = read_tensors((case / "tensors.safetensors").read_bytes())
    runs = json.loads((case / "case.json").read_text())["runs"]
    return [{name: tensors[key] for name, key in run["inputs"].items()} for run in runs if "answer" in run]


def test_halves_of_every_conformance_bundle_answer_as_the_whole() -> None:
    cut = 0
    for case in sorted(CONFORMANCE.glob("*/case.json")):
        differing, count = cuts_that_differ(load(case.parent / "bundle"), rows_of(case.parent))
        assert not differing, f"{case.parent.name}: {differing[0]}"
        cut += count
    assert cut >= 40


def test_halves_of_random_plans_answer_as_the_whole(tmp_path: Path) -> None:
    cut = 0
    for seed in range(GENERATED):
        bundle = load(Generator(seed).draft.save(tmp_path / str(seed)))
        differing, count = cuts_that_differ(bundle, inputs_of(seed)[:3])
        assert not differing, f"seed {seed}: {differing[0]}"
        cut += count
    assert cut > 0


def with_samples(draft: Draft, folder: Path, **options: Any) -> Bundle:
    """Returns the draft as a bundle with what its own runner gives as golden samples."""
    draft.options |= options
    with Runner(draft.save(folder / "first.ee"), threads=1) as runner:
        draft.samples = [recorded(runner, x) for x in ROWS]
    return load(draft.save(folder / "whole.ee"))


@pytest.fixture
def whole(tmp_path: Path) -> Bundle:
    """Returns a chain of three exits with golden samples."""
    return with_samples(chain(weights=True), tmp_path)


def inside(server: Path) -> dict[str, bytes]:
    """Returns the files of a repository by their paths."""
    return {str(path.relative_to(server)): path.read_bytes() for path in server.rglob("*") if path.is_file()}


def test_it_cannot_be_cut_where_no_exit_stands_before_or_a_row_may_come_again() -> None:
    assert [tuple(point) for point in cut_points(chain().plan())] == [("segment1", "exit0"), ("segment2", "exit1")]
    assert cut_points(gated().plan()) == ()
    assert cut_points(joined().plan()) == ()
    assert [tuple(point) for point in cut_points(looped(leave_at=0.5).plan())] == [("head", "inside")]


@pytest.mark.parametrize("written", ["h", "sure"])
def test_an_exit_whose_answer_is_overwritten_does_not_stand_in(written: str) -> None:
    draft = Draft()
    draft.slot("sure", shape=("batch",))
    draft.slot("other", shape=("batch",))
    draft.segment("first", "h = Abs(x)  k = Constant<value_int = 0>()  sure = Gather<axis = 1>(x, k)", reads=["x"],
                  writes=["h", "sure"], exit=leave("early", "h", "sure", 0.5), next="second")  # fmt: skip
    body = {"h": "h = Neg(x)", "sure": "k = Constant<value_int = 1>()  sure = Gather<axis = 1>(x, k)"}[written]
    draft.segment("second", body, reads=["x"], writes=[written], next="third")
    draft.segment("third", "y = Abs(x)  k = Constant<value_int = 2>()  other = Gather<axis = 1>(x, k)", reads=["x"],
                  writes=["y", "other"], exit=leave("last", "y", "other"))  # fmt: skip
    assert [tuple(point) for point in cut_points(draft.plan())] == [("second", "early")]


@pytest.mark.parametrize(
    ("at", "text"),
    [
        ("exit7", "'drafted' has no exit or segment 'exit7'; it can be cut at exit0, exit1, segment1, segment2"),
        ("exit2", "'drafted' cannot be cut at 'exit2'; it can be cut at exit0, exit1, segment1, segment2"),
        ("segment0", "'drafted' cannot be cut at 'segment0'; it can be cut at exit0, exit1, segment1, segment2"),
    ],
)
def test_a_place_where_it_cannot_be_cut_is_refused_with_those_where_it_can(at: str, text: str) -> None:
    with pytest.raises(InputError) as caught:
        cut_point(chain().plan(), at)
    assert str(caught.value).startswith(text)
    assert "did you mean" not in str(caught.value) or at == "exit7"


def test_the_version_is_of_all_that_decides_an_answer_and_of_nothing_else() -> None:
    plan = chain().plan()
    point = cut_point(plan, "exit0")
    server = halves(plan, point).server
    own = version_of(server)
    assert own == halves(plan, point).device.split.version  # type: ignore[union-attr]
    assert 0 <= own < 2**48
    replace = msgspec.structs.replace
    said = replace(server, notes=("a note",), created_with={"by": "another"}, onnxruntime="1.20")
    assert version_of(said) == own
    files = {name: replace(file, sha256="f" * 64) for name, file in server.files.items()}
    assert version_of(replace(server, files=files)) != own
    head = replace(server.segments["segment1"].exit, threshold=0.75)  # type: ignore[type-var]
    segments = server.segments | {"segment1": replace(server.segments["segment1"], exit=head)}
    assert version_of(replace(server, segments=segments)) != own
    assert version_of(replace(server, fallback="most_confident")) != own


def test_both_halves_are_written_and_verified_each_by_itself(whole: Bundle, tmp_path: Path) -> None:
    report = ee.split(whole, "exit0", tmp_path / "d.ee", tmp_path / "repo")
    version = Path(report.server)
    assert version == tmp_path / "repo" / report.model / str(report.version)
    device, server = load(tmp_path / "d.ee"), load(version / BUNDLE)
    assert device.manifest.split is not None
    assert (device.manifest.split.version, device.manifest.split.model) == (report.version, server.manifest.name)
    assert version_of(server.manifest) == report.version
    for half in (device, server):
        checked = ee.verify(half)
        assert checked.passed
        assert checked.samples == len(ROWS)
    settings = json.loads((version / MLSERVER_SETTINGS).read_text())
    assert settings["parameters"] == {"uri": f"./{BUNDLE}", "version": str(report.version)}
    assert [each["name"] for each in settings["outputs"]] == ["logits", "exit", "confidence"]
    assert report.bytes == 32
    assert (report.servers, report.left_out) == (("mlserver", "triton"), {})
    assert {path.name for path in (tmp_path / "repo").iterdir()} == {report.model, MLSERVER_OWN_SETTINGS}


def test_golden_samples_of_the_halves_are_the_source_networks_and_what_crosses(whole: Bundle, tmp_path: Path) -> None:
    report = ee.split(whole, "exit0", tmp_path / "d.ee", tmp_path / "repo")
    device = read_golden(load(tmp_path / "d.ee"))
    server = read_golden(load(Path(report.server) / BUNDLE))
    for given, here, there in zip(read_golden(whole), device, server, strict=True):
        assert [visit.exit for visit in here.visits] == ["exit0", "handover"]
        assert [visit.exit for visit in there.visits] == ["exit1", "exit2"]
        np.testing.assert_array_equal(there.inputs["h0"], given.visits[0].outputs["logits"])
        for expected, found in zip(given.visits, (*here.visits[:1], *there.visits), strict=True):
            assert expected.exit == found.exit
            np.testing.assert_array_equal(expected.outputs["logits"], found.outputs["logits"])


def test_a_half_that_does_not_give_its_golden_samples_is_not_written(whole: Bundle, tmp_path: Path) -> None:
    draft = chain(weights=True)
    draft.samples = read_golden(whole)
    for visit in draft.samples[0].visits:
        visit.outputs["logits"][...] += 1  # type: ignore[index]
    wrong = draft.save(tmp_path / "wrong.ee")
    with pytest.raises(BundleError, match="does not give its golden samples here"):
        ee.split(wrong, "exit0", tmp_path / "d.ee", tmp_path / "repo")
    assert not (tmp_path / "d.ee").exists()
    assert not (tmp_path / "repo").exists()


def test_nothing_is_replaced_without_overwrite_and_nothing_half_written(
    whole: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = tmp_path / "repo"
    ee.split(whole, "exit0", tmp_path / "d.ee", repo)
    before = inside(repo)
    with pytest.raises(BundleError, match=r"d\.ee exists; pass overwrite=True"):
        ee.split(whole, "exit0", tmp_path / "d.ee", repo)
    with pytest.raises(BundleError, match=r"repo/drafted-tail/\d+ exists; pass overwrite=True"):
        ee.split(whole, "exit0", tmp_path / "other.ee", repo)
    assert not (tmp_path / "other.ee").exists()

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    write = splitting.write_bundle

    def failing(target: Path, *arguments: Any, **options: Any) -> Bundle:
        return full() if target.name == "other.ee" else write(target, *arguments, **options)

    monkeypatch.setattr(splitting, "write_bundle", failing)
    with pytest.raises(BundleError, match="No space left on device"):
        ee.split(whole, "exit0", tmp_path / "other.ee", repo, overwrite=True)
    assert inside(repo) == before
    with pytest.raises(BundleError, match="No space left on device"):
        ee.split(whole, "exit0", tmp_path / "other.ee", tmp_path / "fresh")
    assert not inside(tmp_path / "fresh")
    monkeypatch.undo()
    ee.split(whole, "exit0", tmp_path / "d.ee", repo, overwrite=True)
    assert inside(repo) == before


def test_another_version_stands_beside_the_one_that_devices_still_ask_for(whole: Bundle, tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    first = ee.split(whole, "exit0", tmp_path / "d.ee", repo)
    tuned = with_samples(chain(0.5, 0.25, weights=True), tmp_path / "tuned")
    second = ee.split(tuned, "exit0", tmp_path / "d2.ee", repo)
    assert first.version != second.version
    assert {path.name for path in (repo / first.model).iterdir()} == {
        TRITON_CONFIG, str(first.version), str(second.version),
    }  # fmt: skip
    with pytest.raises(BundleError, match=r"holds versions with other tensors, and Triton has one config\.pbtxt"):
        ee.split(whole, "exit0", tmp_path / "d3.ee", repo, crossing="float16")


def test_what_is_no_model_of_ours_is_left_as_it_is(whole: Bundle, tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    (repo / "drafted-tail").mkdir(parents=True)
    (repo / "drafted-tail" / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match="exists and is no model that `split` wrote; it is left as it is"):
        ee.split(whole, "exit0", tmp_path / "d.ee", repo, overwrite=True)
    assert list(inside(repo)) == ["drafted-tail/notes.txt"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BundleError, match="file is no folder"):
        ee.split(whole, "exit0", tmp_path / "d.ee", tmp_path / "file")
    with pytest.raises(BundleError, match="is what is split; name another"):
        ee.split(whole, "exit0", whole.path, repo, overwrite=True)
    with pytest.raises(BundleError, match="is given for the device and for the server; name another"):
        ee.split(whole, "exit0", tmp_path / "new", tmp_path / "new")


def test_tritons_one_file_answers_as_the_servers_half(whole: Bundle, tmp_path: Path) -> None:
    report = ee.split(whole, "exit0", tmp_path / "d.ee", tmp_path / "repo")
    folder = Path(report.server)
    session = ort.InferenceSession(folder / TRITON_MODEL)
    assert description_path(folder / TRITON_MODEL).exists()
    names = [value.name for value in session.get_outputs()]
    with Runner(folder / BUNDLE, threads=1) as runner:
        for sample in read_golden(load(folder / BUNDLE)):
            expected = runner.run(sample.inputs)
            found = dict(zip(names, session.run(None, dict(sample.inputs)), strict=True))
            assert list(runner.bundle.exits)[int(found["exit"])] == expected.exit
            assert float(found["confidence"]) == expected.confidence
            np.testing.assert_array_equal(found["logits"], expected.outputs["logits"])


def test_exits_with_different_outputs_are_no_one_file_and_the_report_says_so(tmp_path: Path) -> None:
    draft = chain(weights=True)
    last = draft.segments["segment2"]
    draft.segments["segment2"] = msgspec.structs.replace(last, exit=leave("exit2", "h2", "confidence2", other="h1"))
    bundle = with_samples(draft, tmp_path)
    report = ee.split(bundle, "exit0", tmp_path / "d.ee", tmp_path / "repo")
    assert report.servers == ("mlserver",)
    assert "exit" in report.left_out["triton"]
    assert not (Path(report.server) / TRITON_MODEL).exists()
    assert not (Path(report.server).parent / TRITON_CONFIG).exists()
    with pytest.raises(BundleError, match="nothing to serve"):
        ee.split(bundle, "exit0", tmp_path / "d2.ee", tmp_path / "repo2", servers=("triton",))


def test_for_triton_alone_there_is_one_file_and_no_bundle(whole: Bundle, tmp_path: Path) -> None:
    report = ee.split(whole, "exit0", tmp_path / "d.ee", tmp_path / "repo", servers=("triton",))
    assert {path.name for path in Path(report.server).iterdir()} == {TRITON_MODEL, "model.json"}


@pytest.mark.parametrize("crossing", ["float16", "uint8"])
def test_graphs_make_what_crosses_smaller_as_numpy_does(whole: Bundle, crossing: Any, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).uniform(-1, 1, (60, 4)).astype(np.float32) * np.array([0.4, 1, 1, 1], np.float32)
    report = ee.split(whole, "exit0", tmp_path / "d.ee", tmp_path / "repo", crossing=crossing, rows=rows)
    assert report.bytes == {"float16": 16, "uint8": 8}[crossing]
    assert report.crossing == crossing
    assert all(each.dtype == crossing and 0 < each.error < 0.05 for each in report.tensors)
    for half in (tmp_path / "d.ee", Path(report.server) / BUNDLE):
        assert ee.verify(half).passed  # golden samples hold what numpy gives
    plan = load(tmp_path / "d.ee").manifest
    assert plan.split is not None
    assert plan.split.exits[0].path == ("widen", "segment1")
    with Runner(tmp_path / "d.ee", threads=1) as device, Runner(Path(report.server) / BUNDLE, threads=1) as server:
        last = device.run_all_exits(row(0.1, 0.9))[-1]
        assert last.path == ("segment0", "handover")
        sent = {name: last.outputs[output] for name, output in plan.split.sends.items()}
        assert {array.dtype for array in sent.values()} == {np.dtype(crossing)}
        assert set(plan.split.answers) == {"logits"}
        assert last.outputs["logits"].dtype == np.float32
        answer = server.run(sent)
    with Runner(whole, threads=1) as runner:
        expected = runner.run(row(0.1, 0.9))
    assert answer.exit == expected.exit
    np.testing.assert_allclose(answer.outputs["logits"], expected.outputs["logits"], atol=0.02)
    session = ort.InferenceSession(Path(report.server) / TRITON_MODEL)
    assert {value.type for value in session.get_inputs()} == {f"tensor({crossing})"}


def test_only_float32_is_made_smaller(tmp_path: Path) -> None:
    case = CONFORMANCE / "every_dtype" / "bundle"
    if not cut_points(load(case).manifest):
        case = CONFORMANCE / "criterion_patience" / "bundle"
    bundle = load(case)
    point = cut_points(bundle.manifest)[0]
    report = ee.split(bundle, point.segment, tmp_path / "d.ee", tmp_path / "repo", crossing="float16")
    plain = {spec.dtype for spec in halves(bundle.manifest, point).server.inputs}
    assert {each.dtype for each in report.tensors} == {"float16" if dtype == "float32" else dtype for dtype in plain}


def test_scales_are_along_the_dimension_that_loses_least() -> None:
    rng = np.random.default_rng(0)
    spec = TensorSpec(name="h", dtype="float32", shape=("batch", 3, 4, 4))
    sizes = np.array([0.01, 1, 100], np.float32).reshape(1, 3, 1, 1)
    arrays = [rng.normal(0, 1, (1, 3, 4, 4)).astype(np.float32) * sizes for _ in range(8)]
    coding = coding_of(spec, "uint8", arrays)
    assert coding is not None
    assert coding.axis == 1
    for channel in range(3):
        part = [array[:, channel] for array in arrays]
        decoded = [coding.decoded(coding.encoded(array))[:, channel] for array in arrays]
        assert np.abs(np.array(part) - np.array(decoded)).max() <= np.ptp(part) / 255
    alike = [rng.normal(0, 1, (1, 3, 4, 4)).astype(np.float32) for _ in range(8)]
    assert loss(coding_of(spec, "uint8", alike), alike) < 0.01  # type: ignore[arg-type]
    assert coding_of(TensorSpec(name="n", dtype="int64", shape=()), "uint8", []) is None


def test_counts_cross_exactly_and_further_than_the_rows_counted_that_chose_the_scale() -> None:
    rows = [np.array([count], np.float32) for count in (0, 1, 3)]
    coding = coding_of(TensorSpec(name="agreeing", dtype="float32", shape=("batch",)), "uint8", rows)
    assert coding is not None
    counts = np.arange(256, dtype=np.float32)
    np.testing.assert_array_equal(coding.decoded(coding.encoded(counts)), counts)


def test_zero_is_exact_and_what_is_not_finite_stays_within_range() -> None:
    array = np.array([[0, 1, -3, np.inf, -np.inf, np.nan]], np.float32)
    spec = TensorSpec(name="h", dtype="float32", shape=("batch", 6))
    for kind in ("float16", "uint8"):
        coding = coding_of(spec, kind, [array])  # type: ignore[arg-type]
        assert coding is not None
        found = coding.decoded(coding.encoded(array))
        assert found[0, 0] == 0
        np.testing.assert_allclose(found[0, 1:3], [1, -3], rtol=0.01)
        assert np.isfinite(found[0, 3:5]).all()


def test_what_is_no_number_crosses_as_zero_on_every_processor(whole: Bundle, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).uniform(-1, 1, (60, 4)).astype(np.float32)
    ee.split(whole, "exit0", tmp_path / "d.ee", tmp_path / "repo", crossing="uint8", rows=rows)
    with Runner(tmp_path / "d.ee", threads=1) as device:
        nan, zero = (device.run_all_exits(row(0.1, value, -0.3, 0.4))[-1].outputs for value in (np.nan, 0.0))
    crossed = [name for name, array in zero.items() if array.dtype == np.uint8]
    assert len(crossed) == 2
    for name in crossed:
        assert zero[name][0, 1] > 0  # 0 is not the least
        np.testing.assert_array_equal(nan[name], zero[name])


def test_auto_takes_the_fewest_bytes_that_leave_the_answers_as_they_are(whole: Bundle, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.uniform(0, 0.45, (400, 4)).astype(np.float32)  # none leaves early
    rows[:40, :2] = rng.uniform(0.42, 0.45, (40, 1))
    rows[:40, 0] += rng.normal(0, 0.0005, 40).astype(np.float32)  # two classes nearer than a step of uint8

    def chosen(name: str, **options: Any) -> ee.SplitReport:
        return ee.split(whole, "exit0", tmp_path / f"{name}.ee", tmp_path / name, crossing="auto", rows=rows, **options)

    rough = chosen("rough", max_disagreement=0.1)
    assert (rough.crossing, rough.rows) == ("uint8", 200)
    assert rough.disagreement is not None
    assert 0 < rough.disagreement <= 0.1
    fine = chosen("fine", max_disagreement=rough.disagreement / 2)
    assert fine.crossing == "float16"
    assert fine.disagreement is not None
    assert fine.disagreement < rough.disagreement
    with pytest.raises(
        InputError,
        match=r"200 rows .* judge what crosses, half of .* expected at least 1000, .* \(--max-disagreement 0\.005\)",
    ):
        chosen("few", max_disagreement=0.001)
    with pytest.raises(
        InputError, match=r"crossing='auto' \(--crossing auto\) is chosen by rows: pass rows \(--data\)"
    ):
        ee.split(whole, "exit0", tmp_path / "no.ee", tmp_path / "no", crossing="auto")
    early = np.full((40, 4), 0.9, np.float32)
    with pytest.raises(InputError, match="0 of 40 rows come to the handover, expected at least 2"):
        ee.split(whole, "exit0", tmp_path / "no.ee", tmp_path / "no", crossing="uint8", rows=early)
    assert not (tmp_path / "no").exists()


def test_without_golden_samples_uint8_has_nothing_to_choose_scales_by(tmp_path: Path) -> None:
    bundle = chain(weights=True).save(tmp_path / "bare.ee")
    with pytest.raises(InputError, match="the bundle has no golden samples: pass rows"):
        ee.split(bundle, "exit0", tmp_path / "d.ee", tmp_path / "repo", crossing="uint8")
    report = ee.split(bundle, "exit0", tmp_path / "d.ee", tmp_path / "repo")
    assert report.bytes == 32
    assert load(tmp_path / "d.ee").manifest.golden is None


def test_an_input_that_the_server_overwrites_is_moved_first(tmp_path: Path) -> None:
    draft = two_slots()
    draft.slot("early", shape=("batch",))
    first = "y = Neg(x)  k = Constant<value_int = 0>()  early = Gather<axis = 1>(x, k)"
    draft.segment(
        "first", first, reads=["x"], writes={"kept": "y", "worked": "y", "early": "early"},
        exit=leave("before", "kept", "early", 0.5), next="second",
    )  # fmt: skip
    bundle = with_samples(draft, tmp_path)
    differing, count = cuts_that_differ(bundle, ROWS)
    assert (differing, count) == ([], 3)
    server = halves(bundle.manifest, cut_point(bundle.manifest, "second")).server
    assert server.start == "entry"
    assert {spec.name for spec in server.inputs} == {"kept", "worked_in", "x"}


def test_a_name_that_no_folder_has_becomes_one(tmp_path: Path) -> None:
    bundle = with_samples(chain(weights=True), tmp_path, name="../my net: 1")
    report = ee.split(bundle, "exit0", tmp_path / "d.ee", tmp_path / "repo")
    assert report.model == "model_..-my-net-1-tail"
    assert (tmp_path / "repo" / report.model).is_dir()


def test_a_half_is_not_split_again(whole: Bundle, tmp_path: Path) -> None:
    ee.split(whole, "exit1", tmp_path / "d.ee", tmp_path / "repo")
    with pytest.raises(InputError, match="is the device's half of a bundle already; split the whole one"):
        ee.split(tmp_path / "d.ee", "exit0", tmp_path / "e.ee", tmp_path / "repo2")


def test_the_graphs_between_the_halves_are_valid_onnx(whole: Bundle, tmp_path: Path) -> None:
    report = ee.split(whole, "exit0", tmp_path / "d.ee", tmp_path / "repo", crossing="uint8")
    plan = load(Path(report.server) / BUNDLE).manifest
    model = onnx.load(Path(report.server) / BUNDLE / str(plan.segments["widen"].model))
    onnx.checker.check_model(model, full_check=True)
    assert {node.op_type for node in model.graph.node} == {"DequantizeLinear"}


def test_a_devices_half_that_is_tuned_still_hands_over_to_the_same_server(whole: Bundle, tmp_path: Path) -> None:
    ee.split(whole, "exit1", tmp_path / "d.ee", tmp_path / "repo")

    def tuned(bundle: Bundle, folder: Path) -> Manifest:
        return replaced(bundle.manifest, {"exit0": 0.125}, {}, None)

    before = load(tmp_path / "d.ee").manifest
    after = change_bundle(tmp_path / "d.ee", tuned).manifest
    assert after.exits["exit0"].threshold == 0.125
    assert after.split == before.split
    behind = replaced(whole.manifest, {"exit1": 0.125}, {}, None)  # of the whole one: another half for the server
    assert (
        halves(behind, cut_point(behind, "exit0")).device.split
        != halves(whole.manifest, cut_point(whole.manifest, "exit0")).device.split
    )


def test_what_is_made_smaller_in_a_devices_half_is_still_handed_over(whole: Bundle, tmp_path: Path) -> None:
    ee.split(whole, "exit1", tmp_path / "d.ee", tmp_path / "repo")
    before = load(tmp_path / "d.ee").manifest.split
    assert before is not None
    pruned = ee.prune(tmp_path / "d.ee", ["exit0"], tmp_path / "pruned.ee")
    assert pruned.manifest.split == msgspec.structs.replace(before, segments=before.segments - 1)
    assert ee.verify(pruned).passed
    with pytest.raises(
        InputError, match="exit 'exit1' stands in where the server gives no answer, and cannot be pruned"
    ):
        ee.prune(tmp_path / "d.ee", ["exit1"], tmp_path / "no.ee")


def test_a_devices_half_that_is_cut_off_before_its_end_hands_nothing_over(whole: Bundle, tmp_path: Path) -> None:
    ee.split(whole, "exit1", tmp_path / "d.ee", tmp_path / "repo")
    split = load(tmp_path / "d.ee").manifest.split
    assert ee.truncate(tmp_path / "d.ee", "exit1", tmp_path / "local.ee").manifest.split is None
    assert ee.truncate(tmp_path / "d.ee", "handover", tmp_path / "remote.ee").manifest.split == split
    assert ee.truncate(whole, "exit1", tmp_path / "short.ee").manifest.split is None


def test_without_the_extra_there_is_a_line_that_says_what_to_do(
    whole: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"`split` needs onnx: install the extra 'export'.*--for mlserver"):
        ee.split(whole, "exit0", tmp_path / "d.ee", tmp_path / "repo")
    assert ee.split(whole, "exit0", tmp_path / "d.ee", tmp_path / "repo", servers=("mlserver",)).left_out == {}


def test_graphs_between_halves_have_the_opset_of_the_bundles_and_fit_into_tritons_one_file(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    whole = load(digits_bundle(tmp_path_factory))
    report = ee.split(whole, "exit0", tmp_path / "d.ee", tmp_path / "repo", crossing="uint8")
    assert (report.servers, report.left_out) == (("mlserver", "triton"), {})
    half = load(Path(report.server) / BUNDLE)
    opsets = {
        each.version
        for segment in half.manifest.segments.values()
        for each in onnx.load(half.path / str(segment.model)).opset_import
    }
    assert opsets == {20}
    session = ort.InferenceSession(Path(report.server) / TRITON_MODEL)
    with Runner(half, threads=1) as runner:
        for sample in read_golden(half):
            found = dict(
                zip((o.name for o in session.get_outputs()), session.run(None, dict(sample.inputs)), strict=True)
            )
            assert list(half.exits)[int(found["exit"])] == runner.run(sample.inputs).exit


def test_a_users_settings_of_mlserver_stay_and_triton_alone_gets_none(whole: Bundle, tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    ee.split(whole, "exit0", tmp_path / "d.ee", repo)
    assert json.loads((repo / MLSERVER_OWN_SETTINGS).read_text()) == {"parallel_workers": 0}
    (repo / MLSERVER_OWN_SETTINGS).write_text('{"http_port": 9000}')
    ee.split(whole, "exit1", tmp_path / "d.ee", repo, overwrite=True, servers=("mlserver",), crossing="float32")
    assert (repo / MLSERVER_OWN_SETTINGS).read_text() == '{"http_port": 9000}'
    ee.split(whole, "exit0", tmp_path / "t.ee", tmp_path / "triton", servers=("triton",))
    assert not (tmp_path / "triton" / MLSERVER_OWN_SETTINGS).exists()


def test_what_needs_the_servers_exits_refuses_a_devices_half(whole: Bundle, tmp_path: Path) -> None:
    ee.split(whole, "exit0", tmp_path / "d.ee", tmp_path / "repo")
    before = inside(tmp_path / "d.ee")
    x, labels = np.zeros((40, 4), np.float32), [0, 1] * 20
    link = {"round_trip_ms": 1.0, "up_mbit_s": 1.0, "down_mbit_s": 1.0}
    for options in ({}, {"link": link, "server": 2.0}):
        with pytest.raises(
            TuneError, match=r"a device's half, which cannot be tuned: .* tune the whole bundle and split"
        ):
            ee.tune(tmp_path / "d.ee", x, labels, **options)  # type: ignore[arg-type]
    with pytest.raises(TuneError, match="a device's half, which cannot be quantised"):
        ee.quantize(tmp_path / "d.ee", x, tmp_path / "q.ee")
    with pytest.raises(TuneError, match="a device's half, which cannot be undone"):
        ee.undo_tuning(tmp_path / "d.ee")
    assert inside(tmp_path / "d.ee") == before
    assert not (tmp_path / "q.ee").exists()


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--list", "--at", "exit0"], 2, "--at does not go with --list"),
        (["--list", "--out-device", "x.ee"], 2, "--out-device does not go with --list"),
        (
            ["--at", "exit0", "--out-device", "x.ee", "--out-server", "r", "--max-disagreement", "0.1"], 2,
            "--max-disagreement goes with --crossing auto",
        ),
        (
            ["--at", "exit0", "--out-device", "x.ee", "--out-server", "r", "--crossing", "auto"], 1,
            "error: --crossing auto is chosen by rows: pass rows (--data), or say which: float16 or uint8\n",
        ),
    ],
)  # fmt: skip
def test_options_that_would_be_given_in_vain_are_refused(
    whole: Bundle, options: list[str], status: int, said: str
) -> None:
    done = CliRunner().invoke(main, ["split", str(whole.path), *options])
    assert done.exit_code == status
    assert said in done.stderr


def test_the_command_says_what_a_devices_half_is(whole: Bundle, tmp_path: Path) -> None:
    ee.split(whole, "exit0", tmp_path / "d.ee", tmp_path / "repo")
    listed = CliRunner().invoke(main, ["split", str(tmp_path / "d.ee"), "--list"])
    assert (listed.exit_code, listed.stdout) == (1, "")
    assert "is the device's half of a bundle already; split the whole one" in listed.stderr
    np.save(tmp_path / "x.npy", row(0.1, 0.1, 0.3))
    ran = CliRunner().invoke(main, ["run", str(tmp_path / "d.ee"), str(tmp_path / "x.npy"), "--pool", "own"])
    assert "handover" in ran.stdout
    assert "handover has the answer of exit0 and what the server needs" in ran.stderr

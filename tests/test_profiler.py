"""Profiles: every segment and exit has its figures, which agree with each other; saving makes deadlines go by them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from unittest import mock

import msgspec
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import parser
from plans import chain, edit, gated, row

import eetoolkit as ee
from eetoolkit.cli import main
from eetoolkit_runtime.profiling import profiler
from eetoolkit_runtime.profiling.energy import Meter
from eetoolkit_runtime.profiling.latency import QUANTILES, summarise
from eetoolkit_runtime.profiling.machine import Condition, condition, peak_bytes, resident_bytes, this_machine
from eetoolkit_runtime.profiling.profile import decode, encode
from eetoolkit_runtime.profiling.profiler import profile
from eetoolkit_runtime.profiling.rounds import Cooler, groups_of
from eetoolkit_runtime.profiling.whole import open_whole
from eetoolkit_runtime.running.answer import Answer
from eetoolkit_runtime.running.sessions import SessionSettings


@pytest.fixture
def bundle(tmp_path: Path) -> ee.Bundle:
    return ee.load(chain(0.5, 0.5).save(tmp_path / "chain.ee"))


def inputs(bundle: ee.Bundle, rows: int = 6) -> np.ndarray:
    shape = [rows if index == 0 else int(dim) for index, dim in enumerate(bundle.manifest.inputs[0].shape)]
    return np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)


def test_a_summary_leaves_no_run_out() -> None:
    values = [1.0] * 98 + [2.0, 50.0]
    found = summarise(values)
    assert (found.runs, found.p50_ms, found.outliers) == (100, 1.0, 2)
    assert found.mean_ms == pytest.approx(np.mean(values))
    assert found.p99_ms == pytest.approx(np.quantile(values, 0.99))


def test_a_robust_mean_is_the_mean_where_nothing_disturbs_and_hardly_moves_where_one_run_is_disturbed() -> None:
    quiet = np.random.default_rng(0).gamma(40, 1 / 40, 400)
    assert summarise(quiet).robust_ms == pytest.approx(quiet.mean(), rel=1e-3)
    disturbed = np.append(quiet, 100.0)
    found = summarise(disturbed)
    assert found.robust_ms == pytest.approx(quiet.mean(), rel=0.01)
    assert found.mean_ms == pytest.approx(disturbed.mean())
    assert disturbed.mean() > 1.2 * quiet.mean()
    # By the formula: what is more than five quartile distances above the median counts as that.
    p25, p50, p75 = np.quantile(disturbed, (0.25, 0.5, 0.75))
    assert found.robust_ms == pytest.approx(np.clip(disturbed, None, p50 + 5 * (p75 - p25)).mean())


def test_robust_means_of_segments_add_up_where_many_runs_are_disturbed() -> None:
    draw = np.random.default_rng(1)
    quiet = draw.gamma(100, 1 / 100, (400, 3)) * [0.1, 0.5, 2.0]
    busy = quiet + np.where(draw.uniform(size=quiet.shape) < [0.02, 0.05, 0.2], 10.0, 0.0)
    assert busy.mean() > 1.9 * quiet.mean()
    robust = np.array([summarise(column).robust_ms for column in busy.T])
    np.testing.assert_allclose(robust, quiet.mean(axis=0), rtol=0.2)
    assert robust.sum() == pytest.approx(quiet.sum(axis=1).mean(), rel=0.2)


@pytest.mark.parametrize("shares", [(0.9, 0.1), (0.5, 0.5), (0.95, 0.05)])
def test_inputs_of_other_sizes_are_no_outliers(shares: tuple[float, float]) -> None:
    draw = np.random.default_rng(2)
    sizes = draw.choice([10, 500], 600, p=shares)
    took = draw.gamma(40, 1 / 40, 600) * np.where(sizes == 10, 1.0, 30.0)
    assert summarise(took, sizes).robust_ms == pytest.approx(took.mean(), rel=1e-3)
    many = draw.integers(1, 100, 300)  # a few runs of each
    took = draw.gamma(40, 1 / 40, 300) * many
    assert summarise(took, many).robust_ms == pytest.approx(took.mean(), rel=0.01)


def test_a_mean_far_from_its_median_is_said_with_the_load_of_the_machine(bundle: ee.Bundle) -> None:
    found = profile(bundle, inputs(bundle), threads=1, seconds=0)
    calm = summarise([1.0] * 40)
    segments = {name: msgspec.structs.replace(cost, latency=calm) for name, cost in found.segments.items()}
    exits = {name: msgspec.structs.replace(cost, latency=calm) for name, cost in found.exits.items()}
    before, after = (msgspec.structs.replace(found.before, load=load) for load in (0.3, 6.1))
    quiet = msgspec.structs.replace(found, segments=segments, exits=exits, before=before, after=after)
    assert quiet.noise is None
    assert "note" not in str(quiet)
    noisy = msgspec.structs.replace(segments["segment1"], latency=summarise([1.0] * 39 + [100.0]))
    told = msgspec.structs.replace(quiet, segments=segments | {"segment1": noisy}).noise
    assert told is not None
    cores = found.machine.cores
    assert told.startswith("the mean of segment1 is 3.5 times its median: other programs ran (load 0.3 before, 6.1 af")
    assert f"; {cores} cores), or inputs differ; tuning and the picture go by robust means" in told


def test_calls_that_go_deep_are_no_outliers(bundle: ee.Bundle) -> None:
    x = np.zeros((40, 4), np.float32)
    x[:36, 0] = 1  # nine in ten leave at the first exit
    found = profile(bundle, x, threads=1, seconds=0)
    calls = [cost.call for cost in found.exits.values() if cost.call is not None]
    assert len(calls) == 2
    expected = sum(call.runs * call.robust_ms for call in calls) / found.expected.runs
    assert found.expected.robust_ms == pytest.approx(expected)


def test_rows_of_different_shapes_come_from_an_iterator(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Mean(torch.nn.Module):  # type: ignore[misc, name-defined] # torch is Any here
        def forward(self, x):  # type: ignore[no-untyped-def]
            return x.mean(dim=1), x.mean(dim=1) * 2

    ragged = ee.export(Mean().eval(), torch.rand(2, 5, 3), tmp_path / "m.ee", dynamic_shapes={"x": {1: "length"}})
    rows = [np.random.default_rng(0).random((1, length, 3), np.float32) for length in (2, 7, 4)]
    found = profile(ragged, iter(rows), threads=1, seconds=0)
    assert found.rows == found.timed == 3
    with pytest.raises(ee.InputError, match="the iterator gave no rows"):
        profile(ragged, iter(()), threads=1)


def test_every_segment_and_exit_is_measured_and_adds_up(bundle: ee.Bundle) -> None:
    x = inputs(bundle)
    found = profile(bundle, x, threads=1, seconds=0)
    plan = bundle.manifest
    assert list(found.segments) == [name for name, segment in plan.segments.items() if segment.model is not None]
    assert list(found.exits) == list(plan.exits)
    assert found.rows == len(x)
    assert sum(cost.share for cost in found.exits.values()) == pytest.approx(1)
    with ee.Runner(bundle, threads=1) as runner:
        answers = [runner.run(one[None]) for one in x]
    for name, cost in found.exits.items():
        assert cost.share == pytest.approx(np.mean([answer.exit == name for answer in answers]))
    for name, segment in found.segments.items():
        assert segment.visits == pytest.approx(np.mean([answer.path.count(name) for answer in answers]))
        assert segment.latency is not None
        assert segment.latency.runs == found.rounds * len(x)
        assert 0 < segment.latency.p50_ms <= segment.latency.p90_ms <= segment.latency.p99_ms
        assert segment.load_ms > 0
    reached = [cost.latency.p50_ms for cost in found.exits.values() if cost.latency is not None]
    assert reached[-1] == max(reached)
    assert found.full_path.runs == found.rounds * len(x)
    assert np.isfinite(found.overhead_us)


def test_accuracies_are_those_of_the_answers(bundle: ee.Bundle) -> None:
    x = inputs(bundle)
    with ee.Runner(bundle, threads=1) as runner:
        said = np.array([runner.run(one[None]).prediction for one in x])
    labels = np.where(np.arange(len(x)) < 2, said + 1, said)
    found = profile(bundle, x, labels, threads=1, seconds=0)
    assert found.accuracy == pytest.approx(1 - 2 / len(x))
    weighted = sum(cost.share * cost.accuracy for cost in found.exits.values() if cost.accuracy is not None)
    assert weighted == pytest.approx(found.accuracy)


def test_a_segment_that_no_input_comes_to_has_no_latency(tmp_path: Path) -> None:
    bundle = ee.load(gated().save(tmp_path / "gated.ee"))
    ways = {}
    with ee.Runner(bundle, threads=1) as runner:
        for first in (-1.0, 1.0):
            x = row(first, 0, 0, 0)
            ways[runner.run(x).path] = x
    assert len(ways) == 2
    (path, x), *_ = ways.items()
    found = profile(bundle, x, threads=1, seconds=0)
    for name, cost in found.segments.items():
        assert (cost.latency is None) == (name not in path)


def test_after_each_look_at_the_machine_a_row_is_run_untimed_for_it_leaves_cold_caches(
    bundle: ee.Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def told(owner: type, name: str, word: str) -> None:
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given, **named: (done.append(word), original(*given, **named))[1])

    told(Cooler, "cool_down", "look")
    told(ee.Runner, "run_all_exits", "untimed")
    told(ee.Runner, "trace", "timed")
    found = profile(bundle, inputs(bundle, 1), threads=1, seconds=0)
    looks = [place for place, what in enumerate(done) if what == "look"]
    assert len(looks) == found.rounds
    assert [done[place + 1 : place + 3] for place in looks[:-1]] == [["untimed", "timed"]] * (found.rounds - 1)


def test_a_profile_survives_being_written(bundle: ee.Bundle) -> None:
    found = profile(bundle, inputs(bundle), threads=1, seconds=0)
    assert decode(encode(found), "it") == found
    with pytest.raises(ee.BundleError, match="it is not a profile"):
        decode(b'{"version": 6, "machine": {}}', "it")
    with pytest.raises(ee.BundleError, match="it is not a profile: Object missing required field `machine`"):
        decode(b'{"format": "eetoolkit-single-file", "version": 1}', "it")
    with pytest.raises(ee.BundleError, match="profile version 7, this eetoolkit reads 6"):
        decode(b'{"version": 7, "machine": {}}', "it")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mean_ms": -1.0}, "mean_ms"),
        ({"robust_ms": None}, "robust_ms"),
        ({"runs": 0}, "runs"),
        ({"quantiles_ms": [1.0, 2.0]}, "quantiles_ms"),
        ({"quantiles_ms": [-1.0] * len(QUANTILES)}, "quantiles_ms"),
    ],
)
def test_a_profile_of_impossible_latencies_is_refused(bundle: ee.Bundle, change: dict[str, object], said: str) -> None:
    found = json.loads(encode(profile(bundle, inputs(bundle), threads=1, seconds=0)))
    found["segments"]["segment0"]["latency"] |= change
    with pytest.raises(ee.BundleError, match=rf"it is not a profile: (?=.*segments).*{said}"):
        decode(json.dumps(found).encode(), "it")


def test_saving_puts_the_latencies_into_the_manifest_and_refuses_another_bundles(
    bundle: ee.Bundle, tmp_path: Path
) -> None:
    found = ee.profile(bundle, inputs(bundle), threads=1, seconds=0)
    found.save(bundle)
    saved = ee.load(bundle.path)
    assert saved.manifest.profile is not None
    assert saved.manifest.profile.expected_ms == {name: cost.latency.p90_ms for name, cost in found.segments.items()}  # type: ignore[union-attr]
    assert ee.Runner(saved).run(inputs(bundle, 1)).exit in bundle.exits
    other = ee.load(gated().save(tmp_path / "other.ee"))
    with pytest.raises(ee.BundleError, match="is of another bundle"):
        found.save(other)
    assert ee.load(other.path).manifest.profile is None


def test_what_exits_add_to_the_mean_call_adds_up(bundle: ee.Bundle) -> None:
    found = profile(bundle, inputs(bundle), threads=1, seconds=0)
    assert sum(cost.expected_ms for cost in found.exits.values()) == pytest.approx(found.expected.mean_ms)
    answered = [cost.call.runs for cost in found.exits.values() if cost.call is not None]
    assert sum(answered) == found.expected.runs == found.rounds * found.rows
    assert found.thresholds == {"exit0": 0.5, "exit1": 0.5, "exit2": "always"}
    assert [cost.exit for cost in found.segments.values()] == ["exit0", "exit1", "exit2"]
    assert all(cost.decision is not None for cost in found.exits.values())
    assert all(cost.operators is None for cost in found.segments.values())
    assert found.whole is None


def test_more_rows_than_are_timed_keep_the_shares_of_all(bundle: ee.Bundle) -> None:
    x = np.zeros((40, 4), np.float32)
    x[30:, 0] = 1  # a quarter, and all at the end, leaves at the first exit
    found = profile(bundle, x, threads=1, seconds=0, max_rows=16)
    assert (found.rows, found.timed, found.rounds) == (40, 16, 5)
    calls = {name: cost.call.runs for name, cost in found.exits.items() if cost.call is not None}
    assert calls == {"exit0": 2 * found.rounds, "exit2": 6 * found.rounds}
    assert found.exits["exit0"].share == 0.25
    most = profile(bundle, x, threads=1, seconds=0, max_rows=4)
    assert (most.timed, most.expected.runs) == (4, 4 * most.rounds)


@pytest.mark.parametrize("together", [8, 13, 400])
def test_rows_that_are_timed_together_have_every_exit_and_every_size_in_its_share(together: int) -> None:
    draw = np.random.default_rng(0)
    sizes, exits = draw.lognormal(4, 0.6, 300).astype(int) + 1, draw.choice(["a", "b", "c"], 300, p=(0.5, 0.3, 0.2))
    rows = [(np.zeros(size),) for size in sizes]
    answers = [Answer({}, str(exit_), 0.0, (), 3) for exit_ in exits]
    groups = groups_of(answers, rows, 256, together)
    assert len({place for group in groups for place in group}) == sum(map(len, groups)) == 256
    assert all(group == sorted(group) and len(group) >= min(together, 256) for group in groups)
    for count in (1, 2, 3, len(groups)):
        some = [place for group in groups[:count] for place in group]
        within = 3 / len(some)  # of the shares, one row more or less of each exit
        for exit_ in "abc":
            assert (exits[some] == exit_).mean() == pytest.approx((exits == exit_).mean(), abs=within)
        by_chance = sizes.std() / sizes.mean() / len(some) ** 0.5
        assert sizes[some].mean() == pytest.approx(sizes.mean(), rel=by_chance)


def whole_model(scale: float, *names: str) -> onnx.ModelProto:
    given = ", ".join(f"float[batch,4] {name}" for name in names)
    body = f"two = Constant<value = float {{{scale}}}>()  y = Mul({names[0]}, two)"
    return parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]> g ({given}) => (float[batch,4] y) {{{body}}}')


@pytest.mark.parametrize(("scale", "right"), [(8.0, True), (5.0, False)])
def test_the_whole_network_runs_beside_the_bundle(bundle: ee.Bundle, tmp_path: Path, scale: float, right: bool) -> None:
    onnx.save(whole_model(scale, "another_name"), tmp_path / "w.onnx")
    found = profile(bundle, inputs(bundle), threads=1, seconds=0, whole=tmp_path / "w.onnx")
    assert found.whole is not None
    assert found.whole.file == "w.onnx"
    assert found.whole.latency.runs == found.expected.runs
    assert found.whole.ratio == pytest.approx(found.expected.mean_ms / found.whole.latency.mean_ms)
    assert found.whole.difference is not None
    assert (found.whole.difference < 1e-6) == right
    assert decode(encode(found), "it") == found


def test_a_whole_network_that_cannot_be_run_is_refused(bundle: ee.Bundle, tmp_path: Path) -> None:
    with pytest.raises(ee.InputError, match=r"whole: .*none.onnx does not exist"):
        profile(bundle, inputs(bundle), whole=tmp_path / "none.onnx")
    onnx.save(whole_model(1, "a", "b"), tmp_path / "two.onnx")
    with pytest.raises(ee.InputError, match=r"takes the inputs \['a', 'b'\], the bundle \['x'\]"):
        profile(bundle, inputs(bundle), whole=tmp_path / "two.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(ee.IntegrityError, match=r"the whole network: onnxruntime .* cannot load .*broken.onnx"):
        profile(bundle, inputs(bundle), whole=tmp_path / "broken.onnx")


@pytest.mark.parametrize("wrong", ["float[batch,5] x", "double[batch,4] x", "float[batch,2,2] x"])
def test_a_whole_network_that_fails_on_the_inputs_is_one_error_that_names_it(
    bundle: ee.Bundle, tmp_path: Path, wrong: str
) -> None:
    text = f'<ir_version: 9, opset_import: ["" : 18]> g ({wrong}) => ({wrong.replace(" x", " y")}) {{y = Neg(x)}}'
    onnx.save(parser.parse_model(text), tmp_path / "wrong.onnx")
    with pytest.raises(ee.RunError, match=r"^the whole network wrong\.onnx: \[ONNXRuntimeError\]"):
        profile(bundle, inputs(bundle), threads=1, seconds=0, whole=tmp_path / "wrong.onnx")


def test_outputs_of_truth_values_and_unsigned_integers_are_compared_as_numbers(
    bundle: ee.Bundle, tmp_path: Path
) -> None:
    text = """<ir_version: 9, opset_import: ["" : 18]> g (float[batch,4] x) => (bool[batch,4] b, uint8[batch,4] u)
        { b = Cast<to = 9>(x)  u = Cast<to = 2>(x) }"""
    onnx.save(parser.parse_model(text), tmp_path / "w.onnx")
    whole = open_whole(tmp_path / "w.onnx", bundle.manifest, SessionSettings(threads=1))
    assert whole.difference([row(1, 0, 3)], {"b": np.array([[True, True, True, False]])}) == 1.0
    assert whole.difference([row(1, 0, 3)], {"u": np.array([[2, 0, 3, 0]], np.uint8)}) == pytest.approx(1 / 3)


def test_operators_are_traced_apart(bundle: ee.Bundle) -> None:
    found = profile(bundle, inputs(bundle), threads=1, seconds=0, operators=True)
    for cost in found.segments.values():
        assert cost.operators is not None
        assert {operator.operator for operator in cost.operators} == {"Gather", "Mul"}
        assert cost.traced_ms is not None
        assert cost.traced_ms > 0
    assert decode(encode(found), "it") == found


class Kettle:
    """A machine whose temperature goes as told, one degree a look."""

    def __init__(self, *temperatures: float, throttling: bool | None = None) -> None:
        self.temperatures = list(temperatures)
        self.throttling = throttling
        self.slept = 0.0

    def look(self) -> Condition:
        now = self.temperatures.pop(0) if len(self.temperatures) > 1 else self.temperatures[0]
        return Condition(temperature_c=now, throttling=self.throttling)

    def sleep(self, seconds: float) -> None:
        self.slept += seconds


@pytest.mark.parametrize(
    ("temperatures", "throttling", "most_s", "paused_s"),
    [
        ((59,), None, 60, 0),  # not 10 degrees hotter
        ((61, 58, 56, 54), None, 60, 1.0),  # until it is less than 5 degrees hotter
        ((90,), None, 3, 3),  # no longer than allowed
        ((90,), None, 0, 0),
        ((50,), True, 2, 2),  # the clock is lowered
    ],
)
def test_rounds_pause_where_the_machine_becomes_hot(
    temperatures: tuple[float, ...], throttling: bool | None, most_s: float, paused_s: float
) -> None:
    kettle = Kettle(*temperatures, throttling=throttling)
    cooler = Cooler(Condition(temperature_c=50, throttling=False), most_s, kettle.look, kettle.sleep)
    assert cooler.cool_down(lambda _what, _done, _total: None) == (paused_s > 0)
    assert cooler.paused_s == kettle.slept == paused_s
    blind = Cooler(Condition(), most_s, Condition, kettle.sleep)
    assert not blind.cool_down(lambda _what, _done, _total: None)


def test_energy_is_that_of_the_machines_meter(
    bundle: ee.Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sensor = tmp_path / "power1_input"
    sensor.write_text("4000000")
    monkeypatch.setattr(profiler, "find_meter", lambda: Meter("ina226", sensors=(sensor,)))
    found = profile(bundle, inputs(bundle), threads=1, seconds=0)
    assert found.energy is not None
    assert found.energy.meter == "ina226"
    assert found.energy.idle_w == pytest.approx(4)
    # 4 watts are 4 millijoules a millisecond; the rounds hold more than the calls
    assert found.energy.call_mj >= 0.99 * 4 * found.expected.mean_ms
    assert found.energy.full_path_mj >= 0.99 * 4 * found.full_path.mean_ms


@pytest.mark.parametrize(
    ("labels", "said"),
    [([0], "labels are int64[1], expected integers, one for each of 6 rows"), ([0.5] * 6, "labels are float64[6]")],
)
def test_labels_that_do_not_fit_are_refused(bundle: ee.Bundle, labels: list[float], said: str) -> None:
    with pytest.raises(ee.InputError) as caught:
        profile(bundle, inputs(bundle), labels, seconds=0)
    assert str(caught.value).startswith(said)


def test_the_command_prints_tables_or_json_and_saves(bundle: ee.Bundle, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", inputs(bundle))
    arguments = ["profile", str(bundle.path), "--inputs", str(tmp_path / "x.npy"), "--threads", "1", "--pool", "own"]
    shown = CliRunner().invoke(main, [*arguments, "--seconds", "0", "--save"])
    assert shown.exit_code == 0, shown.output
    for word in ("machine", "segment0", "exit0", "overhead"):
        assert word in shown.stdout
    saved = ee.load(bundle.path).manifest.profile
    assert saved is not None
    assert set(saved.expected_ms) == {"segment0", "segment1", "segment2"}
    assert ee.Profile.read(bundle.path).rows == 6
    machine = CliRunner().invoke(main, [*arguments, "--seconds", "0", "--json"])
    assert json.loads(machine.stdout)["rows"] == 6
    assert decode(machine.stdout.encode(), "stdout").bundle == bundle.manifest.name


def test_the_machines_state_is_read_from_the_kernels_files(tmp_path: Path) -> None:
    cpu = tmp_path / "sys/devices/system/cpu/cpu0/cpufreq"
    cpu.mkdir(parents=True)
    for name, text in (
        ("scaling_governor", "ondemand"),
        ("scaling_cur_freq", "600000"),
        ("scaling_max_freq", "1800000"),
    ):
        (cpu / name).write_text(text + "\n")
    zone = tmp_path / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text("61234\n")
    firmware = tmp_path / "sys/devices/platform/soc/soc:firmware"
    firmware.mkdir(parents=True)
    (firmware / "get_throttled").write_text("50005\n")
    found = condition(tmp_path)
    assert (found.governor, found.clock_mhz, found.limit_mhz) == ("ondemand", 600, 1800)
    assert found.temperature_c == pytest.approx(61.234)
    assert (found.throttled, found.throttling) == (True, True)
    assert found.load is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/loadavg").write_text("6.10 3.00 1.00 7/123 4567\n")
    assert condition(tmp_path).load == 6.1
    (firmware / "get_throttled").write_text("50000\n")
    assert (condition(tmp_path).throttled, condition(tmp_path).throttling) == (True, False)
    (firmware / "get_throttled").write_text("0\n")
    assert condition(tmp_path).throttled is False
    assert condition(tmp_path / "nothing") == type(found)()


def test_this_machine_is_known() -> None:
    found = this_machine()
    assert found.processor
    assert found.cores >= 1
    resident, peak = resident_bytes(), peak_bytes()
    assert resident is None or peak is None or 0 < resident <= 1.1 * peak


def test_a_call_is_counted_where_it_ended_though_an_exit_before_that_answered(tmp_path: Path) -> None:
    draft = chain(0.5, 0.5)
    draft.options["fallback"] = "most_confident"
    bundle = ee.load(draft.save(tmp_path / "it.ee"))
    x = np.zeros((4, 4), np.float32)
    x[:2, 0], x[2:, 0] = 0.9, 0.4  # two leave at the first exit, two come back to it from the end
    x[2:, 1:] = 0.1
    with ee.Runner(bundle, threads=1) as runner:
        answers = [runner.run(one[None]) for one in x]
    assert [(answer.exit, len(answer.path)) for answer in answers] == [("exit0", 1)] * 2 + [("exit0", 3)] * 2
    found = profile(bundle, x, threads=1, seconds=0)
    assert {name: cost.share for name, cost in found.exits.items()} == {"exit0": 1, "exit1": 0, "exit2": 0}
    calls = {name: cost.call.runs for name, cost in found.exits.items() if cost.call is not None}
    assert calls == {"exit0": 2 * found.rounds, "exit2": 2 * found.rounds}
    means = [cost.latency.robust_ms for cost in found.segments.values() if cost.latency is not None]
    assert found.exits["exit0"].called_ms == pytest.approx(means[0])
    assert found.exits["exit2"].called_ms == pytest.approx(sum(means))
    assert sum(cost.expected_ms for cost in found.exits.values()) == pytest.approx(found.expected.mean_ms)


def test_labels_say_nothing_where_answers_name_no_class(tmp_path: Path) -> None:
    draft = chain(0.5, 0.5)
    bundle = ee.load(edit(draft.save(tmp_path / "it.ee"), labels=None))
    x = np.zeros((3, 4), np.float32)
    assert profile(bundle, x, np.zeros(3, int), threads=1, seconds=0).accuracy == 1
    with mock.patch.object(Answer, "prediction", None):
        unknown = profile(bundle, x, np.zeros(3, int), threads=1, seconds=0)
    assert unknown.accuracy is None
    assert all(cost.accuracy is cost.accuracy_if_always is None for cost in unknown.exits.values())


@pytest.mark.parametrize(
    "given",
    [{"seconds": -1.0}, {"seconds": math.nan}, {"seconds": math.inf}, {"max_rows": 0}, {"cool_down_s": math.nan}],
    ids=str,
)
def test_bounds_of_the_measurement_that_are_none_are_refused(bundle: ee.Bundle, given: dict[str, float]) -> None:
    ((name, value),) = given.items()
    with pytest.raises(ee.InputError, match=rf"^{name} is {value}, expected "):
        ee.profile(bundle, threads=1, **given)

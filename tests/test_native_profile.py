"""`ee-profile`: what it writes is a profile like Python's own, which tuning takes."""

from __future__ import annotations

from pathlib import Path

import native_build
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from native_build import ask
from torch import Tensor, nn

import eetoolkit as ee
from eetoolkit.cli import main
from eetoolkit_runtime.profiling.latency import QUANTILES, Latency

pytestmark = pytest.mark.skipif(bool(native_build.why_not()), reason=native_build.why_not())
CASES = Path(__file__).parents[1] / "runtime" / "conformance" / "cases"
ROWS = 8  # a bundle keeps no more


class Digits(nn.Module):
    """Three exits over pictures of 8 x 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Conv2d(1 if n == 0 else 8, 8, 3, padding=1) for n in range(3))
        self.heads = nn.ModuleList(nn.Linear(8 * 64, 10) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        found = []
        for part, head in zip(self.parts, self.heads, strict=True):
            x = torch.relu(part(x))
            found.append(head(x.flatten(1)))
        return tuple(found)


@pytest.fixture(scope="module")
def program() -> Path:
    return native_build.build() / "ee-profile"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ee.Bundle:
    torch.manual_seed(0)
    rows = torch.randn(ROWS, 1, 8, 8)
    folder = tmp_path_factory.mktemp("native") / "digits.ee"
    network = Digits().eval()
    with torch.no_grad():
        sure = [logits.softmax(1).amax(1).sort().values.tolist() for logits in network(rows)]
    limits = {f"exit{n}": (sure[n][4] + sure[n][5]) / 2 for n in (0, 1)}  # three of eight rows are surer
    return ee.export(network, (rows[:1],), folder, threshold=limits, golden_inputs=(rows,))


@pytest.fixture(scope="module")
def written(program: Path, bundle: ee.Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("profile") / "native.json"
    done = ask(program, bundle.path, "--seconds", "0", "--threads", "1", "-o", target)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"digits: {ROWS} inputs, ")
    return target


def test_it_says_the_same_of_a_bundle_as_the_python_runtime(written: Path, bundle: ee.Bundle) -> None:
    native, python = ee.Profile.read(written), ee.profile(bundle, threads=1, seconds=0)
    assert native.backend == "native"
    for what in ("version", "bundle", "files", "threads", "spin", "pool", "providers", "rows", "thresholds"):
        assert getattr(native, what) == getattr(python, what), what
    for what in ("processor", "cores", "memory_bytes", "system", "onnxruntime"):
        assert getattr(native.machine, what) == getattr(python.machine, what), what
    assert list(native.segments) == list(python.segments)
    for name, cost in python.segments.items():
        for what in ("nodes", "parameters", "multiply_adds", "size_bytes", "exit"):
            assert getattr(native.segments[name], what) == getattr(cost, what), what
        assert native.segments[name].visits == pytest.approx(cost.visits)
    assert list(native.exits) == list(python.exits)
    for name, cost in python.exits.items():
        assert native.exits[name].share == pytest.approx(cost.share)
        assert (native.exits[name].call is None) == (cost.call is None)
    assert python.exits["exit0"].share == pytest.approx(3 / 8)
    assert python.exits["exit2"].share > 0


def test_its_figures_agree_with_each_other(written: Path) -> None:
    found = ee.Profile.read(written)
    assert found.expected is not None
    assert found.full_path is not None
    costs = found.exits.values()
    assert sum(cost.expected_ms for cost in costs) == pytest.approx(found.expected.mean_ms)
    assert sum(cost.call.runs for cost in costs if cost.call is not None) == found.expected.runs
    assert found.expected.runs == found.full_path.runs
    means = {name: one.latency.robust_ms for name, one in found.segments.items() if one.latency is not None}
    assert [cost.segments_ms for cost in costs] == pytest.approx(np.cumsum(list(means.values())).tolist())
    assert found.segments["segment0"].latency is not None
    assert found.segments["segment0"].latency.runs == found.full_path.runs
    assert found.timer_step_us is not None
    assert found.memory.before is not None
    assert found.memory.opened is not None
    assert found.memory.peak is not None
    assert found.memory.before < found.memory.opened <= found.memory.peak
    latencies = [found.expected, found.full_path, *(one.latency for one in found.segments.values())]
    for latency in latencies + [one for cost in costs for one in (cost.latency, cost.call)]:
        if latency is not None:
            check(latency)


def check(latency: Latency) -> None:
    """Compares what a latency says in two ways."""
    at = dict(zip(QUANTILES, latency.quantiles_ms, strict=True))
    assert list(latency.quantiles_ms) == sorted(latency.quantiles_ms)
    assert (at[0.5], at[0.9], at[0.99]) == pytest.approx((latency.p50_ms, latency.p90_ms, latency.p99_ms))
    assert latency.spread_ms == pytest.approx((at[0.75] - at[0.25]) / 2)
    assert at[0] <= latency.robust_ms <= latency.mean_ms * (1 + 1e-9)
    assert latency.mean_ms <= at[1]
    assert (latency.outliers > 0) == (at[1] > at[0.5] + 5 * (at[0.75] - at[0.25]))


def test_tuning_takes_it(written: Path, bundle: ee.Bundle, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "val.npz", x=rng.standard_normal((200, 1, 8, 8)).astype(np.float32), labels=rng.integers(0, 10, 200)
    )
    command = ["tune", str(bundle.path), "--data", str(tmp_path / "val.npz"), "--profile", str(written), "--json"]
    done = CliRunner().invoke(main, [*command, "--threads", "1", "--max-accuracy-drop", "0.5"])
    assert done.exit_code == 0, done.output
    assert f"a profile of {ee.Profile.read(written).machine.processor}" in done.stdout


def test_it_is_kept_in_a_bundle_and_compared_with_pythons(written: Path, bundle: ee.Bundle) -> None:
    native = ee.Profile.read(written)
    saved = native.save(bundle)
    assert ee.Profile.read(saved) == native
    compared = ee.profile(bundle, threads=1, seconds=0).compare(native)
    assert "backend" in {change.what for change in compared.changes}
    assert not any(change.what in ("graphs", "onnxruntime") for change in compared.changes)


@pytest.mark.parametrize("case", ["criterion_patience", "min_exit"])
def test_without_time_every_input_runs_once_each_way(program: Path, case: str, tmp_path: Path) -> None:
    done = ask(program, CASES / case / "bundle", "--seconds", "1e-6", "--threads", "1")
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "p.json").write_text(done.stdout)
    found = ee.Profile.read(tmp_path / "p.json")
    assert (found.rounds, found.rows, found.warmup_rounds) == (1, 1, 0)
    assert found.no_time_for == ("warm-up", "rounds")
    assert found.expected is not None


def test_inputs_that_there_was_no_time_for_are_told(program: Path, bundle: ee.Bundle, tmp_path: Path) -> None:
    assert ask(program, bundle.path, "--seconds", "1e-6", "-o", tmp_path / "p.json").returncode == 0
    found = ee.Profile.read(tmp_path / "p.json")
    assert (found.rows, found.no_time_for) == (1, ("inputs", "warm-up", "rounds"))


def test_without_a_bound_there_are_five_rounds_over_all_inputs(
    program: Path, bundle: ee.Bundle, tmp_path: Path
) -> None:
    done = ask(program, bundle.path, "--seconds", "0", "--threads", "1", "-o", tmp_path / "p.json")
    assert done.returncode == 0, done.stderr
    found = ee.Profile.read(tmp_path / "p.json")
    assert (found.rounds, found.rows, found.timed, found.no_time_for) == (5, ROWS, ROWS, ())


def test_what_it_cannot_do_is_said_in_one_line(program: Path, bundle: ee.Bundle, written: Path, tmp_path: Path) -> None:
    asked = {
        ("--seconds", "-1"): "--seconds is -1.0, expected 0 to 86400\n",
        ("--seconds", "soon"): "--seconds is 'soon', expected a number\n",
        ("--threads", "5000"): "--threads is 5000, expected 1 to 1024\n",
        ("-o", str(written)): f"{written} exists; pass --overwrite to replace it\n",
        ("-o", str(tmp_path / "none" / "p.json"), "--seconds", "0"): "No such file or directory\n",
    }
    before = written.read_bytes()
    for options, said in asked.items():
        done = ask(program, bundle.path, *options)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.endswith(said), done.stderr
    assert written.read_bytes() == before
    done = ask(program, CASES / "chain" / "bundle")
    assert done.stderr == "InputError: the bundle has no golden samples; export it with some\n"
    assert ask(program).returncode == 2

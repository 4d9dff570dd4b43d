"""A profile taken in Node by the TypeScript runner: it is one like Python's own, and tuning takes it."""

from __future__ import annotations

import json
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

import eetoolkit as ee
from eetoolkit.cli import main
from eetoolkit.quantizing.measuring import Variant, measure
from eetoolkit_runtime.profiling.latency import QUANTILES, Latency

ROOT = Path(__file__).parents[1]
WEB = ROOT / "runtime" / "web"
ESBUILD = WEB / "node_modules" / ".bin" / "esbuild"
NODE = shutil.which("node")
LACKS = "Node, which runs the web runtime" if NODE is None else None if ESBUILD.exists() else f"`npm ci` in {WEB}"
pytestmark = pytest.mark.skipif(LACKS is not None, reason=f"not tested without {LACKS}")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ee.Bundle:
    folder = tmp_path_factory.mktemp("web") / "three.ee"
    shutil.copytree(ROOT / "runtime" / "conformance" / "cases" / "min_exit" / "bundle", folder)
    return ee.load(folder)


@pytest.fixture(scope="module")
def written(bundle: ee.Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = WEB / "build" / "profile.node.mjs"  # where Node finds onnxruntime-node
    options = ["--bundle", "--platform=node", "--format=esm", "--external:onnxruntime-node", "--log-level=error"]
    source = WEB / "programs" / "profile.node.ts"
    subprocess.run([str(ESBUILD), str(source), *options, f"--outfile={program}"], check=True)
    target = tmp_path_factory.mktemp("profile") / "node.json"
    command = [str(NODE), str(program), str(bundle.path), "0"]
    target.write_bytes(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return target


def test_it_says_the_same_of_a_bundle_as_python(written: Path, bundle: ee.Bundle) -> None:
    web, python = ee.Profile.read(written), ee.profile(bundle, threads=1, seconds=0)
    assert web.backend.startswith("onnxruntime-node ")
    for what in ("version", "bundle", "files", "threads", "providers", "rows", "timed", "rounds", "thresholds"):
        assert getattr(web, what) == getattr(python, what), what
    assert web.machine.cores == python.machine.cores
    assert list(web.segments) == list(python.segments)
    for name, cost in python.segments.items():
        for what in ("nodes", "parameters", "multiply_adds", "size_bytes", "exit", "visits"):
            assert getattr(web.segments[name], what) == getattr(cost, what), what
    assert list(web.exits) == list(python.exits)
    for name, exit_ in python.exits.items():
        assert web.exits[name].share == exit_.share
        assert (web.exits[name].call is None) == (exit_.call is None)


def test_it_has_the_keys_that_the_page_promises(written: Path) -> None:
    told = json.loads(written.read_text())
    ours = {field.name for field in msgspec.structs.fields(ee.Profile)}
    missing = {"before", "after", "spin", "pool", "cooled_s", "accuracy", "memory", "whole", "energy", "link"}
    assert set(told) == ours - missing
    latencies = {field.name for field in msgspec.structs.fields(Latency)}
    assert set(told["expected"]) == set(told["segments"]["segment0"]["latency"]) == latencies
    assert {key for cost in told["exits"].values() for key in cost} == {
        "latency", "segments_ms", "call", "called_ms", "expected_ms", "share",
    }  # fmt: skip


def test_its_figures_agree_with_each_other(written: Path) -> None:
    found = ee.Profile.read(written)
    assert found.expected is not None
    assert found.full_path is not None
    costs = found.exits.values()
    assert sum(cost.share for cost in costs) == pytest.approx(1)
    assert sum(cost.expected_ms for cost in costs) == pytest.approx(found.expected.mean_ms)
    means = [one.latency.robust_ms for one in found.segments.values() if one.latency is not None]
    assert [cost.segments_ms for cost in costs] == pytest.approx(np.cumsum(means).tolist())
    assert found.timer_step_us is not None
    assert 0 < found.timer_step_us < 100
    latencies = [found.expected, found.full_path, *(one.latency for one in found.segments.values())]
    for latency in latencies + [one for cost in costs for one in (cost.latency, cost.call)]:
        if latency is not None:
            assert all(below <= above for below, above in pairwise(latency.quantiles_ms))
            at = dict(zip(QUANTILES, latency.quantiles_ms, strict=True))
            assert (at[0.5], at[0.9], at[0.99]) == pytest.approx((latency.p50_ms, latency.p90_ms, latency.p99_ms))
            assert at[0] <= latency.robust_ms <= latency.mean_ms * (1 + 1e-9) <= at[1] * (1 + 1e-6)


def test_tuning_takes_it_and_no_other_backends(written: Path, bundle: ee.Bundle, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shape = (200, *(int(str(size)) for size in bundle.manifest.inputs[0].shape[1:]))
    np.savez(tmp_path / "val.npz", x=rng.standard_normal(shape).astype(np.float32), labels=rng.integers(0, 3, 200))
    profile = ee.Profile.read(written)

    def tune(file: Path) -> str:
        command = ["tune", str(bundle.path), "--data", str(tmp_path / "val.npz"), "--profile", str(file), "--json"]
        return CliRunner().invoke(main, [*command, "--threads", "1", "--max-accuracy-drop", "0.5"]).output

    assert f"a profile of {profile.machine.processor}" in tune(written)
    on_gpu = msgspec.structs.replace(profile, providers=("webgpu", "CPUExecutionProvider"))
    refused = tune(on_gpu.write(tmp_path / "gpu.json"))
    assert "this profile is of a run on webgpu, CPUExecutionProvider, expected CPUExecutionProvider" in refused


def test_quantising_refuses_latencies_of_two_backends(written: Path, bundle: ee.Bundle) -> None:
    profile = ee.Profile.read(written)
    isolated, other = (
        msgspec.structs.replace(profile, backend=f"onnxruntime-web 1.30.0, wasm, {how}")
        for how in ("isolated", "not isolated")
    )
    variant = Variant(bundle, {"segment0": "float", "segment1": "static"})
    named = profile.segments
    halves = [
        msgspec.structs.replace(isolated, segments={"segment0": named["segment0"]}),
        msgspec.structs.replace(other, segments={"segment1": named["segment1"]}),
    ]
    with pytest.raises(ee.TuneError, match=r"wasm, isolated, CPUExecutionProvider\) and of .*wasm, not isolated"):
        measure([variant], lambda: iter(()), halves, seconds=0, threads=1, tell=lambda *_: None)

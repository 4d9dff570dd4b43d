"""Property: whatever the graph and its exits, the chained segments are the whole graph."""

from __future__ import annotations

import importlib

import numpy as np
import onnxruntime as ort
import pytest
from lots import MANY
from random_graphs import WIDTH, random_model

import eetoolkit as ee
from eetoolkit_runtime.running.sessions import SessionSettings

GRAPHS, SHARDS = 160 if MANY else 40, 8


def _whole(path, optimised: bool) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _check(seed: int, tmp_path, *, optimised: bool) -> None:
    path = tmp_path / f"{seed}.onnx"
    exits = random_model(seed, path)
    whole = _whole(path, optimised)
    names = [value.name for value in whole.get_outputs()]
    rng = np.random.default_rng(seed + 1)
    bundle = ee.export(path, None, tmp_path / f"{seed}.ee", overwrite=True)
    with ee.Runner(bundle, threads=1) as runner:
        for _ in range(3):
            feeds = {v.name: rng.normal(size=(1, WIDTH)).astype(np.float32) for v in whole.get_inputs()}
            expected = dict(zip(names, whole.run(None, feeds), strict=True))
            answers = runner.run_all_exits(feeds)
            assert sorted(answer.exit for answer in answers) == sorted(names)
            assert len(answers) == exits
            for answer in answers:
                found = answer.outputs["logits"]
                if optimised:
                    np.testing.assert_allclose(found, expected[answer.exit], atol=1e-5, rtol=1e-5)
                else:
                    np.testing.assert_array_equal(found, expected[answer.exit])


@pytest.mark.parametrize("shard", range(SHARDS))
def test_random_graphs_cut_and_chained_equal_the_whole_exactly_without_optimisations(shard, tmp_path, monkeypatch):
    ordinary = SessionSettings.options

    def plain(settings: SessionSettings) -> ort.SessionOptions:
        options = ordinary(settings)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        return options

    monkeypatch.setattr(SessionSettings, "options", plain)
    for seed in range(shard, GRAPHS, SHARDS):
        _check(seed, tmp_path, optimised=False)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_random_graphs_cut_and_chained_equal_the_whole_closely_with_optimisations(shard, tmp_path):
    for seed in range(1000 + shard, 1000 + GRAPHS, SHARDS):
        _check(seed, tmp_path, optimised=True)


def test_the_property_can_fail(tmp_path, monkeypatch):
    """A cut that changes one kind of operator must be noticed."""
    pipeline = importlib.import_module("eetoolkit_exporters.export")
    ordinary = pipeline.cut

    def broken(network, lowered):
        for node in network.graph:
            if node.op_type == "Tanh":
                node.op_type = "Sigmoid"
        return ordinary(network, lowered)

    monkeypatch.setattr(pipeline, "cut", broken)
    with pytest.raises(ee.ExportError, match="the segments differ from the source network"):
        for seed in range(20):
            _check(seed, tmp_path, optimised=True)

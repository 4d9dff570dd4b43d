"""A pruned bundle answers as the bundle with these exits disabled, and runs fewer, larger graphs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch
from lots import MANY
from networks.case import digits
from plans import NETWORKS, Array, Draft, chain, gate, leave, looped, one_name_twice, over_half, recorded, row
from shell import bundle
from test_runner_plans import Generator, inputs_of
from torch import Tensor, nn

import eetoolkit as ee
from eetoolkit_exporters.pruning.prune import prune
from eetoolkit_runtime.bundle.bundle import Bundle, load
from eetoolkit_runtime.bundle.golden import Sample, Visit
from eetoolkit_runtime.errors import BundleError, ExportError, InputError, RunError
from eetoolkit_runtime.plan.flow import chains, without_exits
from eetoolkit_runtime.running.runner import Runner
from eetoolkit_runtime.verify import verify

ROWS = [row(a, b, c) for a in (0, 0.9, 2) for b in (0, 0.4, 0.9) for c in (0, 0.9)]


def disabled(bundle: Bundle, names: tuple[str, ...]) -> Bundle:
    """Returns the bundle, in memory, without what its exits of these names answer."""
    segments = {
        name: msgspec.structs.replace(segment, exit=msgspec.structs.replace(segment.exit, threshold="never"))
        if segment.exit is not None and segment.exit.name in names
        else segment
        for name, segment in bundle.manifest.segments.items()
    }
    return msgspec.structs.replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, segments=segments))


def can_go(bundle: Bundle) -> list[str]:
    """Returns the exits that end no path."""
    ends = {s.exit.name for s in bundle.manifest.segments.values() if s.exit is not None and s.exit.ends}
    return [name for name in bundle.exits if name not in ends]


def saved(draft: Draft, folder: Path, inputs: list[Mapping[str, Array]]) -> Bundle:
    """Returns the draft's bundle with golden samples: those inputs that it runs to an end."""
    samples = []
    with Runner(draft.save(folder / "first.ee"), threads=1) as runner:
        for each in inputs:
            try:
                answers = runner.run_all_exits(each)
            except RunError:
                continue
            samples.append(Sample(each, tuple(Visit(a.exit, a.outputs, a.confidence) for a in answers)))
    draft.samples = samples
    return load(draft.save(folder / "whole.ee"))


def assert_same(whole: Runner, pruned: Runner, inputs: Any) -> None:
    try:
        expected = whole.run(inputs)
    except RunError:
        with pytest.raises(RunError):
            pruned.run(inputs)
        return
    found = pruned.run(inputs)
    assert (found.exit, found.stopped_by) == (expected.exit, expected.stopped_by)
    assert [decision for _, decision in found.gates] == [decision for _, decision in expected.gates]
    assert found.confidence == pytest.approx(expected.confidence, abs=1e-6, nan_ok=True)
    for name, array in expected.outputs.items():
        assert found.outputs[name].dtype == array.dtype
        np.testing.assert_allclose(found.outputs[name], array, atol=1e-5)


CASES = {
    **NETWORKS, "one_name_twice": one_name_twice, "weights": lambda: chain(weights=True),
    "leaving": lambda: looped(leave_at=0.9),
}  # fmt: skip


@pytest.mark.parametrize("fallback", ["last", "most_confident"])
@pytest.mark.parametrize("network", sorted(CASES))
def test_every_kind_of_plan_answers_as_with_these_exits_disabled(network: str, fallback: str, tmp_path: Path) -> None:
    draft = CASES[network]()
    draft.options["fallback"] = fallback
    whole = saved(draft, tmp_path, [{"x": x} for x in ROWS])
    names = can_go(whole)
    for count in range(1, len(names) + 1):
        for gone in itertools.combinations(names, count):
            short = prune(whole, gone, tmp_path / f"{'-'.join(gone)}.ee")
            assert list(short.exits) == [name for name in whole.exits if name not in gone]
            assert verify(short).passed
            with Runner(disabled(whole, gone), threads=1) as runner, Runner(short, threads=1) as shorter:
                for x in ROWS:
                    assert_same(runner, shorter, x)


def test_random_plans_pruned_answer_as_with_these_exits_disabled(tmp_path: Path) -> None:
    pruned = joined = 0
    count = 100 if MANY else 30
    for seed in range(count):
        inputs = inputs_of(seed)
        whole = saved(Generator(seed).draft, tmp_path / str(seed), inputs)
        names = can_go(whole)
        gone = tuple(names[seed % 2 :]) or tuple(names)
        if not gone or whole.manifest.golden is None:
            continue
        short = prune(whole, gone, tmp_path / f"{seed}.ee")
        pruned += 1
        joined += len(short.manifest.segments) < len(whole.manifest.segments)
        with Runner(disabled(whole, gone), threads=1) as runner, Runner(short, threads=1) as shorter:
            for each in inputs:
                assert_same(runner, shorter, each)
    assert pruned >= 0.4 * count, pruned
    assert joined >= 0.2 * count, joined


def test_segments_between_two_exits_are_one_graph_without_the_head(tmp_path: Path) -> None:
    whole = saved(chain(weights=True), tmp_path, [{"x": x} for x in ROWS])
    plan = prune(whole, ["exit0"], tmp_path / "short.ee").manifest
    assert list(plan.segments) == ["segment0", "segment2"]
    assert [segment.exit.name for segment in plan.segments.values() if segment.exit] == ["exit1", "exit2"]
    assert "confidence0" not in plan.slots
    assert plan.notes[-1] == "pruned: exit0"
    graph = onnx.load(tmp_path / "short.ee" / str(plan.segments["segment0"].model), load_external_data=False).graph
    assert {output.name for output in graph.output} == set(plan.segments["segment0"].writes)
    named = {file for s in plan.segments.values() for file in (s.model, *s.weights) if file is not None}
    assert plan.golden is not None
    assert {path.name for path in (tmp_path / "short.ee").iterdir()} == {"manifest.json", plan.golden.file, *named}


def test_a_segment_that_two_others_come_to_stays_one_of_its_own(tmp_path: Path) -> None:
    draft = Draft()
    draft.slot("open", "bool", ("batch",))
    draft.slot("sure", shape=("batch",))
    draft.segment("first", over_half("open", 0), reads=["x"], writes=["open"], next=gate("open", "side", "join"))
    draft.segment(
        "side", "y = Neg(x)  one = Constant<value_int = 1>()  sure = Gather<axis = 1>(x, one)", reads=["x"],
        writes=["y", "sure"], exit=leave("side", "y", "sure", 0.5), next="join",
    )  # fmt: skip
    draft.segment(
        "join", "z = Sin(x)  one = Constant<value_int = 1>()  certain = Gather<axis = 1>(x, one)", reads=["x"],
        writes={"z": "z", "sure": "certain"}, exit=leave("last", "z", "sure"),
    )  # fmt: skip
    plan = draft.plan()
    assert chains(without_exits(plan, ["side"])) == [("first",), ("side",), ("join",)]
    assert chains(plan) == [("first",), ("side",), ("join",)]


def test_weights_that_segments_share_are_stored_once(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.head = nn.Linear(64, 64), nn.Linear(64, 10)

        def forward(self, image: Tensor) -> list[Tensor]:
            features, found = image.flatten(1), []
            for _ in range(4):
                features = self.block(features).relu()
                found.append(self.head(features))
            return found

    torch.manual_seed(0)
    whole = ee.export(Tied().eval(), (digits(2),), tmp_path / "tied.ee", golden_inputs=digits(8))
    short = ee.prune(whole, ["exit1"], tmp_path / "short.ee")
    assert len(short.manifest.segments) == 3
    weights = {name: file.size for name, file in short.manifest.files.items() if name.endswith(".bin")}
    assert sum(weights.values()) < 1.1 * 4 * (64 * 64 + 64 + 64 * 10 + 10)


def test_a_segment_of_a_long_name_is_written_into_the_bundle_alone(tmp_path: Path) -> None:
    mark = "a.." + "x" * 240
    pruned = prune(load(bundle(tmp_path / "in" / "whole.ee", mark)), [mark + "exit0"], tmp_path / "in" / "short.ee")
    assert verify(pruned).passed
    assert sorted(path.name for path in tmp_path.rglob("*.ee")) == ["short.ee", "whole.ee"]
    assert len(list(tmp_path.iterdir())) == 1
    assert all(re.fullmatch(r"[\w.-]{1,80}", path.name) for path in pruned.path.iterdir())


def test_what_cannot_be_pruned_is_said_and_nothing_written(tmp_path: Path) -> None:
    whole = saved(chain(), tmp_path, [{"x": x} for x in ROWS])
    target = tmp_path / "short.ee"
    for names, said in (
        (["exit7"], "no exit 'exit7'; the exits are exit0, exit1, exit2"),
        (["exit2"], "exit 'exit2' ends the plan and cannot be pruned; `truncate` moves the end"),
    ):
        with pytest.raises(InputError) as caught:
            prune(whole, names, target)
        assert str(caught.value) == said
    bare = load(chain().save(tmp_path / "bare.ee"))
    with pytest.raises(ExportError, match="has no golden samples to verify a pruned bundle by"):
        prune(bare, ["exit0"], target)
    with pytest.raises(BundleError, match="exists; pass overwrite=True"):
        prune(whole, ["exit0"], whole.path)
    other = [Sample(sample.inputs, sample.visits[::-1]) for sample in [recorded(Runner(whole), ROWS[0])]]
    with pytest.raises(ExportError, match="the pruned bundle answers otherwise: sample 0: met the exits"):
        prune(whole, ["exit0"], target, samples=other)
    assert not target.exists()
    assert not list(tmp_path.glob("*.partial-*"))


def test_a_tuned_bundle_keeps_what_is_said_of_its_tuning(tmp_path: Path) -> None:
    from test_tuning_tune import Easy, data

    x, labels = data(300)
    whole = ee.export(Easy().eval(), torch.from_numpy(x[:1]), tmp_path / "it.ee", golden_inputs=torch.from_numpy(x[:4]))
    tuned = ee.tune(whole, x, labels, max_accuracy_drop=0.05, threads=1).apply()
    short = ee.prune(tuned, ["exit1"], tmp_path / "short.ee")
    assert tuned.manifest.tuning is not None
    assert short.manifest.tuning is not None
    assert set(tuned.manifest.tuning.exits_before) == {"exit0", "exit1"}
    assert set(short.manifest.tuning.exits_before) == {"exit0"}
    assert set(tuned.manifest.tuning.thresholds) == {"exit0", "exit1"}
    assert set(short.manifest.tuning.thresholds) == {"exit0"}
    # exit1 could fire: what was measured was measured with it.
    assert (short.manifest.tuning.figures, short.manifest.tuning.guarantee) == ({}, None)
    assert tuned.manifest.tuning.figures
    silent = ee.prune(disabled(tuned, ("exit1",)), ["exit1"], tmp_path / "silent.ee")
    assert silent.manifest.tuning is not None
    assert silent.manifest.tuning.figures == tuned.manifest.tuning.figures
    back = ee.undo_tuning(short)
    assert back.exits["exit0"].threshold == whole.exits["exit0"].threshold
    assert verify(back).passed

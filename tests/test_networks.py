"""Every network of `networks` as a bundle, measured against the network itself at every exit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from halving import cuts_that_differ
from networks import CASES
from networks.case import seeded
from networks.compiled import Compiled, Samples, export_case
from networks.files import Layers3
from networks.forms import Branching, Dead, Layers, Mixed
from networks.reference import Exits, split
from networks.sequences import VOCABULARY, Tied
from torch import Tensor

import eetoolkit as ee

TOLERANCE = 1e-5


def on(*names: str) -> pytest.MarkDecorator:
    """Returns the mark of a test of these networks."""
    return pytest.mark.parametrize("compiled", names, indirect=True)


every_network = on(*CASES)
every_input = pytest.mark.parametrize("kind", ["random", "real"])
every_length = pytest.mark.parametrize(
    ("compiled", "length"),
    [(name, length) for name, case in CASES.items() for length in case.lengths],
    indirect=["compiled"],
)


def _assert_same(found: ee.Answer, expected: Exits) -> None:
    outputs = expected[found.exit]
    assert set(found.outputs) == set(outputs)
    for name, array in outputs.items():
        assert found.outputs[name].dtype == array.dtype
        assert found.outputs[name].shape == array.shape
        np.testing.assert_allclose(found.outputs[name], array, rtol=TOLERANCE, atol=TOLERANCE)


def _assert_decided(answer: ee.Answer, samples: Samples, row: int) -> None:
    _, exits = samples.decisions
    assert answer.exit == exits[row]
    reached = samples.case.exits.index(answer.exit)
    assert answer.path == tuple(f"segment{number}" for number in range(reached + 1))
    assert answer.confidence == pytest.approx(samples.confidences[row, reached], abs=TOLERANCE)
    _assert_same(answer, samples.expected[row])


@every_network
def test_exits_stand_in_the_order_of_their_depth(compiled: Compiled) -> None:
    assert tuple(compiled.bundle.exits) == compiled.case.exits


@every_network
@every_input
def test_every_exit_gives_what_the_network_gives(compiled: Compiled, kind: str) -> None:
    samples = compiled.samples[kind]
    with ee.Runner(compiled.bundle) as runner:
        for row, expected in zip(samples.rows, samples.expected, strict=True):
            answers = runner.run_all_exits(row)
            assert [answer.exit for answer in answers] == list(compiled.case.exits)
            for answer in answers:
                _assert_same(answer, expected)


@every_network
@every_input
def test_every_confidence_follows_the_formula(compiled: Compiled, kind: str) -> None:
    samples = compiled.samples[kind]
    with ee.Runner(compiled.bundle) as runner:
        found = [[answer.confidence for answer in runner.run_all_exits(row)] for row in samples.rows]
    np.testing.assert_allclose(found, samples.confidences, rtol=0, atol=TOLERANCE)


@every_network
@every_input
def test_one_row_is_answered_at_the_first_confident_exit(compiled: Compiled, kind: str) -> None:
    samples = compiled.samples[kind]
    thresholds, _ = samples.decisions
    with ee.Runner(compiled.bundle) as runner:
        for number, row in enumerate(samples.rows):
            _assert_decided(runner.run(row, thresholds=thresholds), samples, number)


@every_network
@every_input
def test_seven_rows_are_answered_each_at_its_own_exit(compiled: Compiled, kind: str) -> None:
    samples = compiled.samples[kind]
    thresholds, exits = samples.decisions
    assert len(set(exits)) >= min(2, len(compiled.case.exits))
    with ee.Runner(compiled.bundle) as runner:
        answers = runner.run_batch(samples.inputs, thresholds=thresholds)
    assert len(answers) == len(samples.rows)
    for number, answer in enumerate(answers):
        _assert_decided(answer, samples, number)


@every_network
def test_both_halves_answer_as_the_whole_bit_for_bit(compiled: Compiled) -> None:
    differing, count = cuts_that_differ(compiled.bundle, compiled.samples["real"].rows[:3], most=1)
    assert not differing
    assert count == min(1, len(compiled.case.exits) - 1)


@every_network
def test_what_lies_behind_the_exit_is_not_loaded(compiled: Compiled) -> None:
    first = compiled.case.exits[0]
    with ee.Runner(compiled.bundle) as runner:
        runner.run(compiled.samples["real"].rows[0], exit_at=first)
        assert runner.opened == ("segment0",)


@every_network
def test_exit_at_answers_there(compiled: Compiled) -> None:
    samples = compiled.samples["real"]
    with ee.Runner(compiled.bundle) as runner:
        for number, exit_ in enumerate(compiled.case.exits):
            for row, expected in zip(samples.rows, samples.expected, strict=True):
                answer = runner.run(row, exit_at=exit_)
                assert answer.exit == exit_
                assert len(answer.path) == number + 1
                _assert_same(answer, expected)


@every_network
def test_a_truncated_bundle_answers_as_exit_at_does_and_is_smaller(compiled: Compiled, tmp_path: Path) -> None:
    samples = compiled.samples["real"]
    sizes = []
    for exit_ in compiled.case.exits:
        shorter = ee.truncate(compiled.bundle, exit_, tmp_path / f"{exit_}.ee")
        with ee.Runner(compiled.bundle) as whole, ee.Runner(shorter) as runner:
            for row in samples.rows:
                expected, answer = whole.run(row, exit_at=exit_), runner.run(row)
                assert (answer.exit, answer.path, answer.confidence) == (
                    expected.exit, expected.path, expected.confidence,
                )  # fmt: skip
                for output, array in expected.outputs.items():
                    np.testing.assert_array_equal(answer.outputs[output], array)
        sizes.append(sum(path.stat().st_size for path in shorter.path.iterdir()))
    whole_size = sum(path.stat().st_size for path in compiled.bundle.path.iterdir())
    assert sizes == sorted(set(sizes))
    assert all(size < whole_size for size in sizes[:-1])


@every_network
def test_the_bundle_verifies_itself(compiled: Compiled) -> None:
    report = ee.verify(compiled.bundle)
    assert report.failures == ()


@every_network
def test_the_bundle_verifies_against_its_network(compiled: Compiled) -> None:
    report = ee.verify(compiled.bundle, model=compiled.model, exits=compiled.case.options.get("exits"))
    assert report.failures == ()
    assert report.samples == 16


@every_length
def test_any_length_runs(compiled: Compiled, length: int) -> None:
    for inputs in (compiled.case.random(3, seed=2, length=length), compiled.case.real(3, length)):
        with ee.Runner(compiled.bundle) as runner:
            for row, expected in zip(split(inputs), compiled.expected(inputs), strict=True):
                for answer in runner.run_all_exits(row):
                    _assert_same(answer, expected)


@on("encoder", "per_step")
def test_lengths_may_change_from_call_to_call(compiled: Compiled) -> None:
    with ee.Runner(compiled.bundle) as runner:
        for length in (5, 9, 5, 3, 9):
            inputs = compiled.case.random(1, seed=length, length=length)
            for answer in runner.run_all_exits(inputs):
                _assert_same(answer, compiled.expected(inputs)[0])


@on("multi_scale")
def test_three_tensors_cross_the_boundary_of_a_network_of_three_scales(compiled: Compiled) -> None:
    plan = compiled.bundle.manifest
    crossing = set(plan.segments["segment0"].writes) & set(plan.segments["segment1"].reads.values())
    assert sorted(plan.slots[slot].shape[2] for slot in crossing) == [4, 8, 16]


@on("u_shape")
def test_the_last_segment_reads_what_the_first_one_made(compiled: Compiled) -> None:
    segments = compiled.bundle.manifest.segments
    assert set(segments["segment2"].reads.values()) & set(segments["segment0"].writes)


@on("mixed_inputs")
def test_an_input_is_read_by_the_segments_that_need_it_alone(compiled: Compiled) -> None:
    segments = compiled.bundle.manifest.segments
    inputs = {"x", "kind", "unread", "flags"}
    assert inputs & set(segments["segment0"].reads.values()) == {"x", "kind"}
    assert inputs & set(segments["segment1"].reads.values()) == {"flags"}


@on("tied")
def test_a_weight_that_is_tied_is_stored_once(compiled: Compiled) -> None:
    shared = VOCABULARY * Tied.WIDTH * 4
    others = sum(
        parameter.nbytes for parameter in compiled.model.parameters() if parameter.nbytes >= 1024
    ) - shared  # fmt: skip
    stored = sum(path.stat().st_size for path in compiled.bundle.path.glob("*.bin"))
    assert shared + others <= stored < shared + others + 1024


@on("tied")
def test_the_later_segment_maps_the_file_of_the_earlier_one_for_a_tied_weight(compiled: Compiled) -> None:
    segments = compiled.bundle.manifest.segments
    assert set(segments["segment0"].weights) <= set(segments["segment1"].weights)


@on("dead_branch")
def test_a_branch_that_is_no_exit_is_dropped(compiled: Compiled) -> None:
    assert compiled.bundle.size_bytes < Dead.UNUSED_BYTES / 4


@on("branchy")
def test_exits_that_are_not_chosen_leave_nothing_behind(compiled: Compiled, tmp_path: Path) -> None:
    only = ee.export(compiled.model, compiled.case.random(2), tmp_path / "only.ee", exits=["exit1"])
    kinds = [segment.exit.name for segment in only.manifest.segments.values() if segment.exit is not None]
    assert kinds == ["exit1"]
    before = list(compiled.bundle.manifest.segments.values())[:2]
    whole = sum(segment.work.parameters for segment in before if segment.work is not None)
    kept = only.manifest.segments["segment0"].work
    head = sum(p.numel() for part in (compiled.model.branch, compiled.model.heads[0]) for p in part.parameters())
    assert kept is not None
    assert kept.parameters < whole - head / 2


@on("data_dependent")
def test_the_shape_of_what_depends_on_data_is_left_open(compiled: Compiled) -> None:
    plan = compiled.bundle.manifest
    crossing = set(plan.segments["segment0"].writes) & set(plan.segments["segment1"].reads.values())
    assert any(None in plan.slots[slot].shape for slot in crossing)


@pytest.mark.parametrize(
    ("compiled", "kind"),
    [("cond_inside", "If"), ("while_loop_inside", "Loop"), ("onnx_if_loop", "If"), ("onnx_if_loop", "Loop")],
    indirect=["compiled"],
)
def test_control_flow_may_stay_inside_a_segment(compiled: Compiled, kind: str) -> None:
    bundle = compiled.bundle
    nodes = onnx.load(bundle.path / str(bundle.manifest.segments["segment1"].model), load_external_data=False).graph
    assert kind in {node.op_type for node in nodes.node}


@on("cond_inside")
def test_both_branches_of_a_cond_are_met_by_the_rows_under_test(compiled: Compiled) -> None:
    assert isinstance(compiled.model, Branching)
    rows = [row for samples in compiled.samples.values() for row in samples.rows]
    with torch.no_grad():
        means = [compiled.model.layers[0](torch.from_numpy(row["x"])).relu().mean().item() for row in rows]
    assert min(means) < Branching.LIMIT < max(means)


@on("branchy")
def test_one_network_gives_the_same_graphs_twice(compiled: Compiled, tmp_path: Path) -> None:
    again = export_case(compiled.case, seeded(type(compiled.model))(compiled.bundle.path), tmp_path / "branchy.ee")
    assert again.manifest.segments == compiled.bundle.manifest.segments
    assert again.manifest.files == compiled.bundle.manifest.files


@on("mixed_inputs")
def test_inputs_that_were_renamed_verify_against_the_network(compiled: Compiled, tmp_path: Path) -> None:
    example = tuple(compiled.case.random(2).values())
    renamed = ee.export(compiled.model, example, tmp_path / "renamed.ee", input_names=["a", "b", "c", "d"])
    assert ee.verify(renamed, model=compiled.model).failures == ()


@on("mixed_inputs")
def test_stages_whose_parameters_have_other_names_verify_against_the_networks(
    compiled: Compiled, tmp_path: Path
) -> None:
    class Renamed(Mixed):
        def forward(self, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
            return super().forward(a, b, c, d)

    stages = [compiled.model, seeded(Renamed, 5)(tmp_path)]
    cascade = ee.export(stages, tuple(compiled.case.random(2).values()), tmp_path / "cascade.ee")
    assert ee.verify(cascade, model=stages).failures == ()


def test_an_input_that_forward_takes_by_keyword_alone_verifies_against_the_network(tmp_path: Path) -> None:
    class Keyword(Layers):
        def forward(self, *, x: Tensor) -> tuple[Tensor, ...]:
            return tuple(self.logits(x))

    network = seeded(Keyword)(tmp_path)
    bundle = ee.export(network, CASES["dict"].random(2), tmp_path / "keyword.ee")
    assert ee.verify(bundle, model=network).failures == ()


def test_an_input_without_a_batch_dimension_goes_to_every_row(tmp_path: Path) -> None:
    class Table(Layers):
        def forward(self, x: Tensor, table: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
            return tuple(self.logits((x + table.mean(0)) * scale))

    network, rng = seeded(Table)(tmp_path), np.random.default_rng(0)
    x, table = (rng.normal(0, 1, (rows, 64)).astype(np.float32) for rows in (3, 5))
    scale = np.array(1.5, np.float32)
    bundle = ee.export(network, (x, table, scale), tmp_path / "table.ee", dynamic_shapes={"table": {0: "rows"}})
    with torch.no_grad():
        expected = network(*map(torch.from_numpy, (x, table[:4])), torch.tensor(1.5))[1].numpy()
    with ee.Runner(bundle) as runner:
        answers = runner.run_batch((x, table[:4], scale), exit_at="exit1")
    found = np.concatenate([answer.outputs["logits"] for answer in answers])
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)
    assert ee.verify(bundle, model=network).failures == ()


def test_a_sequence_may_stay_inside_a_segment(tmp_path: Path) -> None:
    node, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [
            node("Tanh", ["x"], ["a"]),
            node("SplitToSequence", ["a"], ["parts"], axis=1, keepdims=1),
            node("ConcatFromSequence", ["parts"], ["whole"], axis=1),
            node("Exp", ["whole"], ["b"]),
        ],
        "sequences",
        [info("x", onnx.TensorProto.FLOAT, ["N", 6])],
        [info(name, onnx.TensorProto.FLOAT, ["N", 6]) for name in ("a", "b")],
    )
    path = tmp_path / "sequences.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    x = np.random.default_rng(0).normal(0, 1, (1, 6)).astype(np.float32)
    with ee.Runner(ee.export(path, x, tmp_path / "sequences.ee")) as runner:
        _, last = runner.run_all_exits(x)
    np.testing.assert_allclose(last.outputs["logits"], np.exp(np.tanh(x)), rtol=TOLERANCE)


def test_an_output_that_is_none_is_passed_over(tmp_path: Path) -> None:
    class Optional(Layers):
        def forward(self, x: Tensor) -> dict[str, dict[str, Tensor | None]]:
            early, _, late = self.logits(x)
            return {"early": {"logits": early, "boxes": None}, "late": {"logits": late, "boxes": late * 2}}

    bundle = ee.export(seeded(Optional)(tmp_path), CASES["dict"].random(2), tmp_path / "optional.ee")
    assert {name: tuple(exit_.outputs) for name, exit_ in bundle.exits.items()} == {
        "early": ("logits",),
        "late": ("logits", "boxes"),
    }


def test_a_model_output_of_transformers_has_its_fields_as_exits(tmp_path: Path) -> None:
    from transformers.modeling_outputs import SequenceClassifierOutput

    class Wrapped(Layers):
        def forward(self, x: Tensor) -> SequenceClassifierOutput:
            early, _, late = self.logits(x)
            return SequenceClassifierOutput(logits=early, hidden_states=late)

    bundle = ee.export(seeded(Wrapped)(tmp_path), CASES["dict"].random(2), tmp_path / "output.ee")
    assert tuple(bundle.exits) == ("logits", "hidden_states")


def test_examples_may_be_read_only_and_reversed(tmp_path: Path) -> None:
    x = CASES["dict"].random(2)["x"][:, ::-1]
    x.setflags(write=False)
    bundle = ee.export(seeded(Layers3)(tmp_path), x, tmp_path / "example.ee", golden_inputs=x)
    assert ee.verify(bundle, model=seeded(Layers3)(tmp_path), inputs=x).failures == ()

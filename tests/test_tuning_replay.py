"""The record and its replay, sample by sample against the runner, on plans of every kind."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from plans import PER_ROW, Draft, add_head, chain, column, gate, gated, leave, looped, one_name_twice, over_half

import eetoolkit as ee
from eetoolkit.tuning.collect import collect
from eetoolkit.tuning.packing import Row, digest_of, pack
from eetoolkit.tuning.record import NO_EXIT, Record, merge, read_record, trimmed, unmet, without_unmet
from eetoolkit.tuning.replay import answers, means, own_thresholds, stops

PLANS: dict[str, Callable[[], Draft]] = {
    "chain": lambda: chain(0.5, 0.5, 0.5),
    "gated": gated,
    "loop_with_an_exit": lambda: looped(leave_at=0.4),
    "one_exit_in_two_branches": one_name_twice,
}


def data(rows: int = 60, columns: int = 4) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    x = draw.uniform(0, 1, (rows, columns)).astype(np.float32)
    x[3, 0] = np.nan
    return x, draw.integers(0, columns, rows)


def with_thresholds(bundle: ee.Bundle, limits: np.ndarray, fallback: str = "last") -> ee.Bundle:
    """Returns the bundle with thresholds as tuning writes them: NaN: never."""
    plan = bundle.manifest
    chosen = dict(zip(plan.exits, limits.tolist(), strict=True))
    segments = {}
    for name, segment in plan.segments.items():
        exit_ = segment.exit
        if exit_ is not None and not exit_.ends:
            limit = chosen[exit_.name]
            exit_ = msgspec.structs.replace(exit_, threshold="never" if np.isnan(limit) else limit)
            segment = msgspec.structs.replace(segment, exit=exit_)  # noqa: PLW2901
        segments[name] = segment
    return ee.Bundle(bundle.path, msgspec.structs.replace(plan, segments=segments, fallback=fallback))


def settings(record: Record, count: int = 12) -> np.ndarray:
    """Returns settings (S, E) of all kinds: confidences that occur (ties), numbers between, never."""
    draw = np.random.default_rng(1)
    seen = record.confidence[np.isfinite(record.confidence)].astype(np.float64)
    limits = draw.choice(seen, (count, len(record.exits)))
    limits[::3] = draw.uniform(0, 1, limits[::3].shape)
    limits[draw.uniform(size=limits.shape) < 0.2] = np.nan
    return limits


def check_against_the_runner(
    bundle: ee.Bundle, x: np.ndarray, record: Record, limits: np.ndarray, fallback: str
) -> int:
    """Compares exit, answer, confidence and segments of every row and setting; returns how many runs were compared."""
    ended = stops(record, limits)
    chosen = answers(record, limits, ended, fallback)  # type: ignore[arg-type]
    compared = 0
    for s, setting in enumerate(limits):
        with ee.Runner(with_thresholds(bundle, setting, fallback), threads=1) as runner:
            for n in range(len(record)):
                answer, visit, stop = runner.run(x[n : n + 1]), chosen[n, s], ended[n, s]
                assert record.exits[record.exit[n, visit]] == answer.exit
                assert np.array_equal(record.confidence[n, visit], np.float32(answer.confidence), equal_nan=True)
                said = -1 if answer.prediction is None else answer.prediction
                assert record.prediction[n, visit] == said
                for name, array in record.outputs.items():
                    if name in answer.outputs:
                        assert np.array_equal(array[n, visit], answer.outputs[name][0], equal_nan=True)
                ran = dict(zip(record.segments, record.ways[record.way[n, stop]].tolist(), strict=True))
                assert {name: times for name, times in ran.items() if times} == answer.visits
                compared += 1
    return compared


@pytest.mark.parametrize("fallback", ["last", "most_confident"])
@pytest.mark.parametrize("name", PLANS)
def test_replay_is_what_the_runner_does(name: str, fallback: str, tmp_path: Path) -> None:
    bundle = ee.load(PLANS[name]().save(tmp_path / "it.ee"))
    x, labels = data()
    if name == "loop_with_an_exit":
        x[:, 0] = np.random.default_rng(2).integers(1, 8, len(x))
    record = collect(bundle, x, labels, threads=1)
    assert check_against_the_runner(bundle, x, record, settings(record), fallback) == 12 * len(x)


class Staged(torch.nn.Module):
    """Four exits of five classes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(6, 6) for _ in range(4))
        self.heads = torch.nn.ModuleList(torch.nn.Linear(6, 5) for _ in range(4))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        found = []
        for layer, head in zip(self.layers, self.heads, strict=True):
            x = torch.relu(layer(x)) + x
            found.append(3 * head(x))
        return found


CRITERIA = {
    "max_prob": "max_prob",
    "patience": "patience",
    "vote": "vote",
    "mean_ensemble": "mean_ensemble",
    "geometric_ensemble": "geometric_ensemble",
    "all_of": ee.Criterion(
        kind="all_of",
        members=(ee.Criterion(kind="max_prob", threshold=0.6), ee.Criterion(kind="patience", threshold=1)),
    ),
}


@pytest.fixture(scope="module", params=CRITERIA)
def staged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ee.Bundle]:
    folder = tmp_path_factory.mktemp("staged")
    yield ee.export(Staged().eval(), torch.randn(1, 6), folder / "it.ee", criterion=CRITERIA[request.param])


def test_replay_is_what_the_runner_does_for_criteria_with_state(staged: ee.Bundle) -> None:
    x = np.random.default_rng(3).normal(size=(50, 6)).astype(np.float32)
    record = collect(staged, x, np.arange(50) % 5, threads=1)
    assert check_against_the_runner(staged, x, record, settings(record, 8), "last") == 8 * 50


def test_a_threshold_between_two_float32_numbers_is_not_reached_by_the_lower(tmp_path: Path) -> None:
    bundle = ee.load(chain(0.5).save(tmp_path / "it.ee"))
    x = np.full((1, 4), 0.9, np.float32)
    record = collect(bundle, x, [0], threads=1)
    assert float(np.float32(0.9)) < 0.9
    found = stops(record, [[0.9, np.nan], [float(np.float32(0.9)), np.nan], [-np.inf, np.nan], [1e300, np.nan]])
    assert found.tolist() == [[1, 0, 0, 1]]


def test_means_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    bundle = ee.load(chain(0.5, 0.5, 0.5).save(tmp_path / "it.ee"))
    x, labels = data(300)
    record = collect(bundle, x, labels, threads=1)
    limits = settings(record)
    draw = np.random.default_rng(4)
    values, costs = draw.uniform(size=record.exit.shape), draw.uniform(size=record.exit.shape)
    for fallback in ("last", "most_confident"):
        score, cost = means(record, limits, values, costs, fallback)  # type: ignore[arg-type]
        for s, setting in enumerate(limits):
            scores, prices = [], []
            for n in range(len(record)):
                own = [c >= t for c, t in zip(record.confidence[n, :-1].tolist(), setting[:-1].tolist(), strict=True)]
                end = own.index(True) if True in own else len(own)
                best = end
                if fallback == "most_confident" and True not in own:
                    on = [(-np.inf if np.isnan(c) else c, v) for v, c in enumerate(record.confidence[n].tolist())
                          if v == len(own) or not np.isnan(setting[v])]  # fmt: skip
                    best = max(on)[1]
                scores.append(values[n, best])
                prices.append(costs[n, end])
            assert score[s] == pytest.approx(np.mean(scores))
            assert cost[s] == pytest.approx(np.mean(prices))


def test_own_thresholds_leave_out_disabled_exits(tmp_path: Path) -> None:
    bundle = ee.load(chain(0.5, 0.7).save(tmp_path / "it.ee"))
    np.testing.assert_equal(own_thresholds(bundle.manifest), [0.5, 0.7, np.nan])
    disabled = with_thresholds(bundle, np.array([np.nan, 0.25, np.nan]))
    np.testing.assert_equal(own_thresholds(disabled.manifest), [np.nan, 0.25, np.nan])


def same(one: Record, other: Record) -> bool:
    names = ("row", "digest", "label", "exit", "confidence", "prediction")
    equal = all(np.array_equal(getattr(one, n), getattr(other, n), equal_nan=n == "confidence") for n in names)
    counts = np.array_equal(one.ways[one.way], other.ways[other.way])
    outputs = all(np.array_equal(array, other.outputs[n], equal_nan=True) for n, array in one.outputs.items())
    return equal and counts and outputs and set(one.outputs) == set(other.outputs)


@pytest.fixture
def loop(tmp_path: Path) -> tuple[ee.Bundle, np.ndarray, np.ndarray]:
    x, labels = data()
    x[:, 0] = np.random.default_rng(2).integers(1, 8, len(x))
    return ee.load(looped(leave_at=0.4).save(tmp_path / "it.ee")), x, labels


def test_parts_merge_to_the_whole(loop: tuple[ee.Bundle, np.ndarray, np.ndarray]) -> None:
    bundle, x, labels = loop
    whole = collect(bundle, x, labels, threads=1)
    parts = [collect(bundle, x, labels, rows=np.arange(k, len(x), 3), threads=1) for k in range(3)]
    assert [len(part) for part in parts] == [20, 20, 20]
    assert same(merge(parts[::-1]), whole)
    assert same(merge([parts[1], whole, parts[0]]), whole)
    assert (whole.exit != NO_EXIT).sum(axis=1).max() > (whole.exit != NO_EXIT).sum(axis=1).min()


@pytest.mark.parametrize("name", PLANS)
def test_how_rows_were_packed_and_in_which_order_they_merge_does_not_change_a_bit(name: str, tmp_path: Path) -> None:
    bundle = ee.load(PLANS[name]().save(tmp_path / "it.ee"))
    x, labels = data()
    whole = collect(bundle, x, labels, threads=1)
    parts = []
    with ee.Runner(bundle, threads=1) as runner:
        for number, (values, label) in enumerate(zip(x, labels, strict=True)):
            inputs = (values[None],)
            row = Row(number, digest_of(inputs, label), label, runner.run_all_exits(inputs))
            parts.append(pack(bundle.manifest, [row]))
    for seed in range(2):
        np.random.default_rng(seed).shuffle(parts)  # type: ignore[arg-type]
        found = without_unmet(merge([merge(parts[:7]), *parts[5:]]))
        for field in dataclasses.fields(Record):
            one, other = getattr(whole, field.name), getattr(found, field.name)
            if isinstance(one, np.ndarray):
                assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes()), field.name
            elif field.name == "outputs":
                assert [(n, a.shape, a.tobytes()) for n, a in one.items()] == [
                    (n, a.shape, a.tobytes()) for n, a in other.items()
                ]
            else:
                assert one == other


def test_some_rows_of_a_record_are_what_collecting_them_alone_gives(tmp_path: Path) -> None:
    draft = Draft()  # an exit in a branch has an output that no other has
    draft.slot("open", "bool", PER_ROW)
    draft.slot("sure0", shape=PER_ROW)
    draft.segment("first", f"{over_half('open', 0)}  h = Abs(x)", reads=["x"], writes=["open", "h"],
                  next=gate("open", "side", "head"))  # fmt: skip
    draft.segment("side", f"{column('sure0', 1)}  g = Neg(h)", reads=["x", "h"], writes=["sure0", "g"],
                  exit=leave("side", "h", "sure0", 0.5, more="g"), next="head")  # fmt: skip
    add_head(draft, "h")
    bundle = ee.load(draft.save(tmp_path / "it.ee"))
    x, labels = data()
    with ee.Runner(bundle, threads=1) as runner:
        rows = [Row(n, n, labels[n], runner.run_all_exits(x[n : n + 1])) for n in range(len(x))]
    met = np.array([len(row.answers) == 2 for row in rows])
    assert 0 < met.sum() < len(met)
    for mask in (met, ~met):
        found = trimmed(pack(bundle.manifest, rows).take(mask), bundle.manifest)
        alone = pack(bundle.manifest, [row for row, wanted in zip(rows, mask, strict=True) if wanted])
        assert same(without_unmet(found), without_unmet(alone))


def test_an_output_that_few_rows_met_is_kept_and_one_of_two_shapes_is_not(
    loop: tuple[ee.Bundle, np.ndarray, np.ndarray],
) -> None:
    bundle, x, labels = loop
    parts = [collect(bundle, x, labels, rows=np.arange(k, 60, 3), threads=1) for k in range(3)]
    shapes = [part.exit.shape for part in parts]
    outputs: list[dict[str, np.ndarray]] = [
        {
            "some": unmet(shapes[0]),
            "both": np.ones((*shapes[0], 2)),
            "none": unmet(shapes[0]),
            "gone": unmet(shapes[0]),
        },
        {"some": np.ones((*shapes[1], 5)), "both": np.ones((*shapes[1], 3)), "none": unmet(shapes[1])},
        {
            "some": unmet(shapes[2]),
            "both": unmet(shapes[2]),
            "none": unmet(shapes[2]),
            "gone": np.ones((*shapes[2], 1)),
        },
    ]
    changed = [dataclasses.replace(part, outputs=own) for part, own in zip(parts, outputs, strict=True)]
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        found = without_unmet(merge([changed[k] for k in order]))
        assert list(found.outputs) == ["some"]
        assert (found.outputs["some"][:, 0].sum(axis=1) == np.where(found.row % 3 == 1, 5, 0)).all()


def test_a_record_survives_its_file_and_pairs_are_inputs_with_labels(
    loop: tuple[ee.Bundle, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    bundle, x, labels = loop
    whole = collect(bundle, x, labels, file=tmp_path / "record.npz", threads=1)
    assert same(read_record(tmp_path / "record.npz"), whole)
    pairs = ((row[None], label) for row, label in zip(x, labels, strict=True))
    assert same(collect(bundle, pairs, threads=1), whole)
    assert [file.name for file in tmp_path.iterdir() if "partial" in file.name] == []


def test_collecting_goes_on_where_it_was(
    loop: tuple[ee.Bundle, np.ndarray, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, x, labels = loop
    whole = collect(bundle, x, labels, threads=1)
    file = tmp_path / "record.npz"
    collect(bundle, x, labels, rows=np.arange(25), file=file, threads=1)
    runs = []
    run = ee.Runner.run_all_exits
    monkeypatch.setattr(ee.Runner, "run_all_exits", lambda self, row: runs.append(1) or run(self, row))
    told: list[tuple[str, int, int]] = []
    again = collect(bundle, x, labels, file=file, threads=1, progress=lambda *now: told.append(now))
    assert len(runs) == 35
    assert told[-1] == ("collecting", 60, 60)
    assert same(again, whole)
    fewer = collect(bundle, x[:10], labels[:10], file=file, threads=1)
    assert same(fewer, whole.take(np.arange(10)))
    assert len(read_record(file)) == 60
    with pytest.raises(ee.TuneError, match="is a record of other data: row 0 differs"):
        collect(bundle, x, labels + 1, file=file, threads=1)
    x[7] += 1
    with pytest.raises(ee.TuneError, match="is a record of other data: row 7 differs"):
        collect(bundle, x, labels, file=file, threads=1)


def test_an_interrupt_loses_nothing(
    loop: tuple[ee.Bundle, np.ndarray, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, x, labels = loop
    file = tmp_path / "record.npz"

    def stop(_what: str, done: int, _total: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(bundle, x, labels, file=file, threads=1, progress=stop)
    assert len(read_record(file)) == 20
    assert same(collect(bundle, x, labels, file=file, threads=1), collect(bundle, x, labels, threads=1))


def test_what_does_not_belong_together_is_refused(
    loop: tuple[ee.Bundle, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    bundle, x, labels = loop
    collect(bundle, x, labels, file=tmp_path / "record.npz", threads=1)
    other = ee.load(chain(0.5).save(tmp_path / "other.ee"))
    with pytest.raises(ee.TuneError, match="is of another bundle"):
        collect(other, x, labels, file=tmp_path / "record.npz", threads=1)
    with pytest.raises(ee.TuneError, match="records of different bundles"):
        merge([collect(other, x, labels, threads=1), read_record(tmp_path / "record.npz")])
    with pytest.raises(ee.InputError, match=r"labels have shape \[59\], expected one for each of 60 rows"):
        collect(bundle, x, labels[:-1], threads=1)
    with pytest.raises(ee.InputError, match="no rows to collect"):
        collect(bundle, x, labels, rows=np.array([], int), threads=1)
    with pytest.raises(ee.InputError, match="sample 0 is no pair of inputs and label"):
        collect(bundle, x, threads=1)
    (tmp_path / "not.npz").write_bytes(b"PK\x03\x04 what")
    with pytest.raises(ee.TuneError, match=r"not\.npz: not a readable \.npz file \(File is not a zip file\)"):
        read_record(tmp_path / "not.npz")
    with pytest.raises(ee.TuneError, match=r"cannot read the record .*none\.npz: No such file"):
        read_record(tmp_path / "none.npz")
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(ee.TuneError, match=r"cannot read the record .*pipe\.npz is no regular file"):
        read_record(tmp_path / "pipe.npz")
    with pytest.raises(ee.TuneError, match="expected a path"):
        read_record("a\0b.npz")


def put(name: str, place: tuple[int, ...], value: float) -> Callable[[dict[str, np.ndarray]], None]:
    """Returns what writes one number of an array of a record."""

    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays[name][place] = value

    return change


def become(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict[str, np.ndarray]], None]:
    """Returns what makes another one of an array of a record."""
    return lambda arrays: arrays.update({name: change(arrays[name])})


def head(**keys: Any) -> Callable[[dict[str, np.ndarray]], None]:
    """Returns what writes keys of a record's head; None takes one away."""

    def change(arrays: dict[str, np.ndarray]) -> None:
        found = json.loads(str(arrays["head"])) | keys
        arrays["head"] = np.array(json.dumps({key: value for key, value in found.items() if value is not None}))

    return change


DAMAGE: dict[str, tuple[Callable[[dict[str, np.ndarray]], Any], str]] = {
    "no ways": (lambda arrays: arrays.pop("ways"), "it holds no 'ways'"),
    "no head": (lambda arrays: arrays.pop("head"), "it holds no 'head'"),
    "a head that is no JSON": (become("head", lambda _: np.array("{")), "Input data was truncated"),
    "a head of numbers": (become("head", lambda _: np.zeros(3)), "is not a record of `tune`"),
    "another version": (head(version=2), "a record of another version"),
    "no version": (head(version=None), "missing required field `version`"),
    "no constants": (head(constants=None), "missing required field `constants`"),
    "constants that are texts": (head(constants={"t": ["1"]}), "Expected `float`, got `str`"),
    "a constant that is no list": (head(constants={"t": 1.0}), "Expected `array`, got `float`"),
    "a key more": (head(more=1), "unknown field `more`"),
    "exits of one name": (head(exits=["a", "a"]), r"its exits are \['a', 'a'\], expected names that differ"),
    "no exits": (head(exits=[]), r"its exits are \[\], expected names"),
    "an exit less": (head(exits=["a"]), "its exits are numbered -1 to 1, expected -1 to 0"),
    "a segment less": (head(segments=["a"]), r"ways is int32\[(\d+), 2\], expected int32\[\1, 1\]"),
    "rows as a matrix": (become("row", lambda row: row[:, None]), r"row is int64\[60, 1\], expected int64\[N\]"),
    "rows of another size": (become("row", lambda row: row.astype(np.int32)), r"row is int32\[60\], expected int64"),
    "no rows": (become("row", lambda row: row[:0]), r"row is int64\[0\], expected int64\[N\]"),
    "digests that are signed": (become("digest", lambda one: one.astype(np.int64)), "digest is int64.*expected uint64"),
    "a row less of exits": (become("exit", lambda one: one[1:]), r"exit is int16\[59, 8\], expected int16\[60, V\]"),
    "a visit less of confidences": (become("confidence", lambda one: one[:, 1:]), r"expected float32\[60, 8\]"),
    "confidences in 64 bits": (become("confidence", lambda one: one.astype(float)), "confidence is float64"),
    "predictions of all visits": (become("prediction", lambda one: one.reshape(-1)), r"prediction is int64\[480\]"),
    "ways of none": (become("ways", lambda ways: ways[:0]), r"ways is int32\[0, "),
    "a label less": (become("label", lambda one: one[1:]), r"label is int64\[59\], expected one for each of 60 rows"),
    "one label": (become("label", lambda _: np.array(3)), r"label is int64\[\], expected one for each"),
    "outputs that are texts": (become("output/logits", lambda one: one.astype(str)), "output 'logits' is .*numbers"),
    "outputs of other rows": (become("output/logits", lambda one: one[1:]), r"numbers of shape \[60, 8, ...\]"),
    "a row twice": (put("row", (1,), 0), "its rows do not ascend"),
    "a row before the first": (put("row", (0,), -1), "its rows do not ascend"),
    "an exit that there is not": (put("exit", (0, 0), 2), "its exits are numbered -1 to 2, expected -1 to 1"),
    "an exit below the least": (put("exit", (0, 0), -2), "its exits are numbered -2 to 1, expected -1 to 1"),
    "a row without a visit": (put("exit", (0, 0), NO_EXIT), "a row has no visit, or one behind its last"),
    "a confidence without a visit": (put("confidence", (0, 7), 0.5), "there are confidences without a visit"),
    "a class below the least": (put("prediction", (0, 0), -2), "it names class -2, expected -1 or more"),
    "a way that there is not": (put("way", (0, 0), 99), "visits without a way to them"),
    "a way before the first": (put("way", (0, 0), -1), "visits without a way to them"),
    "a segment that ran less than never": (put("ways", (0, 0), -1), "ways that run a segment less than never"),
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[ee.Bundle, Path]:
    """A loop's record on disk, some rows of which have fewer visits than others."""
    folder = tmp_path_factory.mktemp("stored")
    bundle = ee.load(looped(leave_at=0.4).save(folder / "it.ee"))
    x, labels = data()
    x[:, 0] = np.random.default_rng(2).integers(1, 8, len(x))
    collect(bundle, x, labels, file=folder / "record.npz", threads=1)
    return bundle, folder / "record.npz"


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_record_is_refused_with_what_is_wrong(
    name: str, stored: tuple[ee.Bundle, Path], tmp_path: Path
) -> None:
    damage, message = DAMAGE[name]
    with np.load(stored[1]) as file:
        arrays = {key: file[key] for key in file.files}
    damage(arrays)
    np.savez(tmp_path / "record.npz", **arrays)
    with pytest.raises(ee.TuneError, match=message):
        read_record(tmp_path / "record.npz")
    with pytest.raises(ee.TuneError, match=message):
        ee.tune(stored[0], record=tmp_path / "record.npz")


def test_a_record_that_was_made_by_hand_is_looked_at_too(stored: tuple[ee.Bundle, Path]) -> None:
    bundle, file = stored
    whole = read_record(file)
    wrong = dataclasses.replace(whole, way=whole.way + 99)
    with pytest.raises(ee.TuneError, match=r"this is not a record of `tune`: there are visits without a way"):
        ee.tune(bundle, record=wrong)
    for other in ({"segments": whole.segments[::-1]}, {"constants": {"more": (1.0,)}}, {"files": {}}):
        with pytest.raises(ee.TuneError, match="this record is of another bundle"):
            ee.tune(bundle, record=dataclasses.replace(whole, **other))

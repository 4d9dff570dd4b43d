"""A device finds out by itself whether it gives what the source framework gave."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import safetensors.numpy
from plans import (
    Array,
    Draft,
    chain,
    edit,
    exit_in_a_branch,
    gated,
    looped,
    recorded,
    row,
)

from eetoolkit_runtime.bundle.bundle import load
from eetoolkit_runtime.bundle.golden import Sample, Visit, encode_golden, read_golden
from eetoolkit_runtime.bundle.integrity import digest
from eetoolkit_runtime.errors import InputError, IntegrityError
from eetoolkit_runtime.files.tensorfile import write_tensors
from eetoolkit_runtime.plan.types import File
from eetoolkit_runtime.running.runner import Runner
from eetoolkit_runtime.verify import VerifyReport, difference, verify


def sample(*values: float, off: float = 0.0, unsure: float = 0.0) -> Sample:
    """Returns what `chain` must give for a row, by its formula; `off` and `unsure` make exit1's values wrong."""
    x = row(*values)
    return Sample(
        {"x": x},
        tuple(
            Visit(
                f"exit{k}",
                {"logits": x * np.float32(2 ** (k + 1)) + np.float32(off if k == 1 else 0)},
                float(x[0, k]) + (unsure if k == 1 else 0),
            )
            for k in range(3)
        ),
    )


def saved(folder: Path, *samples: Sample, draft: Draft | None = None) -> Path:
    draft = chain() if draft is None else draft
    draft.samples = list(samples)
    return draft.save(folder)


def saved_with(folder: Path, draft: Draft, *inputs: Array) -> Path:
    """Saves a draft with what its own runner gives as golden samples."""
    with Runner(draft.save(folder.with_name("unrecorded")), threads=1) as runner:
        return saved(folder, *(recorded(runner, x) for x in inputs), draft=draft)


def exits_of(sample: Sample) -> list[str]:
    return [visit.exit for visit in sample.visits]


# The samples' file


def test_samples_are_read_as_they_were_written(tmp_path: Path) -> None:
    samples = [sample(0.1, 0.2, 0.3), sample(0.9)]
    found = read_golden(load(saved(tmp_path / "b", *samples)))
    for one, other in zip(found, samples, strict=True):
        np.testing.assert_array_equal(one.inputs["x"], other.inputs["x"])
        assert exits_of(one) == exits_of(other)
        for visit, same in zip(one.visits, other.visits, strict=True):
            np.testing.assert_array_equal(visit.outputs["logits"], same.outputs["logits"])
            assert np.float32(visit.confidence) == np.float32(same.confidence)


def test_the_visits_of_one_exit_in_a_loop_are_kept_apart_and_in_order(tmp_path: Path) -> None:
    folder = saved_with(tmp_path / "b", looped(leave_at=0.9), row(3))
    (found,) = read_golden(load(folder))
    assert exits_of(found) == ["inside", "inside", "inside", "last"]
    assert [float(visit.outputs["logits"][0, 0]) for visit in found.visits] == [6.0, 9.0, 12.0, 12.0]
    assert [round(visit.confidence, 3) for visit in found.visits[:3]] == [0.1, 0.2, 0.3]


def test_any_reader_of_safetensors_finds_what_the_metadata_names() -> None:
    content = encode_golden([sample(0.25), sample(0.5)])
    tensors = safetensors.numpy.load(content)
    length = int.from_bytes(content[:8], "little")
    index = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["samples"])
    second = index[1]
    np.testing.assert_array_equal(tensors[second["inputs"]["x"]], row(0.5))
    assert [visit["exit"] for visit in second["visits"]] == ["exit0", "exit1", "exit2"]
    np.testing.assert_array_equal(tensors[second["visits"][1]["outputs"]["logits"]], row(0.5) * 4)
    sure = tensors[second["visits"][0]["confidence"]]
    assert (sure.dtype, sure.tolist()) == (np.float32, [0.5])
    assert len(tensors) == 2 * (1 + 3 * 2)


def test_the_same_samples_give_the_same_bytes() -> None:
    assert encode_golden([sample(0.25), sample(0.5)]) == encode_golden([sample(0.25), sample(0.5)])


def test_ten_samples_and_more_keep_their_order(tmp_path: Path) -> None:
    found = read_golden(load(saved(tmp_path / "b", *(sample(k / 32) for k in range(12)))))
    assert [float(one.inputs["x"][0, 0]) for one in found] == [k / 32 for k in range(12)]


def test_an_exit_that_a_sample_does_not_meet_is_not_in_it(tmp_path: Path) -> None:
    folder = saved_with(tmp_path / "b", exit_in_a_branch(), row(1, 0.1), row(0, 0.2))
    assert [exits_of(one) for one in read_golden(load(folder))] == [["side", "last"], ["last"]]


def test_a_bundle_without_samples_gives_none(tmp_path: Path) -> None:
    assert read_golden(load(chain().save(tmp_path / "b"))) == []


def replaced(folder: Path, write: Callable[[Path], object]) -> Path:
    """Writes another golden file and enters its right hash into the manifest, as an attacker or a bug would."""
    manifest = load(folder).manifest
    assert manifest.golden is not None
    path = folder / manifest.golden.file
    write(path)
    files: dict[str, File] = manifest.files | {path.name: digest(path)}
    return edit(folder, files=files)


def saying(*samples: object, **tensors: Array) -> Callable[[Path], object]:
    """Returns what writes a file of tensors with these samples in its metadata."""
    return lambda path: path.write_bytes(write_tensors(tensors, {"samples": json.dumps(samples)}))


def framed(header: bytes) -> bytes:
    """Returns a header behind its length."""
    return len(header).to_bytes(8, "little") + header


VISIT = {"exit": "exit0", "outputs": {"logits": "a"}, "confidence": "b"}
INPUTS = {"x": "x"}
TENSORS = {"x": row(), "a": row(), "b": np.zeros(1, np.float32)}


@pytest.mark.parametrize(
    ("write", "why"),
    [
        (lambda path: path.write_bytes(b""), "0 bytes cannot hold a header of 0"),
        (lambda path: path.write_bytes(b"not a file"), "10 bytes cannot hold a header"),
        (lambda path: path.write_bytes((2).to_bytes(8, "little") + b"{]"), "its header is damaged"),
        (lambda path: path.write_bytes(write_tensors({}, {})), "Input data was truncated"),
        (lambda path: path.write_bytes(write_tensors({}, {"samples": "[1]"})), "Expected `object`, got `int`"),
        (lambda path: path.write_bytes(encode_golden([sample(0.5)]) + b"more"), "4 bytes at its end"),
        (saying({"inputs": INPUTS, "visits": [VISIT]}, **TENSORS, c=row()), "the tensor 'c' belongs to no sample"),
        (saying({"inputs": INPUTS, "visits": [VISIT | {"exit": "gone"}]}, **TENSORS), "it has no exit 'gone'"),
        (saying({"inputs": {"y": "x"}, "visits": [VISIT]}, **TENSORS), "the inputs are y, expected x"),
        (saying({"inputs": INPUTS, "visits": [VISIT | {"outputs": {}}]}, **TENSORS), "the outputs of 'exit0' are"),
        (saying({"inputs": INPUTS, "visits": [VISIT, VISIT]}, **TENSORS), "there is no tensor 'a', or it belongs to"),
        (saying({"inputs": INPUTS, "visits": [VISIT]}, **TENSORS | {"b": np.zeros(2)}), "a confidence is float64[2]"),
        (lambda path: path.write_bytes(framed(b'{"a": {}, "a": {}}')), "the key 'a' stands twice in one object"),
        (
            lambda path: path.write_bytes(
                framed(b'{"a": {"dtype": "BOOL", "shape": [1], "data_offsets": [0, 1]}}') + b"\x02"
            ),
            "'a' is BOOL and has other bytes than 0 and 1",
        ),
    ],
)
def test_a_golden_file_that_is_not_one_is_an_integrity_error(
    tmp_path: Path, write: Callable[[Path], object], why: str
) -> None:
    folder = replaced(saved(tmp_path / "b", sample(0.25)), write)
    with pytest.raises(IntegrityError) as caught:
        read_golden(load(folder))
    path = next(folder.glob("golden-*"))
    assert str(caught.value).startswith(f"{path}: not readable golden samples (")
    assert str(caught.value).endswith("); export the bundle again")
    assert why in str(caught.value)


def test_a_golden_file_that_is_gone_is_an_integrity_error(tmp_path: Path) -> None:
    bundle = load(saved(tmp_path / "b", sample(0.25)))
    next(bundle.path.glob("golden-*")).unlink()
    with pytest.raises(IntegrityError, match=r"not readable golden samples \(.*\); export the bundle again$"):
        read_golden(bundle)


# Verifying


def checked(report: VerifyReport) -> dict[str, tuple[int, int]]:
    """Returns by exit how many samples were compared, and how many ties there were."""
    return {check.exit: (check.samples, check.ties) for check in report.exits}


def test_a_bundle_that_gives_what_it_should_passes(tmp_path: Path) -> None:
    report = verify(saved(tmp_path / "b", sample(0.9), sample(0.1, 0.9), sample(0.1, 0.2, 0.3)))
    assert report.passed
    assert (report.samples, report.tolerance, checked(report)) == (
        3,
        1e-4,
        {"exit0": (3, 0), "exit1": (3, 0), "exit2": (3, 0)},
    )


def test_a_report_can_be_read(tmp_path: Path) -> None:
    assert str(verify(saved(tmp_path / "b", sample(0.9)))) == (
        "exit0: 1 sample, outputs differ by at most 0.0e+00, confidence by 0.0e+00\n"
        "exit1: 1 sample, outputs differ by at most 0.0e+00, confidence by 0.0e+00\n"
        "exit2: 1 sample, outputs differ by at most 0.0e+00, confidence by 0.0e+00\n"
        "verify passed, tolerance 1e-04"
    )


def test_outputs_that_differ_fail_with_sample_exit_and_size(tmp_path: Path) -> None:
    report = verify(saved(tmp_path / "b", sample(0.9), sample(0.1, off=0.01)))
    assert not report.passed
    assert report.failures == ("sample 1: exit1: outputs off by 1.0e-02, more than 1e-04",)
    assert str(report).endswith("verify FAILED (1), tolerance 1e-04")


def test_a_report_of_many_failures_shows_the_first_five(tmp_path: Path) -> None:
    report = verify(saved(tmp_path / "b", *(sample(0.1, off=0.01) for _ in range(7))))
    assert len(report.failures) == 7
    assert str(report).splitlines()[3:] == [
        *(f"sample {k}: exit1: outputs off by 1.0e-02, more than 1e-04" for k in range(5)),
        "... and 2 more",
        "verify FAILED (7), tolerance 1e-04",
    ]


def test_a_confidence_that_differs_fails(tmp_path: Path) -> None:
    report = verify(saved(tmp_path / "b", sample(0.1, 0.2, unsure=0.01)))
    assert report.failures == ("sample 0: exit1: confidence off by 1.0e-02, more than 1e-04",)


@pytest.mark.parametrize("tolerance", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_tolerance_that_bounds_nothing_is_refused(tmp_path: Path, tolerance: float) -> None:
    with pytest.raises(InputError, match=f"^tolerance is {tolerance}, expected a finite number above 0$"):
        verify(saved(tmp_path / "a", sample(0.1)), tolerance=tolerance)


def test_a_difference_within_the_tolerance_passes(tmp_path: Path) -> None:
    folder = saved(tmp_path / "b", sample(0.1, off=5e-5))
    assert verify(folder).passed
    assert not verify(folder, tolerance=1e-6).passed
    assert verify(saved(tmp_path / "c", sample(0.1, off=0.01)), tolerance=0.1).passed


def test_another_exit_than_expected_fails(tmp_path: Path) -> None:
    unsure = Visit("exit0", {"logits": row(0.9) * 2}, 0.1)
    report = verify(chain().save(tmp_path / "b"), [Sample({"x": row(0.9)}, (unsure, *sample(0.9).visits[1:]))])
    assert report.failures == (
        "sample 0: exit0: confidence off by 8.0e-01, more than 1e-04",
        "sample 0: exit0 answered, expected exit2",
    )


def test_another_path_than_expected_fails(tmp_path: Path) -> None:
    folder = exit_in_a_branch().save(tmp_path / "b")
    expected = Sample({"x": row(1)}, (Visit("last", {"logits": row(1)}, 0.0),))
    assert verify(folder, [expected]).failures == ("sample 0: met the exits ['side', 'last'], expected ['last']",)


@pytest.mark.parametrize("confidence", [0.5, 0.5 - 5e-5, 0.5 + 5e-5])
def test_either_exit_is_right_where_a_confidence_is_within_rounding_of_its_threshold(
    tmp_path: Path, confidence: float
) -> None:
    report = verify(saved(tmp_path / "b", sample(confidence, 0.9)))
    assert report.passed
    assert sum(ties for _, ties in checked(report).values()) == 1


def test_a_confidence_clear_of_its_threshold_is_no_tie(tmp_path: Path) -> None:
    report = verify(saved(tmp_path / "b", sample(0.501, 0.9), sample(0.499, 0.9)))
    assert report.passed
    assert sum(ties for _, ties in checked(report).values()) == 0


def test_a_disabled_exit_is_compared_and_not_expected_to_answer(tmp_path: Path) -> None:
    draft = chain()
    found = draft.segments["segment0"]
    assert found.exit is not None
    off = msgspec.structs.replace(found.exit, threshold="never")
    draft.segments["segment0"] = msgspec.structs.replace(found, exit=off)
    report = verify(saved(tmp_path / "b", sample(0.9, 0.9), draft=draft))
    assert report.passed
    assert checked(report)["exit0"] == (1, 0)


def test_a_nan_where_the_network_gave_nan_passes(tmp_path: Path) -> None:
    assert verify(saved(tmp_path / "b", sample(math.nan, 0.9))).passed


def test_a_nan_where_the_network_gave_a_number_fails(tmp_path: Path) -> None:
    wrong = Sample({"x": row(math.nan)}, sample(0.25).visits)
    assert any("outputs off by inf" in failure for failure in verify(chain().save(tmp_path / "b"), [wrong]).failures)


def test_gates_and_side_exits_verify_on_every_path(tmp_path: Path) -> None:
    for number, draft in enumerate((gated(), exit_in_a_branch())):
        inputs = [row(x, y) for x in (0, 1) for y in (0.1, 0.9)]
        assert verify(saved_with(tmp_path / f"{number}" / "b", draft, *inputs)).passed


def test_the_order_of_the_segments_in_the_manifest_means_nothing(tmp_path: Path) -> None:
    draft = chain()
    draft.segments = dict(reversed(draft.segments.items()))
    draft.options["start"] = "segment0"
    report = verify(saved(tmp_path / "b", sample(0.1, 0.2, 0.3), draft=draft))
    assert report.failures == ()


def test_a_bundle_that_falls_back_on_the_most_confident_exit_verifies(tmp_path: Path) -> None:
    draft = chain()
    draft.options["fallback"] = "most_confident"
    report = verify(saved(tmp_path / "b", sample(0.3, 0.2, 0.1), sample(0.1, 0.2, 0.3), draft=draft))
    assert report.failures == ()


def test_an_exit_in_a_loop_verifies(tmp_path: Path) -> None:
    assert verify(saved_with(tmp_path / "b", looped(leave_at=0.9), row(1), row(3))).failures == ()


def test_a_bundle_without_samples_cannot_verify_itself(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        verify(chain().save(tmp_path / "b"))
    assert str(caught.value) == "verify: the bundle has no golden samples; pass the source model"


def test_samples_may_be_given(tmp_path: Path) -> None:
    report = verify(chain().save(tmp_path / "b"), [sample(0.25)])
    assert (report.passed, report.tolerance) == (True, 1e-4)


# The difference of two arrays


@pytest.mark.parametrize(
    ("found", "expected", "size"),
    [
        ([1.0], [1.0], 0.0),
        ([0.5], [0.25], 0.25),
        ([100.0, 0.0], [200.0, 0.0], 0.5),  # relative to the largest magnitude over 1
        ([True, False], [True, True], 1.0),
        ([math.inf, 1.0], [math.inf, 1.0], 0.0),
        ([math.inf], [-math.inf], math.inf),
        ([math.nan], [math.nan], 0.0),
        ([math.nan], [1.0], math.inf),
        ([1.0], [math.nan], math.inf),
        ([1.0, 2.0], [1.0], math.inf),
        ([], [], 0.0),
    ],
)
def test_a_difference_is_the_largest_one_over_the_largest_magnitude(
    found: list[float], expected: list[float], size: float
) -> None:
    assert difference(np.array(found), np.array(expected)) == size

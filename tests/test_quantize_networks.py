"""Quantising small networks: shared weights, a segment that int8 breaks, exits that look back, nothing to quantise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from quantized_bundles import QUICK, costs, edit, left, logits, own_folder
from torch import Tensor, nn

import eetoolkit as ee
from eetoolkit_runtime.arrays import Array


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return own_folder(tmp_path, monkeypatch)


class Small(nn.Module):
    """Two exits over products; the second ones' input has a column that leaves int8 no steps for the others.

    Segments share a weight.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wide = nn.Linear(64, 64)
        self.heads = nn.ModuleList(nn.Linear(64, 8) for _ in range(2))

    def forward(self, x: Tensor) -> list[Tensor]:
        first = self.wide(x[:, :64]).tanh()
        second = self.wide(first + x[:, 64:]).tanh()
        return [self.heads[0](first), self.heads[1](second)]


def small_rows(rows: int, outlier: float = 0) -> Array:
    x = np.random.default_rng(0).normal(size=(rows, 128)).astype(np.float32)
    x[:, 64:] = 0
    x[:, 64] = outlier
    return x


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> ee.Bundle:
    network = Small().eval()
    with torch.no_grad():
        network.wide.weight[:, 0] = 0  # so that a float sum does not see the column
    rows = torch.from_numpy(small_rows(8, 1e6))
    return ee.export(network, rows[:1], tmp_path_factory.mktemp("small") / "small.ee", golden_inputs=rows)


def test_a_segment_that_breaks_the_bound_stays_float_and_says_so(small: ee.Bundle, folder: Path) -> None:
    rows = small_rows(120, 1e6)
    base = ee.profile(small, rows[:2], **QUICK)
    measured = costs(base, {"segment0": 0.5, "segment1": 0.5})
    found = ee.quantize(small, rows, folder / "out.ee", max_disagreement=0.05, profile=measured, **QUICK)
    assert [each.method for each in found.segments] == ["blockwise", "float"]
    assert found.segments[1].why is not None
    assert found.segments[1].why.startswith("exit1 would disagree on up to ")
    assert all(change.within for change in found.exits)
    assert left(folder) == ["out.ee"]


def test_float16_halves_the_bytes_of_weights_that_segments_share(small: ee.Bundle, folder: Path) -> None:
    found = ee.quantize(small, None, folder / "out.ee", weights="float16")
    out = ee.load(folder / "out.ee")
    assert (found.exits, found.rows, found.costs, found.advice) == ((), {}, "", None)
    assert [each.method for each in found.segments] == ["float16", "float16"]
    sizes = []
    for bundle in (small, out):
        files = [set(segment.weights) for segment in bundle.manifest.segments.values()]
        assert files[0] & files[1], f"{bundle} shares its weights"
        sizes.append(sum(bundle.manifest.files[name].size for name in files[0] | files[1]))
    assert sizes[1] / sizes[0] == pytest.approx(0.5, abs=0.02)
    said = out.manifest.quantization
    assert said is not None
    assert (said.stale, said.activations, said.rows) == (False, None, 0)
    (before, _), (after, _) = logits(small, small_rows(20)), logits(out, small_rows(20))
    np.testing.assert_allclose(after, before, atol=2e-3)
    assert ee.verify(out).passed
    assert left(folder) == ["out.ee"]


def test_a_packed_bundle_is_quantised_as_its_folder(small: ee.Bundle, folder: Path) -> None:
    packed = small.pack(folder / "small.zip")
    ee.quantize(packed, None, folder / "a.ee", weights="float16", segments=["segment1"])
    ee.quantize(small, None, folder / "b.ee", weights="float16", segments=["segment1"])
    one, other = (ee.load(folder / name).manifest for name in ("a.ee", "b.ee"))
    assert one == edit(other, name="a")
    assert one.quantization is not None
    assert one.quantization.segments == {"segment1": "float16"}


@pytest.mark.parametrize("criterion", ["patience", "mean_ensemble"])
def test_exits_that_judge_by_earlier_ones_answer_as_before(criterion: str, folder: Path) -> None:
    rows = small_rows(250)
    bundle = ee.export(
        Small().eval(), torch.from_numpy(rows[:1]), folder / "float.ee", criterion=criterion,
        golden_inputs=torch.from_numpy(rows[:8]),
    )  # fmt: skip
    found = ee.quantize(bundle, rows, folder / "out.ee", segments="all", **QUICK)
    assert {each.method for each in found.segments} == {"blockwise"}
    assert {change.rows for change in found.exits} == {found.rows["report"]}
    assert min(change.agreement.value for change in found.exits) > 0.9
    with ee.Runner(bundle, threads=1) as before, ee.Runner(folder / "out.ee", threads=1) as after:
        exits = [(before.run(row[None]).exit, after.run(row[None]).exit) for row in rows]
    assert np.mean([one == other for one, other in exits]) > 0.9
    assert left(folder) == ["float.ee", "out.ee"]


class Nothing(nn.Module):
    """No weights at all."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x.sin(), x.sin().cos()]


def test_a_network_without_weights_is_refused(folder: Path) -> None:
    rows = small_rows(250)
    bundle = ee.export(Nothing().eval(), torch.from_numpy(rows[:1]), folder / "float.ee")
    with pytest.raises(ee.ExportError, match=r"nothing in .*float.ee can be quantised: segment0: "):
        ee.quantize(bundle, rows, folder / "out.ee", **QUICK)
    with pytest.raises(ee.ExportError, match="it has no weights of float32 that float16 can hold, or only small ones"):
        ee.quantize(bundle, None, folder / "out.ee", weights="float16")
    assert left(folder) == ["float.ee"]

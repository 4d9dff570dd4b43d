"""Weights that several segments share are read as they lie, where one row meets them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import eetoolkit as ee
from eetoolkit_runtime.running.sessions import SessionSettings

WIDTH, STEPS = 192, 4  # 144 KiB a layer


class Repeated(nn.Module):
    """One layer applied again and again, an exit behind each time; `own` gives each time a layer of its own."""

    def __init__(self, width: int, *, own: bool) -> None:
        super().__init__()
        layer = nn.Linear(width, width)
        self.layers = nn.ModuleList([nn.Linear(width, width) if own else layer for _ in range(STEPS)])
        self.heads = nn.ModuleList([nn.Linear(width, 3) for _ in range(STEPS)])

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = []
        for layer, head in zip(self.layers, self.heads, strict=True):
            x = torch.relu(layer(x))
            found.append(head(x if x.ndim == 2 else x.mean(1)))
        return tuple(found)


def cut(network: nn.Module, example: torch.Tensor, folder: Path) -> ee.Bundle:
    return ee.export(network.eval(), example, folder / "n.ee", threshold=2.0)


def packed(bundle: ee.Bundle) -> list[bool]:
    return [segment.prepack for segment in bundle.manifest.segments.values()]


@pytest.mark.parametrize(
    ("own", "width", "rows", "expected"),
    [(False, WIDTH, (), False), (True, WIDTH, (), True), (False, WIDTH, (5,), True), (False, 64, (), True)],
    ids=["shared", "a layer for each", "shared, several rows of features", "shared, small"],
)
def test_only_what_is_shared_and_meets_one_row_is_not_packed(
    *, own: bool, width: int, rows: tuple[int, ...], expected: bool, tmp_path: Path
) -> None:
    bundle = cut(Repeated(width, own=own), torch.randn(1, *rows, width), tmp_path)
    assert packed(bundle) == [expected] * STEPS


def test_a_segment_that_is_left_alone_is_packed_again(tmp_path: Path) -> None:
    bundle = cut(Repeated(WIDTH, own=False), torch.randn(1, WIDTH), tmp_path)
    assert packed(ee.truncate(bundle, "exit1")) == [False, False]
    assert packed(ee.truncate(bundle, "exit0")) == [True]


def test_sessions_of_one_row_do_as_the_bundle_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, WIDTH)
    network = Repeated(WIDTH, own=False)
    bundle = cut(network, x, tmp_path)
    asked: list[tuple[bool, bool]] = []
    original = SessionSettings.open

    def noted(self: SessionSettings, *args: object, **kwargs: object) -> object:
        options = self.options()
        kwargs["adjust"](options)  # type: ignore[operator]
        try:
            asked.append((self.one_row, options.get_session_config_entry("session.disable_prepacking") == "1"))
        except RuntimeError:  # it was not set
            asked.append((self.one_row, False))
        return original(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(SessionSettings, "open", noted)
    with ee.Runner(bundle, threads=1) as runner, torch.inference_mode():
        one, both = runner.run(x[:1].numpy()), runner.run_batch(x.numpy())
        np.testing.assert_allclose(one.outputs["logits"], network(x[:1])[-1], atol=1e-6)
        np.testing.assert_allclose(both[0].outputs["logits"], one.outputs["logits"], atol=1e-6)
    assert set(asked) == {(True, True), (False, False)}

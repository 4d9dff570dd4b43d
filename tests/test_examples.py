"""The examples run, and what they show is so."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import eetoolkit as ee

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def spotting() -> ModuleType:
    spec = importlib.util.spec_from_file_location("keyword_spotting", ROOT / "examples" / "keyword_spotting.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def trained(spotting: ModuleType) -> Any:
    return spotting.train(steps=40)


@pytest.fixture(scope="module")
def bundle(spotting: ModuleType, trained: Any, tmp_path_factory: pytest.TempPathFactory) -> ee.Bundle:
    return spotting.export(trained, tmp_path_factory.mktemp("spotting"))


def eager(spotting: ModuleType, network: Any, stream: torch.Tensor) -> list[tuple[str, dict[str, torch.Tensor]]]:
    """Returns each chunk's exit and outputs, by the rule in plain PyTorch."""
    memory, context = spotting.silence(1)
    found = []
    for chunk in stream:
        with torch.no_grad():
            exits = network(chunk[None], memory, context)
        name = "early" if exits["early"]["logits"].softmax(1).max() >= spotting.SURE else "late"
        memory, context = exits[name]["memory"], exits[name]["context"]
        found.append((name, exits[name]))
    return found


def test_the_state_goes_round_as_in_pytorch(spotting: ModuleType, trained: Any, bundle: ee.Bundle) -> None:
    sounds, _ = spotting.streams(6, seed=7)
    names = set()
    with ee.Runner(bundle, threads=1) as runner:
        for stream in sounds:
            answers, expected = spotting.listen(runner, stream), eager(spotting, trained, stream)
            assert [answer.exit for answer in answers] == [name for name, _ in expected]
            for answer, (_, outputs) in zip(answers, expected, strict=True):
                names.add(answer.exit)
                for key, tensor in outputs.items():
                    np.testing.assert_allclose(answer.outputs[key], tensor.numpy(), atol=1e-5)
    assert names == {"early", "late"}


def test_many_streams_go_together(spotting: ModuleType, trained: Any, bundle: ee.Bundle) -> None:
    sounds, _ = spotting.streams(5, seed=8)
    memory, context = (state.numpy() for state in spotting.silence(5))
    with ee.Runner(bundle, threads=1) as runner:
        for place in range(3):
            inputs = {"sound": sounds[:, place].numpy(), "memory": memory, "context": context}
            answers = runner.run_batch(inputs)
            memory, context = (
                np.concatenate([answer.outputs[name] for answer in answers], 1) for name in ("memory", "context")
            )
    for row, stream in enumerate(sounds):
        _, outputs = eager(spotting, trained, stream[:3])[-1]
        np.testing.assert_allclose(memory[:, row : row + 1], outputs["memory"].numpy(), atol=1e-5)
        np.testing.assert_allclose(context[:, row : row + 1], outputs["context"].numpy(), atol=1e-5)


def test_the_script_says_what_it_found(
    spotting: ModuleType,
    trained: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(spotting, "train", lambda: trained)
    spotting.main(tmp_path)
    shapes, figures = capsys.readouterr().out.splitlines()
    assert shapes == "{'sound': ['batch', 8, 8], 'memory': [1, 'batch', 16], 'context': [1, 'batch', 48]}"
    right = float(figures.split()[2].removesuffix("%"))
    assert right > 90

"""The examples run, and what they show is so."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import board
import numpy as np
import pytest
import torch
from once import digits_bundle, made_once
from pages import hasten
from PIL import Image

import eetoolkit as ee
from eetoolkit.reading.images import read_image

ROOT = Path(__file__).parents[1]


def opened(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def spotting() -> ModuleType:
    return opened("keyword_spotting")


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


def test_a_checkpoint_of_ones_own_becomes_a_tuned_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened("own_checkpoint").main(tmp_path)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("mine: 2 segments, exits exit0, exit1, ")
    assert any(line.startswith("verify passed") for line in said)
    assert said[-2].startswith("goal met: the drop is ")
    right, early = (float(part.split("%")[0]) for part in said[-1].split(", "))
    assert right > 93
    assert 20 < early < 100
    assert ee.load(tmp_path / "mine.ee").manifest.tuning is not None


def test_a_network_with_one_output_becomes_a_tuned_bundle(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hasten(monkeypatch)
    example = opened("adapt")
    trained = made_once(tmp_path_factory, "adapt", example.prepare)
    monkeypatch.setattr(example, "prepare", lambda folder: shutil.copytree(trained, folder, dirs_exist_ok=True))
    example.main(tmp_path)
    verdict, bundle, answer = capsys.readouterr().out.splitlines()
    assert verdict.startswith("early exits pay: ")
    assert bundle.startswith("mine: ")
    assert ", confidence " in answer
    assert ee.load(tmp_path / "mine.ee").manifest.tuning is not None


def test_a_cascade_asks_the_large_network_only_where_the_small_one_is_unsure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples")
    opened("cascade").main(tmp_path)
    right, first = (float(part.split("%")[0]) for part in capsys.readouterr().out.splitlines()[-1].split(", "))
    assert right > 93
    assert 5 < first < 100


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from eetoolkit.zoo import digits

    folder = tmp_path_factory.mktemp("digits")
    images = digits.digits("test").images[:3] / 16
    np.save(folder / "digits.npy", images)
    images.tofile(folder / "rows.f32")
    shutil.copytree(digits_bundle(tmp_path_factory), folder / "digits.ee")
    return folder


def expected(folder: Path, thresholds: dict[str, float] | None = None) -> list[ee.Answer]:
    with ee.Runner(folder / "digits.ee", threads=1) as runner:
        return [runner.run(image[np.newaxis], thresholds=thresholds) for image in np.load(folder / "digits.npy")]


def test_the_device_needs_three_libraries(served: Path) -> None:
    script = ROOT / "examples" / "on_device.py"
    watched = (
        f"import runpy, sys; sys.argv = [{str(script)!r}, 'digits.ee', 'digits.npy'];"
        f"runpy.run_path({str(script)!r}, run_name='__main__');"
        "print(sorted({'torch', 'onnx', 'onnx_ir', 'click', 'rich', 'eetoolkit'} & sys.modules.keys()))"
    )
    run = subprocess.run([sys.executable, "-c", watched], cwd=served, capture_output=True, text=True, check=True)
    said = run.stdout.splitlines()
    rows = [f"row {n}: class {answer.prediction}, {answer}" for n, answer in enumerate(expected(served))]
    assert said[:3] == rows
    assert said[3].startswith(("in time: class ", "not in time: "))
    assert [line.split()[5] for line in said[4:-1]] == ["exit0,", "exit1,", "exit2,"]
    assert said[-1] == "[]"


def test_node_answers_as_python_does(served: Path) -> None:
    folder = ROOT / "examples" / "node"
    if shutil.which("node") is None or not (folder / "node_modules" / "onnxruntime-node").is_dir():
        pytest.skip("needs node, and `npm install` in examples/node")
    from eetoolkit_exporters.single_file.single_file import write_single_file

    write_single_file(served / "digits.ee", served / "digits.onnx", overwrite=True)
    command = ["node", folder / "answer.mjs", served / "digits.onnx", served / "rows.f32"]
    for thresholds in ({}, {"exit0": 0.99}, {"exit0": 2.0, "exit1": 0.1}):
        changed = [f"{name}={value}" for name, value in thresholds.items()]
        run = subprocess.run([*command, *changed], capture_output=True, text=True, check=True)
        assert run.stdout.splitlines() == [
            f"{answer.prediction} at {answer.exit}, confidence {answer.confidence:.4f}"
            for answer in expected(served, thresholds)
        ]
    assert {answer.exit for answer in expected(served, thresholds)} == {"exit1"}


def on_board(script: str, *arguments: str, folder: Path) -> list[str]:
    """Returns what an example for the Raspberry Pi prints, beside stand-ins for its camera and microphone."""
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    environment["PYTHONPATH"] = f"{folder}:{environment.get('PYTHONPATH', '')}"
    command = [sys.executable, str(ROOT / "examples" / "raspberry-pi" / script), *arguments]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return run.stdout.splitlines()


def test_the_camera_is_answered_as_a_picture_of_each_frame_is(tmp_path: Path) -> None:
    bundle = board.lay_out_camera(tmp_path, "colours.ee")
    (name, how), (spec,) = *bundle.manifest.preprocess.items(), bundle.manifest.inputs
    expected = []
    with ee.Runner(bundle) as runner:
        for frame in np.load(tmp_path / "frames.npy")[1:]:
            Image.fromarray(frame).save(tmp_path / "frame.png")
            answer = runner.run({name: read_image((tmp_path / "frame.png").read_bytes(), "frame", spec, how)})
            expected.append(f"{board.COLOURS[answer.prediction]} {answer}")
    assert [line.split(",")[0] for line in expected] == ["red exit0", "green exit1", "blue exit0"]
    assert on_board("camera.py", "colours.ee", folder=tmp_path) == expected


def test_the_microphone_hears_what_the_network_was_trained_for(bundle: ee.Bundle, tmp_path: Path) -> None:
    board.lay_out_microphone(tmp_path)
    said = on_board("microphone.py", str(bundle.path), folder=tmp_path)
    assert [line.split()[0] for line in said] == ["rising", "falling"]
